"""Comparison: what two arms say about one quantile of one metric, and all that they say together."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from tbench.analysis.arms import Arm
from tbench.analysis.means import ErrorDifference, Overall, Thirds
from tbench.analysis.run_metrics import Pair
from tbench.analysis.spending import CostRatio
from tbench.analysis.summary import Caution, Confidence, Floats

NO_DIFFERENCE = "no difference seen"

UNRELIABLE = frozenset({"SLOW_DRIFT", "LOAD_DOMINATED", "FEW_SESSIONS"})
"""Codes of a row whose test rejects too often."""


class Verdict(StrEnum):
    """What a comparison concludes. Without a margin there is no gate, and a pair only advises.

    SKIPPED is a gate that nobody named and that these runs are too short for: it decides nothing.
    """

    PASS = "PASS"  # noqa: S105 (a verdict, not a password)
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"
    SKIPPED = "SKIPPED"
    ADVISORY = "ADVISORY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One quantile of one metric: candidate / baseline, with its interval.

    `baseline` and `candidate` are in `unit`, None where the quantile lies among the timeouts (it is
    then beyond `*_at_least`) or was refused altogether. `ratio` is None where either is. `low` and
    `high` bound the ratio; None is unbounded. `refusal` says why there is no interval.
    `confidence` is the label that the interval has earned: "95%", "low", or "none" without interval.
    `blocks` is K, each of `block_requests` requests and about `block_seconds`; `rho` is the lag-1
    autocorrelation that chose K. `drift` is the SLOW_DRIFT flag; `thirds` are then the ratios within each
    third of the trace. `finding` is "faster", "slower",
    "higher" or "lower" where the interval excludes 1, else NO_DIFFERENCE; None without interval.
    `p_value` is that of no difference by the interval's own test, `q_value` the false discovery rate among
    all reliable rows (analysis.t_tests). `sessions` are the sessions of equal size that the requests are
    as good as, None where no run says which conversation a request belongs to.
    """

    metric: str
    unit: str
    quantile: float
    baseline: float | None
    candidate: float | None
    ratio: float | None
    low: float | None
    high: float | None
    confidence: Confidence
    method: str
    n_baseline: int
    n_candidate: int
    runs: tuple[int, int] = (1, 1)
    verdict: Verdict = Verdict.ADVISORY
    finding: str | None = None
    refusal: str | None = None
    baseline_at_least: float | None = None
    candidate_at_least: float | None = None
    warnings: tuple[Caution, ...] = ()
    blocks: int | None = None
    block_requests: int | None = None
    block_seconds: float | None = None
    rho: float | None = None
    drift: bool = False
    p_value: float | None = None
    q_value: float | None = None
    sessions: float | None = None
    thirds: Thirds | None = None

    @property
    def differs(self) -> bool:
        """Whether a difference is seen."""
        return self.finding is not None and self.finding != NO_DIFFERENCE

    def doubted(self, why: Caution) -> "Comparison":
        """The same row with a reason to rely on it less; where there is no interval, as it was."""
        if self.confidence == "none":
            return self
        warnings = (*self.warnings, why)
        return replace(self, confidence="low", verdict=Verdict.INCONCLUSIVE, warnings=warnings)

    @property
    def reliable(self) -> bool:
        """Whether nothing says that the test itself is wrong here, however few the requests."""
        return not any(caution.code in UNRELIABLE for caution in self.warnings)


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualLengths:
    """End to end with the output length taken out, over `n` requests of the arm with fewer.

    `overlap` is what share of the answers both arms have at the same lengths. `rows` are as in the whole
    comparison, each ratio at equal lengths and without values of its own; there are none with a `refusal`.
    """

    n: int
    overlap: float
    rows: tuple[Comparison, ...]
    refusal: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """One point of the shift plot: the ratio at `p`, its own interval, and the simultaneous band.

    None is unbounded, and for `ratio` not identified.
    """

    p: float
    ratio: float | None
    low: float | None
    high: float | None
    band_low: float | None
    band_high: float | None
    drift: bool = False


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """All that two arms say about each other.

    `rates` holds what each arm did per second, of all its requests outside the warm-up, baseline first.
    `costs` holds the cost per success and per session: the baseline's, the candidate's, their ratio.
    `overall` holds, per metric, what is said beside its quantiles. `equal_lengths` is None where no
    tokens were counted, or all answers are equally long.
    `values` holds, per metric, the baseline's and the candidate's value of each compared request:
    equal length and aligned when `paired`, NaN where absent, +inf where timed out. `offset_s` is the
    arrival of each, in seconds from the start, aligned likewise. Of runs that are more than memory holds both
    are empty; `requests` is how many of each arm were compared.
    """

    baseline: Arm
    candidate: Arm
    paired: bool
    requests: tuple[int, int]
    rows: tuple[Comparison, ...]
    rates: tuple[Pair, ...]
    shift: Mapping[str, tuple[Shift, ...]]
    overall: Mapping[str, Overall]
    errors: ErrorDifference
    costs: tuple[tuple[CostRatio, CostRatio, CostRatio], ...]
    equal_lengths: EqualLengths | None
    values: Mapping[str, tuple[Floats, Floats]]
    offset_s: tuple[Floats, Floats]
    warnings: tuple[Caution, ...]
    verdict: Verdict

    def __str__(self) -> str:
        """What `tbench compare` prints."""
        from tbench.analysis.report.text import pair_text  # noqa: PLC0415 (which builds on this file)

        return pair_text(self)

    def __repr__(self) -> str:
        names = f"{self.candidate.name} against {self.baseline.name}"
        return (
            f"<Comparisons: {names}, {self.verdict}, {len(self.rows)} rows; print it for the table>"
        )
