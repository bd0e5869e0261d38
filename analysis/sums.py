"""Sums: what the samples of a run come to, where all of them are more than memory holds.

Those of parts add up (analysis.beyond gathers them). Values are in the histogram of their metric, for each of
the fine blocks of the plan.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from tbench.replay import metrics
from tbench.replay.counted import Counted, Ranked, Spread
from tbench.replay.metrics import Metric, Outstanding
from tbench.replay.throughput import Throughput
from tbench.replay.totals import Evidence

FINE: Final = 32
"""Blocks of time are cut this fine, then merged to 16, 8 or 4 (analysis.blocks)."""
MOST_UNCOUNTED: Final = 0.01
"""So many of the requests may have been charged without naming their tokens: a timeout ends no experiment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charges:
    """What `n` requests cost by list prices, US dollars. Those of parts of a run add up.

    `uncounted` requests name no tokens, `unpriced` are the models that no price is known for.
    """

    usd: float = 0.0
    n: int = 0
    successes: int = 0
    uncounted: int = 0
    unpriced: frozenset[str] = frozenset()

    def __add__(self, other: "Charges") -> "Charges":
        return Charges(
            usd=self.usd + other.usd,
            n=self.n + other.n,
            successes=self.successes + other.successes,
            uncounted=self.uncounted + other.uncounted,
            unpriced=self.unpriced | other.unpriced,
        )

    @property
    def refusal(self) -> str | None:
        """Why no ratio is made of it."""
        if self.unpriced:
            return f"no price is known for {', '.join(sorted(self.unpriced))}"
        if self.uncounted > MOST_UNCOUNTED * self.n:
            return f"{self.uncounted:,} requests without token counts"
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


Ints = npt.NDArray[np.int64]


def _none() -> Ints:
    return np.zeros(FINE, dtype=np.int64)


@dataclass(kw_only=True)
class Sums:
    """Of a run of `n` samples, `measured` of them outside the warm-up.

    `spreads` has a metric's values in each fine block, `failures` how many requests failed that it applies
    to. `requests` are those of each block, `counted` those that succeeded or failed, `failed` and `good` (of
    all objectives) what they say. `kinds` are the outcomes other than ok of the measured, `errors` those of
    all as `replay --json` names them. `lag` is the client's own; `cached` are the tokens of prompts that came
    from a cache, and all of them; `due` and `e2e` are sums, and of how many; `span` is when the first and the
    last were due, or sent; `ended_s` is the last end.
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
        default_factory=lambda: {name: Counter() for name in ("model", "endpoint", "finish_reason")}
    )
    throughput: Throughput = field(default_factory=Throughput)
    outstanding: Outstanding = field(default_factory=Outstanding)
    charges: Charges = field(default_factory=Charges)
    judged: Judged = field(default_factory=Judged)
    requests: Ints = field(default_factory=_none)
    refused: int = 0
    cached: tuple[float, float] = (0.0, 0.0)
    uncertain: int = 0
    ended_s: float = 0.0
    span: tuple[float, float] = (np.inf, -np.inf)
    timeout_s: float | None = None
    due: tuple[float, int] = (0.0, 0)
    e2e: tuple[float, int] = (0.0, 0)
    sessions: bool = False

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
        together = Spread()
        for block in self.spreads[metric]:
            together.merge(block)
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
