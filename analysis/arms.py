"""Arms: one side of a comparison, a run or a captured trace, as columns of equal length; or repeated runs."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from tbench.analysis.summary import Caution, Floats
from tbench.analysis.sums import Sums
from tbench.capture.container_reader import open_container
from tbench.capture.errors import InputError, InvalidRunError
from tbench.capture.exchange import ABANDONED, Outcome
from tbench.capture.remote import as_path, matching
from tbench.capture.terminal import plural
from tbench.capture.trace_reader import read_trace
from tbench.replay import metrics
from tbench.replay.columns import Column
from tbench.replay.counted import Counted
from tbench.replay.options import clauses
from tbench.replay.runfile import Run, read_run, recount, samples_of
from tbench.replay.table import Desk, Truths, tally, where, words
from tbench.replay.throughput import drain
from tbench.replay.totals import RunFigures, first_cause, loss, numbers, why_invalid

__all__ = ["Arm", "Truths", "load_arm"]

HELD: Final = 2_000_000
"""So many samples of an arm's repeated runs are held together: some 0.8 GB. Of more, one run at a time."""
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
    Of a run that is more than memory holds there are `sums` (analysis.beyond), and no columns. `markers` are
    those of its files, random bytes that none but a copy shares. `compared` is true for the requests that a
    comparison is of, `rated` for those that its rates are of; None outside one.
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
    sums: Sums | None = None
    markers: frozenset[bytes] = frozenset()
    compared: Truths | None = None
    rated: Truths | None = None
    _made: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

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
        """Why the numbers of a run do not count, or of a trace that is damaged; None when they do."""
        if self.sums is not None:
            return first_cause(self.run, self.sums.judged)
        return why_invalid(self.run)

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """The object of `replay --json`."""
        if (sums := self.sums) is None:
            return numbers(self.run)
        figures = RunFigures(
            duration_s=sums.ended_s,
            throughput=sums.rates.throughput,
            drain=self.drain,
            spreads={f"{name}_s": metrics.spread(sums.finite(name)) for name in metrics.SUMMARISED},
            in_flight={
                "mean": sums.outstanding.mean,
                "max": self.most_in_flight,
            },
            uncertain=sums.uncertain,
            invalid_because=self.invalid_because,
            errors=self.errors,
        )
        return numbers(self.run, figures)

    @property
    def most_in_flight(self) -> int | None:
        """How many the client counted at once; None of a duet, of which it counted all arms together."""
        part = self.run.header.get("experiment") or {}
        return None if part.get("schedule") == "duet" else self.run.totals.get("most_in_flight")

    @cached_property
    def errors(self) -> Mapping[str, int]:
        """How many requests ended in each kind of failure, the commonest first."""
        return dict(self.sums.errors.most_common()) if self.sums else self.numbers["errors"]

    @cached_property
    def succeeded(self) -> int:
        """How many requests did."""
        return self.sums.successes if self.sums else int(self.ok.sum())

    @cached_property
    def warm(self) -> int:
        """How many requests are warm-up."""
        return len(self) - (self.sums.measured if self.sums else int(self.measured.sum()))

    @cached_property
    def uncertain(self) -> int:
        """How many first tokens may have come over a millisecond before their stamp."""
        if self.sums is not None:
            return self.sums.uncertain
        return metrics.uncertain(metrics.counted(self.columns))

    @cached_property
    def buffered(self) -> str | None:
        """Why its times between tokens are refused; None where they are not."""
        if self.sums is not None:
            return self.sums.buffered
        return metrics.buffered(*metrics.gaps(metrics.counted(self.columns)))

    @property
    def drain(self) -> Mapping[str, float] | None:
        """What of a closed loop its rates leave out (replay.throughput)."""
        return drain(self.run) if self.sums is None else self.sums.rates.drain

    @property
    def loss(self) -> str | None:
        """What a lost worker leaves open (replay.totals)."""
        if (sums := self.sums) is None:
            return loss(self.run)
        return loss(self.run, lambda name: Counted(sums.finite(name)))

    @property
    def all_warm(self) -> bool:
        """Whether all that completed was warm-up, of which there are no figures."""
        if self.sums is None:
            return bool(self.warm and self.ok.any() and not (self.ok & self.measured).any())
        return bool(self.succeeded and self.sums.counted.sum() == self.sums.failed.sum())

    def __len__(self) -> int:
        return self._n

    @cached_property
    def _n(self) -> int:
        return self.sums.n if self.sums else len(self.columns["index"])

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
        return ~where(self.columns, "outcome", Outcome.OK, *sorted(ABANDONED))

    @cached_property
    def timeout_s(self) -> float | None:
        """How long every timed-out request had waited at least, seconds; None without one."""
        if self.sums is not None:
            return self.sums.timeout_s
        waited = (self.columns["end"] - self.offset_s)[self.timed_out]
        return float(np.nanmin(waited)) if np.isfinite(waited).any() else None

    @property
    def open_loop(self) -> bool:
        """Whether requests had a time at which they were due, from which their latency counts."""
        if self.sums is not None:
            return self.sums.open_loop
        return not bool(np.isnan(self.columns["due"]).all())

    @cached_property
    def waited(self) -> int:
        """How many turns left later than scheduled, as the answer that they continue had not ended."""
        return (self.run.totals.get("turns") or {}).get("waited") or 0

    @property
    def paced_by_answers(self) -> bool:
        """Whether more than one request in a hundred waited so: then its rate is partly its own."""
        return self.waited > 0.01 * len(self)

    @cached_property
    def offset_s(self) -> Floats:
        """When each request was due, or sent where nothing was due."""
        return metrics.origin(self.columns)

    @property
    def sessions(self) -> Column:
        """The number of the conversation that each request belongs to, -1 where no run said."""
        return self.columns["session"]

    @property
    def measured(self) -> Truths:
        """True for the samples that count: not warm-up; of a comparison, those that are compared."""
        if self.compared is not None:
            return self.compared
        return np.logical_not(self.columns["warmup"])

    def only(self, places: npt.NDArray[np.int64], rated: Truths | None = None) -> "Arm":
        """The same, of which no other samples count than those at these places: so reports show it.

        What it does per second is of those that are `rated`: of a part of what it did there is no rate.
        """
        if self.sums is not None:
            return self
        compared = np.zeros(len(self), dtype=bool)
        compared[places] = True
        return replace(self, compared=compared, rated=compared if rated is None else rated)

    def once[T](self, key: Hashable, make: Callable[["Arm"], T]) -> T:
        """What `make` makes of it: under one key only once, as its samples may have to be read anew."""
        if key not in self._made:
            self._made[key] = make(self)
        made: T = self._made[key]
        return made

    def keep_figures(self) -> None:
        """Make what is asked of every run while its samples are at hand, and let go of them."""
        _ = len(self), self.succeeded, self.invalid_because
        self.forget()

    def forget(self) -> None:
        """Let go of all that is as long as the samples, and is made of their columns."""
        for name in ("ok", "timed_out", "failed", "offset_s"):
            self.__dict__.pop(name, None)
        self.run.__dict__.pop("token_gaps", None)

    def kinds(self, places: npt.NDArray[np.int64]) -> dict[str, int]:
        """How often each outcome other than ok occurs at these places, commonest first."""
        counts = Counter(tally(self.columns, "outcome", places[~self.ok[places]]))
        return dict(counts.most_common())


def load_arm(path: str | Path, desk: Desk | None = None) -> Arm:
    """Load a run file, or a trace (file, folder or glob), told apart by its header. `desk` as in `read_run`.

    Raises InputError for what is neither, or is missing, and for the folder of a benchmark or an experiment,
    whose traces are not its results.
    """
    path = as_path(path)
    for name, (what, all_of_it) in SEVERAL.items() if path.is_dir() else ():
        if (path / name).is_file():
            runs = sorted(path.rglob("*.run"))
            first = f" ({runs[0]})" if runs else ""
            raise InputError(
                f"{path}: {what} folder of {plural(len(runs), 'run')}: take one{first}; all of it: "
                + all_of_it.format(path)
            )
    if not path.exists() and len(named := matching(path)) == 1:
        path = named[0]
    if path.is_file() and open_container(path).header.get("kind") == "run":
        return arm_of_run(read_run(path, desk))
    return arm_of_trace(path)


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
        pacing=_sent(run.header),
        as_recorded=(pacing.get("mode"), pacing.get("value")) == ("speed", 1.0)
        and pacing.get("clones", 1) == 1
        and all(pacing.get(name) is None for name in ("ramp", "max_idle")),
        token_gaps=lambda: run.token_gaps,
        markers=frozenset(filter(None, [run.header.get("marker")])),
    )


def _sent(header: Mapping[str, Any]) -> str:
    """How a run was sent, in words."""
    meaning = (header.get("pacing") or {}).get("meaning") or "pacing unknown"
    target, cache = header.get("target") or {}, (header.get("cache") or {}).get("mode")
    # Runs of earlier versions have what is asked besides the pacing in their header, but not in these words.
    asked = clauses(
        {"cache": cache, **{name: target.get(name) for name in ("match_length", "polite")}}
    )
    return "; ".join([meaning, *(clause for clause in asked if clause not in meaning)])


def arm_of_trace(path: Path) -> Arm:
    """A captured trace as an arm: what its application saw."""
    from tbench.replay.measure import measure_trace  # noqa: PLC0415 (with an event loop, which no run needs)

    trace = read_trace(path)
    recorded = measure_trace(trace)
    header = {
        "upstream": trace.header.upstream,
        "writer": trace.header.writer,
        "unanswered": bool({"synthesis", "import"} & trace.header.extra.keys()),
    }
    totals = {**recount(recorded.columns), "trace_losses": trace.lost}
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
        markers=frozenset(segment.container.marker for segment in trace.segments) - {b""},
    )


def joined(models: Iterable[str]) -> str | None:
    """The models asked for, joined; None when no request named one."""
    return ", ".join(sorted(filter(None, models))) or None


# Replicates: one arm's repeated runs, and whether two arms' runs took turns.


@dataclass(frozen=True, kw_only=True)
class Replicates:
    """The runs of one arm, in the order in which they began.

    `unfinished` are files of killed or running replays that lay beside them and are not counted.
    """

    name: str
    runs: tuple[Arm, ...]
    unfinished: tuple[Path, ...] = ()

    @property
    def started_ns(self) -> tuple[int, ...]:
        """When each began, CLOCK_REALTIME."""
        return tuple(map(started_ns, self.runs))


def started_ns(run: Arm) -> int:
    """When a run began, CLOCK_REALTIME; 0 where it does not say."""
    return int(run.run.header.get("wall_ns") or 0)


def invalid_runs(runs: Iterable[Arm]) -> Iterator[Caution]:
    """A caution for each run whose numbers do not count."""
    for run in runs:
        if run.invalid_because:
            yield Caution(code="INVALID_RUN", text=f"{run.path}: {run.invalid_because}")


def check_distinct(runs: Iterable[Arm]) -> None:
    """Raise InputError where one of these is another, or its copy: the spread would be none."""
    first: dict[object, Path] = {}
    for run in runs:
        # By the random marker first: a copy under another name is the same run.
        marks = run.markers or {run.path.resolve()}
        if twice := marks & first.keys():
            raise InputError(
                f"{first[min(twice, key=str)]} and {run.path}: one {run.kind}, named twice or copied; it "
                "counts once: leave one out"
            )
        first |= dict.fromkeys(marks, run.path)


def find_runs(text: str | Path) -> list[Path]:
    """The run files that a path, a folder or a glob names. Raises InputError where there are none."""
    path = as_path(text)
    if path.is_dir():
        paths = sorted(path.glob("*.run"))
    elif path.exists():
        paths = [path]
    else:
        paths = matching(path)
    if not paths:
        raise InputError(
            f"{text}: no run file there; give a run, a folder of runs, or a quoted glob"
        )
    return paths


def runs_among(text: str | Path) -> list[Path]:
    """The runs that a folder or a glob names; none of a single file, nor where it names a trace."""
    path = as_path(text)
    files = [] if path.is_file() else path.glob("*.run") if path.is_dir() else matching(path)
    return [
        file
        for file in files
        if file.is_file() and open_container(file).header.get("kind") == "run"
    ]


def load_replicates(*texts: str | Path, desk: Desk | None = None) -> Replicates:
    """The runs that folders or globs name, as one arm. Raises InputError for what is no run.

    Of more samples than HELD one run at a `desk` is held at a time, and read anew when it is asked for again.
    """
    paths = dict.fromkeys(path for text in texts for path in find_runs(text))
    if desk and sum(map(samples_of, paths)) <= HELD:
        desk = None
    arms = []
    for path in paths:
        arms.append(arm := load_arm(path, desk))
        if arm.kind != "run":
            raise InputError(f"{arm.path}: a trace; an arm of several runs holds replays only")
        if desk:
            arm.keep_figures()
    check_distinct(arms)
    unfinished: set[Path] = set()
    for path in map(as_path, texts):
        if path.is_dir():
            unfinished |= {*path.glob("*.run.part")}
        elif not path.exists():  # a glob: what it would name once they were closed
            unfinished |= {*matching(path.with_name(f"{path.name}.part"))}
    return Replicates(
        name=str(texts[0]) + (f" and {len(texts) - 1} more" if len(texts) > 1 else ""),
        runs=tuple(sorted(arms, key=started_ns)),
        unfinished=tuple(sorted(unfinished)),
    )


def interleaved(first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether the runs, by when they began, form pairs that hold one of each arm.

    Otherwise what changes with time looks like a difference of the arms: with AAABBB and drift up to
    93 % of comparisons of equal arms find one.
    """
    if len(first) != len(second):
        return False
    arms = _order(first, second)
    return all({arms[i], arms[i + 1]} == {0, 1} for i in range(0, len(arms), 2))


def begun(first: Replicates, second: Replicates) -> tuple[int, int] | None:
    """How many pairs of interleaved runs each arm began; None where both began at once (a duet)."""
    if _schedules(first, second) == {"duet"}:
        return None
    begins = _order(first.started_ns, second.started_ns)[::2]
    return begins.count(0), begins.count(1)


def drawn(first: Replicates, second: Replicates) -> bool:
    """Whether chance decided which arm began each pair: as the runs say, else as far as one can see."""
    schedules = _schedules(first, second)
    if schedules == {None}:
        return not systematic(first.started_ns, second.started_ns)
    return schedules == {"random"}


def _schedules(*arms: Replicates) -> set[str | None]:
    """What the runs say of how their order was decided."""
    runs = (run for arm in arms for run in arm.runs)
    return {(run.run.header.get("experiment") or {}).get("schedule") for run in runs}


def systematic(first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether interleaved runs follow a rule (A B A B ..., A B B A ...), and were hardly drawn at random."""
    begins = _order(first, second)[::2]
    changes = {first_arm != second_arm for first_arm, second_arm in pairwise(begins)}
    return len(changes) < 2


def _order(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Which arm each run belongs to, by when it began."""
    return [arm for _, arm in sorted([(at, 0) for at in first] + [(at, 1) for at in second])]
