"""Pairing: which requests of two arms are compared, in which order, and what is left out as warm-up."""

from collections import ChainMap
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from itertools import chain, compress, islice
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from tbench.analysis.arms import Arm, Replicates, Truths
from tbench.analysis.metrics import Metric, applies, composite, values
from tbench.analysis.summary import Floats, ordered
from tbench.capture.errors import InputError
from tbench.replay import metrics
from tbench.replay.columns import Column
from tbench.replay.pacing import Warmup
from tbench.replay.table import short
from tbench.replay.throughput import Throughput, rate_of

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Where the compared requests lie in each arm, in arrival order; equal length when `paired`.

    `dropped` counts what was left out of each arm as warm-up, `alone` what only one arm has.
    """

    baseline: Places
    candidate: Places
    paired: bool
    dropped: tuple[int, int]
    alone: tuple[int, int]


def match(
    baseline: Arm, candidate: Arm, *, paired: bool = True, warmup: Warmup | None = None
) -> Match:
    """Pair two arms by exchange and round, in the baseline's order; or leave them unpaired.

    `warmup` None keeps the runs' own flags. A pair is dropped when either of
    its requests is warm-up. Raises InputError when the arms share no request, or not the trace.
    """
    warm = (warm_up(baseline, warmup), warm_up(candidate, warmup))
    if not paired:
        first, second = (np.flatnonzero(~drop) for drop in warm)
        dropped = (int(warm[0].sum()), int(warm[1].sum()))
        return Match(baseline=first, candidate=second, paired=False, dropped=dropped, alone=(0, 0))
    same_source(baseline, candidate)
    first, second = _places([baseline, candidate])
    if not len(first):
        raise InputError(
            f"{baseline.path} and {candidate.path} have no request in common; "
            "compare runs of one trace, or add --unpaired"
        )
    # A pair with one cold half compares a warm-up with none: both halves go.
    warm_pairs = warm[0][first] | warm[1][second]
    left_out = int(warm_pairs.sum())
    return Match(
        baseline=first[~warm_pairs],
        candidate=second[~warm_pairs],
        paired=True,
        dropped=(left_out, left_out),
        alone=(len(baseline) - len(first), len(candidate) - len(first)),
    )


def warm_up(arm: Arm, rule: Warmup | None) -> Truths:
    """The samples that do not count: by the run's own flags (None; a trace has none: `auto`), or by a rule.

    The warm-up begins with the first request and lasts a share of the time to the last one's start.
    """
    if rule is None and arm.kind == "run":
        return ~arm.measured
    offset = arm.offset_s - np.nanmin(arm.offset_s, initial=np.inf)
    span = float(np.nanmax(offset, initial=0.0))
    return np.asarray(offset < (rule or Warmup()).seconds(span))


def same_source(baseline: Arm, candidate: Arm) -> None:
    """Raises InputError for arms of different traces."""
    sources = {baseline.source, candidate.source} - {None}
    if len(sources) > 1:
        raise InputError(
            f"{baseline.path} and {candidate.path} come from different traces, so no request pairs; "
            "add --unpaired to compare them as two samples"
        )


# Shared: the requests that every run of every arm holds and counts. Repeated runs are compared on these.


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One run, and where in it the shared requests lie: the same request at the same place of `places`.

    `at` is the run's place among all runs, by when it began. `rated` is true for what its rates are of,
    where that is more than the shared requests.
    """

    arm: Arm
    places: Places
    at: int
    rated: Truths | None = None
    _sorted: dict[str, Floats] = field(default_factory=dict, repr=False)
    _made: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def once[T](self, key: Hashable, make: Callable[["RunView"], T]) -> T:
        """What `make` makes of it: under one key only once, as its samples may have to be read anew."""
        if key not in self._made:
            self._made[key] = make(self)
        made: T = self._made[key]
        return made

    def forget(self) -> None:
        """Let go of all that is as long as its samples, but of where the shared requests lie."""
        self._sorted.clear()
        self.arm.forget()

    @cached_property
    def throughput(self) -> Throughput:
        """What the shared requests add up to, or those that are rated."""
        if self.arm.sums is not None:
            return self.arm.sums.rates.throughput
        return rate_of(self.arm.run, self.flow)

    @property
    def flow(self) -> Column:
        """The requests that a rate is of: their places, or true for each."""
        return self.places if self.rated is None else self.rated

    @property
    def due(self) -> Floats:
        """When the shared requests were due, or the first and the last of them; NaN in a closed loop."""
        if (sums := self.arm.sums) is not None:
            return np.array(sums.span if sums.open_loop else [np.nan])
        return self.column("due")

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
        # Never below 0: a request that left a hair before its time has no lag to be forgiven.
        late = np.maximum(np.nan_to_num(metrics.client_lag(self.arm.columns)), 0.0)
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
class ArmRuns:
    """The observed runs of one arm, in the order in which they began."""

    name: str
    runs: tuple[RunView, ...]

    @property
    def at(self) -> tuple[int, ...]:
        return tuple(run.at for run in self.runs)


@dataclass(frozen=True, kw_only=True)
class CommonRequests:
    """The arms on the requests that they share: `n` of them, after `dropped` were left out as warm-up.

    `everything` is how many requests there are in any run, `alone` of which each run lacks how many.
    """

    groups: tuple[ArmRuns, ...]
    n: int
    dropped: int
    everything: int
    lacking: tuple[tuple[Arm, int], ...]


def shared(arms: Sequence[Replicates], warmup: Warmup | None = None) -> CommonRequests:
    """Find them by exchange and round; a request that is warm-up in any run is left out of all.

    Raises InputError where there are none. `warmup` None keeps the runs' own flags.
    """
    runs = [run for arm in arms for run in arm.runs]
    places = _places(runs)
    warm = reduce(
        np.logical_or, (warm_up(run, warmup)[at] for run, at in zip(runs, places, strict=True))
    )
    if not len(places[0]):
        raise InputError("the runs have no request in common; compare runs of one trace")
    if warm.all():
        raise InputError("nothing is left to compare after the warm-up; try --warmup none")
    everything = len(places[0])
    # Only where the runs differ is the union counted, which costs a set of all keys.
    if any(len(run) > everything for run in runs):
        union: set[tuple[bytes, int]] = set()
        for run in runs:
            union.update(_index(run))
        everything = len(union)
    begun = list(chain.from_iterable(arm.started_ns for arm in arms))
    # Sorted twice gives ranks: which run began when, among those of all arms.
    order = np.argsort(np.argsort(begun, kind="stable"), kind="stable").tolist()
    # Runs that hold the same in the same order share one array of places.
    counted = {id(at): at[~warm] for at in places}

    def rated(run: Arm, at: Places) -> Truths | None:
        """A closed loop did all else in the same time: half of it over all of that is not its rate."""
        if run.open_loop or len(run) == len(at):
            return None
        flow = ~warm_up(run, warmup)
        flow[at[warm]] = False
        return flow

    views = iter(
        RunView(arm=run, places=counted[id(at)], at=rank, rated=rated(run, at))
        for run, at, rank in zip(runs, places, order, strict=True)
    )
    return CommonRequests(
        groups=tuple(
            ArmRuns(name=arm.name, runs=tuple(islice(views, len(arm.runs)))) for arm in arms
        ),
        n=int((~warm).sum()),
        dropped=int(warm.sum()),
        everything=everything,
        lacking=tuple((run, everything - len(run)) for run in runs if len(run) < everything),
    )


def regrouped(common: CommonRequests, arms: Sequence[Replicates]) -> CommonRequests:
    """The same of the same runs, as other arms: what was made of each run is not made again."""
    views = {view.arm.path: view for group in common.groups for view in group.runs}
    groups = (
        ArmRuns(name=arm.name, runs=tuple(views[run.path] for run in arm.runs)) for arm in arms
    )
    return replace(common, groups=tuple(groups))


def _places(runs: Sequence[Arm]) -> list[Places]:
    """Where the requests that all runs hold lie in each, in the order of the first."""
    first, others = runs[0], runs[1:]
    ids, rounds = short(first.columns, "id"), first.columns["cycle"]
    # Runs of one plan hold the same in the same order: a million keys need no dictionary.
    if all(
        len(run) == len(ids)
        and (short(run.columns, "id") == ids).all()
        and (run.columns["cycle"] == rounds).all()
        for run in others
    ):
        return [np.arange(len(ids))] * len(runs)
    index = _index(first)
    keys, places = list(index), [np.array(list(index.values()), dtype=np.int64)]
    for run in others:
        index = _index(run)
        common = np.array([key in index for key in keys], dtype=bool)
        keys = list(compress(keys, common))
        places = [at[common] for at in places]
        places.append(np.array([index[key] for key in keys], dtype=np.int64))
    return places


def _index(run: Arm) -> dict[tuple[bytes, int], int]:
    """Where each request of a run lies, by exchange and round; the first of a key that stands twice."""
    index: dict[tuple[bytes, int], int] = {}
    keys = zip(short(run.columns, "id").tolist(), run.columns["cycle"].tolist(), strict=True)
    for place, key in enumerate(keys):
        index.setdefault(key, place)
    return index
