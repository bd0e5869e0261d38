"""Workloads: what makes no sense is refused; what is made is exact, seeded, and the same bytes again."""

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from tokenizers import Tokenizer

from tbench.capture.errors import InputError
from tbench.capture.exchange import Exchange
from tbench.capture.synthesis import content
from tbench.capture.synthesis.dataset import Dataset, Row
from tbench.capture.synthesis.generate import Arrivals, exchanges, write
from tbench.capture.synthesis.options import SynthOptions
from tbench.capture.synthesis.scenario import parse
from tbench.capture.synthesis.tokens import load_tokens
from tbench.capture.synthesis.workload import Workload, read_params, resolve

LINES = Dataset(name="lines", rows=[Row(f"line {n} of the set") for n in range(50)])
PLAIN: dict[str, Any] = {"model": "m", "requests": 20, "seed": 1}


def workload(task: Any, scenario: str, **changes: Any) -> Workload:
    return Workload(**{**PLAIN, "task": task, "scenario": parse(scenario), **changes})


def chat(scenario: str = "D(100,100)", **changes: Any) -> Workload:
    return workload("text-to-text", scenario, **changes)


def bodies(found: Workload) -> list[dict[str, Any]]:
    return [json.loads(one.request.body or b"") for one in exchanges(found)]


def said(found: Workload) -> list[str]:
    return [body["messages"][0]["content"] for body in bodies(found)]


@pytest.fixture(scope="module")
def reference(tokenizer_file: Path) -> Tokenizer:
    found = Tokenizer.from_file(str(tokenizer_file))
    found.no_truncation()
    return found


def lengths(reference: Tokenizer, texts: list[str]) -> list[int]:
    """The library's own count."""
    return [len(one.ids) for one in reference.encode_batch(texts, add_special_tokens=False)]


def test_fixed_prompts_have_exactly_their_tokens(
    tokenizer_file: Path, reference: Tokenizer
) -> None:
    """D(100,100): all of 2,000."""
    found = chat(requests=2000, tokens=load_tokens(tokenizer_file))

    assert lengths(reference, said(found)) == [100] * 2000


def test_drawn_prompts_are_as_long_as_drawn(tokenizer_file: Path, reference: Tokenizer) -> None:
    """Each of N(60,20): its own record says how long, and so does max_tokens for the answer."""
    found = chat("N(60,20)/(30,10)", requests=500, tokens=load_tokens(tokenizer_file))
    made = list(exchanges(found))

    assert lengths(reference, said(found)) == [one.request.extra["prompt_tokens"] for one in made]
    assert [body["max_tokens"] for body in bodies(found)] == [
        one.request.extra["output_tokens"] for one in made
    ]
    assert len({one.request.extra["prompt_tokens"] for one in made}) > 40


@pytest.mark.parametrize(
    ("api", "limit"),
    [
        ("chat", {"max_tokens": 10}),
        ("chat", {"max_completion_tokens": 10}),
        ("chat", {"max_tokens": None}),
        ("chat", {"max_tokens": "10"}),
        ("messages", {"max_tokens": 10}),
        ("responses", {"max_output_tokens": 10}),
    ],
)
def test_a_limit_that_is_merged_last_is_what_the_record_says(api: Any, limit: Any) -> None:
    """Else answers would be called shorter than asked for, that are just as long."""
    made = exchanges(chat(api=api, additional_request_params=limit))

    asked = next(iter(limit.values()))
    wanted = asked if isinstance(asked, int) else None  # the server refuses a text, or knows better
    assert {one.request.extra["output_tokens"] for one in made} == {wanted}


def test_documents_come_in_batches(tokenizer_file: Path, reference: Tokenizer) -> None:
    """E(30) in fours; R(30,5) with its query besides."""
    tokens = load_tokens(tokenizer_file)
    embeddings = bodies(workload("text-to-embeddings", "E(30)", batch_size=4, tokens=tokens))
    rerank = bodies(workload("text-to-rerank", "R(30,5)", batch_size=4, tokens=tokens))

    for body in embeddings:
        assert lengths(reference, body["input"]) == [30] * 4
    for body in rerank:
        assert lengths(reference, [body["query"], *body["documents"]]) == [5, 30, 30, 30, 30]


@pytest.mark.parametrize("how", [{"prefix_len": 64}, {"prefix_ratio": 0.64}])
def test_a_shared_prefix_is_shared_and_no_more(
    tokenizer_file: Path, reference: Tokenizer, how: dict[str, Any]
) -> None:
    """All begin with the same 64 tokens, no two with the same 72, and all have 100."""
    found = chat(requests=300, tokens=load_tokens(tokenizer_file), **how)
    ids = [one.ids for one in reference.encode_batch(said(found))]

    assert {len(one) for one in ids} == {100}
    assert len({tuple(one[:64]) for one in ids}) == 1
    assert len({tuple(one[:72]) for one in ids}) == 300


def test_a_prefix_is_the_same_for_every_seed() -> None:
    """So that the next run finds it where this one left it; the rest is fresh."""
    first, second = said(chat(prefix_len=64)), said(chat(prefix_len=64, seed=2))

    assert first[0][:200] == second[0][:200]
    assert not set(first) & set(second)


def test_prompts_of_a_dataset_are_its_lines() -> None:
    """Drawn with replacement, of any length, without max_tokens."""
    found = bodies(chat("dataset", dataset=LINES, requests=200))
    texts = [body["messages"][0]["content"] for body in found]

    assert set(texts) <= set(LINES.prompts)
    assert len(set(texts)) > 40
    assert all("max_tokens" not in body and body["ignore_eos"] is False for body in found)


def test_lines_of_a_dataset_are_counted_where_that_is_exact(
    tokenizer_file: Path, reference: Tokenizer
) -> None:
    """By a tokenizer; an estimate would pass for a count."""
    counted = chat("dataset", dataset=LINES, tokens=load_tokens(tokenizer_file))
    guessed = chat("dataset", dataset=LINES)

    assert lengths(reference, said(counted)) == [
        one.request.extra["prompt_tokens"] for one in exchanges(counted)
    ]
    assert {one.request.extra["prompt_tokens"] for one in exchanges(guessed)} == {None}


def test_a_request_that_no_trace_holds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its body would be left out otherwise."""
    monkeypatch.setattr("tbench.capture.synthesis.generate.MOST_BYTES", 500)
    with pytest.raises(InputError, match="a trace holds at most 500"):
        write(chat(), tmp_path / "t.msgpack")


def test_documents_of_a_dataset_are_its_lines() -> None:
    """As many as the batch holds, and a query for rerank."""
    embeddings = bodies(workload("text-to-embeddings", "dataset", dataset=LINES, batch_size=3))
    rerank = bodies(workload("text-to-rerank", "dataset", dataset=LINES, batch_size=3))

    assert all(
        len(body["input"]) == 3 and set(body["input"]) <= set(LINES.prompts) for body in embeddings
    )
    assert all(len(body["documents"]) == 3 and body["query"] in LINES.prompts for body in rerank)


def test_a_longer_workload_begins_with_the_same_requests() -> None:
    """Whatever is drawn for one request does not depend on how many follow."""
    short, long = chat("N(60,20)/(30,10)", requests=30), chat("N(60,20)/(30,10)", requests=100)

    assert bodies(long)[:30] == bodies(short)


def test_another_seed_makes_other_requests() -> None:
    """None of them the same."""
    assert not set(said(chat())) & set(said(chat(seed=2)))


@pytest.mark.parametrize(
    ("task", "scenario", "changes"),
    [
        ("text-to-text", "N(60,20)/(30,10)", {}),
        ("text-to-text", "D(60,5)", {"prefix_ratio": 0.5}),
        ("text-to-text", "dataset", {"dataset": LINES}),
        ("text-to-embeddings", "E(20)", {"batch_size": 2}),
        ("text-to-rerank", "R(20,5)", {"batch_size": 2}),
    ],
)
def test_the_same_workload_makes_the_same_file(
    tmp_path: Path, tokenizer_file: Path, task: str, scenario: str, changes: dict[str, Any]
) -> None:
    """Byte for byte, for its owner's eyes only; another seed makes another."""
    found = workload(task, scenario, tokens=load_tokens(tokenizer_file), **changes)
    for name, one in (("a", found), ("b", found), ("c", replace(found, seed=2))):
        write(one, tmp_path / name, arrivals=Arrivals(5.0, poisson=True))
    first, again, other = ((tmp_path / name).read_bytes() for name in "abc")

    assert first == again != other
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_a_written_trace_reads_back_as_the_exchanges(tmp_path: Path) -> None:
    """With a header that says what it was made from, and that nobody was asked yet."""
    found = chat(requests=500, additional_request_params={"top_p": 0.9})
    trace = write(found, tmp_path / "t.msgpack")

    assert list(trace) == list(exchanges(found))
    assert trace.header.upstream is None
    assert trace.header.tokens_source == found.tokens.source
    assert trace.header.extra["synthesis"] == {
        "task": "text-to-text",
        "scenario": "D(100,100)",
        "model": "m",
        "requests": 500,
        "batch_size": 1,
        "dataset": None,
        "left_out": {},
        "prefix_tokens": 0,
        "additional_request_params": {"top_p": 0.9},
        "seed": 1,
        "tokens": found.tokens.source,
        "arrivals": {"rate": 1.0, "poisson": False},
    }


def test_a_trace_that_cannot_be_made_leaves_no_file(tmp_path: Path, tokenizer_file: Path) -> None:
    """A prefix that leaves no room for what is each request's own."""
    found = chat("D(10,1)", prefix_len=9, tokens=load_tokens(tokenizer_file))
    with pytest.raises(InputError, match="make the prefix shorter"):
        write(found, tmp_path / "t.msgpack")

    assert not list(tmp_path.iterdir())


def arrival_s(found: Iterator[Exchange], number: int) -> list[float]:
    return [one.request.arrive_ns / 1e9 for one in islice(found, number)]


def test_arrivals_are_even_or_poisson() -> None:
    """From 0 on; exponential gaps have their sd equal to their mean."""
    assert arrival_s(exchanges(chat(), Arrivals(4.0)), 4) == [0.0, 0.25, 0.5, 0.75]
    times = list(islice(Arrivals(50.0, poisson=True).times(3), 10_001))
    gaps = [(b - a) / 1e9 for a, b in pairwise(times)]
    mean = fmean(gaps)

    assert times[0] == 0
    assert mean == pytest.approx(1 / 50, rel=0.03)
    assert fmean((gap - mean) ** 2 for gap in gaps) ** 0.5 == pytest.approx(mean, rel=0.05)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    """Nothing would ever come, or everything at once."""
    with pytest.raises(InputError, match="requests per second"):
        Arrivals(rate)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scenario": parse("E(64)")}, "text-to-text takes D"),
        ({"model": ""}, "name of a model"),
        ({"model": "m\udcff"}, "in printable characters"),
        ({"requests": 0}, "at least one request"),
        ({"batch_size": 2}, "text-to-text sends one prompt a request"),
        ({"scenario": parse("dataset")}, "give --dataset-path"),
        ({"prefix_len": 5, "prefix_ratio": 0.1}, "give one"),
        ({"prefix_len": 5, "scenario": parse("U(9,9)")}, "D(in,out) scenarios only"),
        ({"prefix_ratio": 0.5, "scenario": parse("dataset"), "dataset": LINES}, "D(in,out) scenarios only"),
        ({"prefix_len": -1}, "from 0"),
        ({"prefix_ratio": 1.5}, "from 0 to 1"),
        ({"dataset": Dataset(name="pictures", rows=[Row(image="x")])}, "no prompt in any row"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], says: str) -> None:
    """Before anything is made."""
    with pytest.raises(InputError) as caught:
        replace(chat(), **changes)

    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("task", "scenario"), [("text-to-text", "D(40,5)"), ("text-to-rerank", "R(30,10)")]
)
def test_long_prompts_are_written_a_few_at_a_time(
    task: Any, scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer in memory at once; the same requests."""
    made = bodies(workload(task, scenario))
    monkeypatch.setattr(content, "TOKENS_AT_ONCE", 100)
    groups = [len(group) for group in content._groups(workload(task, scenario), 1)]

    assert bodies(workload(task, scenario)) == made
    assert groups == [3] * 6 + [2]


def test_a_dataset_s_name_may_be_no_text(tmp_path: Path) -> None:
    """A file's, in bytes that are no UTF-8: the trace holds it as it is shown."""
    lines = replace(LINES, name=os.fsdecode(b"lines-\xff.txt"))
    trace = write(replace(chat(), dataset=lines), tmp_path / "t.msgpack")

    assert trace.header.extra["synthesis"]["dataset"].startswith("lines-\\udcff.txt (")


ORDER = SynthOptions(model="m", scenario="D(9,9)", requests=1)


def test_words_of_the_command_line_are_checked() -> None:
    """A task, parameters, lengths from two sources, no scenario."""
    with pytest.raises(InputError, match="choose one of text-to-text, image-text-to-text"):
        replace(ORDER, task="text-to-speech")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not JSON"):
        read_params("{top_p: 1}")
    with pytest.raises(InputError, match="give a JSON object"):
        read_params("[1]")
    with pytest.raises(InputError, match="give one"):
        resolve(replace(ORDER, tokenizer="x", chars_per_token=4.0))
    with pytest.raises(InputError, match="give --scenario"):
        resolve(replace(ORDER, scenario=None))
