"""Sides: the arms of a report under the names that it shows, each with its runs in the order they began."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath

from tbench.analysis.arms import Arm
from tbench.capture.terminal import named, plural

Sides = Mapping[str, tuple[Arm, ...]]
"""Shown name -> runs; the baseline first. A report of one pair has one run on each side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A run among all: its side, which of the side's runs (1 first), and which of all, by its beginning."""

    side: str
    number: int
    order: int
    several: bool
    arm: Arm

    @property
    def name(self) -> str:
        """As it is shown: the side, and where that has several runs which one."""
        return f"{self.side} {self.number}" if self.several else self.side


def places(sides: Sides) -> list[Place]:
    """All runs in the order in which they began; those that do not say when stay as they were given.

    One run on each side: the baseline first, whichever began first.
    """
    runs = [
        (side, number, arm) for side, arms in sides.items() for number, arm in enumerate(arms, 1)
    ]
    runs.sort(key=lambda run: began_ns(run[2]))
    found = [
        Place(side=side, number=number, order=order, several=len(sides[side]) > 1, arm=arm)
        for order, (side, number, arm) in enumerate(runs, 1)
    ]
    alone = not any(place.several for place in found)
    return sorted(found, key=lambda place: list(sides).index(place.side)) if alone else found


def began_ns(arm: Arm) -> int:
    """When a run began, CLOCK_REALTIME; 0 where its file does not say."""
    return int(arm.run.header.get("wall_ns") or 0)


def shown_names(names: Sequence[str]) -> dict[str, str]:
    """Short names for arms that are named by their folder or glob, as long as they stay apart.

    `runs/A-*.run` is A. A name that is no path stays as it is.
    """
    short = [_short(name) for name in names]
    apart = len(set(short)) == len(short) and all(short)
    return dict(zip(names, short if apart else names, strict=True))


def _short(name: str) -> str:
    last = PurePath(name).name.removesuffix(".run")
    return re.sub(r"\[[^\]]*\]|[*?]", "", last).strip("-_. ")


def about(sides: Sides) -> list[str]:
    """What a picture of these runs is of, a line for each side: model, requests, and the day they began."""
    return [f"{side}: {_about(arms)}" for side, arms in sides.items()]


def _about(arms: Sequence[Arm]) -> str:
    models = ", ".join(dict.fromkeys(named(arm.model) for arm in arms if arm.model))
    n = sum(int(arm.measured.sum()) for arm in arms)
    runs = f" in {len(arms)} runs" if len(arms) > 1 else ""
    days = sorted(
        {f"{datetime.fromtimestamp(ns / 1e9, tz=UTC):%Y-%m-%d}" for ns in map(began_ns, arms) if ns}
    )
    when = [" to ".join(dict.fromkeys([days[0], days[-1]]))] if days else []
    return ", ".join([models or "no model named", f"{plural(n, 'request')}{runs}", *when])


def each(sides: Sides) -> Iterator[tuple[str, Arm]]:
    """Every run with its side."""
    for side, arms in sides.items():
        for arm in arms:
            yield side, arm
