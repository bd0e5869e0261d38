"""`tbench trace synth`: a trace that the other verbs take, and what a server counts when it is replayed."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TEXT = (
    "--scenario",
    "D(40,12)",
    "--model",
    "meta-llama/Llama-3.3-70B-Instruct-Turbo",
    "--requests",
    20,
)
EMBEDDER = "intfloat/multilingual-e5-large-instruct"
FOUR = ("--chars-per-token", 4)
"""The simulator's own tokens."""
HEADERS_OF_TURNS = 8
"""Tokens of the simulator's chat template for one message: two headers of 16 bytes."""


def samples(tbench: Callable[..., Any], url: str, trace: str) -> dict[str, list[Any]]:
    """A replay of the trace, request by request."""
    sent = tbench(
        "replay", trace, "--base-url", url, "--concurrency", 8, "--warmup", "none",
        "-o", "a.run", "--json",
    )  # fmt: skip
    assert sent.code == 0, sent.err
    found: dict[str, list[Any]] = json.loads(tbench("report", "a.run", "--samples", "--json").out)[
        "samples"
    ]
    return found


def test_a_synthesised_chat_is_replayed_at_its_exact_lengths(
    tbench: Callable[..., Any], simulator: Any
) -> None:
    """The server counts the 40 tokens that were asked for and its template; 12 come back."""
    made = tbench("trace", "synth", *TEXT, *FOUR, "-o", "t.msgpack")
    assert (made.code, made.err) == (0, "")
    assert made.out == "t.msgpack: 20 requests; lengths by characters (4.000 per token)\n"

    found = samples(tbench, simulator.url, "t.msgpack")
    assert found["prompt_tokens"] == [40 + HEADERS_OF_TURNS] * 20
    assert found["output_tokens"] == [12] * 20
    assert set(found["outcome"]) == {"ok"}


@pytest.mark.parametrize(
    ("task", "scenario", "counted"),
    [("text-to-embeddings", "E(30)", {None}), ("text-to-rerank", "R(30,10)", {117, 118, 119, 120})],
)
def test_batches_are_replayed(
    tbench: Callable[..., Any], simulator: Any, task: str, scenario: str, counted: set[int | None]
) -> None:
    """Three documents of 30 tokens; a reranker reads the query of 10 with each of them.

    There the two ends that are no whole tokens may make one together. For embeddings Together says no usage.
    """
    made = tbench(
        "trace", "synth", "--task", task, "--scenario", scenario, "--batch-size", 3, *FOUR,
        "--model", EMBEDDER, "--requests", 5, "-o", "t.msgpack",
    )  # fmt: skip
    assert made.code == 0, made.err

    found = samples(tbench, simulator.url, "t.msgpack")
    assert set(found["outcome"]) == {"ok"}
    assert set(found["prompt_tokens"]) <= counted


def test_other_verbs_take_it(tbench: Callable[..., Any]) -> None:
    """Info says what it was made from, check finds nothing, a replay wants to know where to."""
    assert tbench("trace", "synth", *TEXT, "--rate", 2, "-o", "t.msgpack").code == 0
    figures = json.loads(tbench("trace", "info", "t.msgpack", "--json").out)
    shown = tbench("trace", "info", "t.msgpack").out

    assert (figures["requests"], figures["responses"], figures["duration_s"]) == (20, 0, 9.5)
    assert figures["synthesis"]["scenario"] == "D(40,12)"
    assert "synthesised   text-to-text, scenario D(40,12), seed 0" in shown
    assert "lengths by    estimate (" in shown
    assert "outcomes      no answers recorded (synthesised)" in shown
    unknown = ("incomplete", "first_arrival", "last_arrival", "prompt_tokens", "output_tokens")
    assert [figures[name] for name in unknown] == [None] * 5
    assert figures["outcomes"] == {}
    assert not {"incomplete", "1970", "prompt"} & set(re.findall(r"\w+", shown))
    told = tbench("report", "t.msgpack")
    assert (told.code, told.out, told.err.count("\n")) == (2, "", 1)
    assert "no answers recorded" in told.err
    assert tbench("trace", "check", "t.msgpack").code == 0
    assert len(tbench("trace", "head", "t.msgpack").out.splitlines()) == 11
    assert "give --base-url" in tbench("replay", "t.msgpack", "--dry-run").err


def test_a_dry_run_knows_what_it_will_cost(tbench: Callable[..., Any]) -> None:
    """Twenty times 40 tokens in and 12 out, at 0.88 dollars per million."""
    assert tbench("trace", "synth", *TEXT, "-o", "t.msgpack").code == 0
    told = tbench("replay", "t.msgpack", "--base-url", "http://127.0.0.1:9", "--dry-run", "--json")
    found = json.loads(told.out)

    assert (found["prompt_tokens"], found["output_tokens"]) == (800, 240)
    assert found["cost_usd"] == pytest.approx(20 * 52 * 0.88e-6)


def test_the_same_command_makes_the_same_file(tbench: Callable[..., Any], tmp_path: Path) -> None:
    """In two processes; and never over a file that exists."""
    for name in ("a.msgpack", "b.msgpack"):
        assert tbench("trace", "synth", *TEXT, "--poisson", 3, "--seed", 4, "-o", name).code == 0
    again = tbench("trace", "synth", *TEXT, "-o", "a.msgpack")

    assert (tmp_path / "a.msgpack").read_bytes() == (tmp_path / "b.msgpack").read_bytes()
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "exists already" in again.err


def test_a_dataset_is_sent_as_it_is(
    tbench: Callable[..., Any], simulator: Any, tmp_path: Path
) -> None:
    """By a dataset-config; what was left out is said, and stands in the trace."""
    (tmp_path / "rows.csv").write_text("ask,x\nWhat is a harbour?,1\nbroken\n")
    source = {"type": "file", "path": "rows.csv", "file_format": "csv"}
    (tmp_path / "config.json").write_text(json.dumps({"source": source, "prompt_column": "ask"}))
    made = tbench(
        "trace", "synth", "--dataset-path", "config.json", "--model", TEXT[3], "--requests", 4,
        "-o", "t.msgpack",
    )  # fmt: skip
    found = json.loads(tbench("trace", "info", "t.msgpack", "--json").out)["synthesis"]

    assert made.code == 0
    assert made.err == "rows.csv: 1 row left out (1 with another number of columns)\n"
    assert (found["scenario"], found["left_out"]) == (
        "dataset",
        {"with another number of columns": 1},
    )
    tokens = HEADERS_OF_TURNS + len("What is a harbour?") // 4 + 1
    assert samples(tbench, simulator.url, "t.msgpack")["prompt_tokens"] == [tokens] * 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--scenario", "D(100)"), "the right form is D(in,out)"),
        (("--task", "text-to-speech"), "choose one of text-to-text"),
        (("--rate", 1, "--poisson", 1), "give one"),
        (("--model-tokenizer", "some/thing"), "hf download"),
        (("--rate", -1), "--rate -1: must be more than 0"),
        (("--dataset-path", "none.csv"), "no such file"),
        (("--dataset-prompt-column", "x"), "needs --dataset-path"),
        (("--dataset-image-column", "x"), "text-to-text sends no images"),
        (("--dataset-path", "a.csv", "--dataset-config", "b.json"), "give one"),
        (("--additional-request-params", '{"a": NaN}'), "not JSON"),
        (("--prefix-len", 40), "make it shorter"),
        (("--rate", 0), "--rate 0: must be more than 0"),
    ],
)
def test_bad_words_are_one_line(
    tbench: Callable[..., Any], tmp_path: Path, words: tuple[Any, ...], says: str
) -> None:
    """Exit code 2, and no file."""
    done = tbench("trace", "synth", *TEXT, *words, "-o", "t.msgpack")

    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert says in done.err
    assert not list(tmp_path.iterdir())


def test_a_synthesised_trace_has_no_recorded_concurrency_to_scale(
    tbench: Callable[..., Any],
) -> None:
    assert tbench("trace", "synth", *TEXT, *FOUR, "-o", "t.msgpack").code == 0
    where = ("--base-url", "http://127.0.0.1:9")
    done = tbench("replay", "t.msgpack", "--concurrency-scale", 2, *where, "-o", "a.run")
    assert done.code == 2
    assert "give a number with --concurrency" in done.err
