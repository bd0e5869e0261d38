"""tbench compare: two runs of one trace, as ratios of quantiles with their intervals."""

from pathlib import Path
from typing import Annotated

import typer

from capture.errors import InputError
from tbench.commands.sharing import Charts, Html, Shared, Xlsx


def compare(
    baseline: Annotated[
        Path, typer.Argument(help="The run (or trace) to compare with, or several.")
    ],
    candidate: Annotated[
        Path | None, typer.Argument(help="The run (or trace) to be judged, or several.")
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
            help="Gate: TTFT and end to end, p50 and p95, may get worse by less than this (5%). For repeated "
            "runs: BASELINE and CANDIDATE are then folders or quoted globs of at least three runs."
        ),
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(help="Gate one quantity: ttft:p95:5% or errors:0.5pp; may be repeated."),
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
    if sketch and (self_check or margin is not None or gate):
        raise InputError(
            "--sketch is for one pair of runs; leave out --self-check, --margin and --gate"
        )
    if self_check:
        from tbench.commands.selfchecking import self_checked

        if shared or unpaired:
            raise InputError(
                "--self-check has no page and pairs its runs: no --html, --charts, --xlsx, no --unpaired"
            )
        arms = [path for path in (baseline, candidate) if path is not None]
        asked = (metric or (), quantile or (), warmup)
        return self_checked(arms, asked, (margin, gate or []), as_json=as_json)
    if candidate is None:
        raise InputError("Missing argument 'CANDIDATE'. Try --help.")
    if margin is not None or gate:
        from tbench.commands.gating import gated

        return gated(baseline, candidate, (margin, gate or []), shared=shared, as_json=as_json)
    from analysis.compare import Question, Verdict
    from analysis.outsized import outsized
    from analysis.report.machine import comparison_json, dump
    from analysis.report.terminal import comparison_text
    from analysis.sketched import compare_files
    from replay.warmup import parse_warmup
    from tbench.commands.output import command_line, terminal

    question = Question(
        metrics=tuple(metric or ()),
        quantiles=tuple(quantile or ()),
        paired=not unpaired,
        warmup=None if warmup is None else parse_warmup(warmup),
    )
    if shared and (sketch or outsized(baseline) or outsized(candidate)):
        raise InputError(
            "a page, pictures and sheets show single requests, which are not kept with --sketch or beyond "
            "5,000,000 of them; leave out --html, --charts and --xlsx"
        )
    found = compare_files(baseline, candidate, question, sketch=sketch)
    if shared:
        from analysis.report.page import comparison_report
        from analysis.report.workbook import comparison_book

        line = command_line()
        shared.write(
            lambda: comparison_report(found, command=line),
            lambda file: comparison_book(found, file, command=line),
        )
    if as_json:
        typer.echo(dump(comparison_json(found)))
    else:
        typer.echo(comparison_text(found, **terminal()))
    return 4 if found.verdict is Verdict.INVALID else 0
