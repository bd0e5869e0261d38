"""Shared: the requests that every run of every arm holds and counts. Repeated runs are compared on these."""

from collections import ChainMap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import chain
from typing import cast

import numpy as np

from tbench.analysis.arms import Arm, Truths
from tbench.analysis.metrics import Metric, applies, composite, values
from tbench.analysis.pairing import Places, warm_up
from tbench.analysis.quantiles import ordered
from tbench.analysis.replicates import Replicates
from tbench.analysis.summary import Floats
from tbench.capture.errors import InputError
from tbench.replay import measures
from tbench.replay.columns import Column
from tbench.replay.warmup import Warmup


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One run, and where in it the shared requests lie: the same request at the same place of `places`.

    `at` is the run's place among all runs, by when it began.
    """

    arm: Arm
    places: Places
    at: int
    _sorted: dict[str, Floats] = field(default_factory=dict, repr=False)

    def values(self, metric: Metric) -> Floats:
        """A metric of the shared requests: absent is NaN, timed out +inf."""
        return values(self.arm, metric)[self.places]

    def ordered(self, metric: Metric) -> Floats:
        """Those that are there, in ascending order."""
        if metric.name not in self._sorted:
            self._sorted[metric.name] = ordered(self.values(metric))
        return self._sorted[metric.name]

    def failures(self, metric: Metric) -> int:
        """How many of the shared requests failed that the metric applies to, timeouts included."""
        return int((self.arm.failed & applies(self.arm, metric))[self.places].sum())

    def whole(self, metric: Metric) -> Floats:
        """The same with every failure as the slowest."""
        return ordered(composite(self.arm, metric)[self.places])

    def punctual(self, metric: Metric) -> Floats:
        """The metric as it would be had the client sent in time, the answers being what they were."""
        late = np.maximum(np.nan_to_num(measures.client_lag(self.arm.columns)), 0.0)
        due = {"due": self.arm.columns["due"] + late}
        columns = ChainMap(due, cast("dict[str, Column]", self.arm.columns))  # read, never written
        arm = replace(self.arm, run=replace(self.arm.run, columns=columns))
        return values(arm, metric)[self.places]

    def column(self, name: str) -> Floats:
        """A column of the samples, of the shared requests."""
        return np.asarray(self.arm.columns[name][self.places])

    def counted(self, truths: Truths) -> Truths:
        """Of the shared requests that succeeded or failed (nobody else ended them)."""
        return truths[self.places][(self.arm.ok | self.arm.failed)[self.places]]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The observed runs of one arm, in the order in which they began."""

    name: str
    runs: tuple[Observed, ...]

    @property
    def at(self) -> tuple[int, ...]:
        return tuple(run.at for run in self.runs)


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The arms on the requests that they share: `n` of them, after `dropped` were left out as warm-up.

    `everything` is how many requests there are in any run, `alone` of which each run lacks how many.
    """

    groups: tuple[Group, ...]
    n: int
    dropped: int
    everything: int
    lacking: tuple[tuple[Arm, int], ...]


def shared(arms: Sequence[Replicates], warmup: Warmup | None = None) -> Shared:
    """Find them by exchange and round; a request that is warm-up in any run is left out of all.

    Raises InputError where there are none. `warmup` None keeps the runs' own flags.
    """
    runs = [run for arm in arms for run in arm.runs]
    places = _places(runs)
    warm = reduce(
        np.logical_or, [warm_up(run, warmup)[at] for run, at in zip(runs, places, strict=True)]
    )
    if not len(places[0]):
        raise InputError("the runs have no request in common; compare runs of one trace")
    if warm.all():
        raise InputError("nothing is left to compare after the warm-up; try --warmup none")
    everything = _everything(runs, len(places[0]))
    return Shared(
        groups=_groups(arms, [at[~warm] for at in places]),
        n=int((~warm).sum()),
        dropped=int(warm.sum()),
        everything=everything,
        lacking=tuple((run, everything - len(run)) for run in runs if len(run) < everything),
    )


def _groups(arms: Sequence[Replicates], places: Sequence[Places]) -> tuple[Group, ...]:
    begun = list(chain.from_iterable(arm.started_ns for arm in arms))
    rank = np.argsort(np.argsort(begun, kind="stable"), kind="stable").tolist()
    each = iter(zip(places, rank, strict=True))
    return tuple(
        Group(
            name=arm.name,
            runs=tuple(
                Observed(arm=run, places=where, at=at)
                for run, (where, at) in zip(arm.runs, each, strict=False)
            ),
        )
        for arm in arms
    )


def _places(runs: Sequence[Arm]) -> list[Places]:
    """Where the requests that all runs hold lie in each, in the order of the first."""
    if all(_alike(runs[0], run) for run in runs[1:]):
        return [np.arange(len(runs[0]))] * len(runs)
    known = [{key: place for place, key in enumerate(_keys(run))} for run in runs]
    common = [key for key in known[0] if all(key in one for one in known[1:])]
    return [np.array([one[key] for key in common], dtype=np.int64) for one in known]


def _alike(one: Arm, other: Arm) -> bool:
    return len(one) == len(other) and all(
        bool((one.columns[name] == other.columns[name]).all()) for name in ("id", "cycle")
    )


def _keys(run: Arm) -> Iterable[tuple[str, int]]:
    return zip(run.columns["id"].tolist(), run.columns["cycle"].tolist(), strict=True)


def _everything(runs: Sequence[Arm], common: int) -> int:
    if all(len(run) == common for run in runs):
        return common
    return len(set(chain.from_iterable(_keys(run) for run in runs)))
