"""Summary: one metric of one arm, with its quantiles, their intervals and what cannot be said."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from tbench.analysis import quantiles
from tbench.analysis.quantiles import Floats

__all__ = ["Caution", "Confidence", "Floats", "Quantile", "Summary", "summarise"]

Confidence = Literal["95%", "90%", "low", "none"]
"""The label that an interval has earned (docs/statistics.md); "none" without an interval."""

POINTS = (0.5, 0.9, 0.95, 0.99, 0.999)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """Something a reader must know beside a number: a stable code, and one sentence."""

    code: str
    text: str

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"

    @property
    def is_fact(self) -> bool:
        """Whether people read it as a plain fact in a heading, not among what to beware of."""
        return self.code in FACTS


FACTS: Final = frozenset({"WARMUP"})


def facts(cautions: Iterable[Caution]) -> list[str]:
    """The sentences of those that are facts."""
    return [caution.text for caution in cautions if caution.is_fact]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantile:
    """The `p`-quantile of one arm, in the metric's unit, with its order-statistic interval.

    `value` is None when it lies among the timeouts; then `at_least` says what it exceeds. `low` and
    `high` treat the requests as independent (descriptive); None is unbounded. `smooth` is the
    Harrell-Davis estimate, None with timeouts. `refusal` says why it has no
    interval to rely on; the value is shown nevertheless, and marked.
    """

    p: float
    value: float | None
    low: float | None = None
    high: float | None = None
    at_least: float | None = None
    smooth: float | None = None
    refusal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One metric of one arm: `n` values, of which `timeouts` are beyond the deadline.

    `absent` requests have no such value (failed, or the metric does not apply). `mean`, `minimum` and
    `maximum` are over the finite values, None when there are none.
    """

    metric: str
    unit: str
    n: int
    timeouts: int
    absent: int
    mean: float | None
    minimum: float | None
    maximum: float | None
    quantiles: tuple[Quantile, ...]


def summarise(
    metric: str,
    unit: str,
    values: Floats,
    *,
    timeout_s: float | None,
    points: Iterable[float] = POINTS,
) -> Summary:
    """Summarise one value per request: NaN is absent, +inf timed out (beyond `timeout_s` where known)."""
    ordered = quantiles.ordered(values)
    finite = ordered[: int(ordered.searchsorted(np.inf))]
    timed = len(finite) > 0
    # Without a known deadline the largest value seen is the most that can be said.
    beyond = timeout_s or (float(finite[-1]) if timed else None)
    n, at = len(ordered), []
    for p in points if n else ():
        # Among the timeouts a quantile has no value and no upper end: only what it exceeds is known.
        seen = quantiles.identified(n - len(finite), n, p)
        low, high = quantiles.quantile_interval(ordered, p)
        at.append(
            Quantile(
                p=p,
                value=quantiles.quantile(ordered, p) if seen else None,
                low=low,
                high=high if seen else None,
                at_least=None if seen else beyond,
                smooth=quantiles.harrell_davis(ordered, p) if len(finite) == n else None,
                refusal=quantiles.refusal(n, p),
            )
        )
    return Summary(
        metric=metric,
        unit=unit,
        n=len(ordered),
        timeouts=len(ordered) - len(finite),
        absent=len(values) - len(ordered),
        mean=float(finite.mean()) if timed else None,
        minimum=float(finite[0]) if timed else None,
        maximum=float(finite[-1]) if timed else None,
        quantiles=tuple(at),
    )
