"""tbench compare: two runs of one trace, as ratios of quantiles with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tbench.capture.errors import InputError
from tbench.capture.option import Option
from tbench.capture.writing import check_folder
from tbench.commands.output import (
    GATES,
    OUTPUT,
    Charts,
    Gates,
    Html,
    Json,
    Margin,
    Shared,
    Slo,
    Trend,
    Verbose,
    Xlsx,
)
from tbench.flags import verb

if TYPE_CHECKING:
    from tbench.analysis.gate import Gate
    from tbench.analysis.gate_estimate import Method
    from tbench.analysis.gate_results import GateResults
    from tbench.replay.pacing import Warmup


# Publishing: where a judgement goes, for every verb that makes one: stdout, JUnit, Markdown, pages.


@dataclass(frozen=True, kw_only=True)
class Outlets:
    """What a result is printed as, and the files that it is written to; `markdown` "-" is stdout."""

    as_json: bool = False
    junit: Path | None = None
    markdown: str | None = None
    shared: Shared | None = None

    def __post_init__(self) -> None:
        if self.as_json and self.markdown == "-":
            raise InputError("--json and --markdown - both print to stdout; name a file for one")
        for option, name in (("--junit", self.junit), ("--markdown", self.markdown)):
            if name is not None and name != "-":
                check_folder(Path(name), f"{option} {name}")

    @property
    def files(self) -> bool:
        """Whether anything but the text or the JSON is asked for."""
        return bool(self.junit or self.markdown or self.shared)


def published(judgement: "GateResults", outlets: Outlets) -> int:
    """Print the judgement and write its files; returns the exit code of its verdict."""
    from tbench.analysis.comparison import Verdict
    from tbench.analysis.report.ci import judgement_junit, judgement_markdown
    from tbench.analysis.report.machine import dump, judgement_json
    from tbench.analysis.report.text import judgement_text
    from tbench.commands.output import command_line, terminal, write_shared

    if outlets.shared:
        _share(judgement, outlets.shared)
    if outlets.junit is not None:
        write_shared("--junit", outlets.junit, judgement_junit(judgement))
    shown = (
        dump(judgement_json(judgement))
        if outlets.as_json
        else "\n".join(judgement_text(judgement, terminal()["width"]))
    )
    if outlets.markdown is not None:
        shown = (
            put_markdown(judgement_markdown(judgement, command_line()), outlets.markdown) or shown
        )
    typer.echo(shown)
    exits = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3, Verdict.INVALID: 4}
    return exits[judgement.verdict]


def _share(judgement: "GateResults", shared: Shared) -> None:
    from tbench.analysis.report.page import judgement_report
    from tbench.analysis.report.workbook import judgement_book
    from tbench.commands.output import command_line

    if judgement.history is not None:
        raise InputError(
            "--html, --charts and --xlsx show runs; a baseline file has none of its own"
        )
    line = command_line()
    shared.write(
        lambda: judgement_report(judgement, command=line),
        lambda file: judgement_book(judgement, file, command=line),
    )


def put_markdown(text: str, where: str) -> str | None:
    """Write it to a file; what is to be printed is given back."""
    from tbench.commands.output import write_shared

    if where == "-":
        return text.rstrip("\n")
    write_shared("--markdown", Path(where), text)
    return None


# Repeated runs held against gates, or against a baseline file, for `tbench compare`.


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
        from tbench.replay.pacing import parse_warmup

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
    from tbench.analysis.gate_results import evaluate_gates
    from tbench.analysis.replicates import load_replicates

    gates, warmup = asked.read()
    if len(runs) < 2:
        raise InputError(
            "a CANDIDATE is missing: gates hold several runs against a BASELINE; see tbench compare --help"
        )
    if len(runs) > 2 and all(path.is_file() for path in runs):
        raise InputError(
            f"{len(runs)} run files: with gates each argument is an arm; name folders, or quote the globs"
        )
    contrast: Method = "trend" if asked.trend else "welch"
    arms = [load_replicates(run) for run in runs]
    return published(evaluate_gates(arms, gates, contrast=contrast, warmup=warmup), outlets)


def _by_history(history: Path, runs: Sequence[Path], asked: Asked, outlets: Outlets) -> int:
    """Judge the runs of one arm against a baseline file, and publish."""
    from tbench.analysis.evaluate_history import evaluate_history
    from tbench.analysis.history import read_history
    from tbench.analysis.replicates import load_replicates

    if asked.trend:
        raise InputError("--trend is for runs that took turns; a baseline file has sessions")
    gates, warmup = asked.read()
    judgement = evaluate_history(read_history(history), load_replicates(*runs), gates, warmup)
    return published(judgement, outlets)


def _kept(history: Path, runs: Sequence[Path], asked: Asked, *, as_json: bool) -> int:
    """Append the runs of one arm to a baseline file as a session. Returns 0."""
    from tbench.analysis.evaluate_history import LEAST_SESSIONS, session_of
    from tbench.analysis.history import History, appended, read_history, write_history
    from tbench.analysis.replicates import load_replicates
    from tbench.analysis.report.machine import dump

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


PAIR = "One pair of runs"


@verb
def compare(
    baseline: Annotated[
        Path, Option(help="Run (or trace) to compare with, or several.", argument=True)
    ],
    candidate: Annotated[
        Path | None, Option(help="Run (or trace) to judge, or several.", argument=True)
    ] = None,
    more: Annotated[
        list[Path] | None,
        Option(help="With gates: more candidates, each several runs.", argument=True),
    ] = None,
    metric: Annotated[
        list[str] | None,
        Option(
            help="Compare this metric only. Repeatable.",
            unit="METRIC",
            group=PAIR,
            default="ttft, e2e, tpot, itl",
        ),
    ] = None,
    quantile: Annotated[
        list[float] | None,
        Option(
            help="Compare this quantile only, such as 0.95. Repeatable.",
            unit="Q",
            group=PAIR,
            default="0.5, 0.9, 0.95, 0.99, 0.999 as far as n allows",
        ),
    ] = None,
    unpaired: Annotated[
        bool,
        Option(
            help="Compare as two samples, for runs that do not share a trace. Weaker.", group=PAIR
        ),
    ] = False,
    warmup: Annotated[
        str | None,
        Option(
            help="Leave the beginning of both out: auto (60 s, at most 1/16), none, seconds, or a share "
            "(5%).",
            unit="WARMUP",
            group=PAIR,
            default="as the runs were made; auto for a trace",
        ),
    ] = None,
    margin: Margin = None,
    gate: Gates = (),
    slo: Slo = None,
    trend: Trend = False,
    baseline_file: Annotated[
        Path | None,
        Option(
            help="Judge all RUNS given, of one arm, against the sessions that this file keeps.",
            unit="FILE.json",
            group=GATES,
        ),
    ] = None,
    save_baseline: Annotated[
        Path | None,
        Option(
            help="Judge nothing: append all RUNS given, of one arm, to this file as a session, with the "
            "figures of the gates.",
            unit="FILE.json",
            group=GATES,
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        Option(help="Also write JUnit XML, a test case for each gate.", unit="FILE", group=OUTPUT),
    ] = None,
    markdown: Annotated[
        str | None,
        Option(
            help="Also write a summary for a comment to this file; - prints it instead.",
            unit="FILE",
            group=OUTPUT,
        ),
    ] = None,
    self_check: Annotated[
        bool,
        Option(
            help="Compare the repeated runs of BASELINE (and those of CANDIDATE, if given) with each "
            "other: what equal arms show is the noise floor.",
            group=PAIR,
        ),
    ] = False,
    html: Html = None,
    charts: Charts = None,
    xlsx: Xlsx = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Compare two runs of the same trace, request by request: candidate / baseline.

    One pair of runs advises; it never decides, since what differs from run to run cannot be seen in it.
    Each ratio comes with its n, an interval that survives slow changes of load, and what to beware of.
    Ends with 0, or with 4 where a run is INVALID: its own client was the limit.

    With --margin or --gate, BASELINE and CANDIDATE are folders or quoted globs of three runs or more, and the
    run is the unit: 0 is PASS, 1 FAIL, 3 INCONCLUSIVE (too few runs, runs that did not take
    turns, or an interval that holds the margin), 4 INVALID.
    """
    shared = Shared(html=html, charts=charts, xlsx=xlsx)
    runs = [path for path in (baseline, candidate, *(more or [])) if path is not None]
    outlets = Outlets(as_json=as_json, junit=junit, markdown=markdown, shared=shared)
    asked = Asked(
        margin=margin,
        gates=gate,
        slo=slo,
        trend=trend,
        warmup=warmup,
        baseline_file=baseline_file,
        save_baseline=save_baseline,
    )
    if self_check:
        if unpaired or outlets.files or asked.more or slo is not None:
            raise InputError(
                "--self-check has no page and pairs its runs: no --html, --charts, --xlsx, --junit, "
                "--markdown, no --unpaired, --slo, --trend, no baseline file"
            )
        options = (metric or (), quantile or (), warmup)
        return self_checked(runs, options, (margin, gate), as_json=as_json)
    several = len(runs) > 2 or any(not path.is_file() for path in runs)
    if asked.repeated or (slo is not None and several):
        if metric or quantile or unpaired:
            raise InputError(
                "--metric, --quantile and --unpaired are for one pair of runs, not for gates"
            )
        return judged(runs, asked, outlets)
    _check_pair(runs, junit)
    from tbench.analysis.compare import CompareOptions, Verdict, compare_files
    from tbench.analysis.report.ci import comparison_markdown
    from tbench.analysis.report.machine import comparison_json, dump
    from tbench.analysis.report.text import comparison_text, pair_text
    from tbench.analysis.slo import parse_slo
    from tbench.commands.output import command_line, show, terminal
    from tbench.replay.pacing import parse_warmup

    question = CompareOptions(
        metrics=tuple(metric or ()),
        quantiles=tuple(quantile or ()),
        paired=not unpaired,
        warmup=None if warmup is None else parse_warmup(warmup),
        slo=() if slo is None else parse_slo(slo),
    )
    comparisons = compare_files(runs[0], runs[1], question)
    if shared:
        from tbench.analysis.report.page import comparison_report
        from tbench.analysis.report.workbook import comparison_book

        line = command_line()
        shared.write(
            lambda: comparison_report(comparisons, command=line),
            lambda file: comparison_book(comparisons, file, command=line),
        )
    comment = markdown and put_markdown(comparison_markdown(comparisons, command_line()), markdown)
    if as_json or comment:
        typer.echo(comment or dump(comparison_json(comparisons)))
    else:
        show((comparison_text if verbose else pair_text)(comparisons, **terminal()))
    return 4 if comparisons.verdict is Verdict.INVALID else 0


def _check_pair(runs: Sequence[Path], junit: Path | None) -> None:
    if len(runs) != 2:
        raise InputError(
            "one pair of runs has a BASELINE and a CANDIDATE; several need --margin or --gate"
        )
    if junit is not None:
        raise InputError("--junit has a test case for each gate: give --margin or --gate")


# The noise floor of one arm's repeated runs, for `tbench compare --self-check`.

SEED = 1
"""Of the splits that are drawn where there are too many: the same files give the same numbers."""


def self_checked(
    arms: Sequence[Path],
    asked: tuple[Sequence[str], Sequence[float], str | None],
    gates: tuple[str | None, Sequence[str]],
    *,
    as_json: bool,
) -> int:
    """Print what equal arms show, for metrics, quantiles and a warm-up; 4 where a run is INVALID, else 0."""
    import numpy as np

    from tbench.analysis.compare import CompareOptions
    from tbench.analysis.gate import parse_gates, parse_margin
    from tbench.analysis.replicates import load_replicates
    from tbench.analysis.report.machine import dump
    from tbench.analysis.report.planning import self_check_json, self_check_text
    from tbench.analysis.selfcheck import self_check
    from tbench.replay.pacing import parse_warmup

    metrics, quantiles, warmup = asked
    question = CompareOptions(
        metrics=tuple(metrics),
        quantiles=tuple(quantiles),
        warmup=None if warmup is None else parse_warmup(warmup),
    )
    held = parse_gates(*gates) or parse_margin("5%")
    noise = self_check(
        [load_replicates(arm) for arm in arms], question, held, np.random.default_rng(SEED)
    )
    typer.echo(dump(self_check_json(noise)) if as_json else "\n".join(self_check_text(noise)))
    return 4 if any(caution.code == "INVALID_RUN" for caution in noise.warnings) else 0
