"""Arm: one side of a comparison, a run or a captured trace, as columns of equal length."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """The samples of one run, or the exchanges of one trace, in trace arrival order.

    `columns` has one array per field of `replay.sample.Sample` (times in seconds from the start, NaN
    where absent; counts as floats, NaN where absent; `id`, `outcome`, `model`, `endpoint` as strings),
    plus `itl_mean` and `itl_p95`: the mean and the 95th percentile of the gaps between tokens.
    `source` names the trace that both arms must share: its capture id. `open_loop` says that
    latency counts from `due`. `timeout_s` is the deadline of a request, None when unknown.
    `totals` are the run's own closing figures, empty for a trace.
    """

    path: Path
    kind: Literal["run", "trace"]
    name: str
    source: str
    model: str | None
    pacing: str
    open_loop: bool
    timeout_s: float | None
    header: Mapping[str, Any]
    totals: Mapping[str, Any]
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.columns["id"])

    @property
    def offset_s(self) -> npt.NDArray[np.float64]:
        """When each request was due, or sent where nothing was due."""
        due: npt.NDArray[np.float64] = self.columns["due"]
        return np.where(np.isnan(due), self.columns["sent"], due)

    @property
    def measured(self) -> npt.NDArray[np.bool_]:
        """True for the samples that count: not warm-up."""
        return ~self.columns["warmup"].astype(bool)
