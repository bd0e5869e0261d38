"""What a sample measures: every metric's definition, once, as a function of columns.

Seconds, NaN where a sample has no such value. The headline latency counts from `due` where the pacing
sets due times (an open loop), from `sent` where it does not.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tbench.capture.exchange import Outcome
from tbench.replay.columns import NUMBERS, Column
from tbench.replay.table import Columns, where

__all__ = ["Columns", "Values"]

Values = npt.NDArray[np.float64]

LEVELS: Final = (0.5, 0.9, 0.95, 0.99)
NAMED: Final = {f"p{level * 100:.0f}": level for level in LEVELS}
"""The same by the names that they have in a `spread`."""
TAIL_REQUESTS: Final = 20
"""A quantile needs this many requests beyond it (and before it) to have an interval."""


def origin(columns: Columns) -> Values:
    """When latency starts to count: `due`, or `sent` where nothing was due."""
    due = columns["due"]
    return np.where(np.isnan(due), columns["sent"], due)


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


def refused(of: int, none: int) -> frozenset[str]:
    """The metrics that are refused, by the same."""
    return SPACED if buffered(of, none) else frozenset()


def unsure(columns: Columns, stamp: str = "first_token") -> Values:
    """How much earlier than stamped each may have been, seconds; 0 where that is known."""
    return np.asarray(np.nan_to_num(columns[stamp] - columns[f"{stamp}_after"]))


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


class Judged(NamedTuple):
    """A metric that a late read may falsify: it is least with these stamps early, most with those."""

    metric: Callable[[Columns], Values]
    least: tuple[str, ...]
    most: tuple[str, ...] = ()


JUDGED: Final[Mapping[str, Judged]] = {
    "ttft_s": Judged(ttft, ("first_token",)),
    "ttft_sent_s": Judged(ttft_from_sent, ("first_token",)),
    "ttft_answer_s": Judged(ttft_answer, ("first_answer",)),
    "e2e_s": Judged(e2e, ("last_token", "end")),
    "e2e_sent_s": Judged(e2e_from_sent, ("last_token", "end")),
    "tpot_s": Judged(tpot, ("last_token",), ("first_token",)),
    "itl_s": Judged(itl, ("last_token",), ("first_token",)),
}
"""The metrics that make a run INVALID where late reads may have moved their quantiles too far."""


def bounds(columns: Columns) -> Iterator[tuple[str, Values, Values]]:
    """Of each metric in JUDGED the least and the most that each value may be; one array if none is late."""
    stamps = {name for _, least, most in JUDGED.values() for name in (*least, *most)}
    late = {name for name in stamps if (unsure(columns, name) > SLICE_S).any()}
    for name, (metric, least, most) in JUDGED.items():
        values = metric(_Moved(columns, most))
        known = ~np.isnan(values)
        high = low = values[known]
        if not late.isdisjoint((*least, *most)):
            low = np.nan_to_num(metric(_Moved(columns, least))[known])
        yield name, low, high


def uncertain(counted: Columns) -> int:
    """How many first tokens may have come over a millisecond before their stamp."""
    return int((unsure(counted) > 0).sum())


def lag(columns: Columns) -> Values:
    """`sent` - `due`: how late the request left, for whatever reason."""
    return np.asarray(columns["sent"] - columns["due"])


def client_lag(columns: Columns) -> Values:
    """The part of `lag` that is this client's fault: not that of --max-in-flight, not the connection's."""
    return np.asarray(lag(columns) - columns["held"] - columns["connect"])


def _per(span: Values, parts: Column) -> Values:
    absent = np.full(len(span), np.nan)
    return np.asarray(np.divide(span, parts, out=absent, where=parts >= 1))


METRICS: Final[Mapping[str, Callable[[Columns], Values]]] = {
    "ttft_s": ttft,
    "tpot_s": tpot,
    "itl_s": itl,
    "e2e_s": e2e,
    "lag_s": lag,
}
"""The metrics of `replay --json`."""
SPACED: Final = frozenset({"tpot_s", "itl_s"})
"""Of them those that tell the time between tokens: refused where the stream is `buffered`."""


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


def quantile(ordered: Values, p: float) -> float:
    """The inverted CDF: the least value that at least a share `p` does not exceed. Sorted, not empty."""
    return float(ordered[rank(len(ordered), p) - 1])


def minimum_n(p: float) -> int:
    """How many values the p-quantile needs: TAIL_REQUESTS on its thinner side."""
    return math.ceil(TAIL_REQUESTS / min(p, 1 - p) - 1e-9 * TAIL_REQUESTS)


def quantiles(values: Values, points: Sequence[float]) -> list[float]:
    """The same at several points of values in any order, without sorting them all. Not empty."""
    places = [rank(len(values), p) - 1 for p in points]
    return [float(value) for value in np.partition(values, places)[places]]


def rank(n: int, p: float) -> int:
    """Which of n ordered values is the p-quantile, counted from 1; a share of nearly k/n is the k-th."""
    return min(n, max(1, math.ceil(p * n - 1e-9)))


def wilson(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a share, for independent requests."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (count + z * z / 2) / (n + z * z)
    half = z * math.sqrt(count * (n - count) / n + z * z / 4) / (n + z * z)
    return max(0.0, centre - half), min(1.0, centre + half)


def identified(timeouts: int, n: int, p: float) -> bool:
    """Whether the p-quantile lies below the deadline, the doubt about the timeouts included."""
    return timeouts == 0 or (timeouts < n and wilson(timeouts, n)[1] < 1 - p)


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


def spread(values: Values) -> dict[str, float | None]:
    """Mean, p50, p90, p95, p99 and max of the values that are there; all None without any."""
    ordered = np.sort(values[~np.isnan(values)])
    if not len(ordered):
        return dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "max"))
    return {
        "mean": float(ordered.mean()),
        **{name: quantile(ordered, level) for name, level in NAMED.items()},
        "max": float(ordered[-1]),
    }


def in_flight(columns: Columns) -> dict[str, float | int | None]:
    """How many were outstanding: the time-weighted mean from the first send to the last end, and the most.

    The mean is None where the end of one is not known, as of a recorded request that was never answered.
    """
    was_sent = ~np.isnan(columns["sent"])
    sent, end = columns["sent"][was_sent], columns["end"][was_sent]
    if not len(sent) or end.max() <= sent.min():
        return {"mean": None, "max": len(sent) or None}
    mean = None
    if not np.isnan(end).any():
        mean = float((end - sent).sum() / (end.max() - sent.min()))
    times = np.concatenate([end, sent])
    steps = np.concatenate([np.full(len(end), -1), np.full(len(sent), 1)])
    most = np.cumsum(steps[np.argsort(times, kind="stable")]).max()
    return {"mean": mean, "max": int(most)}


def held(columns: Columns, concurrency: float) -> float | None:
    """The mean number in flight of a closed loop of so many, once full and until its last request began.

    A request holds its place from when its connection was opened. None where that is no length of time, or
    where requests came to nothing: their places are free at once.
    """
    start, end = columns["sent"] - columns["connect"], columns["end"]
    if np.isnan(start).any() or np.isnan(end).any() or not 1 <= concurrency < len(start):
        return None
    begun = np.sort(start)
    full, last = begun[int(concurrency) - 1], begun[-1]
    if last <= full:
        return None
    spans = np.clip(end, full, last) - np.clip(start, full, last)
    return float(spans.sum() / (last - full))


def errors(columns: Columns) -> dict[str, int]:
    """Samples that failed, by kind: an outcome, or `http_STATUS`; the most frequent first."""
    outcomes = columns["outcome"]
    rows = np.flatnonzero(~where(columns, "outcome", Outcome.OK, Outcome.CANCELLED))
    http = Outcome.HTTP_ERROR.value
    kinds = Counter(
        f"http_{status}" if outcome == http else str(outcome)
        for outcome, status in zip(outcomes[rows], columns["status"][rows], strict=True)
    )
    return dict(kinds.most_common())
