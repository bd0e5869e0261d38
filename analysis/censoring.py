"""Censoring: Kaplan-Meier for requests that were cut short at different times, before what is measured.

A client that went away, a replay that was stopped, deadlines that differ: such a request took longer than
it was followed, and no one knows how much. One deadline for all needs none of this: there +inf gives the
same quantiles. It holds only where being cut short has nothing to do with how slow the request would
have been (independent censoring).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tbench.analysis.arms import Arm, Truths
from tbench.analysis.pairing import Places
from tbench.analysis.quantiles import refusal
from tbench.analysis.summary import Floats, Quantile
from tbench.replay import measures

if TYPE_CHECKING:
    from scipy.stats import CensoredData

POINTS = (0.5, 0.9, 0.95, 0.99)
MOMENTS = ("ttft", "e2e")
"""The metrics that are the time to a moment, and so can be cut short of it."""
_ONE_DEADLINE = 1.05
"""Waits that differ by less than this factor are those of one deadline."""
_STEPS = 100
_TIE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """One arm's requests, seconds: the time to the moment, or where `censored` how long it was waited for.

    `varying` says that the deadline was not the same for all. `unknown` requests were cut short no one
    knows when, and are left out.
    """

    times: Floats
    censored: Truths
    varying: bool
    unknown: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Survival:
    """The Kaplan-Meier estimate of one arm, over `n` requests of which `censored` were cut short.

    A quantile that cannot be estimated has no `value` and is `at_least` the longest time followed.
    `curve` holds up to 100 steps (seconds, share of requests that take longer), the last one included.
    """

    n: int
    censored: int
    unknown: int
    quantiles: tuple[Quantile, ...]
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Censoring:
    """Both arms' survival; `logrank_z` describes their difference (below 0: the candidate is faster).

    It takes requests as independent, and is no test here (docs/statistics.md). None without an event.
    """

    baseline: Survival
    candidate: Survival
    logrank_z: float | None


def censored_metrics(arms: Iterable[tuple[Arm, Places]]) -> dict[str, tuple[Followed, ...]]:
    """Each arm's requests by metric, for those metrics for which an arm's deadlines vary."""
    sides = list(arms)
    found = {name: tuple(follow(*side, name) for side in sides) for name in MOMENTS}
    return {
        name: followed
        for name, followed in found.items()
        if any(one.varying for one in followed) and all(len(one.times) for one in followed)
    }


def compare_survival(baseline: Followed, candidate: Followed) -> Censoring:
    """Both arms, with the logrank statistic."""
    from scipy import stats  # noqa: PLC0415 (half a second, and seldom needed)

    with np.errstate(divide="ignore", invalid="ignore"):
        found = stats.logrank(_censored_data(baseline), _censored_data(candidate))
    z = float(found.statistic)
    return Censoring(
        baseline=survival(baseline),
        candidate=survival(candidate),
        logrank_z=z if math.isfinite(z) else None,
    )


def survival(followed: Followed) -> Survival:
    """The Kaplan-Meier estimate of at least one request."""
    from scipy import stats  # noqa: PLC0415

    steps = stats.ecdf(_censored_data(followed)).sf
    times, alive = np.asarray(steps.quantiles), np.asarray(steps.probabilities)
    n, last = len(followed.times), float(followed.times.max())
    kept = np.unique(np.linspace(0, len(times) - 1, min(len(times), _STEPS)).astype(np.int64))
    return Survival(
        n=n,
        censored=int(followed.censored.sum()),
        unknown=followed.unknown,
        quantiles=tuple(_quantile(times, alive, p, (n, last)) for p in POINTS),
        curve=tuple(zip(times[kept].tolist(), alive[kept].tolist(), strict=True)),
    )


def _quantile(times: Floats, alive: Floats, p: float, followed: tuple[int, float]) -> Quantile:
    """The least time at which a share of at least p is over."""
    n, last = followed
    over = np.flatnonzero(1 - alive >= p - _TIE)
    value = float(times[over[0]]) if len(over) else None
    return Quantile(p=p, value=value, at_least=None if len(over) else last, refusal=refusal(n, p))


def _censored_data(followed: Followed) -> "CensoredData":
    from scipy import stats  # noqa: PLC0415

    return stats.CensoredData.right_censored(followed.times, followed.censored)


def follow(arm: Arm, places: Places, metric: str) -> Followed:
    """The requests that came to the moment or were cut short of it; failed ones are not followed."""
    stopped, timed_out = (~arm.ok & ~arm.failed)[places], arm.timed_out[places]
    reached = _reached(arm, metric)[places]
    short = (stopped | timed_out) & _applies(arm, metric)[places] & np.isnan(reached)
    waited = (arm.columns["end"] - arm.offset_s)[places]
    times = np.where(short, waited, reached)
    known = np.isfinite(times)
    return Followed(
        times=times[known],
        censored=short[known],
        varying=bool((stopped & short & known).any()) or _differ(waited[timed_out & short & known]),
        unknown=int((short & ~known).sum()),
    )


def _reached(arm: Arm, metric: str) -> Floats:
    """When the moment came, else NaN; a first token counts whatever came after it, short of a failure."""
    if metric == "ttft":
        return np.where(~arm.failed | arm.timed_out, measures.ttft(arm.columns), np.nan)
    return np.where(arm.ok, measures.e2e(arm.columns), np.nan)


def _applies(arm: Arm, metric: str) -> Truths:
    stream: Truths = arm.columns["stream"]
    return stream if metric == "ttft" else np.ones_like(stream)


def _differ(waits: Floats) -> bool:
    return len(waits) > 0 and float(waits.max()) > _ONE_DEADLINE * float(waits.min())
