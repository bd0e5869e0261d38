"""Arm: one side of a comparison, a run or a captured trace, as columns of equal length."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from tbench.analysis.summary import Floats
from tbench.capture.container_reader import open_container
from tbench.capture.errors import InputError, InvalidRunError
from tbench.capture.exchange import Outcome
from tbench.capture.terminal import plural
from tbench.capture.trace_reader import read_trace
from tbench.replay import measures
from tbench.replay.columns import Column
from tbench.replay.runfile import Run, read_run, recount
from tbench.replay.table import Truths, where, words
from tbench.replay.totals import why_invalid

__all__ = ["Arm", "Truths", "load_arm"]

STOPPED = frozenset(
    {Outcome.CANCELLED, Outcome.CLIENT_ABORT, Outcome.PROXY_SHUTDOWN, Outcome.INCOMPLETE}
)
"""Outcomes that somebody else than the server brought about: neither a success nor an error."""

SEVERAL: Final = {
    "experiment_metadata.json": ("a benchmark's", "tbench report {}"),
    "plan.json": ("an experiment's", "{}/report.html"),
}
"""Files that mark a folder of several runs: what it is, and where all of them are shown."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """The samples of one run, or the exchanges of one trace, in trace arrival order.

    `run` is the run, or what a trace would be as one; `token_gaps()` are those of `replay.runfile.Run`.
    `source` names the trace that both arms must share: its capture id, None when unknown. `model` is
    what was asked for, several joined by commas, `target` the base URL that was asked. `pacing` says in
    words when requests were sent, `as_recorded` whether that was when the application had sent them.
    """

    kind: Literal["run", "trace"]
    name: str
    run: Run
    source: str | None
    model: str | None
    target: str | None
    pacing: str
    as_recorded: bool
    token_gaps: Callable[[], tuple[Column, Column]]

    def __str__(self) -> str:
        """What `tbench report` prints."""
        from tbench.analysis.report.text import run_text  # noqa: PLC0415 (which builds on this file)

        return run_text(self)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.path}: {plural(len(self), 'request')}; print it for the table>"

    @property
    def path(self) -> Path:
        """Where it was read from."""
        return self.run.path

    @property
    def columns(self) -> Mapping[str, Column]:
        """One array per field of a sample: seconds with NaN where absent, counts with -1."""
        return self.run.columns

    @cached_property
    def invalid_because(self) -> str | None:
        """Why the run's numbers do not count; None when they do, and for a trace."""
        return why_invalid(self.run) if self.kind == "run" else None

    @cached_property
    def uncertain(self) -> int:
        """How many first tokens may have come over a millisecond before their stamp."""
        return measures.uncertain(measures.counted(self.columns))

    @cached_property
    def buffered(self) -> str | None:
        """Why its times between tokens are refused; None where they are not."""
        return measures.buffered(*measures.gaps(measures.counted(self.columns)))

    def __len__(self) -> int:
        return len(self.columns["index"])

    def check_not_empty(self) -> None:
        """Raise InputError where no request was sent, or answered; InvalidRunError where some were lost."""
        unanswered = self.run.header.get("unanswered")  # only a trace's
        if len(self) and unanswered and where(self.columns, "outcome", Outcome.INCOMPLETE).all():
            raise InputError(
                f"{self.path}: no answers recorded (it was synthesised or imported); replay it first, or see "
                "tbench trace info"
            )
        if len(self):
            return
        if self.invalid_because:
            raise InvalidRunError(f"{self.path}: INVALID, {self.invalid_because}")
        raise InputError(f"{self.path}: an empty {self.kind}, it holds no request")

    @cached_property
    def ok(self) -> Truths:
        """True where the request succeeded."""
        return where(self.columns, "outcome", Outcome.OK)

    @cached_property
    def timed_out(self) -> Truths:
        return where(self.columns, "outcome", Outcome.TIMEOUT)

    @cached_property
    def failed(self) -> Truths:
        """True where the server or the way to it failed, timeouts included."""
        return ~where(self.columns, "outcome", Outcome.OK, *sorted(STOPPED))

    @cached_property
    def timeout_s(self) -> float | None:
        """How long every timed-out request had waited at least, seconds; None without one."""
        waited = (self.columns["end"] - self.offset_s)[self.timed_out]
        return float(np.nanmin(waited)) if np.isfinite(waited).any() else None

    @property
    def open_loop(self) -> bool:
        """Whether requests had a time at which they were due, from which their latency counts."""
        return not bool(np.isnan(self.columns["due"]).all())

    @cached_property
    def offset_s(self) -> Floats:
        """When each request was due, or sent where nothing was due."""
        return measures.origin(self.columns)

    @property
    def sessions(self) -> Column:
        """The number of the conversation that each request belongs to, -1 where no run said."""
        return self.columns["session"]

    @property
    def measured(self) -> Truths:
        """True for the samples that count: not warm-up."""
        return np.logical_not(self.columns["warmup"])

    def kinds(self, places: npt.NDArray[np.int64]) -> dict[str, int]:
        """How often each outcome other than ok occurs at these places, commonest first."""
        unwell = places[~self.ok[places]]
        counts = Counter(str(outcome) for outcome in self.columns["outcome"][unwell])
        return dict(counts.most_common())


def load_arm(path: str | Path) -> Arm:
    """Load a run file, or a trace (file, folder or glob), told apart by its header.

    Raises InputError for what is neither, or is missing, and for the folder of a benchmark or an experiment,
    whose traces are not its results.
    """
    path = Path(path)
    for name, (what, all_of_it) in SEVERAL.items():
        if (path / name).is_file():
            runs = sorted(path.rglob("*.run"))
            first = f" ({runs[0]})" if runs else ""
            raise InputError(
                f"{path}: {what} folder of {plural(len(runs), 'run')}: take one{first}; all of it: "
                + all_of_it.format(path)
            )
    if path.is_file() and open_container(path).header.get("kind") == "run":
        return arm_of_run(read_run(path))
    return _of_trace(path)


def arm_of_run(run: Run) -> Arm:
    """A run as an arm."""
    pacing = run.header.get("pacing") or {}
    return Arm(
        kind="run",
        name=run.path.name.removesuffix(".part").removesuffix(".run"),
        run=run,
        source=(run.header.get("trace") or {}).get("capture_id"),
        model=joined(words(run.columns, "model")),
        target=(run.header.get("target") or {}).get("base_url"),
        pacing=pacing.get("meaning") or "pacing unknown",
        as_recorded=(pacing.get("mode"), pacing.get("value")) == ("speed", 1.0),
        token_gaps=lambda: run.token_gaps,
    )


def _of_trace(path: Path) -> Arm:
    from tbench.replay.measure import measure_trace  # noqa: PLC0415 (with an event loop, which no run needs)

    trace = read_trace(path)
    recorded = measure_trace(trace)
    header = {
        "upstream": trace.header.upstream,
        "writer": trace.header.writer,
        "unanswered": bool({"synthesis", "import"} & trace.header.extra.keys()),
    }
    totals = recount(recorded.columns)
    return Arm(
        kind="trace",
        name=path.name.removesuffix(".part").removesuffix(".msgpack"),
        run=Run(path, header, recorded.columns, totals, complete=True),
        source=trace.header.capture_id,
        model=joined(words(recorded.columns, "model")),
        target=trace.header.upstream,
        pacing="as recorded",
        as_recorded=True,
        token_gaps=lambda: recorded.token_gaps,
    )


def joined(models: Iterable[str]) -> str | None:
    """The models asked for, joined; None when no request named one."""
    return ", ".join(sorted(filter(None, models))) or None
