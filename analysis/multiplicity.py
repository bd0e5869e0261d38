"""Multiplicity: many quantiles are compared at once, so some differ by chance. Their false discovery rate.

Y. Benjamini and Y. Hochberg, JRSS B 57 (1995). For exploration: gates have rules of their own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from tbench.analysis.comparison import Comparison

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
    """The rows, with `q_value` wherever there is a p-value to rely on."""
    whole = tuple(rows)
    tried = {
        at: row.p_value for at, row in enumerate(whole) if row.reliable and row.p_value is not None
    }
    q_values = dict(zip(tried, benjamini_hochberg(list(tried.values())), strict=True))
    return tuple(
        replace(row, q_value=q_values[at]) if at in q_values else row
        for at, row in enumerate(whole)
    )
