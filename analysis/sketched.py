"""Sketched: a comparison of two arms by their digests, for runs that are too large to keep.

The same contrasts and cautions as of any other; unpaired, and saying so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from tbench.analysis.arms import load_arm
from tbench.analysis.cautions import cautions, ratio_of_medians
from tbench.analysis.compare import (
    DEFAULT_METRICS,
    CompareOptions,
    check,
    compare,
    judged,
    of_rows,
    verdict,
)
from tbench.analysis.comparison import Comparisons, Sketched
from tbench.analysis.contrast import Contrast
from tbench.analysis.metrics import METRICS
from tbench.analysis.outsized import SAMPLES, Unread, outsized, unread
from tbench.analysis.pairing import Match, same_source
from tbench.analysis.proportions import ErrorDifference, counted_difference, rates_of
from tbench.analysis.sketch import RELATIVE_ERROR, Sketch
from tbench.analysis.summary import Caution
from tbench.capture.errors import InputError, UnreachableError

NEEDED: Final = ("lag", "ttft", "e2e", "output_tokens")
"""Metrics that the cautions ask for."""
_NOWHERE: Final = np.empty(0, dtype=np.int64)


def compare_files(
    baseline: Path, candidate: Path, question: CompareOptions | None = None, *, sketch: bool = False
) -> Comparisons:
    """Compare two runs or traces; by their sketches when asked to, or when one has over SAMPLES samples.

    Raises what `analysis.compare.compare` raises, and InputError for what is neither a run nor a trace.
    """
    question = question or CompareOptions()
    if sketch or outsized(baseline) or outsized(candidate):
        return compare_sketched(baseline, candidate, question)
    return compare(load_arm(baseline), load_arm(candidate), question)


def compare_sketched(baseline: Path, candidate: Path, question: CompareOptions) -> Comparisons:
    """Compare two files in bounded memory, by histograms of their values."""
    check(question)
    if question.slo:
        raise InputError(
            "--slo asks of single requests: not with --sketch, nor of over 5,000,000 requests"
        )
    metrics = dict.fromkeys((*(question.metrics or DEFAULT_METRICS), *NEEDED))
    first, second = (unread(path, metrics, question.warmup) for path in (baseline, candidate))
    if question.paired:
        same_source(first, second)
    grounds = Counted(first, second, _errors(first, second))
    contrasts = _contrasts(grounds, question)
    rows = judged(
        grounds,
        (row for contrast in contrasts.values() for row in contrast.rows()),
        _contrast("ttft", grounds, question).tail,
    )
    beware = cautions(grounds)
    return Comparisons(
        baseline=first,
        candidate=second,
        paired=False,
        rows=rows,
        rates=tuple(zip(*(rates_of(arm.digest.throughput) for arm in grounds.arms), strict=True)),
        shift={name: contrast.shift() for name, contrast in contrasts.items()},
        overall={},
        errors=grounds.errors,
        discordance=None,
        censoring={},
        equal_lengths=None,
        values={},
        offset_s=(np.empty(0), np.empty(0)),
        warnings=(_said(grounds), *beware, *of_rows(rows)),
        verdict=verdict(beware),
        sketched=Sketched(requests=grounds.requests, relative_error=RELATIVE_ERROR),
    )


@dataclass(frozen=True, slots=True)
class Counted:
    """The Grounds of arms whose requests were counted and not kept."""

    baseline: Unread
    candidate: Unread
    errors: ErrorDifference

    @property
    def arms(self) -> tuple[Unread, Unread]:
        return self.baseline, self.candidate

    @property
    def match(self) -> Match:
        """Nothing was matched; so much was left out as warm-up."""
        first, second = (arm.digest.counts["warm"] for arm in self.arms)
        return Match(
            baseline=_NOWHERE,
            candidate=_NOWHERE,
            paired=False,
            dropped=(first, second),
            alone=(0, 0),
        )

    @property
    def requests(self) -> tuple[int, int]:
        """How many are compared."""
        first, second = (int(arm.digest.requests.sum()) for arm in self.arms)
        return first, second

    def sketches(self, metric: str) -> tuple[Sketch, Sketch]:
        """How a metric is spread, baseline first."""
        return self.baseline.digest.metrics[metric], self.candidate.digest.metrics[metric]

    def counts(self, metric: str) -> list[int]:
        return [sketch.n for sketch in self.sketches(metric)]

    def quantiles(self, metric: str, points: Sequence[float]) -> list[list[float]]:
        pair = self.sketches(metric)
        return [[sketch.value(p) for p in points] if sketch.n else [] for sketch in pair]

    def lags(self, points: Sequence[float]) -> list[list[float]]:
        """Of the whole lag: a wait for the valve or a connection is not told apart."""
        return self.quantiles("lag", points)

    def worst(self, metric: str, points: Sequence[float]) -> list[list[float]]:
        return [[arm.digest.with_failures(metric, p) for p in points] for arm in self.arms]

    def length_ratio(self) -> float:
        return ratio_of_medians(self)

    def cached_shares(self) -> list[float]:
        counts = [arm.digest.counts for arm in self.arms]
        return [
            one["cached_tokens"] / one["prompt_tokens"] if one["prompt_tokens"] else 0.0
            for one in counts
        ]

    def finish_reasons(self) -> list[Mapping[str, int]]:
        return [arm.digest.finish for arm in self.arms]


def _errors(first: Unread, second: Unread) -> ErrorDifference:
    """The difference of failures; raises where there is nothing to compare."""
    for arm in (first, second):
        counts = arm.digest.counts
        arm.check_not_empty()
        if not counts["ok"]:
            kinds = list(arm.digest.kinds.most_common(3))
            said = ", ".join(f"{kind} {count:,}" for kind, count in kinds)
            raise UnreachableError(f"{arm.path}: no request succeeded ({said})")
        if not arm.digest.requests.sum():
            raise InputError("nothing is left to compare after the warm-up; try --warmup none")
    return counted_difference(first.digest.failures, second.digest.failures)


def _contrasts(grounds: Counted, question: CompareOptions) -> dict[str, Contrast]:
    """One for each metric that both arms have; raises InputError when there is none."""
    asked = question.metrics or DEFAULT_METRICS
    found = {
        name: contrast for name in asked if (contrast := _contrast(name, grounds, question)).in_both
    }
    if not found:
        raise InputError(f"the two arms have no metric in common (looked for {', '.join(asked)})")
    return found


def _contrast(name: str, grounds: Counted, question: CompareOptions) -> Contrast:
    digests = [arm.digest for arm in grounds.arms]
    return Contrast(
        metric=METRICS[name],
        values=(np.empty(0), np.empty(0)),
        paired=False,
        asked=question.quantiles,
        span_s=min(one.end - one.begin for one in digests),
        timeouts_s=(digests[0].timeout_s, digests[1].timeout_s),
        sketches=grounds.sketches(name),
    )


def _said(grounds: Counted) -> Caution:
    """That it was sketched, and what is lost by it."""
    most = max(map(len, grounds.arms))
    why = f"over {SAMPLES:,} requests are not kept" if most > SAMPLES else "asked for"
    return Caution(
        code="SKETCHED",
        text=f"values were counted in buckets ({why}): each is known to {RELATIVE_ERROR:.1%}, and the "
        "intervals are wider by it; requests are not paired one by one, so slow drift is seen less surely, "
        "output lengths are compared by their medians, and requests in one arm only are not noticed",
    )
