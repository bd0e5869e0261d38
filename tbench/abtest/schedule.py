"""The schedule: which arm is replayed when, so that what changes with time falls on all arms alike.

Every round holds each arm once, so of any two arms each consecutive pair of runs holds one of each: what a
gate on repeated runs needs (docs/statistics.md; runs of one arm after those of the other let drift pass for
a difference in up to 93 % of comparisons). And each goes first as often as the other, or a place in the
pair that is slower (an hourly job that meets every second run) would pass for a difference as well.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["random", "abba", "duet"]


@dataclass(frozen=True, slots=True)
class Slot:
    """One replay of the plan: its round, from 1, and the arms that are replayed in it, by place."""

    round: int
    arms: tuple[int, ...]


def slots(arms: int, repeats: int, kind: Kind, seed: int) -> list[Slot]:
    """The replays in their order; the same seed gives the same."""
    return _KINDS[kind](arms, repeats, seed)


def _random(arms: int, repeats: int, seed: int) -> list[Slot]:
    """Rounds in twos: an order drawn, then its reverse, so that after any round no arm went first oftener."""
    source, order = random.Random(seed), list(range(arms))
    found = []
    for number in range(1, repeats + 1):
        order = source.sample(range(arms), arms) if number % 2 else order[::-1]
        found += [Slot(number, (arm,)) for arm in order]
    return found


def _abba(arms: int, repeats: int, _seed: int) -> list[Slot]:
    """Forwards, backwards, forwards: a steady drift cancels."""
    there = tuple(range(arms))
    return [
        Slot(number, (arm,))
        for number in range(1, repeats + 1)
        for arm in (there if number % 2 else there[::-1])
    ]


def _duet(arms: int, repeats: int, _seed: int) -> list[Slot]:
    """All arms at once, request by request (replay.duet draws that order)."""
    return [Slot(number, tuple(range(arms))) for number in range(1, repeats + 1)]


_KINDS: Final[Mapping[Kind, Callable[[int, int, int], list[Slot]]]] = {
    "random": _random,
    "abba": _abba,
    "duet": _duet,
}
MEANINGS: Final[Mapping[Kind, str]] = {
    "random": "in rounds that hold every arm once, two by two: in a drawn order, then in its reverse",
    "abba": "forwards and backwards in turn (A B, B A, ...)",
    "duet": "all at once, request by request, in an order drawn for each request",
}
