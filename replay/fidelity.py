"""Fidelity: what a replay preserved of the traffic that it repeats, and what not.

The trace is read again after the run: so runs of any age can be asked. Only its first requests are read, so
that a long trace costs a second or two, and compared with the same requests of the run. Who has just sent
them has noted when they came, and reads the answers alone.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from tbench.capture.errors import InputError, UnreachableError
from tbench.capture.exchange import NOTHING, Outcome
from tbench.capture.mixes import Burstiness
from tbench.capture.remote import RemotePath, as_path, was_read
from tbench.capture.terminal import named
from tbench.replay import metrics
from tbench.replay.columns import NAME_LIMIT, Column
from tbench.replay.metrics import Columns, Values
from tbench.replay.pacing import speed_for
from tbench.replay.sample import Arrival
from tbench.replay.table import at, where
from tbench.replay.throughput import three

if TYPE_CHECKING:
    from tbench.replay.runfile import Run

ARRIVALS: Final = 20_000
"""So many requests of a trace are read for when they came and ended, and as many of the run are compared;"""
ANSWERS: Final = 2_000
"""and so many answers are read, each of which takes ten times as long."""
LATE_S: Final = 0.010
"""What leaves later has not kept its time,"""
STRAY: Final = 0.01
"""which so many requests may."""
BURST_SHARE, BURST_LEAST = 0.15, 0.05
"""A figure of burstiness is kept within this share of it, or within so much."""
LENGTHS: Final = {"prompt tokens": 0.01, "output tokens": 0.10}
"""By this share may their mean differ; of the output that is the rule of MLPerf's TEST09."""
REUSE: Final = 0.02
"""By so much may the share of prompt tokens that came from a cache."""


class Recorded(NamedTuple):
    """What a trace says of its first requests: when each came and ended, by id, and what was answered.

    Seconds since the capture began, NaN where there was no end. `answers` are columns as those of a run.
    """

    arrivals: Mapping[str, tuple[float, float]]
    answers: Columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A figure of `n` requests (gaps, windows) as recorded, as due and as replayed; None: there is none.

    `unit` is s, tok, /s, share, n (requests), or nothing.
    """

    name: str
    unit: str
    n: int
    recorded: float | None = None
    intended: float | None = None
    replayed: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Aspect:
    """Something that a replay preserves or does not (None: not known), and the figure that says so."""

    name: str
    preserved: bool | None
    figure: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.figure})" if self.figure else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """What a replay preserved.

    `requests` were compared by when they left, `answers` by what was answered. `missing` says why nothing of
    the recording is known. `speed` is how many recorded seconds went by in one; None where recorded times
    were not used. `lag_s` (p50, p99, max) and `late_share` (over 10 ms) are of all requests that were due,
    `moved_share` is of those that left over 10 ms from their recorded time. `displaced` is the least number
    of requests without which the others left in the order of the plan. `recorded_s` are the recorded
    arrivals and ends in seconds of the replay, for charts.
    """

    requests: int
    answers: int
    missing: str | None
    speed: float | None
    lag_s: Mapping[str, float | None]
    late_share: float | None
    moved_share: float | None
    displaced: int
    rows: Sequence[Row]
    aspects: Sequence[Aspect]
    recorded_s: tuple[Values, Values]

    @property
    def sentence(self) -> str:
        """What this replay preserves and what it does not."""
        verbs = {True: "keeps", False: "does not keep", None: "unknown:"}
        parts = []
        for preserved, verb in verbs.items():
            if names := [str(each) for each in self.aspects if each.preserved is preserved]:
                parts.append(f"{verb} {', '.join(names)}")
        return "; ".join(parts) + (f" ({self.missing})" if self.missing else "")

    @property
    def json(self) -> dict[str, Any]:
        """As `--json` has it."""
        document = {"sentence": self.sentence, **asdict(self)}
        del document["recorded_s"]
        return document


def fidelity_of(run: "Run") -> Fidelity:
    """What a run preserved of its trace, which is read where it is at hand."""
    trace, pacing = (run.header.get(name) or NOTHING for name in ("trace", "pacing"))
    name, recorded, missing = trace.get("path") or "", None, None
    # Experiments are moved with their traces.
    try:
        places = (as_path(name), run.path.parent / Path(name).name)
        path = next(filter(_is_at_hand, places), None) if name else None
        if path is None:
            raise InputError(
                f"the trace {named(name)} is not at hand" if name else "it names no trace"
            )
        recorded = recorded_in(path, trace.get("capture_id"), run.arrivals)
    except (InputError, UnreachableError) as error:
        missing = str(error)
    return fidelity(
        run.columns,
        recorded,
        speed=trace_speed(run.header),
        mode=pacing.get("mode") or "an unknown pacing",
        clones=pacing.get("clones") or 1.0,
        turns=run.totals.get("turns") or NOTHING,
        hit_rates=run.totals.get("hit_rates") or NOTHING,
        missing=missing,
    )


def _is_at_hand(path: Path) -> bool:
    """Whether there is a file, a folder or a pattern's file of that name.

    No device, no walk through a whole disk and no stranger's server: a run from elsewhere may name anything.
    """
    if isinstance(path, RemotePath):
        return was_read(path)
    with suppress(OSError, ValueError):
        if path.is_file() or path.is_dir() or "**" in path.name:
            return path.is_file() or path.is_dir()
        return any(each.is_file() for each in path.parent.glob(path.name))
    return False


def recorded_in(
    path: Path, capture_id: str | None, arrivals: Sequence[Arrival] | None = None
) -> Recorded:
    """What a trace recorded; its first `arrivals` are read where nobody has noted them.

    Raises InputError where it cannot be read, or another one has its name.
    """
    answers = _answers_in(path, capture_id)
    times = {
        # As a run has the id.
        id_.encode("ascii", "replace")[:NAME_LIMIT].decode(): (
            came_ns / 1e9,
            np.nan if ended_ns is None else ended_ns / 1e9,
        )
        for id_, came_ns, ended_ns in (
            _arrivals_in(path, capture_id) if arrivals is None else arrivals
        )
    }
    return Recorded(times, answers)


@lru_cache(maxsize=1)
def _answers_in(path: Path, capture_id: str | None) -> Columns:
    from tbench.capture.trace_reader import read_trace  # noqa: PLC0415 (which no run needs)
    from tbench.replay import columns, measure  # noqa: PLC0415
    from tbench.replay.table import Table  # noqa: PLC0415

    trace = read_trace(path)
    if trace.header.capture_id != capture_id:
        raise InputError(f"{named(str(path))} is not the trace of this run")
    samples = list(islice(measure.recorded_samples(trace), ANSWERS))
    block = columns.pack(columns.from_samples(samples))
    return Table(lambda: [block], rows=len(samples))


@lru_cache(maxsize=1)
def _arrivals_in(path: Path, _capture_id: str | None) -> Sequence[Arrival]:
    """Of the trace of that id, as `_answers_in` has seen."""
    from tbench.capture.trace_reader import read_trace  # noqa: PLC0415 (which no run needs)

    first = islice(read_trace(path).ends, ARRIVALS)
    pairs = ((exchange.request, exchange.response) for exchange in first)
    return [
        (request.id, request.arrive_ns, None if response is None else response.end_ns)
        for request, response in pairs
    ]


def trace_speed(header: Mapping[str, Any]) -> float | None:
    """How many recorded seconds went by in one of a run; None where its times are not the recorded ones."""
    pacing, survey = header.get("pacing") or NOTHING, header.get("survey") or NOTHING
    mode, value = pacing.get("mode"), pacing.get("value")
    requests, span_s = survey.get("requests") or 0, survey.get("span_s") or 0.0
    if mode == "rate" and value and requests > 1 and span_s > 0:
        return speed_for(value, requests, span_s)
    return float(value) if mode == "speed" and value else None


def fidelity(
    columns: Columns,
    recorded: Recorded | None = None,
    *,
    speed: float | None = 1.0,
    mode: str = "speed",
    clones: float = 1.0,
    turns: Mapping[str, Any] = NOTHING,
    hit_rates: Mapping[str, Any] = NOTHING,
    missing: str | None = None,
) -> Fidelity:
    """Hold the first round of a run's samples against what was recorded of the same requests.

    `mode` is that of the run's pacing, which sent each request `clones` times in a round; `turns` and
    `hit_rates` are those of its totals. Without `recorded` what was due and sent stands alone.
    """
    places = np.flatnonzero(columns["cycle"] < math.ceil(clones))[:ARRIVALS]
    ids = at(columns, places, "id")["id"].tolist()
    arrivals: Mapping[str, tuple[float, float]] = {} if recorded is None else recorded.arrivals
    if recorded is not None:
        known = np.array([id_ in arrivals for id_ in ids], dtype=bool)
        places, ids = places[known], [id_ for id_ in ids if id_ in arrivals]
    stamps = at(columns, places, "due", "sent", "end", "cycle")
    due, sent, scale = stamps["due"], stamps["sent"], speed or 1.0
    # By id: what was recorded once may have been sent several times.
    once = {id_: arrivals[id_] for id_ in ids if id_ in arrivals}
    came, ended = np.array(sorted(once.values()), dtype=np.float64).reshape(-1, 2).T
    origin, moved = 0.0, None
    closed = bool(np.isnan(due).all())
    if once:
        scheduled = np.array([once[id_][0] for id_ in ids]) / scale
        scheduled[stamps["cycle"] > 0] = np.nan  # clones have times of their own
        # The first of a plan continues nothing, so it is due at its time.
        shifts = (sent if closed else due) - scheduled
        origin = float(next(iter(shifts[~np.isnan(shifts)]), 0.0))
        off_s = np.abs(sent - scheduled - origin)
        off_s = off_s[~np.isnan(off_s)]
        moved = float((off_s > LATE_S).mean()) if speed and len(off_s) else None
    counters = []
    for times in (came, due * scale, sent * scale):
        counters.append(Burstiness())
        for at_ns in np.rint(np.sort(times[~np.isnan(times)]) * 1e9).astype(np.int64).tolist():
            counters[-1].add(at_ns)
    bursts = list(burst_rows(*counters))
    answered = [] if recorded is None else _answered(recorded.answers, columns, ids, places)
    contents = list(_contents(*answered)) if answered else []
    if hit_rates:  # which know what a perfect cache would serve, too
        rates = map(hit_rates.get, ("recorded", "planned", "served"))
        contents = [row for row in contents if row.name != CACHED]
        contents.append(_row(CACHED, "share", hit_rates.get("requests") or 0, rates))
    lag = metrics.lag(columns)
    lag = lag[~np.isnan(lag)]
    late_share = float((lag > LATE_S).mean()) if len(lag) else None
    spread = metrics.spread(lag)
    lag_s = {name: spread[name] for name in ("p50", "p99", "max")}
    strays = displaced(sent[~np.isnan(sent)].tolist())
    timing = {"lag": lag_s["p99"], "late": late_share, "moved": moved}
    if moved is None and turns.get("waited"):
        timing["late"] = None  # those are due when their predecessor had ended
    flying = metrics.in_flight({"sent": came, "end": ended})["mean"]
    return Fidelity(
        requests=len(sent),
        answers=len(answered[0]["sent"]) if answered else 0,
        missing=missing,
        speed=speed,
        lag_s=lag_s,
        late_share=late_share,
        moved_share=moved,
        displaced=strays,
        rows=[
            _row("requests/s", "/s", len(sent), map(_rate, (came, due, sent))),
            _row(
                "in flight, mean", "", len(sent), (flying, None, metrics.in_flight(stamps)["mean"])
            ),
            _row("out of order", "n", len(sent), (None, None, strays)),
            *bursts,
            *contents,
        ],
        aspects=[
            _punctual(timing, speed, mode, clones, closed=closed),
            *_ordered(turns),
            _bursty(bursts),
            *_alike(contents),
        ],
        recorded_s=(came / scale + origin, ended / scale + origin),
    )


def _row(name: str, unit: str, n: int, values: Iterable[float | None]) -> Row:
    recorded, intended, replayed = values
    return Row(name=name, unit=unit, n=n, recorded=recorded, intended=intended, replayed=replayed)


def _rate(times: Values) -> float | None:
    """Arrivals per second, from the first to the last; None of fewer than two."""
    times = times[~np.isnan(times)]
    span = float(np.ptp(times)) if len(times) else 0.0
    return (len(times) - 1) / span if span > 0 else None


def displaced(times: Sequence[float]) -> int:
    """How many must be left out, at least, for the rest to be in order.

    That is their number less the length of the longest subsequence that never decreases (patience sorting).
    """
    ends: list[float] = []  # the least that a subsequence of each length can end with
    for time in times:
        place = bisect_right(ends, time)
        # bisect_right, not left: equal times are in order.
        ends[place : place + 1] = [time]
    return len(times) - len(ends)


def burst_rows(recorded: Burstiness, intended: Burstiness, replayed: Burstiness) -> Iterator[Row]:
    """How unevenly requests came, in seconds of the trace: a row for each figure that any of them has."""
    figures = [counter.figures() for counter in (recorded, intended, replayed)]
    for name in figures[0]:
        values = [figure[name][0] for figure in figures]
        if any(value is not None for value in values):
            yield _row(name, "", max(figure[name][1] for figure in figures), values)


COMPARED: Final = (
    *("due", "sent", "first_token", "last_token", "end", "prompt_tokens", "output_tokens"),
    *("cached_tokens", "endpoint", "model", "outcome"),
)


def _answered(
    answers: Columns, columns: Columns, ids: Iterable[str], places: Column
) -> list[Mapping[str, Column]]:
    """The same requests as they were answered in the trace and in the run, where both answers are whole."""
    rows = {id_: row for row, id_ in enumerate(answers["id"].tolist())}
    requests = zip(ids, places.tolist(), strict=True)
    pairs = [(rows[id_], place) for id_, place in requests if id_ in rows]
    sides = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    tables = (answers, columns)
    whole_answers = np.ones(len(pairs), dtype=bool)
    for table, side in zip(tables, sides, strict=True):
        whole_answers &= where(table, "outcome", Outcome.OK)[side]
    return [
        at(table, side[whole_answers], *COMPARED) for table, side in zip(tables, sides, strict=True)
    ]


def _contents(recorded: Mapping[str, Column], replayed: Mapping[str, Column]) -> Iterator[Row]:
    """What was asked and answered, each figure over the requests of which both sides know it."""
    sides = recorded, replayed
    for name in LENGTHS:
        first, second = (side[name.replace(" ", "_")].astype(np.float64) for side in sides)
        counted = (first >= 0) & (second >= 0)
        if counted.any():
            spreads = [metrics.spread(side[counted]) for side in (first, second)]
            for figure in ("mean", "p50", "p99"):
                values = (spreads[0][figure], None, spreads[1][figure])
                yield _row(f"{name}, {figure}", "tok", int(counted.sum()), values)
    recorded_output, output = (side["output_tokens"] for side in sides)
    long = (recorded_output >= SHORT_OF) & (output >= 0)
    if n := int(long.sum()):
        short = float((SHORT_OF * output[long] <= recorded_output[long]).mean())
        yield _row(SHORT, "share", n, (None, None, short))
    counted = np.logical_and.reduce([side["cached_tokens"] >= 0 for side in sides])
    counted &= np.logical_and.reduce([side["prompt_tokens"] > 0 for side in sides])
    if counted.any():
        hits = [
            float(side["cached_tokens"][counted].sum() / side["prompt_tokens"][counted].sum())
            for side in sides
        ]
        yield _row(CACHED, "share", int(counted.sum()), (hits[0], None, hits[1]))
    for name in ("endpoint", "model"):
        if n := len(recorded[name]):
            same = float((recorded[name] == replayed[name]).mean())
            yield _row(f"same {name}", "share", n, (None, None, same))
    for name, latency in (("TTFT", metrics.ttft_from_sent), ("E2E", metrics.e2e_from_sent)):
        first, second = map(latency, sides)
        timed = ~np.isnan(first) & ~np.isnan(second)
        if n := int(timed.sum()):
            medians = [metrics.quantiles(side[timed], (0.5,))[0] for side in (first, second)]
            yield _row(f"{name} from sent, p50", "s", n, (medians[0], None, medians[1]))


CACHED: Final = "cached prompt tokens"
SHORT: Final = "output of a tenth or less"
SHORT_OF: Final = 10
"""An answer that is so many times shorter than the recorded one stopped for another reason."""


# What the figures say, aspect by aspect.


def _punctual(
    timing: Mapping[str, float | None],
    speed: float | None,
    mode: str,
    clones: float,
    *,
    closed: bool,
) -> Aspect:
    """Whether requests left at their recorded times, scaled or not."""
    name = "arrival times"
    if speed is None:
        how = "a closed loop has none" if closed else f"--{mode} replaces them"
        return Aspect(name=name, preserved=False, figure=how)
    stray = timing["late"] if timing["moved"] is None else timing["moved"]
    if timing["lag"] is None or stray is None:
        return Aspect(name=name, preserved=None)
    figures = [f"lag p99 {three(timing['lag'] * 1e3)} ms of all requests"]
    if speed != 1:
        figures.insert(0, f"{speed:.4g}x")
    if clones != 1:
        figures.append(f"{clones:g} copies of each session")
    if stray:
        figures.append(f"{stray:.1%} off by over {LATE_S * 1e3:.0f} ms")
    return Aspect(name=name, preserved=stray <= STRAY, figure=", ".join(figures))


def _ordered(turns: Mapping[str, Any]) -> Iterator[Aspect]:
    """Whether each turn waited for the answer that it continues; nothing of a trace without such turns."""
    continued, early, name = turns.get("continued", 0), turns.get("early"), "order of turns"
    if continued is None:  # it went with a worker that was lost
        yield Aspect(name=name, preserved=None)
        return
    left = continued - turns.get("skipped", 0)
    if left:
        text = f"{early:,} of {left:,} left early" if early else f"{left:,} turns"
        yield Aspect(name=name, preserved=not early, figure=text)
    elif continued or turns.get("causal", "off") == "off":
        yield Aspect(name=name, preserved=None)


def _bursty(bursts: Sequence[Row]) -> Aspect:
    """Whether requests came as unevenly as they were recorded, told by the figure that is furthest off."""
    worst, figure = 0.0, ""
    for row in bursts:
        if row.recorded is not None and row.replayed is not None:
            allowed = max(BURST_SHARE * row.recorded, BURST_LEAST)
            off = abs(row.replayed - row.recorded) / allowed
            if off >= worst:
                worst = off
                figure = f"{row.name} {three(row.recorded)} recorded, {three(row.replayed)} sent"
    return Aspect(name="burstiness", preserved=worst <= 1 if figure else None, figure=figure)


def _alike(contents: Iterable[Row]) -> Iterator[Aspect]:
    """Whether prompts and answers were as long as recorded, and as much of the prompts came from a cache."""
    rows = {row.name: row for row in contents}
    for name, tolerance in LENGTHS.items():
        row = rows.get(f"{name}, mean")
        if row is None or row.replayed is None or not row.recorded:
            yield Aspect(name=name, preserved=None)
            continue
        change = row.replayed / row.recorded - 1
        figure, short = f"{change:+.1%}", rows.get(SHORT)
        if name == "output tokens" and short and short.replayed:
            figure += f", {round(short.replayed * short.n):,} of {short.n:,} a tenth or less"
        yield Aspect(name=name, preserved=abs(change) <= tolerance, figure=figure)
    reuse, name = rows.get(CACHED), "cache reuse"
    if reuse is None or reuse.recorded is None or reuse.replayed is None:
        yield Aspect(name=name, preserved=None)
    else:
        figure = f"{reuse.recorded:.0%} recorded, {reuse.replayed:.0%} served"
        alike = abs(reuse.replayed - reuse.recorded) <= REUSE
        yield Aspect(name=name, preserved=alike, figure=figure)
