"""Tally: how often each outcome was asked for, and how often it happened."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

Key = tuple[str, float | None]
"""A measure, and the quantile it is of (None where it is of none)."""
Outcomes = dict[Key, bool]
"""What a replay says: whether each of these happened in it."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Grows by `add` and `merge`; a measure need not be taken in every replay."""

    hits: Counter[Key] = field(default_factory=Counter)
    trials: Counter[Key] = field(default_factory=Counter)

    def add(self, outcomes: Outcomes) -> None:
        self.hits.update({key: int(happened) for key, happened in outcomes.items()})
        self.trials.update(outcomes.keys())

    def merge(self, other: "Tally") -> None:
        self.hits.update(other.hits)
        self.trials.update(other.trials)

    def __iter__(self) -> Iterator[tuple[Key, int, int]]:
        """Each measure with its hits and trials, in the order in which they first came."""
        return ((key, self.hits[key], n) for key, n in self.trials.items())
