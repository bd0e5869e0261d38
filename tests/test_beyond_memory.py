"""Runs that are more than memory holds: the same figures and verdicts as of the same runs in memory.

The limit is lowered, so that both ways can be gone.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tbench.analysis import arms, beyond, sums
from tbench.analysis.compare import CompareOptions, compare_files
from tbench.analysis.comparison import Comparison, Comparisons
from tbench.analysis.drawn import DrawnSessions
from tbench.analysis.gate import parse_gates
from tbench.analysis.gate_results import evaluate_gates
from tbench.analysis.planning import PowerGoal, load_pilot, plan
from tbench.analysis.report.machine import judgement_json, report_json
from tbench.analysis.report.planning import plan_json, self_check_json
from tbench.analysis.report.sentences import headline
from tbench.analysis.report.text import comparison_text
from tbench.analysis.run_metrics import parse_slo
from tbench.analysis.selfcheck import self_check
from tbench.analysis.sums import SessionDraw
from tbench.capture.errors import InputError, UnreachableError
from tbench.replay import runfile
from tbench.replay.columns import ABSENT, NUMBERS, pack, tokens_record
from tbench.replay.counted import Counted, Spread
from tbench.replay.metrics import quantile
from tbench.replay.runfile import RunWriter
from tbench.replay.table import Desk, Table
from tests.test_replay_end_to_end import chat, write_trace

DOCS = Path(__file__).parent.parent / "docs"
N = 20_000
WARMUP_S = 100.0


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runfile, "PART", 700)


def write(path: Path, seed: int = 1, factor: float = 1.0, **change: Any) -> Path:
    """A run of one request a second, in the order in which answers ended, the first 100 s warm-up."""
    random = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        name: np.full(N, ABSENT[np.dtype(kind).kind], kind) for name, kind in NUMBERS.items()
    }
    failed = random.random(N) < change.get("failing", 0.01)
    drift = 1 + change.get("drift", 0.0) * np.sin(np.arange(N) / N * 2 * np.pi)
    columns["index"], columns["cycle"] = np.arange(N), np.zeros(N)
    columns["due"] = np.arange(N) * 1.0
    columns["sent"] = columns["due"] + random.exponential(0.001, N)
    if (sessions := change.get("sessions")) is not None:
        numbers = np.arange(N) % sessions if isinstance(sessions, int) else sessions
        columns["session"] = numbers
        drift = drift * random.lognormal(0, 0.3, numbers.max() + 1)[numbers]
    first = columns["sent"] + factor * drift * random.lognormal(-1, change.get("spread", 0.4), N)
    last = first + factor * random.lognormal(-0.5, 0.3, N)
    columns["first_token"] = np.where(failed, np.nan, first)
    columns["last_token"] = np.where(failed, np.nan, last)
    columns["end"] = np.where(failed, columns["sent"] + 0.1, last)
    if change.get("late"):
        columns["first_token_after"] = columns["first_token"] - 0.2 * (np.arange(N) % 3 == 0)
    columns["output_tokens"] = np.where(failed, -1, random.integers(2, 40, N))
    columns["token_events"] = np.where(failed, 0, 20)
    columns["prompt_tokens"], columns["cached_tokens"] = np.full(N, 90), np.full(N, 30)
    columns["coalesced"] = columns["held"] = columns["connect"] = columns["refusals"] = np.zeros(N)
    columns["status"] = np.where(failed, 503, 200)
    columns["stream"] = np.ones(N)
    words: dict[str, Any] = {
        "endpoint": np.full(N, "chat"),
        "model": np.full(N, "m"),
        "outcome": np.where(failed, change.get("outcome", "http_error"), "ok"),
        "error": np.full(N, None),
        "finish_reason": np.full(N, "stop"),
        "id": np.array([f"r{i + change.get('from', 0)}" for i in range(N)]),
        "request_id": np.full(N, ""),
    }
    header = {
        "wall_ns": change.get("wall_ns", 10**18),
        "trace": {"capture_id": change.get("trace", "t")},
        "pacing": {"mode": "constant"},
    }
    writer = RunWriter(path, header, clock=lambda: 0.0)
    order = np.argsort(columns["end"], kind="stable")
    for rows in np.array_split(order, 20):
        block = {name: column[rows] for name, column in (columns | words).items()}
        writer.append(pack(block), first=int(block["index"][0]))
        gaps = np.maximum(block["token_events"] - 1, 0).astype(int)
        writer.append(tokens_record(block["index"], gaps, np.full(gaps.sum(), 10_000)))
    counts = {"planned": N, "completed": int((~failed).sum()), "failed": int(failed.sum())}
    rest = {"cancelled": 0, "lost_in_flight": 0, "never_sent": 0, "skipped": {}}
    if change.get("killed"):
        writer.append({"type": "progress", "planned": N + 100, "issued": N + 10})
        writer._container._seal()
        writer._container._release()
        return path.with_name(path.name + ".part")
    return writer.close({**counts, **rest, "warmup_s": WARMUP_S, "ended_by": "plan"})


def both(monkeypatch: pytest.MonkeyPatch, look: Callable[[], Any]) -> tuple[Any, Any]:
    """What is told of samples in memory, and of the same ones beyond it."""
    held = look()
    monkeypatch.setattr(beyond, "LIMIT", 100)
    return held, look()


@given(
    st.lists(st.floats(0, 1e4), min_size=1, max_size=300), st.sampled_from([0.1, 0.5, 0.9, 0.99])
)
@settings(deadline=None)
def test_a_counted_quantile_is_within_two_per_mille(values: list[float], p: float) -> None:
    spread = Spread()
    spread.add(np.array(values))
    truth = quantile(np.sort(values), p)

    assert quantile(Counted(spread), p) == pytest.approx(truth, rel=0.00201, abs=1.1e-6)


@given(st.lists(st.floats(0, 1e4) | st.sampled_from([np.nan, np.inf]), max_size=100), st.data())
@settings(deadline=None)
def test_spreads_of_parts_add_up(values: list[float], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(values)))
    whole, first, second = Spread(), Spread(), Spread()
    whole.add(np.array(values, dtype=float))
    first.add(np.array(values[:cut], dtype=float))
    second.add(np.array(values[cut:], dtype=float))
    first.merge(second)

    assert first.histogram.counts == whole.histogram.counts
    assert (first.n, first.timeouts, first.absent) == (whole.n, whole.timeouts, whole.absent)
    assert first.total == pytest.approx(whole.total)


@pytest.mark.parametrize(("schedule", "most"), [("random", 9), ("duet", None)])
def test_the_most_in_flight_is_not_that_of_all_arms_of_a_duet(
    tmp_path: Path, schedule: str, most: int | None
) -> None:
    """The client counts them together."""
    arm = beyond.gather(write(tmp_path / "a.run"))
    header = {**arm.run.header, "experiment": {"schedule": schedule}}
    run = replace(arm.run, header=header, totals={**arm.run.totals, "most_in_flight": 9})

    assert replace(arm, run=run).numbers["in_flight"]["max"] == most


def test_a_report_tells_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All counts exactly, all quantiles within 1 %, and means to rounding; what is left out is said."""
    path, slo = write(tmp_path / "a.run"), parse_slo("ttft<500ms")
    held, counted = both(monkeypatch, lambda: report_json(beyond.load(path, slo=slo), slo=slo))

    assert held["beyond_memory"] is None
    assert "itl_p95" in counted["beyond_memory"]
    for name in ("planned", "errors", "valid", "duration_s", "requests_per_s", "goodput", "model"):
        assert counted[name] == pytest.approx(held[name]), name
    assert counted["in_flight"]["mean"] == pytest.approx(held["in_flight"]["mean"])
    assert counted["cost"]["usd"] == held["cost"]["usd"]
    assert held["summaries"].keys() - counted["summaries"].keys() <= {"itl_p95"}
    for name, summary in counted["summaries"].items():
        beside = held["summaries"][name]
        for field in ("n", "timeouts", "absent", "mean", "min", "max"):
            assert summary[field] == pytest.approx(beside[field]), (name, field)
        for p, point in summary["quantiles"].items():
            exact = beside["quantiles"][p]
            assert point["value"] == pytest.approx(exact["value"], rel=0.01), (name, p)
            assert point["ci"] == pytest.approx(exact["ci"], rel=0.01), (name, p)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "equal": ({}, {"seed": 2}),
    "slower": ({}, {"seed": 2, "factor": 1.2}),
    "a little slower": ({}, {"seed": 2, "factor": 1.03}),
    "faster": ({}, {"seed": 2, "factor": 0.8}),
    "fails more": ({}, {"seed": 2, "failing": 0.05}),
    "fails more and is faster": ({}, {"seed": 2, "failing": 0.2, "factor": 0.9}),
    "times out": ({}, {"seed": 2, "failing": 0.08, "outcome": "timeout"}),
    "drifts": ({"drift": 0.3}, {"seed": 2, "drift": -0.3}),
    "wide": ({"spread": 1.2}, {"seed": 2, "spread": 1.2, "factor": 1.1}),
    "read late": ({"late": True}, {"seed": 2}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_comparison_finds_the_same(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of two samples in memory: findings and verdicts the same, ratios and ends within 1 %.

    A finding of a p-value beside 0.05, or a number of blocks that a hair decides, may fall either way.
    """
    first, second = CASES[case]
    paths = write(tmp_path / "a.run", **first), write(tmp_path / "b.run", **second)

    def look() -> Comparisons:
        return compare_files(*paths, CompareOptions(paired=False))

    held, counted = both(monkeypatch, look)

    assert counted.verdict == held.verdict
    assert counted.requests == held.requests
    assert counted.errors.difference == pytest.approx(held.errors.difference)
    assert (counted.errors.low, counted.errors.high) == pytest.approx(
        (held.errors.low, held.errors.high)
    )
    codes = {caution.code for caution in counted.warnings} - {"BEYOND_MEMORY"}
    assert codes == {caution.code for caution in held.warnings}
    for row, exact in zip(counted.rows, held.rows, strict=True):
        assert shown(row) == shown(exact)
        if exact.blocks != row.blocks:
            assert abs(exact.rho - row.rho) < 0.05
            continue
        assert row.finding == exact.finding or 0.03 < exact.p_value < 0.08, row
        for end in ("ratio", "low", "high", "baseline", "candidate"):
            value, truth = getattr(row, end), getattr(exact, end)
            assert value == truth or value == pytest.approx(truth, rel=0.01), (row, end)
    for name, overall in counted.overall.items():
        assert overall.effective.n == held.overall[name].effective.n
        assert overall.effective.tau == pytest.approx(held.overall[name].effective.tau, rel=0.02)


def shown(row: Comparison) -> tuple[Any, ...]:
    """What a row says but for its figures and its finding."""
    codes = {caution.code for caution in row.warnings} - {"STEPS"}
    return row.metric, row.quantile, row.verdict, row.refusal, codes


def test_a_metric_of_the_gaps_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beyond, "LIMIT", 100)
    path = write(tmp_path / "a.run")

    with pytest.raises(InputError, match="--metric itl_p95"):
        compare_files(path, path, CompareOptions(metrics=("itl_p95",)))


def test_a_trace_beside_a_run_beyond_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beyond, "LIMIT", 100)
    run = write(tmp_path / "a.run")
    trace = write_trace(tmp_path / "t.msgpack", [chat(0)])

    with pytest.raises(InputError, match=r"t\.msgpack: only a run is compared"):
        compare_files(trace, run)


def test_a_killed_run_is_told_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its samples are counted first; it is INVALID, and says of how many requests nothing is known."""
    path = write(tmp_path / "a.run", killed=True)
    monkeypatch.setattr(runfile, "LARGE", 1)
    held, counted = both(monkeypatch, lambda: report_json(beyond.load(path)))

    assert counted["beyond_memory"]
    assert not held["valid"]
    for name in ("planned", "completed", "failed", "lost_in_flight", "invalid_because"):
        assert counted[name] == held[name], name


def test_sessions_widen_the_intervals_as_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of requests in pairs, which is how memory takes them where sessions are the same ones."""
    paths = write(tmp_path / "a.run", sessions=300), write(tmp_path / "b.run", 2, sessions=300)
    held, counted = both(monkeypatch, lambda: compare_files(*paths))
    monkeypatch.setattr(sums, "MOST", N // 3)
    drawn = compare_files(*paths)

    assert (counted.errors.low, counted.errors.high) == pytest.approx(
        (held.errors.low, held.errors.high)
    )
    for row, exact, part in zip(counted.rows, held.rows, drawn.rows, strict=True):
        assert (row.low, row.high) == pytest.approx((exact.low, exact.high), rel=0.01), row
        assert row.sessions == pytest.approx(exact.sessions)
        assert part.sessions == pytest.approx(exact.sessions, rel=0.3)
    width, of_part = (np.log(each.rows[0].high / each.rows[0].low) for each in (held, drawn))
    assert of_part == pytest.approx(width, rel=0.4), "and not a fifth, as without sessions"


PLACE = np.arange(N)
MIXED = np.random.default_rng(5).integers(0, 30, N)
LARGE: dict[str, int | np.ndarray[Any, Any]] = {
    "four hold all": 4,
    "two hold two fifths, beside long ones": np.where(
        PLACE % 5 < 2, 7001 + PLACE % 2, PLACE // 2 % 7000
    ),
    "thirty hold two fifths, beside short ones": np.where(PLACE % 5 < 2, 7001 + MIXED, PLACE // 3),
}
"""Sessions of which too few are in a draw of a tenth of the requests."""


@pytest.mark.parametrize("trace", ["t", "other"])
@pytest.mark.parametrize("layout", LARGE)
def test_large_sessions_that_no_draw_tells_apart_leave_no_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, trace: str
) -> None:
    """Intervals would cover a half to nine tenths of what they should (docs/statistics.md)."""
    paths = (
        write(tmp_path / "a.run", sessions=LARGE[layout]),
        write(tmp_path / "b.run", 2, sessions=LARGE[layout], trace=trace),
    )
    monkeypatch.setattr(beyond, "LIMIT", 100)
    monkeypatch.setattr(sums, "MOST", N // 10)
    compared = compare_files(*paths, CompareOptions(paired=trace == "t"))

    assert "SESSIONS_LEFT_OUT" in {caution.code for caution in compared.warnings}
    for row in compared.rows:
        assert (row.confidence, row.low, row.p_value) == ("none", None, None), row
        assert row.refusal, row
    assert not any(point.low for points in compared.shift.values() for point in points)
    assert "large sessions leave no interval" in headline(compared)


@given(st.lists(st.integers(1, 4_000), min_size=1, max_size=3), st.integers(1, 3), st.booleans())
@example(large=[3], each=2, apart=False)
@settings(max_examples=10, deadline=None)
def test_a_draw_knows_how_large_the_sessions_are_that_it_has_not(
    large: list[int], each: int, apart: bool
) -> None:
    """Whatever was drawn; where sizes are alike, none that decides is missed."""
    sizes = np.concatenate([large, np.full(20_000, each)])
    numbers = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), sizes))
    draws = SessionDraw(), SessionDraw()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sums, "MOST", 4_000)
        for draw in draws:
            for part in np.array_split(numbers, 3):
                draw.add(
                    sums.hashes_of(part),
                    lambda rows, part=part: {"session": part[rows], "block": np.zeros(len(rows))},
                )
    sessions = DrawnSessions(draws, apart=apart)

    assert sessions.count == pytest.approx(sizes.sum() ** 2 / (sizes**2).sum(), rel=0.05)
    if max(large) <= 20:
        assert not sessions.too_few


@pytest.mark.parametrize(
    ("largest", "too_few"),
    [([], False), ([100_000], False), ([40_000] * 9, True), ([400_000], True)],
)
def test_large_sessions_decide_once_they_can_move_more_than_a_bucket(
    largest: list[int], too_few: bool
) -> None:
    """A hundred million requests in sessions of 600, of which a draw has 1 in 1,000, and larger ones."""
    draws = SessionDraw(), SessionDraw()
    for draw in draws:
        draw.offered, draw.limit = 5 * 10**7, 2**64 // 1000
        draw.sizes[: 10**8 // 1200] = 600
        draw.sizes[len(draw.sizes) - len(largest) :] += np.array(largest, dtype=np.int64)

    assert DrawnSessions(draws).too_few is too_few


def test_requests_of_one_run_only_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beyond, "LIMIT", 100)
    first = write(tmp_path / "a.run")
    same, moved = write(tmp_path / "b.run", 2), write(tmp_path / "c.run", 2, **{"from": N // 4})

    said = {caution.code: caution.text for caution in compare_files(first, moved).warnings}
    assert "25.0% of the baseline's and 25.0% of the candidate's" in said["PARTIAL_OVERLAP"]
    assert "PARTIAL_OVERLAP" not in {each.code for each in compare_files(first, same).warnings}


def test_a_run_without_any_success_is_named_with_its_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beyond, "LIMIT", 100)
    run, failed = write(tmp_path / "a.run"), write(tmp_path / "b.run", failing=1.0)

    with pytest.raises(UnreachableError, match=r"b\.run: no request succeeded \(http_503"):
        compare_files(run, failed)


def test_every_table_of_a_comparison_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`compare -v`, which the shorter text names."""
    monkeypatch.setattr(beyond, "LIMIT", 100)
    compared = compare_files(write(tmp_path / "a.run"), write(tmp_path / "b.run", 2))

    assert "samples are more than are held in memory" in " ".join(comparison_text(compared).split())


def test_what_needs_all_samples_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beyond, "LIMIT", 100)
    arm = beyond.load(write(tmp_path / "a.run"))

    with pytest.raises(InputError, match="export it to Parquet"):
        report_json(arm, samples=True)


def test_the_queries_of_the_docs_run(
    tbench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each SELECT of docs/export.md, over two exported runs; the counts are those of the runs."""
    duckdb = pytest.importorskip("duckdb")
    pytest.importorskip("pyarrow")
    queries = re.findall(r"^ {4}(SELECT .*;)$", (DOCS / "export.md").read_text(), re.MULTILINE)
    failed = 0
    for seed, name in enumerate(("a", "b"), 1):
        run = write(tmp_path / f"{name}.run", seed)
        failed += beyond.gather(run).numbers["failed"] if name == "a" else 0
        done = tbench("trace", "export", run, "-o", tmp_path / f"{name}.parquet")
        assert f"{N:,} samples" in done.out, done.err
    monkeypatch.chdir(tmp_path)
    by_model, pairs, by_minute = (duckdb.sql(query).fetchall() for query in queries)

    assert len(by_model) == 1
    assert by_model[0][1] <= N - failed
    assert pairs[0][1] == pytest.approx(1, rel=0.05)
    assert sum(count for _, count, _ in by_minute) == N
    assert sum(count for *_, count in by_minute) == failed


def judged(folder: Path) -> dict[str, Any]:
    slo = parse_slo("ttft<500ms,e2e<3s")
    asked = ["errors:0.5pp", "goodput:1pp", "requests_per_s:5%", "ttft:p95<=3s", "itl:p50:9%"]
    desk = Desk()
    sides = [arms.load_replicates(folder / name, desk=desk) for name in ("a.*", "b.*")]
    results = evaluate_gates(sides, parse_gates("5%", asked, slo))
    return {**judgement_json(results), "costs": [str(row.reason) for row in results.rows]}


def planned(folder: Path) -> dict[str, Any]:
    return plan_json(plan(load_pilot([folder / "a.*"]), PowerGoal()))


def checked(folder: Path) -> dict[str, Any]:
    arm = arms.load_replicates(folder / "?.*", desk=Desk(seats=2))
    gates, random = parse_gates("5%", ["errors:0.5pp"]), np.random.default_rng(1)
    return self_check_json(self_check([arm], CompareOptions(metrics=("ttft",)), gates, random))


@pytest.mark.parametrize(("judged", "beside"), [(judged, 0), (planned, 0), (checked, 1)])
def test_repeated_runs_are_judged_alike_with_few_of_them_in_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    judged: Callable[[Path], dict[str, Any]],
    beside: int,
) -> None:
    """One at a time, and two where pairs are compared."""
    for number in range(3):
        for place, name in enumerate("ab"):
            began, factor = (2 * number + place) * 10**12, 1 + 0.04 * place
            path = tmp_path / f"{name}.{number}.run"
            write(path, 2 * number + place, factor, wall_ns=began, failing=0.02 * (number > 0))
    together = judged(tmp_path)
    read: list[int] = []
    tables: list[ref[Table]] = []
    make, take = Table.__init__, Desk.take

    def made(table: Table, *given: Any, **named: Any) -> None:
        tables.append(ref(table))
        make(table, *given, **named)

    def watched(desk: Desk, table: Table) -> None:
        take(desk, table)
        held = [known() for known in tables]
        others = [each for each in held if each is not None and each is not table and each._desk]
        read.append(sum(bool(each._stores) for each in others))

    monkeypatch.setattr(Table, "__init__", made)
    monkeypatch.setattr(Desk, "take", watched)
    monkeypatch.setattr(arms, "HELD", 0)
    assert judged(tmp_path) == together
    assert max(read) == beside, "so many other runs were held when one was read"
