"""Blocks: the values of one metric in one arm, cut into 32 blocks in arrival order, and how they are spread.

NaN is no value; +inf is a timeout and sorts last. Logarithms are of what is above zero: what is not counts as
zero, whose logarithm is -inf.

A clock that ticks makes many values equal, and an exceedance that jumps by all of them at once has no
interval to give. Such values are spread evenly over the step around them, so that shares rise evenly within
it, and what the step hides is known (`doubt`).
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tbench.analysis.summary import Floats, ordered, quantile, rank
from tbench.analysis.sums import FINE
from tbench.capture.histogram import LEAST, STEP
from tbench.replay.counted import NOTHING, Spread, count_below, cumulated, value_at

Ints = npt.NDArray[np.int64]

_TIE = 1e-12
"""On logarithms: values that differ by less are one value, be it divided by the ratio or not."""
_SAME = 1e-9
"""Values closer than this, on logarithms, are equal: differences of stamps differ in their last digits."""
_HALVINGS, _SECANTS = 17, 10
"""Of the range of a histogram, 30 on logarithms: to less than a bucket, and from there to the last digits."""
_GOLDEN = (5**0.5 - 1) / 2
"""Its multiples, less their whole part, fill the unit interval evenly, however many there are."""


class Side:
    """One arm's values of one metric, sorted as a whole and block by block.

    `given` are the values in arrival order, `values` those that there are, `all` their logarithms, `blocks`
    the logarithms of each fine block; `n` counts them, `timeouts` those of them that are +inf.
    """

    def __init__(self, given: Floats) -> None:
        pieces = [ordered(block) for block in fine_blocks(given)]
        # A stable sort finds the pieces that are in order, and merges them.
        self.values = np.sort(np.concatenate(pieces), kind="stable")
        self.all = _logs(self.values)
        self.blocks = [_logs(piece) for piece in pieces]
        self.given = given
        self.n = len(self.values)
        self.sizes = np.array([len(piece) for piece in pieces])
        self.timeouts = self.n - int(self.values.searchsorted(np.inf))

    @cached_property
    def steps(self) -> "Steps | None":
        """Where so many values are equal that a clock, or what was measured, goes in steps; else None."""
        return _steps(self.values[: self.n - self.timeouts])

    @cached_property
    def untied(self) -> "Side":
        """The same without steps: equal values of a clock that ticks are spread over its tick."""
        return Side(self.steps.spread(self.given)) if self.steps else self

    def doubt(self, p: float) -> float:
        """How far the p-quantile may be from what was measured, on logarithms: half a tick of the clock."""
        return self.steps.doubt(self.value(p)) if self.steps else 0.0

    @property
    def largest(self) -> float:
        """Its logarithm."""
        seen = self.n - self.timeouts
        return float(self.all[seen - 1]) if seen else -np.inf

    def value(self, p: float) -> float:
        """The p-quantile, itself."""
        return quantile(self.values, p)

    def quantile(self, p: float) -> float:
        """The p-quantile's logarithm."""
        return quantile(self.all, p)

    def tail_blocks(self, p: float) -> int:
        """In how many of 16 blocks the values at and beyond the p-quantile lie."""
        # Below the median the thinner side, which can be one burst, is the lower one.
        at, upper = self.quantile(p), p >= 0.5
        within = [np.searchsorted(block, at, "left" if upper else "right") for block in self.blocks]
        beyond = self.sizes - np.array(within) if upper else np.array(within)
        return int((beyond.reshape(16, 2).sum(axis=1) > 0).sum())

    def share(self, at: Floats) -> Floats:
        """The share of values <= `at`."""
        return np.asarray(np.searchsorted(self.all, at, "right") / self.n)

    def exceedance(self, at: Floats) -> tuple[Floats, Floats]:
        """The share of values <= `at`, and each block's excess over that share, per lane."""
        counts = self.counts(at)
        share = counts.sum(axis=1) / self.n
        return share, (counts - share[:, None] * self.sizes) / self.n

    def counts(self, at: Floats) -> Ints:
        """How many values of each fine block are <= each element of `at`: shape (len(at), 32)."""
        return np.stack([block.searchsorted(at, "right") for block in self.blocks], axis=1)

    def pooled(self, other: "Side", shift: Floats, p: Floats) -> tuple[Floats, Floats]:
        """The pooled p-quantile of the own values and the other's less `shift`, on either's scale.

        It is the least value within which both shares (each arm weighs the same, whatever its count) are 2p
        together; inf where that is nowhere. One element a lane.
        """
        # A value shifted onto one of the other arm must count as equal, whatever its last digit says.
        tie = np.where(shift == 0, 0.0, _TIE)
        onto, wanted = shift + tie, 2 * p - _TIE
        # How many own values are too low, a bit of that number at a time; past the last it stands for them.
        low, bit = np.zeros(len(p), np.int64), 1 << self.n.bit_length()
        while bit := bit >> 1:
            middle = low + bit
            value = self.all.take(middle - 1, mode="clip")
            beyond = other.all.searchsorted(value + onto, "right")
            low += bit * (middle / self.n + beyond / other.n < wanted)
        at = np.where(low < self.n, self.all.take(low, mode="clip"), np.inf)
        # A lower one of the other's has as many own values within it as lie below `at`: its rank follows.
        within = self.all.searchsorted(at, "left") / self.n
        place = np.ceil((wanted - within) * other.n).astype(np.int64) - 1
        at_other = np.where(place < other.n, other.all.take(place, mode="clip"), np.inf)
        lower = at <= at_other - shift
        return np.where(lower, at, at_other - shift + tie), np.where(lower, at + onto, at_other)


class CountedSide(Side):
    """The same of values that are more than memory holds, from a histogram of each fine block.

    Within a bucket they are taken to lie evenly, so that a quantile may be half a bucket off (`doubt`). Where
    the values that each block has a sample of go in steps, those of each bucket are spread over the step
    around it, as far as that is wider.
    """

    def __init__(
        self, blocks: Sequence[Spread], counts: tuple[Floats, Floats] | None = None
    ) -> None:
        self.sizes = np.array([block.n for block in blocks])
        self.n = int(self.sizes.sum())
        self.timeouts = sum(block.timeouts for block in blocks)
        self._spreads = blocks
        self._most = max(block.most for block in blocks)
        self._edges, self._below = counts or cumulated([block.histogram for block in blocks])
        self._together = self._below.sum(axis=0)

    @cached_property
    def steps(self) -> "Steps | None":
        if _steps(ordered(np.concatenate([block.sample for block in self._spreads]))) is None:
            return None
        logs, counts = self.logs
        values = np.exp(logs[counts.any(axis=0)])
        return Steps(values, _halves(values, values)) if len(values) > 1 else None

    @cached_property
    def untied(self) -> Side:
        if self.steps is None:
            return self
        values, halves = self.steps
        _, counts = self.logs
        counts = counts[:, counts.any(axis=0)]
        # The last step reaches beyond the largest value, and needs buckets there.
        last = round(float(np.log(values[-1] + halves[-1])) / STEP) + 1
        edges = np.append(-np.inf, (np.arange(NOTHING, last + 1) + 0.5) * STEP)
        # Steps do not overlap, so that all that lies below one is below its beginning.
        knots = np.stack([values - halves, values + halves], axis=1).ravel()
        sums = np.repeat(np.cumsum(np.pad(counts, ((0, 0), (1, 0))), axis=1), 2, axis=1)[:, 1:-1]
        spread = np.stack([np.interp(np.exp(edges[1:]), knots, row) for row in sums])
        zeros = self._below[:, [1]]
        return CountedSide(self._spreads, (edges, np.concatenate([zeros * 0, zeros + spread], 1)))

    def doubt(self, p: float) -> float:
        if not (value := self.value(p)) > 0:
            return 0.0
        if self.steps is None or not np.isfinite(value):
            return STEP / 2
        nearest = np.abs(self.steps.values - value).argmin()
        # Downwards: on logarithms the lower half of a step is the longer one, and bounds the upper,
        # too.
        return max(STEP / 2, -float(np.log1p(-self.steps.halves[nearest] / value)))

    @property
    def largest(self) -> float:
        if self._most == -np.inf:
            return -np.inf
        # Where a step was spread, beyond the largest that was seen.
        return max(float(np.log(max(self._most, LEAST))), float(self._edges[-1]) - STEP / 2)

    @property
    def logs(self) -> tuple[Floats, Floats]:
        """The middles of the buckets above zero, logarithms, and how many values of each block lie there."""
        return self._edges[1:-1] + STEP / 2, np.diff(self._below[:, 1:], axis=1)

    def value(self, p: float) -> float:
        return float(np.exp(self.quantile(p)))

    def quantile(self, p: float) -> float:
        place = rank(self.n, p)
        if place > self._together[-1]:
            return np.inf
        log = value_at(self._edges, self._together, np.array([place - 0.5]))[0]
        return min(float(log), self.largest)

    def tail_blocks(self, p: float) -> int:
        at, upper = np.array([self.quantile(p)]), p >= 0.5
        within = self.counts(at)[0]
        beyond = self.sizes - within if upper else within
        return int((beyond.reshape(16, 2).sum(axis=1) > 0).sum())

    def share(self, at: Floats) -> Floats:
        return np.asarray(count_below(self._edges, self._together, at) / self.n)

    def counts(self, at: Floats) -> Floats:  # type: ignore[override]
        return np.stack([count_below(self._edges, row, at) for row in self._below], axis=1)

    def pooled(self, other: Side, shift: Floats, p: Floats) -> tuple[Floats, Floats]:
        def beyond(at: Floats) -> Floats:
            """How far both shares together are above what they should be."""
            return self.share(at) + other.share(at + shift) - 2 * p + _TIE

        low = self._edges[1] - np.maximum(shift, 0.0)
        high = np.maximum(self.largest, other.largest - shift) + STEP
        below, above = beyond(low), beyond(high)
        zeros, reached = below >= 0, above >= 0
        before = np.zeros(len(p), dtype=bool)
        for step in range(_HALVINGS + _SECANTS):
            middle = (low + high) / 2
            if secant := step >= _HALVINGS:
                # Between two edges shares are straight lines, and a secant finds where they meet.
                rise = np.where(above > below, above - below, 1.0)
                middle = np.clip(low - (high - low) * below / rise, low, high)
            more = beyond(middle)
            enough = more >= 0
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
            # An end that stays a second time counts for half, or it would stay for long (the Illinois rule).
            stays = np.where(secant & (enough == before), 0.5, 1.0)
            below = np.where(enough, below * stays, more)
            above = np.where(enough, more, above * stays)
            before = enough
        at = np.select([zeros, ~reached], [-np.inf, np.inf], high)
        return at, at + shift


class Steps(NamedTuple):
    """Values that occur more than once, ascending, and half the step to the nearest other one of them."""

    values: Floats
    halves: Floats

    @property
    def tick(self) -> float:
        """The step between most of them."""
        return 2 * float(np.median(self.halves))

    def doubt(self, value: float) -> float:
        """Half the step at a value, on logarithms; 0 for zero and for a timeout."""
        if not 0 < value < np.inf:
            return 0.0
        place, tied = self._places(np.array([value]))
        half = self.halves[place[0]] if tied[0] else min(self.tick, value) / 2
        return -float(np.log1p(-half / value))

    def spread(self, given: Floats) -> Floats:
        """Each value moved within its step, by its number among its equals in arrival order."""
        place, tied = self._places(given)
        order = np.flatnonzero(tied)[np.argsort(place[tied], kind="stable")]
        group = place[order]
        number = np.arange(len(order)) - np.searchsorted(group, group)
        # Not in step with their number: values that rise with time within each tick would make the
        # blocks differ, which is the drift that is looked for. Nor at random: it takes a seed, and
        # swapped arms would differ.
        within = (number * _GOLDEN + 0.5) % 1
        moved = given.copy()
        moved[order] = self.values[group] + (2 * within - 1) * self.halves[group]
        return moved

    def _places(self, given: Floats) -> "tuple[Ints, npt.NDArray[np.bool_]]":
        """Which of the values each is nearest to from below, and whether it is that one."""
        place = np.searchsorted(self.values * (1 + _SAME), given).clip(0, len(self.values) - 1)
        with np.errstate(invalid="ignore"):
            tied = np.abs(given - self.values[place]) <= _SAME * self.values[place]
        return place, tied


def _steps(finite: Floats) -> Steps | None:
    """The steps of ascending values: where one holds more than sqrt(n) of them, or half have an equal."""
    positive = finite[np.searchsorted(finite, 0.0, "right") :]
    if len(positive) < 2:
        return None
    starts = np.flatnonzero(np.diff(positive, prepend=-np.inf) > _SAME * positive)
    counts = np.diff(starts, append=len(positive))
    n = len(positive)
    # Chance makes a few equal values; only a clock, or whole numbers, make so many.
    if counts.max() <= np.sqrt(n) and n - len(starts) <= n / 2:
        return None
    distinct = positive[starts]
    tied = distinct[counts > 1]
    others = tied if len(tied) > 1 else distinct
    if len(others) < 2:
        return None
    return Steps(tied, _halves(tied, others))


def _halves(values: Floats, others: Floats) -> Floats:
    """Half the step from each value to the nearest of these, which it is one of."""
    gaps = np.diff(others)
    nearest: Floats = np.minimum(np.append(np.inf, gaps), np.append(gaps, np.inf))
    # No wider than the value itself, so that nothing is moved to zero or below.
    return np.minimum(nearest[np.searchsorted(others, values)], values) / 2


def logarithms(values: Floats) -> Floats:
    """Of each value, NaN where there is none, -inf for zero and below."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.maximum(values, 0.0)))


def _logs(values: Floats) -> Floats:
    """Of ordered values, ordered: a library's logarithm may be wrong in its last digit."""
    return ordered(logarithms(values))


def fine_blocks[T: np.generic](values: npt.NDArray[T]) -> list[npt.NDArray[T]]:
    """The values of requests in arrival order, cut into 32 blocks of equal count: i is in block 32 i // n."""
    return np.split(values, -(-np.arange(1, FINE, dtype=np.int64) * len(values) // FINE))


# Clusters: what the requests of one session have in common, which no block of time can see.
#
# A session that is slow in one arm is slow in every block of it, so that blocks agree with each other and are
# all wrong together. Two-way clustering adds it up: V(time) + V(session) - V(both), never below V(time), with
# t on as many degrees as there are sessions. A. C. Cameron, J. Gelbach, D. Miller, Journal of Business &
# Economic Statistics 29 (2011); the number of sessions of unequal size is L. Kish's effective one.

Truths = npt.NDArray[np.bool_]

BLOCKS = 16
"""What counts as both: the same session in the same of so many blocks."""
FEW = 12
"""With fewer sessions than this no spread between them is known well enough."""
UNSURE = 8
"""With fewer degrees of freedom in all than this, by Satterthwaite's rule, neither is the error known."""


class Clusters:
    """The sessions of requests in arrival order, numbered; -1 is a request of its own.

    The rest goes by cells: the requests of one session in one block of time. A session that lies within one
    block is left out of `order` and all that follows: what it adds to V(session) it adds to V(both).
    """

    def __init__(self, sessions: Ints) -> None:
        n = len(sessions)
        lone = sessions < 0
        # cumsum begins with 1, so that no request of its own has a session's number.
        numbers = np.where(lone, int(sessions.max(initial=0)) + np.cumsum(lone), sessions)
        order = np.argsort(numbers, kind="stable")
        # By place, not by time: the blocks of the arms hold equal counts, as the block test's do.
        block = order * BLOCKS // max(n, 1)
        first = np.diff(numbers[order], prepend=-1) != 0
        cell = first | (
            np.diff(block, prepend=-1) != 0
        )  # where a session, or its part in a block, begins
        starts = np.flatnonzero(first)
        self.sizes = np.diff(starts, append=n)
        long = (
            np.repeat(np.add.reduceat(cell, starts, dtype=np.int64) > 1, self.sizes) if n else first
        )
        self.order = order[long]
        self._cells = np.flatnonzero(cell[long])
        self._sessions = np.flatnonzero(first[long][self._cells])

    @cached_property
    def count(self) -> float:
        """How many sessions of equal size would say as much: (sum n)^2 / sum n^2."""
        return float(self.sizes.sum()) ** 2 / float((self.sizes.astype(np.float64) ** 2).sum())

    @cached_property
    def spread(self) -> float:
        """The same for the variance between sessions, in which large ones count more: n^2 in place of n."""
        squares = self.sizes.astype(np.float64) ** 2
        return float(squares.sum()) ** 2 / float((squares**2).sum())

    @property
    def plain(self) -> bool:
        """Whether no session reaches from one block into another, so that there is nothing to add."""
        return not len(self.order)

    def sums(self, ordered: Floats | Truths) -> Floats:
        """The sum of each cell, of terms that are already in `order`."""
        return (
            np.add.reduceat(ordered, self._cells, dtype=np.float64) if len(ordered) else np.empty(0)
        )

    def excess(self, cells: Floats) -> float:
        """V(session) - V(both) of a sum, by what each cell adds to it; negative where sessions cancel."""
        if not len(cells):
            return 0.0
        sessions = np.add.reduceat(cells, self._sessions)
        g = len(sessions)
        # Without g / (g - 1) for the cells: they are many, and what is taken off stays the smaller
        # for it.
        return g / max(g - 1, 1) * float((sessions**2).sum()) - float((cells**2).sum())


class Exceedance:
    """An arm's values in the order of its clusters, and which of them exceed what."""

    def __init__(self, clusters: Clusters, logs: Floats) -> None:
        self._clusters = clusters
        self._logs = logs[clusters.order]
        self._there = clusters.sums(~np.isnan(self._logs))
        self._n = max(int((~np.isnan(logs)).sum()), 1)

    def cells(self, at: float, share: float) -> Floats:
        """What each cell adds to the `share` of values <= `at`, less its part of it."""
        return (self._clusters.sums(self._logs <= at) - share * self._there) / self._n


def clusters_of(baseline: Ints, candidate: Ints, *, paired: bool) -> tuple[Clusters, ...]:
    """The sessions of both arms together when paired, of each otherwise; none where none is known."""
    if max(int(numbers.max(initial=-1)) for numbers in (baseline, candidate)) < 0:
        return ()
    if paired:
        return (Clusters(np.maximum(baseline, candidate).astype(np.int64)),)
    return Clusters(baseline.astype(np.int64)), Clusters(candidate.astype(np.int64))


def freedom(clusters: Sequence[Clusters], blocks: Ints) -> Floats:
    """Student's degrees of freedom for each number of blocks: of these, or of the sessions if fewer.

    A single session has nothing to be compared with: then it is the blocks alone.
    """
    by_time = blocks.astype(np.float64) - 1
    counts = [arm.count for arm in clusters if len(arm.sizes) > 1]
    return np.minimum(by_time, max(min(counts) - 1, 1.0)) if counts else by_time


def few(clusters: Sequence[Clusters], inflation: Floats, blocks: Ints) -> Truths:
    """Where a few sessions decide: there are few, or a few large ones make most of the variance."""
    if not clusters:
        return np.zeros(len(blocks), dtype=bool)
    # Satterthwaite: degrees of a sum of variances, by the share that each has in it.
    between = max(min(arm.spread for arm in clusters) - 1, 0.5)
    degrees = inflation**2 / (1 / (blocks - 1.0) + (inflation - 1) ** 2 / between)
    scarce = min(arm.count for arm in clusters) < FEW
    # Few blocks have few degrees by themselves, which their t has paid for: that is no fault of sessions.
    wanted = np.minimum(UNSURE, 0.6 * (blocks - 1))
    return np.asarray(scarce | ((inflation > 1) & (degrees < wanted)))


def inflated(excess: Sequence[float], time: float) -> float:
    """By what the variance over time is multiplied: never less than 1."""
    # Two-way clustering may come out below V(time), and below zero (Cameron, Gelbach and Miller say
    # so).
    return max(1.0, 1.0 + sum(excess) / time) if time > 0 else 1.0
