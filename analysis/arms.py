"""Arm: one side of a comparison, a run or a captured trace, as columns of equal length."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from analysis.summary import Floats
from capture.exchange import Outcome
from replay import measures
from replay.columns import Column

Truths = npt.NDArray[np.bool_]

STOPPED = frozenset(
    {Outcome.CANCELLED, Outcome.CLIENT_ABORT, Outcome.PROXY_SHUTDOWN, Outcome.INCOMPLETE}
)
"""Outcomes that somebody else than the server brought about: neither a success nor an error."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """The samples of one run, or the exchanges of one trace, in trace arrival order.

    `columns` and `token_gaps()` are those of `replay.runfile.Run`: seconds with NaN where absent, counts
    with -1. `source` names the trace that both arms must share: its capture id, None when unknown.
    `timeout_s` is the deadline of a request, None when unknown. `totals` are the run's own closing
    figures, empty for a trace.
    """

    path: Path
    kind: Literal["run", "trace"]
    name: str
    source: str | None
    model: str | None
    pacing: str
    timeout_s: float | None
    header: Mapping[str, Any]
    totals: Mapping[str, Any]
    columns: Mapping[str, Column]
    token_gaps: Callable[[], tuple[Column, Column]]

    def __len__(self) -> int:
        return len(self.columns["id"])

    @cached_property
    def ok(self) -> Truths:
        """True where the request succeeded."""
        return self._is(Outcome.OK)

    @cached_property
    def timed_out(self) -> Truths:
        return self._is(Outcome.TIMEOUT)

    @cached_property
    def failed(self) -> Truths:
        """True where the server or the way to it failed, timeouts included."""
        stopped = [self._is(outcome) for outcome in sorted(STOPPED)]
        return np.asarray(~np.logical_or.reduce([self.ok, *stopped]), dtype=bool)

    @property
    def open_loop(self) -> bool:
        """Whether requests had a time at which they were due, from which their latency counts."""
        return not bool(np.isnan(self.columns["due"]).all())

    @cached_property
    def offset_s(self) -> Floats:
        """When each request was due, or sent where nothing was due."""
        return measures.origin(self.columns)

    @property
    def measured(self) -> Truths:
        """True for the samples that count: not warm-up."""
        return np.logical_not(self.columns["warmup"])

    def kinds(self, places: npt.NDArray[np.int64]) -> dict[str, int]:
        """How often each outcome other than ok occurs at these places, commonest first."""
        unwell = places[~self.ok[places]]
        counts = Counter(str(outcome) for outcome in self.columns["outcome"][unwell])
        return dict(counts.most_common())

    def _is(self, outcome: Outcome) -> Truths:
        return np.asarray(self.columns["outcome"] == outcome.value, dtype=bool)
