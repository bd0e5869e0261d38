"""Compared sums: two runs that are more than memory holds, and what the cautions ask of them.

They are compared as two samples in the order of the plan, not request by request. `analysis.compare` makes of
them what it makes of other arms.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tbench.analysis.arms import Arm
from tbench.analysis.beyond import CROWDED, LIMIT
from tbench.analysis.blocks import BLOCKS, CountedSide
from tbench.analysis.cautions import MIDDLING, ComparedArms
from tbench.analysis.contrast import Contrast
from tbench.analysis.drawn import FEWEST, DrawnSessions
from tbench.analysis.means import Failures, error_difference
from tbench.analysis.metrics import METRICS
from tbench.analysis.pairing import Match
from tbench.analysis.summary import Caution, Floats
from tbench.analysis.sums import Sums, alone, merged
from tbench.capture.errors import InputError
from tbench.replay.counted import Counted, Spread
from tbench.replay.metrics import quantiles

NEEDED: Final = ("ttft", "e2e", "output_tokens", "prompt_tokens")
"""Metrics that cautions ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedSums(ComparedArms):
    """What a check may ask, of two arms that have sums; `drawn` where requests have sessions."""

    drawn: DrawnSessions | None = None

    @property
    def each(self) -> Iterator[Sums]:
        """Of either arm, baseline first."""
        for arm in (self.baseline, self.candidate):
            assert arm.sums is not None
            yield arm.sums

    @property
    def sizes(self) -> list[int]:
        return [sums.measured for sums in self.each]

    def kinds(self) -> list[Mapping[str, int]]:
        return [sums.kinds for sums in self.each]

    def tallies(self, column: str) -> list[Mapping[str, int]]:
        return [sums.words[column] for sums in self.each]

    def refused(self) -> list[int]:
        return [sums.refused for sums in self.each]

    def due_s(self) -> list[float]:
        return [sums.due[0] / max(sums.due[1], 1) for sums in self.each]

    def e2e_s(self) -> list[float]:
        return [sums.e2e[0] / max(sums.e2e[1], 1) for sums in self.each]

    def counts(self, metric: str) -> list[int]:
        if metric == "lag":
            return [sums.lag.n for sums in self.each]
        return [sums.whole(metric).n for sums in self.each]

    def quantiles(self, metric: str, points: Sequence[float]) -> list[list[float]]:
        return [_several(sums.whole(metric), points) for sums in self.each]

    def courses(self, metric: str) -> list[Floats]:
        return [_course(sums.spreads[metric]) for sums in self.each]

    def lags(self, points: Sequence[float]) -> list[list[float]]:
        return [_several(sums.lag, points) for sums in self.each]

    def worst(self, metric: str, points: Sequence[float]) -> list[list[float]]:
        return [_several(sums.worst(metric), points) for sums in self.each]

    def means(self, metric: str) -> list[float]:
        return [sums.whole(metric).mean or 0.0 for sums in self.each]

    def cached_shares(self) -> list[float | None]:
        return [sums.cached.share for sums in self.each]

    def contrast(self, metric: str, asked: tuple[float, ...]) -> Contrast:
        """One metric in both arms."""
        first, second = (CountedSide(sums.spreads[metric]) for sums in self.each)
        return Contrast(
            metric=METRICS[metric],
            values=(np.empty(0), np.empty(0)),
            counted=(first, second),
            paired=False,
            asked=asked,
            span_s=min(sums.span[1] - sums.span[0] for sums in self.each),
            timeouts_s=(self.baseline.timeout_s, self.candidate.timeout_s),
            drawn=self.drawn,
        )

    def beware(self) -> Iterator[Caution]:
        """What is not told of so many samples."""
        yield Caution(
            code="BEYOND_MEMORY",
            text=f"{len(self.baseline) + len(self.candidate):,} samples are more than are held in memory "
            f"({LIMIT:,}): quantiles are from histograms, within 0.2%, and requests are compared as two "
            "samples in the order of the trace; not told: the ratio of the typical request, end to end at "
            "equal lengths, thirds of a drift, cost per session, intervals of costs"
            + (f"; {CROWDED}" if any(sums.crowded for sums in self.each) else ""),
        )

        first, second, n = alone(*(sums.requests_drawn for sums in self.each))
        if max(first, second) > 0:
            yield Caution(
                code="PARTIAL_OVERLAP",
                text=f"of {n:,} requests that were drawn of each run {first:.1%} of the baseline's and "
                f"{second:.1%} of the candidate's are in that run only: all are compared, as two samples",
            )

        if self.drawn is not None and self.drawn.too_few:
            yield Caution(
                code="SESSIONS_LEFT_OUT",
                text="large sessions decide, of which too few can be drawn: no intervals; of more samples "
                f"than are held in memory a draw has as many as {self.drawn.deciding:.2g} of equal size "
                f"(needs {FEWEST}), and the interval of the failures may be too narrow; repeat with >= 3 "
                "interleaved runs",
            )


def _several(spread: Spread, points: Sequence[float]) -> list[float]:
    """The quantiles of values that were counted; none of no values."""
    return quantiles(Counted(spread), points) if spread.n else []


def _course(blocks: Sequence[Spread]) -> Floats:
    """The medians of the blocks, as many of which are taken together as `course` does."""
    n = sum(block.n + block.absent for block in blocks)
    stretches = np.array_split(np.arange(len(blocks)), max(1, min(BLOCKS, n // MIDDLING)))
    together = (merged(blocks[part[0] : part[-1] + 1]) for part in stretches)
    return np.array([(_several(spread, [0.5]) or [np.nan])[0] for spread in together])


def compared_sums(baseline: Arm, candidate: Arm) -> ComparedSums:
    """Two arms that have sums, as two samples. Raises InputError where an arm has nothing but warm-up."""
    arms = (baseline, candidate)
    failures = [
        Failures(events=sums.failed, requests=sums.counted, kinds=sums.kinds)
        for arm in arms
        if (sums := arm.sums) is not None
    ]
    if not all(side.n for side in failures):
        raise InputError("nothing is left to compare after the warm-up; both runs are nothing else")
    nowhere = np.empty(0, dtype=np.int64)
    drawn = _drawn(baseline, candidate)
    beside = []
    if drawn is not None and len(drawn.sizes):
        beside = [(drawn, drawn.failures((failures[0].n, failures[1].n)))]
    return ComparedSums(
        baseline=baseline,
        candidate=candidate,
        match=Match(
            baseline=nowhere,
            candidate=nowhere,
            paired=False,
            dropped=(baseline.warm, candidate.warm),
            alone=(0, 0),
        ),
        errors=error_difference(failures[0], failures[1], beside=beside),
        drawn=drawn,
    )


def _drawn(baseline: Arm, candidate: Arm) -> DrawnSessions | None:
    """The sessions of both arms; None where no request has one."""
    draws = [arm.sums.sessions_drawn for arm in (baseline, candidate) if arm.sums is not None]
    if not any(draw.offered for draw in draws):
        return None
    # Of one trace sessions have the same numbers.
    apart = baseline.source is None or baseline.source != candidate.source
    return DrawnSessions((draws[0], draws[1]), apart=apart)
