"""tbench compare: two runs of one trace, as ratios of quantiles with their intervals."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tbench.capture.errors import InputError
from tbench.capture.option import Option
from tbench.capture.writing import check_folder
from tbench.commands.output import (
    EXITS,
    GATES,
    OUTPUT,
    Charts,
    Gates,
    Html,
    Json,
    Margin,
    Reports,
    Slo,
    Trend,
    Verbose,
    Xlsx,
    command_line,
    show,
    terminal,
    write_shared,
)
from tbench.flags import verb
from tbench.settings import UNCOUNTED, announce, sources

if TYPE_CHECKING:
    from tbench.analysis.gate import Gate
    from tbench.analysis.gate_estimate import Method
    from tbench.analysis.gate_results import GateResults
    from tbench.analysis.run_metrics import Objective
    from tbench.replay.pacing import Warmup

PAIR = "One pair of runs"
SEED = 1
"""Of the splits that are drawn where there are too many: the same files give the same numbers."""


@dataclass(frozen=True, kw_only=True)
class CompareFlags:
    """The options of `tbench compare`. Raises InputError where reports cannot be written as asked."""

    baseline: Annotated[
        Path, Option(help="Run (or trace) to compare with, or several.", argument=True)
    ]
    candidate: Annotated[
        Path | None, Option(help="Run (or trace) to judge, or several.", argument=True)
    ] = None
    more: Annotated[
        list[Path] | None,
        Option(help="With gates: more candidates, each several runs.", argument=True),
    ] = None
    metric: Annotated[
        list[str] | None,
        Option(
            help="Compare this metric only. Repeatable.",
            unit="METRIC",
            group=PAIR,
            default="ttft, e2e, tpot, itl",
        ),
    ] = None
    quantile: Annotated[
        list[float] | None,
        Option(
            help="Compare this quantile only, such as 0.95. Repeatable.",
            unit="Q",
            group=PAIR,
            default="0.5, 0.9, 0.95, 0.99, 0.999 as far as n allows",
        ),
    ] = None
    unpaired: Annotated[
        bool,
        Option(
            help="Compare as two samples, for runs that do not share a trace. Weaker.", group=PAIR
        ),
    ] = False
    warmup: Annotated[
        str | None,
        Option(
            help="Leave out the beginning of both: auto (60 s, at most 1/16), none, seconds, or a "
            "share (5%).",
            unit="WARMUP",
            group=PAIR,
            default="as the runs were made; auto for a trace",
        ),
    ] = None
    margin: Margin = None
    gate: Gates = ()
    slo: Slo = None
    trend: Trend = False
    baseline_file: Annotated[
        Path | None,
        Option(
            help="Judge all given RUNS, of one arm, against the sessions in this file.",
            unit="FILE.json",
            group=GATES,
        ),
    ] = None
    save_baseline: Annotated[
        Path | None,
        Option(
            help="Append all given RUNS, of one arm, to this file as a session, with the gates' "
            "figures; judge nothing.",
            unit="FILE.json",
            group=GATES,
        ),
    ] = None
    junit: Annotated[
        Path | None,
        Option(help="Also write JUnit XML, a test case for each gate.", unit="FILE", group=OUTPUT),
    ] = None
    markdown: Annotated[
        str | None,
        Option(
            help="Also write a summary for a comment to this file; - prints it instead.",
            unit="FILE",
            group=OUTPUT,
        ),
    ] = None
    self_check: Annotated[
        bool,
        Option(
            help="Compare the repeated runs of BASELINE (and those of CANDIDATE, if given) with "
            "each other, to find the noise floor.",
            group=PAIR,
        ),
    ] = False
    html: Html = None
    charts: Charts = None
    xlsx: Xlsx = None
    as_json: Json = False
    verbose: Verbose = False

    def __post_init__(self) -> None:
        """Check where reports go."""
        if self.as_json and self.markdown == "-":
            raise InputError("--json and --markdown - both print to stdout; name a file for one")
        for option, name in (("--junit", self.junit), ("--markdown", self.markdown)):
            if name is not None and name != "-":
                check_folder(Path(name), f"{option} {name}")

    @property
    def runs(self) -> list[Path]:
        """What is compared, the baseline first."""
        paths = (self.baseline, self.candidate, *(self.more or ()))
        return [path for path in paths if path is not None]

    @property
    def written(self) -> bool:
        """Whether anything but the text or the JSON is asked for."""
        return bool(self.junit or self.markdown or self.html or self.charts or self.xlsx)

    def asked(self, key: str) -> bool:
        """Whether it was given for these runs, and does not stand in the settings for all."""
        return getattr(self, key) is not None and key not in sources

    def objectives(self) -> "tuple[Objective, ...]":
        """What makes a request a good one. Raises InputError."""
        from tbench.analysis.run_metrics import parse_slo

        return () if self.slo is None else parse_slo(self.slo)

    def left_out(self) -> "Warmup | None":
        """The warm-up. Raises InputError."""
        from tbench.replay.pacing import parse_warmup

        return None if self.warmup is None else parse_warmup(self.warmup)


@verb
def compare(flags: CompareFlags) -> int:
    """Compare two runs of the same trace, request by request: candidate / baseline.

    One pair of runs advises; it never decides, since it does not show what differs from run to run.
    Each ratio comes with its n, an interval that survives slow changes of load, and its caveats.
    Exit code 0, or 4 where a run is INVALID: its client was the limit.

    With --margin or --gate, BASELINE and CANDIDATE are folders or quoted globs of three runs or more, and
    the exit code is the verdict: 0 PASS, 1 FAIL, 3 INCONCLUSIVE (too few runs, runs that are not
    interleaved, or an interval that holds the margin), 4 INVALID.
    """
    reports = Reports(html=flags.html, charts=flags.charts, xlsx=flags.xlsx)
    runs = flags.runs
    announce()
    history = flags.trend or flags.baseline_file or flags.save_baseline
    if flags.self_check:
        if flags.unpaired or flags.written or history or flags.asked("slo"):
            raise InputError(
                "--self-check has no page and pairs its runs: no --html, --charts, --xlsx, --junit, "
                "--markdown, no --unpaired, --slo, --trend, no baseline file"
            )
        return _self_checked(flags)
    # A margin of the settings is no order: it judges what can only be judged, several runs of an arm.
    ready = flags.margin is not None or flags.asked("slo")
    repeated = ready and (len(runs) > 2 or _several(runs))
    if repeated or flags.asked("margin") or flags.gate or history:
        if flags.metric or flags.quantile or flags.unpaired:
            raise InputError(
                "--metric, --quantile and --unpaired are for one pair of runs, not for gates"
            )
        return _judged(flags, reports)
    if len(runs) != 2:
        raise InputError(
            "one pair of runs has a BASELINE and a CANDIDATE; several need --margin or --gate; see tbench "
            "compare --help"
        )
    if flags.junit is not None:
        raise InputError("--junit has a test case for each gate: give --margin or --gate")
    return _paired(flags, reports)


def _several(paths: list[Path]) -> bool:
    """Whether a folder holds runs, or a glob names several; a pattern of one run is that run."""
    from tbench.analysis.arms import runs_among

    return any(len(runs_among(path)) > (0 if path.is_dir() else 1) for path in paths)


def _paired(flags: CompareFlags, reports: Reports) -> int:
    """Compare one pair of runs, and print and write what was asked for. Returns the exit code."""
    from tbench.analysis.compare import CompareOptions, Verdict, compare_files
    from tbench.analysis.report.ci import comparison_markdown
    from tbench.analysis.report.machine import comparison_json, dump
    from tbench.analysis.report.text import comparison_text, pair_text

    question = CompareOptions(
        metrics=tuple(flags.metric or ()),
        quantiles=tuple(flags.quantile or ()),
        paired=not flags.unpaired,
        warmup=flags.left_out(),
        slo=flags.objectives(),
    )
    if flags.margin is not None:
        print("settings: margin: one pair of runs gets no verdict", file=sys.stderr)
    baseline, candidate = flags.runs
    comparisons = compare_files(baseline, candidate, question)
    line = command_line()
    if reports:
        from tbench.analysis.report.page import comparison_report
        from tbench.analysis.report.workbook import comparison_book

        reports.write(
            lambda: comparison_report(comparisons, command=line),
            lambda file: comparison_book(comparisons, file, command=line),
        )
    markdown = flags.markdown and _markdown(comparison_markdown(comparisons, line), flags.markdown)
    if flags.as_json or markdown:
        typer.echo(markdown or dump(comparison_json(comparisons)))
    else:
        show((comparison_text if flags.verbose else pair_text)(comparisons, **terminal()))
    return 4 if comparisons.verdict is Verdict.INVALID else 0


def _judged(flags: CompareFlags, reports: Reports) -> int:
    """Judge repeated runs, or keep them in a baseline file. Returns the exit code."""
    from tbench.analysis.gate import parse_gates
    from tbench.analysis.report.ci import judgement_junit, judgement_markdown
    from tbench.analysis.report.machine import dump, judgement_json
    from tbench.analysis.report.text import judgement_text

    if flags.baseline_file and flags.save_baseline:
        raise InputError("--baseline-file judges, --save-baseline keeps: one after the other")
    if flags.save_baseline and (flags.written or flags.trend):
        raise InputError("--save-baseline judges nothing: no reports, no --trend")
    if flags.baseline_file and flags.trend:
        raise InputError("--trend is for runs that took turns; a baseline file has sessions")
    gates = parse_gates(
        flags.margin, flags.gate, flags.objectives(), standing=not flags.asked("slo")
    )
    if "slo" in sources and not any(gate.slo for gate in gates):
        print(f"settings: slo: {UNCOUNTED}", file=sys.stderr)
    if flags.save_baseline:
        return _saved(flags.save_baseline, flags, gates)
    judgement = _judgement(flags, gates)
    line = command_line()
    if reports:
        from tbench.analysis.report.page import judgement_report
        from tbench.analysis.report.workbook import judgement_book

        if judgement.history is not None:
            raise InputError(
                "--html, --charts and --xlsx show runs; a baseline file has none of its own"
            )
        reports.write(
            lambda: judgement_report(judgement, command=line),
            lambda file: judgement_book(judgement, file, command=line),
        )
    if flags.junit is not None:
        write_shared("--junit", flags.junit, judgement_junit(judgement))
    markdown = flags.markdown and _markdown(judgement_markdown(judgement, line), flags.markdown)
    if flags.as_json:
        typer.echo(dump(judgement_json(judgement)))
    else:
        typer.echo(markdown or "\n".join(judgement_text(judgement, terminal()["width"])))
    return EXITS[judgement.verdict]


def _judgement(flags: CompareFlags, gates: "tuple[Gate, ...]") -> "GateResults":
    """The runs of one arm against a baseline file, or each argument as an arm, the first the baseline."""
    from tbench.analysis.arms import load_replicates
    from tbench.analysis.evaluate_history import evaluate_history
    from tbench.analysis.gate_results import evaluate_gates
    from tbench.analysis.history import read_history
    from tbench.replay.table import Desk

    runs, warmup, desk = flags.runs, flags.left_out(), Desk()
    if flags.baseline_file:
        history = read_history(flags.baseline_file)
        return evaluate_history(history, load_replicates(*runs, desk=desk), gates, warmup)
    if len(runs) < 2:
        raise InputError(
            "a CANDIDATE is missing: gates hold several runs against a BASELINE; see tbench compare --help"
        )
    if len(runs) > 2 and all(path.is_file() for path in runs):
        raise InputError(
            f"{len(runs)} run files: with gates each argument is an arm; name folders, or quote the globs"
        )
    arms = [load_replicates(run, desk=desk) for run in runs]
    contrast: Method = "trend" if flags.trend else "welch"
    return evaluate_gates(arms, gates, contrast=contrast, warmup=warmup)


def _saved(path: Path, flags: CompareFlags, gates: "tuple[Gate, ...]") -> int:
    """Append the runs of one arm to a baseline file as a session. Returns 0."""
    from tbench.analysis.arms import load_replicates
    from tbench.analysis.evaluate_history import LEAST_SESSIONS, session_of
    from tbench.analysis.history import History, appended, read_history, write_history
    from tbench.analysis.report.machine import dump
    from tbench.replay.table import Desk

    if not gates:
        raise InputError("--save-baseline keeps the figures of gates: give --margin or --gate")
    before = read_history(path) if path.exists() else History(path=path, sessions=())
    session = session_of(load_replicates(*flags.runs, desk=Desk()), gates, flags.left_out())
    after = appended(before, session)
    write_history(after)
    count = len(after.sessions)
    missing = max(0, LEAST_SESSIONS - count)
    facts = {
        "file": str(path),
        "sessions": count,
        "missing": missing,
        "recorded": session.recorded,
        "figures": list(session.figures),
    }
    more = f"; {missing} more until it can judge" if missing else ""
    typer.echo(dump(facts) if flags.as_json else f"{path}: {after.text}{more}")
    return 0


def _self_checked(flags: CompareFlags) -> int:
    """Print what equal arms show, the noise floor of repeated runs; 4 where a run is INVALID, else 0."""
    import numpy as np

    from tbench.analysis.arms import load_replicates
    from tbench.analysis.compare import CompareOptions
    from tbench.analysis.gate import parse_gates, parse_margin
    from tbench.analysis.report.machine import dump
    from tbench.analysis.report.planning import self_check_json, self_check_text
    from tbench.analysis.selfcheck import self_check
    from tbench.replay.table import Desk

    question = CompareOptions(
        metrics=tuple(flags.metric or ()),
        quantiles=tuple(flags.quantile or ()),
        warmup=flags.left_out(),
    )
    gates = parse_gates(flags.margin, flags.gate) or parse_margin("5%")
    desk = Desk(seats=2)  # each pair is compared
    arms = [load_replicates(run, desk=desk) for run in flags.runs]
    noise = self_check(arms, question, gates, np.random.default_rng(SEED))
    typer.echo(dump(self_check_json(noise)) if flags.as_json else "\n".join(self_check_text(noise)))
    return 4 if any(caution.code == "INVALID_RUN" for caution in noise.warnings) else 0


def _markdown(text: str, where: str) -> str | None:
    """Write it to a file; what is to be printed is given back."""
    if where == "-":
        return text.rstrip("\n")
    write_shared("--markdown", Path(where), text)
    return None
