"""Sums: what the samples of a run come to, where all of them are more than memory holds.

Those of parts add up (analysis.beyond gathers them). Values are in the histogram of their metric, for each of
the fine blocks of the plan.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from tbench.capture.terminal import plural
from tbench.replay import metrics
from tbench.replay.columns import Column
from tbench.replay.counted import Counted, Ranked, Spread
from tbench.replay.metrics import Metric, Outstanding
from tbench.replay.throughput import Rates, Throughput
from tbench.replay.totals import Evidence

FINE: Final = 32
"""Blocks of time are cut this fine, then merged to 16, 8 or 4 (analysis.blocks)."""
PLACES: Final = 2**18
"""A plan is counted so fine to know where its blocks begin."""
MOST_UNCOUNTED: Final = 0.01
"""So many of the requests may have been charged without naming their tokens: a timeout ends no experiment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charges:
    """What `n` requests cost by list prices, US dollars. Those of parts of a run add up.

    `uncounted` requests name no tokens, `unpriced` are the models that no price is known for; one of the
    others is `priced`.
    """

    usd: float = 0.0
    n: int = 0
    successes: int = 0
    uncounted: int = 0
    unpriced: frozenset[str] = frozenset()
    priced: bool = False

    def __add__(self, other: "Charges") -> "Charges":
        return Charges(
            usd=self.usd + other.usd,
            n=self.n + other.n,
            successes=self.successes + other.successes,
            uncounted=self.uncounted + other.uncounted,
            unpriced=self.unpriced | other.unpriced,
            priced=self.priced or other.priced,
        )

    @property
    def known(self) -> bool:
        """Whether anything was charged, or may have been by prices that there are, which may be 0."""
        return self.usd > 0 or (self.priced and (self.uncounted > 0 or self.successes > 0))

    @property
    def refusal(self) -> str | None:
        """Why no ratio is made of it."""
        if self.unpriced:
            return f"no price is known for {', '.join(sorted(self.unpriced))}"
        if self.uncounted > MOST_UNCOUNTED * self.n:
            return f"{plural(self.uncounted, 'request')} without token counts"
        return None


@dataclass(kw_only=True)
class Judged(Evidence):
    """What the samples say of how well a client kept up, as `replay.totals` asks, from histograms.

    Latencies are `shown` where the client's own lateness is known, and would be `true` without it; else
    `untimed`. Where some stamps were read late, `plain` are the values of each metric that they falsify; of
    the requests that have one, `stamped` are the same values, `least` and `most` what they may have been.
    `places` are those in flight of a closed loop times the seconds that they were seen, and these seconds.
    """

    samples: int = 0
    untimed: Spread = field(default_factory=Spread)
    shown: Spread = field(default_factory=Spread)
    true: Spread = field(default_factory=Spread)
    between: tuple[int, int] = (0, 0)
    plain: dict[str, Spread] = field(default_factory=dict)
    stamped: dict[str, Spread] = field(default_factory=dict)
    least: dict[str, Spread] = field(default_factory=dict)
    most: dict[str, Spread] = field(default_factory=dict)
    rows: dict[str, Metric] = field(default_factory=dict)
    places: tuple[float, float] = (0.0, 0.0)

    @property
    def n(self) -> int:
        return self.samples

    @property
    def gaps(self) -> tuple[int, int]:
        return self.between

    def latencies(self) -> Ranked:
        latencies = Spread()
        latencies.merge(self.untimed)
        latencies.merge(self.shown)
        return Counted(latencies)

    def punctual(self) -> tuple[Ranked, Ranked]:
        return Counted(self.shown), Counted(self.true)

    def bounds(self) -> Iterator[tuple[Metric, Ranked, Ranked]]:
        for name, stamped in self.stamped.items():
            if not stamped.n:
                continue
            ends = []
            for moved in (self.least[name], self.most[name]):
                spread = Spread()
                spread.merge(self.plain[name])
                spread.merge(stamped, -1)
                spread.merge(moved)
                ends.append(Counted(spread))
            yield self.rows[name], ends[0], ends[1]

    def held(self, _concurrency: float) -> float | None:
        seen, seconds = self.places
        return seen / seconds if seconds else None


# Draws: rows drawn by a hash of a key, all rows of it or none, so that two runs draw the same keys.

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Drawn = Callable[[Ints], Mapping[str, Column]]
"""Rows -> their columns."""

MOST: Final = 200_000
"""So many rows are kept of a run: of 100,000 sessions of two a spread between them is known within 0.3 %."""
_ALL: Final = 2**64 - 1
_ODD: Final = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64
)


def hashes_of(numbers: Column) -> Hashes:
    """Of whole numbers, evenly spread (the finaliser of SplitMix64)."""
    mixed = numbers.astype(np.uint64) + _ODD[0]
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def hashes_of_requests(ids: Column, rounds: Column) -> Hashes:
    """Of requests by exchange (bytes of one width) and round."""
    width = -(-ids.itemsize // 8) * 8
    words = ids.astype(f"S{width}", copy=False).view("<u8").reshape(len(ids), -1)
    # A sum, so that a name hashes alike in wider columns, where zeros fill it up.
    weights = np.resize(_ODD, words.shape[1]) * np.arange(1, 2 * words.shape[1], 2, dtype=np.uint64)
    return hashes_of(words @ weights + rounds.astype(np.uint64))


class Draw:
    """Rows of the keys with the lowest hashes, as many keys as MOST rows allow; `rate` of all keys.

    `offered` are the rows that it was drawn from.
    """

    def __init__(self) -> None:
        self.offered = 0
        self.limit = _ALL
        self._hashes: list[Hashes] = []
        self._columns: dict[str, list[Column]] = {}
        self._n = 0

    @property
    def rate(self) -> float:
        return (self.limit + 1) / 2**64

    def add(self, hashes: Hashes, columns: Drawn | None = None) -> None:
        """Draw from so many rows; `columns` are of those that were drawn."""
        self.offered += len(hashes)
        drawn = np.flatnonzero(hashes <= np.uint64(self.limit))
        self._hashes.append(hashes[drawn])
        for name, column in columns(drawn).items() if columns else ():
            self._columns.setdefault(name, []).append(column)
        self._n += len(drawn)
        while self._n > MOST and self.limit:
            # Halved: limit + 1 stays a power of two, so that rates are exact, and of two runs the
            # narrower draw lies within the wider.
            self.narrow(self.limit // 2)

    def narrow(self, limit: int) -> None:
        """Keep the keys up to this hash alone."""
        self.limit = limit
        hashes = self.hashes
        drawn = np.flatnonzero(hashes <= np.uint64(limit))
        self._columns = {name: [self.column(name)[drawn]] for name in self._columns}
        self._hashes, self._n = [hashes[drawn]], len(drawn)

    @property
    def hashes(self) -> Hashes:
        return np.concatenate([np.empty(0, np.uint64), *self._hashes])

    def column(self, name: str) -> Column:
        return np.concatenate([np.empty(0), *self._columns.get(name, ())])

    def alike(self, other: "Draw") -> None:
        """Leave both with the keys that both would have drawn."""
        limit = min(self.limit, other.limit)
        for draw in (self, other):
            draw.narrow(limit)


SIZES: Final = 2**20
"""So many counts tell how large sessions are, in 8 MB."""


class SessionDraw(Draw):
    """Rows of whole sessions; of all sessions, drawn or not, how many rows they have.

    A few large sessions fall out of a draw of many small ones, which does not show by what was drawn.
    """

    def __init__(self) -> None:
        super().__init__()
        # Of the sessions whose hashes agree in their last bits: a draw goes by the first ones.
        self.sizes = np.zeros(SIZES, dtype=np.int64)

    def add(self, hashes: Hashes, columns: Drawn | None = None) -> None:
        super().add(hashes, columns)
        np.add.at(self.sizes, (hashes % np.uint64(SIZES)).astype(np.int64), 1)


def alone(first: Draw, second: Draw) -> tuple[float, float, int]:
    """The share of each run's requests that the other has not, and of how many drawn ones it is."""
    first.alike(second)
    hashes = first.hashes, second.hashes
    shares = [
        float(1 - np.isin(drawn, against).mean()) if len(drawn) else 0.0
        for drawn, against in (hashes, hashes[::-1])
    ]
    return shares[0], shares[1], min(map(len, hashes))


def _none() -> Ints:
    return np.zeros(FINE, dtype=np.int64)


def merged(blocks: Iterable[Spread]) -> Spread:
    """The values of several blocks as one."""
    together = Spread()
    for block in blocks:
        together.merge(block)
    return together


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedTokens:
    """How many of the `prompt` tokens came from the server's cache; `named` answers say. Parts add up."""

    cached: float = 0.0
    prompt: float = 0.0
    named: int = 0

    def __add__(self, other: "CachedTokens") -> "CachedTokens":
        return CachedTokens(
            cached=self.cached + other.cached,
            prompt=self.prompt + other.prompt,
            named=self.named + other.named,
        )

    @property
    def share(self) -> float | None:
        """None where no answer names any: servers leave the member out where it would be 0, or always."""
        return self.cached / self.prompt if self.named and self.prompt else None


@dataclass(kw_only=True)
class Sums:
    """Of a run of `n` samples, `measured` of them outside the warm-up.

    `at` counts these by where in the plan they are. `spreads` has a metric's values in each fine block,
    `failures` how many requests failed that it applies to. `requests` are those of each block, `counted`
    those that succeeded or failed, `failed` and `good` (of all objectives) what they say. `rates` are those
    of the run's window; of the whole run where too many requests ended behind it (`crowded`). `kinds` are
    the outcomes other than ok of the measured, `errors` those of all as `replay --json` names them,
    `models` all that were asked for. In an `open_loop` requests were due. `lag` is the client's own;
    `cached` are the tokens of prompts that came from a cache; `requests_drawn` and `sessions_drawn` are for
    comparisons; `due` and `e2e` are sums, and of how many; `span` is when the
    first and the last were due, or sent; `ended_s` is the last end.
    """

    n: int = 0
    measured: int = 0
    successes: int = 0
    spreads: dict[str, list[Spread]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    lag: Spread = field(default_factory=Spread)
    counted: Ints = field(default_factory=_none)
    failed: Ints = field(default_factory=_none)
    good: Ints = field(default_factory=_none)
    kinds: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    words: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in ("endpoint", "finish_reason")}
    )
    models: set[str] = field(default_factory=set)
    at: Ints = field(default_factory=lambda: np.zeros(PLACES, dtype=np.int64))
    rates: Rates = field(default_factory=lambda: Rates(Throughput(), 0, None))
    crowded: bool = False
    open_loop: bool = False
    outstanding: Outstanding = field(default_factory=Outstanding)
    charges: Charges = field(default_factory=Charges)
    judged: Judged = field(default_factory=Judged)
    requests: Ints = field(default_factory=_none)
    refused: int = 0
    cached: CachedTokens = field(default_factory=CachedTokens)
    uncertain: int = 0
    ended_s: float = 0.0
    span: tuple[float, float] = (np.inf, -np.inf)
    timeout_s: float | None = None
    due: tuple[float, int] = (0.0, 0)
    e2e: tuple[float, int] = (0.0, 0)
    requests_drawn: Draw = field(default_factory=Draw)
    sessions_drawn: SessionDraw = field(default_factory=SessionDraw)

    @classmethod
    def empty(cls, names: Iterable[str], judged: Iterable[Metric]) -> "Sums":
        """Of no part yet: which metrics they will have, and by which a client is judged."""
        rows = {row.name: row for row in judged}
        by_row = [{name: Spread() for name in rows} for _ in range(4)]
        return cls(
            spreads={name: [Spread() for _ in range(FINE)] for name in names},
            judged=Judged(
                rows=rows, plain=by_row[0], stamped=by_row[1], least=by_row[2], most=by_row[3]
            ),
        )

    def whole(self, metric: str) -> Spread:
        """A metric's values of the whole run."""
        return merged(self.spreads[metric])

    def finite(self, metric: str) -> Spread:
        """The same without the timeouts."""
        together = self.whole(metric)
        together.timeouts = 0
        return together

    def worst(self, metric: str) -> Spread:
        """The same with every failure as bad as a timeout."""
        together = self.whole(metric)
        together.timeouts = self.failures[metric]
        return together

    @property
    def buffered(self) -> str | None:
        """Why times between tokens are refused (replay.metrics)."""
        return metrics.buffered(*self.judged.between)
