"""Repeated runs held against gates, or against a baseline file, for `tbench compare`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tbench.capture.errors import InputError
from tbench.commands.publishing import Outlets, published

if TYPE_CHECKING:
    from tbench.analysis.gate import Gate
    from tbench.analysis.judgement import Method
    from tbench.replay.warmup import Warmup


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the options of `tbench compare` ask of repeated runs, as they were written."""

    margin: str | None
    gates: Sequence[str]
    slo: str | None
    trend: bool
    warmup: str | None
    baseline_file: Path | None = None
    save_baseline: Path | None = None

    @property
    def repeated(self) -> bool:
        """Whether anything is asked of repeated runs at all."""
        return bool(self.margin is not None or self.gates or self.more)

    @property
    def more(self) -> bool:
        """Whether anything is asked besides gates."""
        files = self.baseline_file or self.save_baseline
        return bool(self.trend or files)

    def read(self) -> "tuple[tuple[Gate, ...], Warmup | None]":
        """The gates and the warm-up. Raises InputError where one is not understood."""
        from tbench.analysis.gate import parse_gates
        from tbench.analysis.slo import parse_slo
        from tbench.replay.warmup import parse_warmup

        slo = () if self.slo is None else parse_slo(self.slo)
        warmup = None if self.warmup is None else parse_warmup(self.warmup)
        return parse_gates(self.margin, self.gates, slo), warmup


def judged(runs: Sequence[Path], asked: Asked, outlets: Outlets) -> int:
    """Judge the runs, against each other or a baseline file, or keep them in one. Returns the exit code."""
    if asked.baseline_file and asked.save_baseline:
        raise InputError("--baseline-file judges, --save-baseline keeps: one after the other")
    if asked.save_baseline:
        if outlets.files or asked.trend:
            raise InputError("--save-baseline judges nothing: no reports, no --trend")
        return _kept(asked.save_baseline, runs, asked, as_json=outlets.as_json)
    if asked.baseline_file:
        return _by_history(asked.baseline_file, runs, asked, outlets)
    return _gated(runs, asked, outlets)


def _gated(runs: Sequence[Path], asked: Asked, outlets: Outlets) -> int:
    """Judge and publish; the exit code says the verdict. Each path is an arm, the first the baseline."""
    from tbench.analysis.judge import judge
    from tbench.analysis.replicates import load_replicates

    gates, warmup = asked.read()
    if len(runs) < 2:
        raise InputError(
            "a CANDIDATE is missing: gates hold several runs against a BASELINE. Try --help."
        )
    if len(runs) > 2 and all(path.is_file() for path in runs):
        raise InputError(
            f"{len(runs)} run files: with gates each argument is an arm; name folders, or quote the globs"
        )
    contrast: Method = "trend" if asked.trend else "welch"
    arms = [load_replicates(run) for run in runs]
    return published(judge(arms, gates, contrast=contrast, warmup=warmup), outlets)


def _by_history(history: Path, runs: Sequence[Path], asked: Asked, outlets: Outlets) -> int:
    """Judge the runs of one arm against a baseline file, and publish."""
    from tbench.analysis.history import read_history
    from tbench.analysis.judge_history import judge_history
    from tbench.analysis.replicates import load_replicates

    if asked.trend:
        raise InputError("--trend is for runs that took turns; a baseline file has sessions")
    gates, warmup = asked.read()
    found = judge_history(read_history(history), load_replicates(*runs), gates, warmup)
    return published(found, outlets)


def _kept(history: Path, runs: Sequence[Path], asked: Asked, *, as_json: bool) -> int:
    """Append the runs of one arm to a baseline file as a session. Returns 0."""
    from tbench.analysis.history import History, appended, read_history, write_history
    from tbench.analysis.judge_history import LEAST_SESSIONS
    from tbench.analysis.replicates import load_replicates
    from tbench.analysis.report.machine import dump
    from tbench.analysis.session import session_of

    gates, warmup = asked.read()
    if not gates:
        raise InputError("--save-baseline keeps the figures of gates: give --margin or --gate")
    before = read_history(history) if history.exists() else History(path=history, sessions=())
    session = session_of(load_replicates(*runs), gates, warmup)
    after = appended(before, session)
    write_history(after)
    count = len(after.sessions)
    facts = {
        "file": str(history),
        "sessions": count,
        "missing": max(0, LEAST_SESSIONS - count),
        "recorded": session.recorded,
        "figures": list(session.figures),
    }
    more = f"; {facts['missing']} more until it can judge" if facts["missing"] else ""
    typer.echo(dump(facts) if as_json else f"{history}: {after.text}{more}")
    return 0
