"""tbench report: one run or trace in numbers."""

from pathlib import Path
from typing import Annotated

import typer

from tbench.commands.sharing import Charts, Html, Shared, Xlsx


def report(
    run: Annotated[Path, typer.Argument(help="A run file, or a trace.")],
    samples: Annotated[
        bool, typer.Option("--samples", help="With --json: every sample as well, as columns.")
    ] = False,
    slo: Annotated[
        str | None,
        typer.Option(
            help="What makes a request a good one, for the share and the rate of them: "
            "'ttft<500ms,tpot<50ms,e2e<3s'."
        ),
    ] = None,
    html: Html = None,
    charts: Charts = None,
    xlsx: Xlsx = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the numbers as one JSON object.")
    ] = False,
) -> None:
    """Report one run: what became of its requests, and each metric with its quantiles.

    A quantile of too few requests is marked, with the number that it needs for an interval. Ends with 4
    where the run is INVALID: its client was the limit, it was killed, or its file is damaged.
    """
    from analysis.arms import load_arm
    from analysis.report.machine import dump, report_json
    from analysis.report.terminal import run_text
    from analysis.slo import parse_slo
    from capture.errors import InputError, InvalidRunError, UnreachableError
    from tbench.commands.output import command_line, show, terminal

    if samples and not as_json:
        raise InputError("--samples prints JSON: add --json")
    objectives = () if slo is None else parse_slo(slo)
    arm = load_arm(run)
    arm.check_not_empty()
    if shared := Shared(html=html, charts=charts, xlsx=xlsx):
        from analysis.report.page import run_report
        from analysis.report.workbook import run_book

        line = command_line()
        shared.write(
            lambda: run_report(arm, command=line, slo=objectives),
            lambda file: run_book(arm, file, command=line),
        )
    if as_json:
        typer.echo(dump(report_json(arm, samples=samples, slo=objectives)))
    else:
        show(run_text(arm, slo=objectives, **terminal()))
    if not arm.ok.any():
        raise UnreachableError(f"{run}: no request succeeded; the report says how they failed")
    if arm.invalid_because:
        raise InvalidRunError(f"{run}: INVALID, {arm.invalid_because}")
