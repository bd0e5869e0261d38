"""Summary: one metric of one arm, with its quantiles, their intervals and what cannot be said."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """Something a reader must know beside a number: a stable code, and one sentence."""

    code: str
    text: str

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantile:
    """The `p`-quantile of one arm, in the metric's unit, with its order-statistic interval.

    `value` is None when it lies among the timeouts; then `at_least` says what it exceeds. `low` and
    `high` treat the requests as independent (descriptive); None is unbounded. `smooth` is the
    Harrell-Davis estimate, None with timeouts. `refusal` says why the quantile should not be read.
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
