"""Failures: how much more often one arm fails than the other. An endpoint of its own, never a latency."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from tbench.analysis.arms import Arm, Truths
from tbench.analysis.blocks import Clusters
from tbench.analysis.inversion import fine_blocks
from tbench.analysis.mean_ratio import mean_of_terms
from tbench.analysis.pairing import Places, RunView
from tbench.analysis.run_metrics import RUN_LEVEL, Slo
from tbench.analysis.summary import Floats, clopper_pearson, newcombe
from tbench.replay.throughput import rate_of, three

_REQUESTS_FOR_BLOCKS = 256
"""Fewer requests leave blocks of a handful: treat them as independent, and say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDifference:
    """The share of failed requests in each arm (0 to 1), and candidate - baseline with its interval.

    `kinds_*` count the outcomes other than ok by name, those included that nobody blames on the server.
    """

    baseline: float
    candidate: float
    difference: float
    low: float
    high: float
    method: str
    n_baseline: int
    n_candidate: int
    kinds_baseline: Mapping[str, int]
    kinds_candidate: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Which requests of an arm failed, in arrival order, and all outcomes other than ok by name."""

    failed: Truths
    kinds: Mapping[str, int]

    @property
    def n(self) -> int:
        return len(self.failed)

    @property
    def count(self) -> int:
        return int(self.failed.sum())

    @property
    def rate(self) -> float:
        return self.count / self.n

    @property
    def terms(self) -> Floats:
        """What each of the 32 fine blocks adds to the failure rate, less its share of the mean."""
        blocks, rate = fine_blocks(self.failed), self.rate
        return np.array([block.sum() - rate * len(block) for block in blocks]) / self.n


def error_difference(
    baseline: Failures,
    candidate: Failures,
    confidence: float = 0.95,
    *,
    sessions: tuple[Clusters, ...] = (),
) -> ErrorDifference:
    """How much oftener the candidate fails, by the same blocks as the quantiles; failures come in bursts.

    `sessions` are those of both arms together when paired, of each otherwise.
    """
    parts = [
        sign * (arm.failed - arm.failed.mean()) / len(arm.failed)
        for sign, arm in ((-1, baseline), (1, candidate))
    ]
    # Paired arms share their sessions: what one does to both cancels before it is squared.
    parts = [parts[0] + parts[1]] if len(sessions) == 1 else parts
    beside = [
        (clusters, clusters.excess(clusters.sums(part[clusters.order])))
        for clusters, part in zip(sessions, parts, strict=False)
    ]
    terms = candidate.terms - baseline.terms
    if not baseline.count and not candidate.count:
        # Without a failure no block differs from another: what so many requests can hide is exact.
        low = -clopper_pearson(0, baseline.n, confidence)[1]
        high = clopper_pearson(0, candidate.n, confidence)[1]
        method = "Clopper-Pearson, no failure in either arm"
    elif min(baseline.n, candidate.n) < _REQUESTS_FOR_BLOCKS or not terms.any():
        counts = (candidate.count, candidate.n), (baseline.count, baseline.n)
        low, high = newcombe(*counts, confidence)
        method = "Newcombe, as if requests were independent"
    else:
        mean = mean_of_terms(candidate.rate - baseline.rate, terms, confidence, beside=beside)
        # A t interval knows nothing of the ends of a share.
        low, high, method = max(-1.0, mean.low), min(1.0, mean.high), f"block t, K={mean.blocks}"
    return ErrorDifference(
        baseline=baseline.rate,
        candidate=candidate.rate,
        difference=candidate.rate - baseline.rate,
        low=low,
        high=high,
        method=method,
        n_baseline=baseline.n,
        n_candidate=candidate.n,
        kinds_baseline=baseline.kinds,
        kinds_candidate=candidate.kinds,
    )


# Rates: what a run did as a whole, per second, and the share of good requests where there are objectives.
#
# They have no interval: a run gives one figure of each. In an open loop the arrivals set them for as long
# as the server keeps up, unless turns wait for its answers: these come later where it is slow.

OPEN_LOOP: Final = "open loop: the trace sets the load, so that equal rates say nothing of speed"
TURNS_WAIT: Final = (
    "open loop, turns waited: a slow target is asked later, so the rates are partly its own"
)

GOOD: Final = {
    "goodput": ("goodput", "share"),
    "goodput_per_s": ("good requests/s", "/s"),
}
"""Those that need objectives, with title and unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """One figure of a run, None where there is none; at least that where `uncounted` names no tokens."""

    name: str
    title: str
    unit: str
    value: float | None
    uncounted: int = 0

    @property
    def text(self) -> str:
        """With its doubt; the unit stands in the title."""
        if self.value is None:
            return "unknown" if self.uncounted else "-"
        figure = f"{self.value:.2%}" if self.unit == "share" else three(self.value)
        return f"≥ {figure}" if self.uncounted else figure


Pair = tuple[Rate, Rate]


def rates(arm: Arm, places: Places | None = None, slo: Slo = ()) -> tuple[Rate, ...]:
    """Those of the requests at these places; of all outside the warm-up without any."""
    places = np.flatnonzero(arm.measured) if places is None else places
    speed = rate_of(arm.run, places)
    sides = {
        "output": (speed.output,),
        "input": (speed.input,),
        "total": (speed.input, speed.output),
    }
    requests = speed.per_s(speed.successes)
    of_run = [Rate(name="requests_per_s", title="requests/s", unit="/s", value=requests)]
    of_run += [
        Rate(
            name=f"{side}_tokens_per_s",
            title=f"{side} tokens/s",
            unit="tok/s",
            value=speed.tokens_per_s(*tokens),
            uncounted=sum(counts.uncounted for counts in tokens),
        )
        for side, tokens in sides.items()
    ]
    if slo:
        view = RunView(arm=arm, places=places, at=0)
        for name, (title, unit) in GOOD.items():
            good = RUN_LEVEL[name].figure(view, slo)
            value = None if good.refusal else good.value
            of_run.append(Rate(name=name, title=title, unit=unit, value=value))
    return tuple(of_run)


def ratio(pair: Pair) -> float | None:
    """Candidate / baseline of rates; None of shares, and where either is unknown or only a bound."""
    first, second = pair
    # A ratio of bounds is no bound: both may be too low by different amounts.
    if first.unit == "share" or first.uncounted or second.uncounted or not first.value:
        return None
    return None if second.value is None else second.value / first.value


def footnote(pairs: tuple[Pair, ...]) -> str | None:
    """How many successes name no tokens, where some do not."""
    missing = [
        f"{pair[0].title} {pair[0].uncounted:,} and {pair[1].uncounted:,}"
        for pair in pairs
        if pair[0].uncounted or pair[1].uncounted
    ]
    return f"successes without token counts: {'; '.join(missing)}" if missing else None
