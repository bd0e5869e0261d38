"""METRICS: what can be measured of a request, in which unit, and which way is better. One row each.

A metric is a function of columns: seconds, NaN where a sample has no such value. The headline latency counts
from `due` where the pacing sets due times (an open loop), from `sent` where it does not. What replies are
turned into samples by is replay.measure; what a run does per second is replay.throughput.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from tbench.capture.exchange import ABANDONED, Outcome
from tbench.replay.columns import NUMBERS, Column
from tbench.replay.counted import Counted, Ranked, Spread
from tbench.replay.table import Columns, at, where

__all__ = ["Columns", "Values"]

Values = npt.NDArray[np.float64]
Direction = Literal["lower", "higher", "neutral"]

LEVELS: Final = (0.5, 0.9, 0.95, 0.99)
NAMED: Final = {f"p{level * 100:.0f}": level for level in LEVELS}
"""The same by the names that they have in a `spread`."""
TAIL_REQUESTS: Final = 20
"""A quantile needs this many requests beyond it (and before it) to have an interval."""


def origin(columns: Columns) -> Values:
    """When latency starts to count: `due`, or `sent` where nothing was due."""
    due = columns["due"]
    closed = np.isnan(due)
    return np.where(closed, columns["sent"], due) if closed.any() else due


def ttft(columns: Columns) -> Values:
    """To the first content, reasoning or tool-call token of a stream."""
    return np.asarray(columns["first_token"] - origin(columns))


def ttft_from_sent(columns: Columns) -> Values:
    """The same from `sent`: what the server alone took."""
    return np.asarray(columns["first_token"] - columns["sent"])


def ttft_answer(columns: Columns) -> Values:
    """To the first token of a stream that is not reasoning."""
    return np.asarray(columns["first_answer"] - origin(columns))


def e2e(columns: Columns) -> Values:
    """To the last content of a stream, to the last byte of anything else."""
    return _finish(columns) - origin(columns)


def e2e_from_sent(columns: Columns) -> Values:
    """The same from `sent`."""
    return np.asarray(_finish(columns) - columns["sent"])


def _finish(columns: Columns) -> Values:
    last = columns["last_token"]
    return np.where(np.isnan(last), columns["end"], last)


def tpot(columns: Columns) -> Values:
    """(last token - first token) / (output tokens - 1), where the server counted two or more."""
    return _per(_flow(columns), columns["output_tokens"] - 1)


def itl(columns: Columns) -> Values:
    """The mean gap between a stream's content-bearing events, where there were two or more."""
    return _per(_flow(columns), columns["token_events"] - 1)


def _flow(columns: Columns) -> Values:
    """How long a stream's tokens took to come; NaN where all came at once: that is no speed."""
    span = columns["last_token"] - columns["first_token"]
    return np.where((span > 0) & (columns["token_events"] != 1), span, np.nan)


COALESCED: Final = 0.9
"""Where more of the gaps between token events are none, the others are not the model's."""


def gaps(columns: Columns) -> tuple[int, int]:
    """How many gaps there are between the token events of each stream, and how many of them are none.

    None is the gap where both events came with one read of the connection.
    """
    each = np.maximum(columns["token_events"] - 1, 0)
    return int(each.sum()), int(np.maximum(columns["coalesced"], 0).sum())


def buffered(of: int, none: int) -> str | None:
    """Why the times between tokens are refused, by their `gaps`; None where they are not."""
    if none <= COALESCED * of:
        return None
    return (
        f"{none / of:.0%} of tokens came together with an earlier one: something between the model and this "
        "client buffers the streams (a proxy, compression), so that TPOT and ITL cannot be told"
    )


SLICE_S: Final = 0.002
"""A stamp that is uncertain by no more counts as known: about what Linux lets another program run (one
slice: 1.4 ms on two cores, 2.8 ms on eight) before whoever is woken has its turn."""


def unsure(columns: Columns, stamp: str = "first_token") -> Values:
    """How much earlier than stamped each may have been, seconds; NaN where none may."""
    return np.asarray(columns[stamp] - columns[f"{stamp}_after"])


class _Moved(Mapping[str, Column]):
    """Columns in which some stamps are as early as they may have been."""

    def __init__(self, columns: Columns, stamps: Collection[str]) -> None:
        self._columns, self._stamps = columns, stamps

    def __getitem__(self, name: str) -> Column:
        if name not in self._stamps:
            return self._columns[name]
        early = unsure(self._columns, name)
        return np.asarray(self._columns[name] - np.where(early > SLICE_S, early, 0.0))

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def uncertain(counted: Columns) -> int:
    """How many first tokens may have come over a millisecond before their stamp."""
    return int((unsure(counted) > 0).sum())


def speed(columns: Columns) -> Values:
    """Output tokens per second, from `sent` to the last token."""
    span, tokens = e2e_from_sent(columns), columns["output_tokens"]
    absent = np.full(len(span), np.nan)
    return np.asarray(np.divide(tokens, span, out=absent, where=(span > 0) & (tokens >= 0)))


def lag(columns: Columns) -> Values:
    """`sent` - `due`: how late the request left, for whatever reason."""
    return np.asarray(columns["sent"] - columns["due"])


def client_lag(columns: Columns) -> Values:
    """The part of `lag` that is this client's fault: not that of --max-in-flight, not the connection's."""
    return np.asarray(lag(columns) - columns["held"] - columns["connect"])


def _per(span: Values, parts: Column) -> Values:
    absent = np.full(len(span), np.nan)
    return np.asarray(np.divide(span, parts, out=absent, where=parts >= 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A row of the table. `of` gives one number per sample, whatever became of the request.

    `latency` metrics are +inf for a timeout; of those, `streamed` ones only where a stream was asked for.
    `spaced` ones are of the time between tokens: no sample has one where something buffers the streams.
    `from_due` ones count from when the request was due, so that the client's own lag is part of them.
    `gap_quantile`: where a sample has `of`, the metric is this quantile of the gaps between its token events.
    `begins` and `ends` name the stamps that it is taken between, where a late read of them may falsify it.
    """

    name: str
    definition: str
    of: Callable[[Columns], Values]
    unit: str = "s"
    better: Direction = "lower"
    latency: bool = False
    streamed: bool = False
    spaced: bool = False
    from_due: bool = False
    gap_quantile: float | None = None
    begins: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()

    @property
    def waits(self) -> bool:
        """Whether a timeout would have had at least what it waited: a time from when it was due on."""
        return self.from_due and bool(self.ends)


def _count(name: str, definition: str) -> Metric:
    """A row of tokens as the server counts them, which is -1 where it does not: neither way is better."""
    return Metric(
        name=name,
        unit="tok",
        better="neutral",
        definition=definition,
        of=lambda columns: np.where(columns[name] < 0, np.nan, columns[name]),
    )


_ROWS: Final = (
    Metric(
        name="ttft",
        definition="time to first token: from when the request was due (closed pacing: sent) to the "
        "first content, reasoning or tool-call token",
        of=ttft,
        latency=True,
        from_due=True,
        streamed=True,
        ends=("first_token",),
    ),
    Metric(
        name="ttft_sent",
        definition="time to first token, from when the request was sent",
        of=ttft_from_sent,
        latency=True,
        streamed=True,
        ends=("first_token",),
    ),
    Metric(
        name="ttft_answer",
        definition="as ttft, to the first token that is not reasoning",
        of=ttft_answer,
        latency=True,
        from_due=True,
        streamed=True,
        ends=("first_answer",),
    ),
    Metric(
        name="e2e",
        definition="end to end: from when the request was due (closed pacing: sent) to the last token; "
        "without a stream to the last byte",
        of=e2e,
        latency=True,
        from_due=True,
        ends=("last_token", "end"),
    ),
    Metric(
        name="e2e_per_token",
        definition="end to end / output tokens, by the server's usage: for answers of different length",
        of=lambda columns: _per(e2e(columns), columns["output_tokens"]),
        latency=True,
        from_due=True,
    ),
    Metric(
        name="tpot",
        definition="time per output token: (last token - first token) / (output tokens - 1), by the "
        "server's usage; none where all came at once",
        of=tpot,
        latency=True,
        streamed=True,
        spaced=True,
        begins=("first_token",),
        ends=("last_token",),
    ),
    Metric(
        name="itl",
        definition="inter-token latency: the mean gap between one request's content events (an event may "
        "carry several tokens)",
        of=itl,
        latency=True,
        streamed=True,
        spaced=True,
        begins=("first_token",),
        ends=("last_token",),
    ),
    Metric(
        name="itl_p95",
        definition="the 95th percentile of the gaps between one request's content events",
        of=itl,
        gap_quantile=0.95,
        latency=True,
        streamed=True,
        spaced=True,
    ),
    Metric(
        name="output_tokens_per_s",
        unit="tok/s",
        better="higher",
        definition="one request's output tokens / (sent to last token)",
        of=speed,
    ),
    _count("prompt_tokens", "prompt tokens by the server's usage"),
    _count("output_tokens", "output tokens by the server's usage, reasoning included"),
    _count("cached_tokens", "prompt tokens that the server took from its cache, by its usage"),
    _count(
        "cache_creation_tokens", "prompt tokens that the server wrote to its cache, by its usage"
    ),
    _count("reasoning_tokens", "reasoning tokens by the server's usage"),
    Metric(
        name="lag",
        definition="how much later than due a request was sent: the client's own delay (open pacing)",
        of=lag,
    ),
)

METRICS: Final[Mapping[str, Metric]] = {row.name: row for row in _ROWS}
SUMMARISED: Final = ("ttft", "tpot", "itl", "e2e", "lag")
"""Those that `replay --json` has the spread of, as `ttft_s` and so on."""
E2E_SENT: Final = Metric(
    name="e2e_sent",
    definition="end to end, from when the request was sent",
    of=e2e_from_sent,
    ends=("last_token", "end"),
)
"""Judged, as speeds are taken over it, and nowhere shown."""


def bounds(columns: Columns) -> Iterator[tuple[Metric, Values, Values]]:
    """The least and the most that each value may be, of each metric whose stamps may be read late.

    These make a run INVALID where late reads may have moved their quantiles too far. Where none is late, the
    two are one array.
    """
    rows = [row for row in (*METRICS.values(), E2E_SENT) if row.ends]
    stamps = {stamp for row in rows for stamp in (*row.begins, *row.ends)}
    late = {stamp for stamp in stamps if (unsure(columns, stamp) > SLICE_S).any()}
    for row in rows:
        # It is least where its end was earlier than stamped, and most where its beginning was.
        values = row.of(_Moved(columns, row.begins))
        known = ~np.isnan(values)
        high = low = values[known]
        if not late.isdisjoint((*row.begins, *row.ends)):
            # A span that the doubt eats up is none any more, and has no value (tpot): at the least it is 0.
            low = np.nan_to_num(row.of(_Moved(columns, row.ends))[known])
        yield row, low, high


def completed(columns: Columns) -> npt.NDArray[np.bool_]:
    """Which samples the metrics are taken over: whole answers outside the warm-up."""
    return np.asarray(where(columns, "outcome", Outcome.OK) & ~columns["warmup"])


def counted(columns: Columns) -> Columns:
    """The numeric columns of the completed samples outside the warm-up."""
    return _Counted(columns)


class _Counted(Mapping[str, Column]):
    """Columns with some rows left out, each when it is asked for."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._rows = completed(columns)

    def __getitem__(self, name: str) -> Column:
        if name not in NUMBERS:
            raise KeyError(name)
        return self._columns[name][self._rows]

    def __iter__(self) -> Iterator[str]:
        return iter(NUMBERS)

    def __len__(self) -> int:
        return len(NUMBERS)


def quantile(ordered: Ranked, p: float) -> float:
    """The inverted CDF: the least value that at least a share `p` does not exceed. Sorted, not empty."""
    return float(ordered[rank(len(ordered), p) - 1])


def minimum_n(p: float) -> int:
    """How many values the p-quantile needs: TAIL_REQUESTS on its thinner side."""
    # 1 - 0.9 is 0.09999999999999998 in binary: to the letter p90 would need 201 values.
    return math.ceil(TAIL_REQUESTS / min(p, 1 - p) - 1e-9 * TAIL_REQUESTS)


def quantiles(values: Ranked, points: Sequence[float]) -> list[float]:
    """The same at several points of values in any order, without sorting them all. Not empty."""
    places = [rank(len(values), p) - 1 for p in points]
    ranked = values if isinstance(values, Counted) else np.partition(values, places)
    return [float(ranked[place]) for place in places]


def rank(n: int, p: float) -> int:
    """Which of n ordered values is the p-quantile, counted from 1; a share of nearly k/n is the k-th."""
    # 0.07 * 100 is 7.000000000000001 in binary, and would be the eighth.
    return min(n, max(1, math.ceil(p * n - 1e-9)))


def wilson(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a share, for independent requests."""
    from statistics import NormalDist  # noqa: PLC0415 (few ask, and it takes as long as this module)

    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (count + z * z / 2) / (n + z * z)
    half = z * math.sqrt(count * (n - count) / n + z * z / 4) / (n + z * z)
    # Of no successes (or only successes) the two are equal, and rounding may carry the end past the bound.
    return max(0.0, centre - half), min(1.0, centre + half)


def identified(timeouts: int, n: int, p: float) -> bool:
    """Whether the p-quantile lies below the deadline, the doubt about the timeouts included."""
    return timeouts == 0 or (timeouts < n and wilson(timeouts, n)[1] < 1 - p)


def exceeded(
    value: Callable[[float], float], n: int, timeouts: int, p: float, waited: float | None
) -> float | None:
    """What the p-quantile is at least where timeouts hide it (`identified`); None where nothing is known.

    It is no less than the highest quantile that they do not hide; and where each would have been at least as
    long as it `waited`, no less than with all of them as long as that. `value` gives a quantile of the `n`
    values, timeouts as +inf.
    """
    if timeouts == n:
        return waited
    least = value(1 - wilson(timeouts, n)[1])
    if waited is None:
        return least
    soonest = value(p - timeouts / n) if rank(n, p) > timeouts else 0.0
    return max(least, min(max(waited, soonest), value(p)))


def with_timeouts(values: Values, timeouts: int) -> dict[str, float | None]:
    """The quantiles of NAMED over the values that are there and so many timeouts, slower than any of them.

    None is one that lies among the timeouts (`identified`).
    """
    ordered = np.sort(values[~np.isnan(values)])
    n = len(ordered) + timeouts
    return {
        name: float(ordered[rank(n, level) - 1]) if identified(timeouts, n, level) else None
        for name, level in NAMED.items()
    }


def with_lost(ordered: Ranked, lost: int) -> dict[str, tuple[float, float | None]]:
    """The same of ordered values and so many requests of unknown latency: as the fastest of all, the slowest.

    The quickest and the slowest value bound what the first can be: 0 where a quantile lies among those that
    are lost, and None. Empty without values.
    """
    n = len(ordered) + lost
    ranks = {name: rank(n, level) for name, level in NAMED.items()} if len(ordered) else {}
    return {
        name: (
            # As the fastest they push every value up by their
            # number of ranks; as the slowest they push none.
            float(ordered[place - lost - 1]) if place > lost else 0.0,
            float(ordered[place - 1]) if place <= len(ordered) else None,
        )
        for name, place in ranks.items()
    }


def spread(values: Values | Spread) -> dict[str, float | None]:
    """Mean, p50, p90, p95, p99 and max of the values that are there; all None without any."""
    if isinstance(values, Spread):
        ordered: Ranked = Counted(values)
        mean = values.mean
    else:
        ordered = np.sort(values[~np.isnan(values)])
        mean = float(ordered.mean()) if len(ordered) else None
    if not len(ordered):
        return dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "max"))
    return {
        "mean": mean,
        **{name: quantile(ordered, level) for name, level in NAMED.items()},
        "max": float(ordered[-1]),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Outstanding:
    """How long requests were under way in all (s), from the first send to the last end; `n` were sent.

    Those of parts of a run add up to that of the whole. `under_way` is NaN where an end is not known.
    """

    n: int = 0
    under_way: float = 0.0
    began: float = math.inf
    ended: float = -math.inf

    def __add__(self, other: "Outstanding") -> "Outstanding":
        return Outstanding(
            n=self.n + other.n,
            under_way=self.under_way + other.under_way,
            began=min(self.began, other.began),
            ended=max(self.ended, other.ended),
        )

    @property
    def mean(self) -> float | None:
        """How many were outstanding at a time."""
        known = self.ended > self.began and not math.isnan(self.under_way)
        return self.under_way / (self.ended - self.began) if known else None


def outstanding(columns: Columns) -> Outstanding:
    """That of these requests."""
    was_sent = ~np.isnan(columns["sent"])
    sent, end = columns["sent"][was_sent], columns["end"][was_sent]
    return Outstanding(
        n=len(sent),
        under_way=float((end - sent).sum()),
        began=float(sent.min(initial=math.inf)),
        ended=float(end[~np.isnan(end)].max(initial=-math.inf)),
    )


def in_flight(columns: Columns) -> dict[str, float | int | None]:
    """How many were outstanding: the time-weighted mean from the first send to the last end, and the most.

    The mean is None where the end of one is not known, as of a recorded request that was never answered.
    """
    was_sent = ~np.isnan(columns["sent"])
    sent, end = columns["sent"][was_sent], columns["end"][was_sent]
    # An end that is not known makes this NaN, which is not below anything: the most is still counted.
    if not len(sent) or end.max() <= sent.min():
        return {"mean": None, "max": len(sent) or None}
    times = np.concatenate([end, sent])
    # Ends stand before sends, and the sort is stable: a
    # place that is freed and taken in one instant is one.
    steps = np.concatenate([np.full(len(end), -1), np.full(len(sent), 1)])
    most = np.cumsum(steps[np.argsort(times, kind="stable")]).max()
    return {"mean": outstanding(columns).mean, "max": int(most)}


def held(columns: Columns, concurrency: float) -> float | None:
    """The mean number in flight of a closed loop of so many, once full and until its last request began.

    A request holds its place from when its connection was opened. None where that is no length of time, or
    where requests came to nothing: their places are free at once.
    """
    start, end = columns["sent"] - columns["connect"], columns["end"]
    if np.isnan(start).any() or np.isnan(end).any() or not 1 <= concurrency < len(start):
        return None
    # Full from when the last place was first taken.
    begun = np.sort(start)
    full, last = begun[int(concurrency) - 1], begun[-1]
    if last <= full:
        return None
    spans = np.clip(end, full, last) - np.clip(start, full, last)
    return float(spans.sum() / (last - full))


def errors(columns: Columns) -> dict[str, int]:
    """Samples that failed, by kind: an outcome, or `http_STATUS`; the most frequent first."""
    rows = np.flatnonzero(~where(columns, "outcome", Outcome.OK, *sorted(ABANDONED)))
    http = Outcome.HTTP_ERROR.value
    kinds = Counter(
        f"http_{status}" if outcome == http else str(outcome)
        for outcome, status in zip(*at(columns, rows, "outcome", "status").values(), strict=True)
    )
    return dict(kinds.most_common())
