"""`tbench compare` as a user runs it: the JSON contract, the text, files, and every bad input."""

import json
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbench.__main__ import run as tbench
from tbench.capture.exchange import Outcome
from tbench.replay.runfile import RunWriter, read_run
from tbench.replay.sample import Sample
from tbench.replay.totals import numbers

Said = pytest.CaptureFixture[str]
Runs = Callable[..., Path]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Write a run of `n` samples, `slow` times slower; returns its path."""

    def write(name: str, n: int = 500, slow: float = 1.0, **changes: Any) -> Path:
        capture, late = changes.pop("capture", "c1"), changes.pop("late", 0.0001)
        header = {"trace": {"capture_id": capture}, "pacing": {"mode": "speed", "value": 1.0}}
        writer = RunWriter(tmp_path / name, header, clock=time.monotonic)
        noise = np.random.default_rng(len(name)).lognormal(sigma=0.2, size=n) * slow
        for k in range(n):
            given = {
                "endpoint": "chat",
                "model": "m",
                "stream": True,
                "due": k * 0.1,
                "sent": k * 0.1 + late,
                "first_token": k * 0.1 + 0.03 * noise[k],
                "last_token": k * 0.1 + 0.23 * noise[k],
                "end": k * 0.1 + 0.23 * noise[k],
                "status": 200,
                "output_tokens": 21,
                "prompt_tokens": 9,
                "token_times": (k * 0.1 + 0.03 * noise[k], k * 0.1 + 0.23 * noise[k]),
            }
            writer.add(Sample(id=f"r{k}", index=k, **{**given, **changes}))
        ok = changes.get("outcome", Outcome.OK) is Outcome.OK
        counts = {"completed": n if ok else 0, "failed": 0 if ok else n}
        rest = {"cancelled": 0, "lost_in_flight": 0, "never_sent": 0}
        return writer.close({"planned": n, **counts, **rest})

    return write


@pytest.mark.parametrize("name", ["a.run", "copy.run"])
def test_a_run_compared_with_itself_is_said_to_be(
    runs: Runs, tmp_path: Path, capsys: Said, name: str
) -> None:
    """First of all, and no difference is a finding; two runs alike in all figures are two runs."""
    run = runs("a.run")
    (tmp_path / "copy.run").write_bytes(run.read_bytes())

    assert tbench(["compare", str(run), str(tmp_path / name)]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("UNDECIDED  both files are one run: nothing can differ: TTFT 1.000x")
    assert tbench(["compare", str(run), str(runs("b.run"))]) == 0
    assert "one run" not in capsys.readouterr().out


def test_the_json_contract(runs: Runs, capsys: Said) -> None:
    """One object on stdout with exactly the promised names and types."""
    code = tbench(["compare", str(runs("a.run")), str(runs("slow.run", slow=2)), "--json"])

    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert found["verdict"] == "ADVISORY"
    assert isinstance(found["warnings"], list)
    half = found["comparisons"][0]
    assert (half["metric"], half["quantile"]) == ("ttft", 0.5)
    assert half["candidate"] / half["baseline"] == pytest.approx(half["ratio"])
    low, high = half["ci"]
    assert low < 2 < high
    assert (half["n"], half["runs"], half["confidence"]) == (500, 1, "low")
    assert half["method"].startswith("block inversion, K=")
    assert half["verdict"] == "INCONCLUSIVE"
    assert any(warning.startswith("LOW_CONFIDENCE: ") for warning in half["warnings"])


def test_a_run_whose_client_was_the_limit_makes_the_comparison_invalid(
    runs: Runs, capsys: Said
) -> None:
    """Two thirds of the latency are the client's own lateness: no verdict but INVALID, exit 4."""
    code = tbench(["compare", str(runs("a.run")), str(runs("late.run", late=0.02)), "--json"])

    found = json.loads(capsys.readouterr().out)
    assert (code, found["verdict"]) == (4, "INVALID")
    assert any(warning.startswith("INVALID_RUN: late") for warning in found["warnings"])


def test_what_is_unbounded_or_refused_is_null(runs: Runs, capsys: Said) -> None:
    """JSON has no infinity: p99 of 500 requests has no interval, and says why."""
    tbench(["compare", str(runs("a.run")), str(runs("b.run")), "--json", "--quantile", "0.99"])

    (tail, *_) = json.loads(capsys.readouterr().out)["comparisons"]
    assert tail["ci"] == [None, None]
    assert tail["confidence"] == "none"
    assert "2,000" in tail["refusal"]


def test_text_goes_to_stdout_and_nothing_else(runs: Runs, capsys: Said) -> None:
    """Plain text when piped."""
    assert tbench(["compare", str(runs("a.run")), str(runs("b.run")), "--metric", "e2e"]) == 0

    said = capsys.readouterr()
    assert "E2E" in said.out
    assert "TTFT" not in said.out
    assert "\x1b" not in said.out
    assert said.err == ""


def test_the_page_is_private(runs: Runs, tmp_path: Path, capsys: Said) -> None:
    """--html writes one file that only its owner reads, and says where it is."""
    page = tmp_path / "report.html"

    assert tbench(["compare", str(runs("a.run")), str(runs("b.run")), "--html", str(page)]) == 0

    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert page.read_text().lstrip().lower().startswith("<!doctype html>")
    assert str(page) in capsys.readouterr().err


def test_a_warm_up_can_be_chosen_afterwards(runs: Runs, capsys: Said) -> None:
    """Ten seconds of ten requests a second are left out."""
    paths = [str(runs("a.run")), str(runs("b.run"))]

    assert tbench(["compare", *paths, "--json", "--warmup", "10"]) == 0

    assert json.loads(capsys.readouterr().out)["comparisons"][0]["n"] == 400


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["missing.run", "a.run"], 2, "missing.run"),
        (["a.run", "junk.run"], 2, "junk.run"),
        (["a.run", "empty.run"], 2, "it holds no request"),
        (["a.run", "dead.run"], 5, "no request succeeded"),
        (["a.run", "other.run"], 2, "--unpaired"),
        (["a.run", "a.run", "--metric", "speed"], 2, "no metric speed"),
        (["a.run", "a.run", "--quantile", "95"], 2, "between 0 and 1"),
        (["a.run", "a.run", "--warmup", "soon"], 2, "--warmup"),
        (["a.run", "a.run", "--warmup", "900"], 2, "nothing is left"),
        (["a.run"], 2, "--help"),
    ],
)
def test_bad_input_is_one_line(
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Said,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    """What is wrong, where, and what to do; nothing on stdout."""
    runs("a.run")
    runs("empty.run", n=0)
    runs("dead.run", outcome=Outcome.CONNECT_ERROR)
    runs("other.run", capture="c2")
    (tmp_path / "junk.run").write_text("no run at all")
    monkeypatch.chdir(tmp_path)

    assert tbench(["compare", *arguments]) == code
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_unpaired_arms_may_come_from_different_traces(runs: Runs, capsys: Said) -> None:
    """Asked for as two samples, they are compared as such."""
    paths = [str(runs("a.run")), str(runs("b.run", capture="c2"))]

    assert tbench(["compare", *paths, "--unpaired", "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["paired"] is False
    assert found["comparisons"][0]["method"].endswith("unpaired")


def test_one_figure_is_the_same_in_replay_report_and_compare(runs: Runs, capsys: Said) -> None:
    """Of 378 streams and some warm-up: each quantile in all three, where its interval is refused as well."""
    path = runs("a.run", n=378)
    run = read_run(path)
    assert tbench(["report", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert tbench(["compare", str(path), str(path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["comparisons"]

    replayed = numbers(run)
    for metric in ("ttft", "tpot", "e2e"):
        for p in (0.5, 0.9, 0.95, 0.99):
            name = f"p{p * 100:g}"
            row = next(one for one in rows if (one["metric"], one["quantile"]) == (metric, p))
            shown = [
                replayed[f"{metric}_s"][name],
                report[f"{metric}_s"][name],
                report["summaries"][metric]["quantiles"][name]["value"],
                row["baseline"],
                row["candidate"],
            ]
            assert shown == [shown[0]] * 5
            assert shown[0] is not None
