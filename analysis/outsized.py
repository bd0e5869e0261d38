"""Outsized: runs too large for memory, read a piece at a time into digests, and compared by those.

What is lost is said with the result: requests are not paired one by one, and a value is known no better than
its bucket. Quantiles, block intervals, failures and cautions are the usual ones (docs/statistics.md).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from tbench.analysis.arms import Arm, Truths, arm_of_run, joined, load_arm
from tbench.analysis.digest import Digest, Span
from tbench.capture.container import open_container
from tbench.replay import measures
from tbench.replay.columns import Record
from tbench.replay.pieces import LIGHT, Pieces
from tbench.replay.runfile import Run, closing_totals, expected, identity_of, in_warmup, open_run
from tbench.replay.totals import cause
from tbench.replay.warmup import Warmup

SAMPLES: Final = 5_000_000
"""Beyond so many samples in an arm a comparison counts them instead of keeping them."""
GAPS: Final = frozenset({"itl_p95"})
"""Metrics that are made from the times of single tokens."""
_LEAST_BYTES: Final = 20
"""No sample takes less of a file: how a file without an index is known to be small."""
_STARTS: Final = ("due", "sent")
_NONE: Final = {"model": np.empty(0, dtype=object)}
"""The columns of no sample, as far as it takes to say who an arm is."""


def outsized(path: Path) -> bool:
    """Whether a run holds more than SAMPLES samples; a trace is read as it is."""
    if not _is_run(path):
        return False
    container = open_run(path)
    if container.index is not None or container.size < _LEAST_BYTES * SAMPLES:
        return expected(container) > SAMPLES
    return sum(len(piece.columns["index"]) for piece in Pieces(path, first=())) > SAMPLES


def _is_run(path: Path) -> bool:
    return path.is_file() and open_container(path).header.get("kind") == "run"


@dataclass(frozen=True, kw_only=True)
class Unread(Arm):
    """An arm of which a digest was kept: it says who it is, and not what each of its samples was."""

    digest: Digest

    def __len__(self) -> int:
        return self.digest.counts["samples"]

    @property
    def open_loop(self) -> bool:
        return self.digest.counts["due"] > 0

    @cached_property
    def uncertain(self) -> int:
        return self.digest.counts["uncertain"]

    @cached_property
    def buffered(self) -> str | None:
        return measures.buffered(self.digest.counts["gaps"], self.digest.counts["no_gaps"])

    @cached_property
    def invalid_because(self) -> str | None:
        return cause(self.run, len(self), self.digest.waits) if self.kind == "run" else None


def unread(path: Path, metrics: Iterable[str], rule: Warmup | None) -> Unread:
    """The digest of a run file, or of a trace, for some metrics and a warm-up (None: the run's own).

    A run is read twice, for the span of its plan and for the rest; a `rule` for the warm-up takes one pass
    more. Memory: one piece and the sketches. Raises InputError for what is neither a run nor a trace.
    """
    source = _run(path) if _is_run(path) else _trace(path)
    since = None
    if rule is not None or source.who.kind == "trace":
        since = _since(source, rule or Warmup())
    digest = Digest(_span(source, since), metrics)
    gaps = not GAPS.isdisjoint(digest.metrics)
    for arm in source.parts(LIGHT, gaps):
        digest.add(arm, _warm(arm, since))
    who = {one.name: getattr(source.who, one.name) for one in fields(Arm)}
    run = replace(source.who.run, totals=source.totals(digest))
    return Unread(**{**who, "model": joined(digest.models), "run": run}, digest=digest)


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Samples that can be read again and again, a part at a time: which columns first, and gaps or not.

    `who` has no samples of its own. `totals` are those of the whole, once it was read.
    """

    who: Arm
    parts: Callable[[Iterable[str], bool], Iterable[Arm]]
    totals: Callable[[Digest], Mapping[str, Any]]


def _run(path: Path) -> _Source:
    container = open_run(path)
    closing, progress = closing_totals(container, {}), {}
    if closing is None:
        others = _others(path)
        closing, progress = closing_totals(container, others), others.get("progress", {})
    known = closing or {}
    who = arm_of_run(Run(path, container.header, _NONE, known, complete=closing is not None))

    def parts(first: Iterable[str], gaps: bool) -> Iterator[Arm]:
        for columns, token_gaps in Pieces(path, first=first, gaps=gaps):
            columns.mark("warmup", in_warmup(columns, known.get("warmup_s") or 0.0))
            yield replace(who, run=replace(who.run, columns=columns), token_gaps=token_gaps)

    def totals(digest: Digest) -> Mapping[str, Any]:
        counts = digest.counts
        return closing or identity_of(
            counts["samples"], counts["ok"], counts["cancelled"], [progress]
        )

    return _Source(who=who, parts=parts, totals=totals)


def _others(path: Path) -> Mapping[str, Record]:
    """The last record of each type that holds no samples: of a run whose end was lost."""
    pieces = Pieces(path, first=())
    for _ in pieces:
        pass
    return pieces.others


def _trace(path: Path) -> _Source:
    arm = load_arm(path)
    who = replace(arm, run=replace(arm.run, columns=_NONE))
    return _Source(who=who, parts=lambda *_: [arm], totals=lambda _: arm.run.totals)


def _since(source: _Source, rule: Warmup) -> tuple[float, float]:
    """When the first request started, and how many seconds from then on are warm-up."""
    ends = [
        (float(np.nanmin(start)), float(np.nanmax(start)))
        for arm in source.parts(_STARTS, False)
        if not np.isnan(start := arm.offset_s).all()
    ]
    if not ends:
        return 0.0, 0.0
    begin, end = min(low for low, _ in ends), max(high for _, high in ends)
    return begin, rule.seconds(end - begin)


def _warm(arm: Arm, since: tuple[float, float] | None) -> Truths:
    if since is None:
        return ~arm.measured
    begin, seconds = since
    return np.asarray(arm.offset_s - begin < seconds)


def _span(source: _Source, since: tuple[float, float] | None) -> Span:
    """The places in the plan of all that is not warm-up."""
    places = (arm.columns["index"][~_warm(arm, since)] for arm in source.parts(_STARTS, False))
    ends = [(int(few.min()), int(few.max())) for few in places if len(few)]
    if not ends:
        return Span(0, 0)
    return Span(min(low for low, _ in ends), max(high for _, high in ends))
