"""Multiplicity: many quantiles are compared at once, so some differ by chance. Their false discovery rate.

Y. Benjamini and Y. Hochberg, JRSS B 57 (1995). For exploration: gates have rules of their own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from analysis.comparison import Comparison

RATE: Final = 0.05
"""Of the differences that are called so, this share may be none."""


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Each p-value's least false discovery rate at which it would still be called a difference."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__, reverse=True)
    found, least = [0.0] * len(p_values), 1.0
    for above, which in enumerate(order):
        least = min(least, p_values[which] * len(p_values) / (len(p_values) - above))
        found[which] = least
    return found


def adjusted(rows: Iterable[Comparison]) -> tuple[Comparison, ...]:
    """The rows, with `q_value` wherever there is a p-value."""
    whole = tuple(rows)
    tried = [row.p_value for row in whole if row.p_value is not None]
    q_values = iter(benjamini_hochberg(tried))
    return tuple(
        row if row.p_value is None else replace(row, q_value=next(q_values)) for row in whole
    )
