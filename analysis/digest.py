"""Digest: what is kept of an arm whose samples are too many to keep: counts, and sketches of its metrics.

Digests of parts (of a file, of several workers' or machines' files) add up to the digest of the whole.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tbench.analysis.arms import Arm, Truths
from tbench.analysis.blocks import FINE, Ints
from tbench.analysis.metrics import METRICS, applies, values
from tbench.analysis.proportions import FailureCounts
from tbench.analysis.quantiles import rank
from tbench.analysis.sketch import Sketch
from tbench.capture.exchange import Outcome
from tbench.replay import measures
from tbench.replay.table import tally, where, words
from tbench.replay.throughput import Throughput, throughput
from tbench.replay.totals import Waits, headline


@dataclass(frozen=True, slots=True)
class Span:
    """The places in the plan from `first` to `last`, which are cut into 32 blocks of equal length."""

    first: int
    last: int

    def blocks(self, index: Ints) -> Ints:
        """The block of each place; what lies outside belongs to the nearest one."""
        place = index.astype(np.int64) - self.first
        return np.asarray((place * FINE // (self.last - self.first + 1)).clip(0, FINE - 1))


class Digest:
    """All that a comparison asks of an arm's samples, for some metrics, without the samples.

    `requests` and `failed` are counted in the blocks of `span`, warm-up left out; so are `kinds` (outcomes
    other than ok), `finish` reasons and the sketches of `metrics`. `worst` counts, per latency metric, the
    failures that would have such a value. `begin` and `end` are when the first and last of them started,
    seconds; `waited` is the shortest wait that ended in a timeout. `counts` of tokens are of what is
    compared, as `throughput` is, those of `samples`, `ok`, `cancelled`, `warm` and `due` of all; `gaps` and
    `no_gaps` are those between token events (replay.measures.gaps).
    """

    def __init__(self, span: Span, metrics: Iterable[str]) -> None:
        self.span = span
        self.metrics = {name: Sketch() for name in metrics}
        self.requests, self.failed = np.zeros(FINE, np.int64), np.zeros(FINE, np.int64)
        self.counts: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.worst: Counter[str] = Counter()
        self.finish: Counter[str] = Counter()
        self.throughput = Throughput()
        self.models: set[str] = set()
        self.begin, self.end, self.waited = math.inf, -math.inf, math.inf
        self.headline, self.said, self.true = (Sketch(1) for _ in range(3))
        self.bounds = {name: (Sketch(1), Sketch(1)) for name in measures.JUDGED}

    def add(self, arm: Arm, warm: Truths) -> None:
        """Count the samples of a part; `warm` marks those that a comparison leaves out.

        The part's own `warmup` column says which count for whether the client was late.
        """
        counted = np.flatnonzero(~warm)
        blocks = self.span.blocks(arm.columns["index"][counted])
        self._count(arm, counted, blocks)
        self.throughput += throughput(arm.columns, counted)
        for name, sketch in self.metrics.items():
            metric = METRICS[name]
            sketch.add(values(arm, metric)[counted], blocks)
            if metric.latency:
                self.worst[name] += int((arm.failed & applies(arm, metric))[counted].sum())
        self._judge_client(arm)

    def merge(self, other: "Digest") -> "Digest":
        """The digest of both parts. Raises ValueError where they are not of one plan and the same metrics."""
        if (self.span, set(self.metrics)) != (other.span, set(other.metrics)):
            raise ValueError("digests of different plans or metrics do not add up")
        both = Digest(self.span, self.metrics)
        both.metrics = {name: one.merge(other.metrics[name]) for name, one in self.metrics.items()}
        both.requests, both.failed = self.requests + other.requests, self.failed + other.failed
        both.counts, both.kinds = self.counts + other.counts, self.kinds + other.kinds
        both.finish = self.finish + other.finish
        both.throughput = self.throughput + other.throughput
        both.worst, both.models = self.worst + other.worst, self.models | other.models
        both.begin, both.end = min(self.begin, other.begin), max(self.end, other.end)
        both.waited = min(self.waited, other.waited)
        both.headline = self.headline.merge(other.headline)
        both.bounds = {
            name: (least.merge(other.bounds[name][0]), most.merge(other.bounds[name][1]))
            for name, (least, most) in self.bounds.items()
        }
        both.said, both.true = self.said.merge(other.said), self.true.merge(other.true)
        return both

    @property
    def failures(self) -> FailureCounts:
        """As a comparison of shares asks for them."""
        return FailureCounts(
            requests=self.requests, failed=self.failed, kinds=dict(self.kinds.most_common())
        )

    @property
    def timeout_s(self) -> float | None:
        return self.waited if math.isfinite(self.waited) else None

    @property
    def waits(self) -> Waits:
        """What tells whether the client was late."""
        refused = measures.refused(self.counts["gaps"], self.counts["no_gaps"])
        return Waits(
            self.said.n,
            self.headline.n,
            partial(_values, self.said),
            partial(_values, self.true),
            partial(_values, self.headline),
            {
                name: (most.n, partial(_values, least), partial(_values, most))
                for name, (least, most) in self.bounds.items()
                if most.n and name not in refused
            },
        )

    def with_failures(self, metric: str, p: float) -> float:
        """The p-quantile of a latency metric with every failure as bad as a timeout."""
        sketch = self.metrics[metric]
        n = sketch.n - sketch.timeouts + self.worst[metric]
        place = rank(n, p)
        return sketch.at(place) if place <= sketch.n - sketch.timeouts else math.inf

    def _count(self, arm: Arm, counted: Ints, blocks: Ints) -> None:
        self.requests += np.bincount(blocks, minlength=FINE)
        self.failed += np.bincount(blocks[arm.failed[counted]], minlength=FINE)
        self.kinds.update(arm.kinds(counted))
        self.finish.update(tally(arm.columns, "finish_reason", counted))
        cancelled = int(where(arm.columns, "outcome", Outcome.CANCELLED).sum())
        self.counts.update(
            samples=len(arm),
            ok=int(arm.ok.sum()),
            cancelled=cancelled,
            warm=len(arm) - len(counted),
            due=int((~np.isnan(arm.columns["due"])).sum()),
        )
        for name in ("prompt_tokens", "cached_tokens"):
            self.counts[name] += int(np.nansum(values(arm, METRICS[name])[counted]))
        self.models |= words(arm.columns, "model")
        start = arm.offset_s[counted]
        self.begin = min(self.begin, float(np.nanmin(start, initial=math.inf)))
        self.end = max(self.end, float(np.nanmax(start, initial=-math.inf)))
        self.waited = min(self.waited, arm.timeout_s or math.inf)

    def _judge_client(self, arm: Arm) -> None:
        own = measures.counted(arm.columns)
        gaps, none = measures.gaps(own)
        self.counts.update(gaps=gaps, no_gaps=none, uncertain=measures.uncertain(own))
        latency, late = headline(own), measures.client_lag(own)
        there = ~np.isnan(latency) & ~np.isnan(late)
        for sketch, some in (
            (self.headline, latency),
            (self.said, latency[there]),
            (self.true, (latency - late)[there]),
            *(
                bound
                for name, *bounds in measures.bounds(own)
                for bound in zip(self.bounds[name], bounds, strict=True)
            ),
        ):
            sketch.add(some, np.zeros(len(some), np.int64))


def _values(sketch: Sketch, levels: Sequence[float]) -> list[float]:
    return [sketch.value(level) for level in levels]
