"""Comparisons of runs that are counted, not kept: against the comparison of the same runs kept whole."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbench.__main__ import run as tbench
from tbench.analysis import outsized as bounds
from tbench.analysis.arms import load_arm
from tbench.analysis.compare import CompareOptions, compare
from tbench.analysis.comparison import Comparison, Comparisons, Verdict
from tbench.analysis.digest import Digest, Span
from tbench.analysis.metrics import METRICS
from tbench.analysis.outsized import outsized, unread
from tbench.analysis.sketch import RELATIVE_ERROR
from tbench.analysis.sketched import compare_files, compare_sketched
from tbench.capture.container import ContainerWriter, open_container
from tbench.capture.errors import InputError, UnreachableError
from tbench.capture.exchange import Outcome
from tbench.replay import pieces
from tbench.replay.columns import Column
from tbench.replay.runfile import Run, RunWriter, read_run
from tbench.replay.sample import Sample
from tbench.replay.warmup import parse_warmup

UNWELL = (Outcome.TIMEOUT, Outcome.HTTP_ERROR, Outcome.CANCELLED)
TWICE = (1 + RELATIVE_ERROR) ** 2


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a few thousand samples come in several pieces."""
    monkeypatch.setattr(pieces, "SAMPLES", 700)


def run_file(
    path: Path,
    seed: int = 1,
    *,
    n: int = 4000,
    slow: float = 1.0,
    unwell: float = 0.05,
    **more: Any,
) -> Path:
    """A run of one request a second, in the order in which they might have ended."""
    random = np.random.default_rng(seed)
    header = {
        "trace": {"capture_id": more.pop("capture", "c")},
        "pacing": {"mode": "speed", "value": 1.0},
    }
    writer = RunWriter(path, header, clock=lambda: 0.0)
    order = np.argsort(np.arange(n) + random.exponential(20, n), kind="stable").tolist()
    whole = [_sample(index, random, slow, unwell, more) for index in range(n)]
    for index in order:
        writer.add(whole[index])
    fates = [str(one.fate) for one in whole]
    counts = {fate: fates.count(fate) for fate in ("completed", "failed", "cancelled")}
    rest = {"planned": n, "lost_in_flight": 0, "never_sent": 0, "warmup_s": 60.0, "clock": "kernel"}
    return writer.close({**counts, **rest})


def _sample(
    index: int, random: np.random.Generator, slow: float, unwell: float, more: dict[str, Any]
) -> Sample:
    sent = index + random.exponential(0.001)
    first = sent + slow * random.lognormal(-1.5, 0.5)
    times = first + np.concatenate([[0.0], np.cumsum(slow * random.lognormal(-4, 0.3, 9))])
    bad = random.random() < unwell
    outcome = UNWELL[int(random.integers(3))] if bad else Outcome.OK
    ok, stream = outcome is Outcome.OK, index % 10 > 0
    given = {
        "model": "m",
        "due": float(index),
        "sent": sent,
        "first_token": float(first) if ok and stream else None,
        "last_token": float(times[-1]) if ok and stream else None,
        "end": index + 60 + sent % 1 if outcome is Outcome.TIMEOUT else float(times[-1]),
        "outcome": outcome,
        "prompt_tokens": int(random.integers(50, 150)),
        "cached_tokens": int(random.integers(20, 50)),
        "output_tokens": int(random.integers(5, 60)) if ok else None,
        "token_times": tuple(times.tolist()) if ok and stream else (),
    }
    return Sample(id=f"r{index}", index=index, endpoint="chat", stream=stream, **{**given, **more})


def exactly(a: Path, b: Path, question: CompareOptions) -> Comparisons:
    return compare(load_arm(a), load_arm(b), question)


def same(one: float | None, other: float | None, room: float) -> bool:
    if one is None or other is None:
        return one == other
    return abs(one - other) <= room


def rows_agree(found: Comparison, exact: Comparison) -> None:
    """The same n, estimates within the error, intervals that hold the exact ones."""
    assert (found.metric, found.quantile) == (exact.metric, exact.quantile)
    assert (found.n_baseline, found.n_candidate) == (exact.n_baseline, exact.n_candidate)
    assert (found.refusal, found.confidence) == (exact.refusal, exact.confidence)
    for name in ("baseline", "candidate", "baseline_at_least", "candidate_at_least"):
        wanted = getattr(exact, name)
        assert same(getattr(found, name), wanted, RELATIVE_ERROR * (wanted or 0))
    assert same(found.ratio, exact.ratio, 2.1 * RELATIVE_ERROR * (exact.ratio or 0))
    width = (exact.high or math.inf) - (exact.low or 0)
    for end, wanted, off in ((found.low, exact.low, 1 / TWICE), (found.high, exact.high, TWICE)):
        room = 0.05 * width + 0.003
        if exact.unit == "tok":  # whole numbers: the next one may end the interval as well
            room += 2 / (exact.baseline or 1)
        assert same(end, None if wanted is None else wanted * off, room)


QUESTIONS = {
    "usual": CompareOptions(paired=False),
    "every metric": CompareOptions(paired=False, metrics=tuple(METRICS), quantiles=(0.5, 0.9)),
    "own warm-up": CompareOptions(paired=False, warmup=parse_warmup("5%"), metrics=("e2e",)),
    "no warm-up": CompareOptions(paired=False, warmup=parse_warmup("none"), metrics=("ttft",)),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_sketched_comparison_is_the_unpaired_one(tmp_path: Path, name: str) -> None:
    """Same counts, failures and cautions; numbers within the stated error."""
    a, b = run_file(tmp_path / "a.run"), run_file(tmp_path / "b.run", 2, slow=1.2)
    found, exact = (one(a, b, QUESTIONS[name]) for one in (compare_sketched, exactly))

    assert len(found.rows) == len(exact.rows) > 0
    for got, wanted in zip(found.rows, exact.rows, strict=True):
        rows_agree(got, wanted)
    assert found.requests == exact.requests
    assert found.errors == exact.errors
    assert found.verdict is exact.verdict
    codes = [caution.code for caution in found.warnings]
    assert codes == ["SKETCHED", *(caution.code for caution in exact.warnings)]
    assert set(found.shift) == set(exact.shift)


CAUSES: dict[str, tuple[dict[str, Any], str]] = {
    "late": ({"sent": None, "held": 0.0}, "CLIENT_LAG_DIFFERS"),
    "longer": ({"output_tokens": 300}, "OUTPUT_LENGTH_DIFFERS"),
    "cached": ({"cached_tokens": 90}, "CACHED_TOKENS_DIFFER"),
    "failing": ({"unwell": 0.5}, "ERROR_MIX_DIFFERS"),
    "model": ({"model": "other"}, "DIFFERENT_MODEL"),
}


@pytest.mark.parametrize("cause", sorted(set(CAUSES) - {"late"}))
def test_cautions_are_raised_from_counts_too(tmp_path: Path, cause: str) -> None:
    """Each with its own cause, in the words of any other comparison."""
    changes, code = CAUSES[cause]
    a, b = run_file(tmp_path / "a.run"), run_file(tmp_path / "b.run", 2, **changes)
    question = CompareOptions(paired=False)
    found, exact = (
        [str(one) for one in compared(a, b, question).warnings if one.code == code]
        for compared in (compare_sketched, exactly)
    )

    assert len(found) == len(exact) == 1
    assert re.sub(r"[\d.]+", "#", found[0]) == re.sub(r"[\d.]+", "#", exact[0])


def test_a_late_client_is_invalid(tmp_path: Path) -> None:
    """Whether it was late is judged from sketches of the waits, with and without its lateness."""
    a, b = run_file(tmp_path / "a.run"), run_file(tmp_path / "b.run", 2)
    late = load_arm(b).run
    writer = RunWriter(tmp_path / "late.run", _header(late), clock=lambda: 0.0)
    for index in range(len(late)):
        writer.add(_moved(late.columns, index, by=0.5))
    c = writer.close(late.totals)
    found = compare_sketched(a, c, CompareOptions())

    assert found.verdict is Verdict.INVALID
    assert found.candidate.invalid_because is not None
    assert "this client sent late" in found.candidate.invalid_because
    assert found.baseline.invalid_because is None


def _header(run: Run) -> dict[str, Any]:
    """What the header of another file may take over."""
    return {name: run.header[name] for name in ("trace", "pacing")}


def _moved(columns: Any, index: int, by: float) -> Sample:
    """A sample sent and answered later than it was."""
    names = ("sent", "first_token", "last_token", "end")
    times = {name: float(columns[name][index]) + by for name in names}
    given: dict[str, Any] = {
        name: None if math.isnan(value) else value for name, value in times.items()
    }
    outcome = Outcome(columns["outcome"][index])
    stream = bool(columns["stream"][index])
    return Sample(id=f"r{index}", index=index, endpoint="chat", model="m", stream=stream,
                  due=float(index), outcome=outcome, **given)  # fmt: skip


def test_parts_of_a_run_add_up(tmp_path: Path) -> None:
    """What two workers kept of one plan, merged, is what one file of both gives; in either order."""
    path = run_file(tmp_path / "a.run")
    arm, span = load_arm(path), Span(0, 3999)
    half = np.arange(4000) % 2 == 0
    digests = []
    for rows in (half, ~half, np.ones(4000, dtype=bool)):
        digest = Digest(span, METRICS)
        digest.add(_only(arm, rows), np.zeros(int(rows.sum()), dtype=bool))
        digests.append(digest)
    first, second, whole = digests

    for both in (first.merge(second), second.merge(first)):
        assert both.metrics == whole.metrics
        assert (both.kinds, both.counts, both.worst) == (whole.kinds, whole.counts, whole.worst)
        assert both.requests.tolist() == whole.requests.tolist()
        assert both.failed.tolist() == whole.failed.tolist()
        assert (both.begin, both.end, both.waited) == (whole.begin, whole.end, whole.waited)
        assert (both.said, both.true, both.headline) == (whole.said, whole.true, whole.headline)
        assert both.bounds == whole.bounds


def _only(arm: Any, rows: Column) -> Any:
    """An arm of some of the rows."""
    offsets, gaps = arm.token_gaps()
    sizes = np.diff(offsets)
    few = np.concatenate([[0], np.cumsum(sizes[rows])]), gaps[np.repeat(rows, sizes)]
    columns = {name: column[rows] for name, column in arm.columns.items()}
    return replace(arm, run=replace(arm.run, columns=columns), token_gaps=lambda: few)


def test_digests_of_other_plans_do_not_add_up() -> None:
    """Their blocks are other times."""
    with pytest.raises(ValueError, match="do not add up"):
        Digest(Span(0, 9), ["e2e"]).merge(Digest(Span(0, 10), ["e2e"]))


@pytest.mark.parametrize(("first", "last"), [(0, 31), (7, 1006), (0, 2**31 - 1)])
def test_a_span_is_cut_into_blocks_of_equal_length(first: int, last: int) -> None:
    """The first place is in block 0, the last in 31, and none in between is empty or too long."""
    places = np.linspace(first, last, 32 * 50).round().astype(np.int32)
    blocks = Span(first, last).blocks(places)

    assert (blocks[0], blocks[-1]) == (0, 31)
    assert (np.diff(blocks) >= 0).all()
    assert np.bincount(blocks).min() > 0


@pytest.mark.parametrize("index", [True, False])
def test_a_run_is_outsized_by_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: bool
) -> None:
    """By the totals in its index; without one it is counted, when its file is large enough at all."""
    path = run_file(tmp_path / "a.run", n=1500)
    if not index:
        path = _without_index(path)
    monkeypatch.setattr(bounds, "SAMPLES", 1500)
    assert not outsized(path)
    monkeypatch.setattr(bounds, "SAMPLES", 1499)
    assert outsized(path)


def _without_index(path: Path) -> Path:
    """The file as a kill would have left it: totals and index are cut off."""
    part = path.with_name("killed.run.part")
    run = read_run(path)
    writer = ContainerWriter(path.with_name("killed.run"), {**_header(run), "kind": "run"})
    for record in open_container(path).records():
        if record["type"] != "totals":
            writer.append(record)
    writer._seal()
    writer._release()
    return part


def test_a_killed_run_is_counted_again(tmp_path: Path) -> None:
    """Its identity comes from what it holds; its warm-up is not known and nothing is left out."""
    path = _without_index(run_file(tmp_path / "a.run", n=1500))
    arm, exact = unread(path, ["e2e"], None), load_arm(path)

    assert not arm.run.complete
    assert arm.run.totals == exact.run.totals
    assert len(arm) == 1500
    assert (arm.name, arm.model, arm.open_loop) == (exact.name, "m", True)


def test_large_runs_are_sketched_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One outsized arm is enough."""
    a, b = run_file(tmp_path / "a.run"), run_file(tmp_path / "b.run", 2, n=3000)
    assert compare_files(a, b).sketched is None
    monkeypatch.setattr(bounds, "SAMPLES", 3500)
    found = compare_files(b, a)

    assert found.sketched is not None
    assert not found.paired
    assert found.requests == (2940, 3940)


def test_what_cannot_be_compared_is_refused_alike(tmp_path: Path) -> None:
    """Other traces, no success, nothing left, no such metric."""
    a = run_file(tmp_path / "a.run", n=200)
    other = run_file(tmp_path / "other.run", n=200, capture="d")
    dead = run_file(tmp_path / "dead.run", n=200, outcome=Outcome.CONNECT_ERROR)
    empty = run_file(tmp_path / "empty.run", n=0)

    for bad, question, error, said in (
        (other, CompareOptions(), InputError, "different traces"),
        (dead, CompareOptions(), UnreachableError, "no request succeeded"),
        (empty, CompareOptions(), InputError, "an empty run"),
        (a, CompareOptions(metrics=("mood",)), InputError, "no metric mood"),
        (a, CompareOptions(warmup=parse_warmup("9999")), InputError, "nothing is left"),
    ):
        with pytest.raises(error, match=said):
            compare_sketched(a, bad, question)


def test_the_command_says_that_it_sketched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In text, in JSON, and by refusing a page that would have nothing to draw."""
    a, b = str(run_file(tmp_path / "a.run", n=1500)), str(run_file(tmp_path / "b.run", 2, n=1500))

    assert tbench(["compare", a, b, "--sketch"]) == 0
    said = capsys.readouterr().out
    assert "! SKETCHED: values were counted in buckets (asked for)" in said
    assert "unpaired, sketched (relative error <= 0.1%)" in said
    assert tbench(["compare", a, b, "--sketch", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sketched"] == {"requests": [1440, 1440], "relative_error": RELATIVE_ERROR}
    assert tbench(["compare", a, b, "--sketch", "--html", str(tmp_path / "x.html")]) == 2
    assert "which are not kept with --sketch" in capsys.readouterr().err
    assert tbench(["compare", a, b, "--sketch", "--margin", "5%"]) == 2
    assert "--sketch is for one pair of runs" in capsys.readouterr().err
