"""Overall: what two arms say about a metric as a whole, beside its quantiles. Shown, never gated."""

from dataclasses import dataclass

from tbench.analysis.drift import Thirds
from tbench.analysis.effective import EffectiveSize
from tbench.analysis.geometric import GeometricMean
from tbench.analysis.omnibus import Omnibus
from tbench.analysis.summary import Confidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Overall:
    """One metric in both arms.

    `geometric` is the typical request's ratio, None for unpaired arms and without a finite pair; where it
    drifts, `thirds` are those within each third of the trace.
    `omnibus` asks whether the arms differ anywhere. `effective` is what the pairs (unpaired: the
    requests of the arm that has less) are worth in independent ones. `confidence` is the label that the
    interval and the test have earned, "none" where there is neither; `doubts` say why it is "low".
    """

    geometric: GeometricMean | None
    thirds: Thirds | None
    omnibus: Omnibus
    effective: EffectiveSize
    confidence: Confidence
    doubts: tuple[str, ...]
