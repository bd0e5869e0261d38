"""tbench compare: two runs of one trace, as ratios of quantiles with their intervals."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tbench.capture.errors import InputError
from tbench.commands.gating import Asked, judged
from tbench.commands.publishing import Outlets, put_markdown
from tbench.commands.sharing import Charts, Html, Shared, Xlsx


def compare(
    baseline: Annotated[
        Path, typer.Argument(help="The run (or trace) to compare with, or several.")
    ],
    candidate: Annotated[
        Path | None, typer.Argument(help="The run (or trace) to be judged, or several.")
    ] = None,
    more: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[MORE]...", help="With gates: more candidates, each several runs."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Only this metric; may be repeated. Default: ttft, e2e, tpot, itl."),
    ] = None,
    quantile: Annotated[
        list[float] | None,
        typer.Option(
            help="Only this quantile, such as 0.95; may be repeated. Default: 0.5, 0.9, 0.95, 0.99, and "
            "0.999 where there are enough requests."
        ),
    ] = None,
    unpaired: Annotated[
        bool,
        typer.Option(
            "--unpaired", help="Compare as two samples, for arms that do not share a trace. Weaker."
        ),
    ] = False,
    warmup: Annotated[
        str | None,
        typer.Option(
            help="Left out of both arms: auto (60 s, at most 1/16), none, seconds, or a share (5%). "
            "Default: as the runs were made; auto for a trace."
        ),
    ] = None,
    margin: Annotated[
        str | None,
        typer.Option(
            help="Gate: TTFT and end to end, p50 and p95, may get worse by less than this (5%), and failures "
            "by 0.5 points (--gate errors:2pp says otherwise). For repeated runs: BASELINE and CANDIDATE are "
            "then folders or quoted globs of at least three runs."
        ),
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            help="Gate one quantity of repeated runs: ttft:p95:5%, errors:0.5pp, goodput:1pp, "
            "requests_per_s:5%, or a limit that the candidate must hold: 'ttft:p95<=500ms', "
            "'goodput>=99%'; may be repeated."
        ),
    ] = None,
    slo: Annotated[
        str | None,
        typer.Option(
            help="What makes a request a good one, for goodput: 'ttft<500ms,tpot<50ms,e2e<3s'."
        ),
    ] = None,
    trend: Annotated[
        bool,
        typer.Option(
            "--trend",
            help="With gates: take a straight drift over the runs out of the difference. Only as you decided "
            "before the runs, and only where chance decided which arm began each pair.",
        ),
    ] = False,
    baseline_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="With gates: hold all RUNS given, of one arm, against the sessions that this file keeps.",
        ),
    ] = None,
    save_baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Judge nothing: append all RUNS given, of one arm, to this file as a session, with the "
            "figures of the gates.",
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(help="With gates: also write JUnit XML, a test case for each gate."),
    ] = None,
    markdown: Annotated[
        str | None,
        typer.Option(help="Also write a summary for a comment to this file; - prints it instead."),
    ] = None,
    self_check: Annotated[
        bool,
        typer.Option(
            "--self-check",
            help="Compare the repeated runs of BASELINE (and those of CANDIDATE, if given) with each other: "
            "what equal arms show is the noise floor.",
        ),
    ] = False,
    sketch: Annotated[
        bool,
        typer.Option(
            "--sketch",
            help="Count values in buckets (relative error 0.1%) instead of keeping them: bounded memory, "
            "unpaired. By itself for runs of over 5,000,000 requests.",
        ),
    ] = False,
    html: Html = None,
    charts: Charts = None,
    xlsx: Xlsx = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the comparison as one JSON object.")
    ] = False,
) -> int:
    """Compare two runs of the same trace, request by request: candidate / baseline.

    One pair of runs advises; it never decides, since what differs from run to run cannot be seen in it.
    Each ratio comes with its n, an interval that survives slow changes of load, and what to beware of.
    Ends with 0, or with 4 where a run is INVALID: its own client was the limit.

    With a gate the run is the unit: 0 is PASS, 1 FAIL, 3 INCONCLUSIVE (too few runs, runs that did not take
    turns, or an interval that holds the margin), 4 INVALID.
    """
    shared = Shared(html=html, charts=charts, xlsx=xlsx)
    runs = [path for path in (baseline, candidate, *(more or [])) if path is not None]
    outlets = Outlets(as_json=as_json, junit=junit, markdown=markdown, shared=shared)
    asked = Asked(
        margin=margin,
        gates=gate or [],
        slo=slo,
        trend=trend,
        warmup=warmup,
        baseline_file=baseline_file,
        save_baseline=save_baseline,
    )
    if sketch and (self_check or asked.repeated):
        raise InputError("--sketch is for one pair of runs, not for --self-check or gates")
    if self_check:
        from tbench.commands.selfchecking import self_checked

        if unpaired or outlets.files or asked.more or slo is not None:
            raise InputError(
                "--self-check has no page and pairs its runs: no --html, --charts, --xlsx, --junit, "
                "--markdown, no --unpaired, --slo, --trend, no baseline file"
            )
        options = (metric or (), quantile or (), warmup)
        return self_checked(runs, options, (margin, gate or []), as_json=as_json)
    several = len(runs) > 2 or any(not path.is_file() for path in runs)
    if asked.repeated or (slo is not None and several):
        if metric or quantile or unpaired:
            raise InputError(
                "--metric, --quantile and --unpaired are for one pair of runs, not for gates"
            )
        return judged(runs, asked, outlets)
    _check_pair(runs, junit)
    from tbench.analysis.compare import Question, Verdict
    from tbench.analysis.report.machine import comparison_json, dump
    from tbench.analysis.report.markdown import comparison_markdown
    from tbench.analysis.report.terminal import comparison_text
    from tbench.analysis.sketched import compare_files
    from tbench.analysis.slo import parse_slo
    from tbench.commands.output import command_line, show, terminal
    from tbench.replay.warmup import parse_warmup

    question = Question(
        metrics=tuple(metric or ()),
        quantiles=tuple(quantile or ()),
        paired=not unpaired,
        warmup=None if warmup is None else parse_warmup(warmup),
        slo=() if slo is None else parse_slo(slo),
    )
    if shared:
        _check_size(runs, sketch=sketch)
    found = compare_files(runs[0], runs[1], question, sketch=sketch)
    if shared:
        from tbench.analysis.report.page import comparison_report
        from tbench.analysis.report.workbook import comparison_book

        line = command_line()
        shared.write(
            lambda: comparison_report(found, command=line),
            lambda file: comparison_book(found, file, command=line),
        )
    comment = markdown and put_markdown(comparison_markdown(found, command_line()), markdown)
    if as_json or comment:
        typer.echo(comment or dump(comparison_json(found)))
    else:
        show(comparison_text(found, **terminal()))
    return 4 if found.verdict is Verdict.INVALID else 0


def _check_size(runs: Sequence[Path], *, sketch: bool) -> None:
    from tbench.analysis.outsized import outsized

    if sketch or any(map(outsized, runs)):
        raise InputError(
            "a page, pictures and sheets show single requests, which are not kept with --sketch or beyond "
            "5,000,000 of them; leave out --html, --charts and --xlsx"
        )


def _check_pair(runs: Sequence[Path], junit: Path | None) -> None:
    if len(runs) != 2:
        raise InputError(
            "one pair of runs has a BASELINE and a CANDIDATE; several need --margin or --gate. Try --help."
        )
    if junit is not None:
        raise InputError("--junit has a test case for each gate: give --margin or --gate")
