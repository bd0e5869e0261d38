"""tbench report: one run or trace in numbers."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from tbench.capture.option import Option
from tbench.commands.output import OUTPUT, Charts, Html, Json, Reports, Slo, Xlsx
from tbench.flags import verb
from tbench.settings import announce, sources


@verb
def report(
    run: Annotated[Path, Option(help="Run file, trace, or benchmark's folder.", argument=True)],
    samples: Annotated[
        bool, Option(help="With --json: print every sample as well, as columns.", group=OUTPUT)
    ] = False,
    slo: Slo = None,
    html: Html = None,
    charts: Charts = None,
    xlsx: Xlsx = None,
    as_json: Json = False,
) -> None:
    """Report one run, trace or benchmark: what became of its requests, and the quantiles of each metric.

    A quantile of too few requests is marked, with the number that it needs for an interval. Exit code 4
    where the run, or a point, is INVALID: its client was the limit, it was killed, or its file is damaged.
    """
    from tbench.analysis.beyond import load
    from tbench.analysis.report.machine import dump, report_json
    from tbench.analysis.report.text import run_text
    from tbench.analysis.run_metrics import parse_slo
    from tbench.benchmark.genai_bench import METADATA
    from tbench.capture.errors import InputError, InvalidRunError, UnreachableError
    from tbench.commands.output import command_line, show, terminal

    if samples and not as_json:
        raise InputError("--samples prints JSON: add --json")
    objectives = () if slo is None else parse_slo(slo)
    if run.is_dir() and (run / METADATA).is_file():
        asked = None if "slo" in sources else slo
        given = {"--html": html, "--charts": charts, "--xlsx": xlsx, "--slo": asked}
        _sweep(
            run, [name for name, value in given.items() if value], samples=samples, as_json=as_json
        )
        return
    announce()
    reports = Reports(html=html, charts=charts, xlsx=xlsx)
    arm = load(run, slo=objectives)
    arm.check_not_empty()
    if reports:
        from tbench.analysis.report.page import run_report
        from tbench.analysis.report.workbook import run_book

        line = command_line()
        reports.write(
            lambda: run_report(arm, command=line, slo=objectives),
            lambda file: run_book(arm, file, command=line, slo=objectives),
        )
    if as_json:
        typer.echo(dump(report_json(arm, samples=samples, slo=objectives)))
    else:
        show(run_text(arm, slo=objectives, **terminal()))
    if not arm.succeeded:
        raise UnreachableError(f"{run}: no request succeeded; the report says how they failed")
    if arm.invalid_because:
        raise InvalidRunError(f"{run}: INVALID, {arm.invalid_because}")


def _sweep(folder: Path, given: Sequence[str], *, samples: bool, as_json: bool) -> None:
    """Report a benchmark's folder; `given` are the options that only one run has."""
    from tbench.analysis.report.machine import dump
    from tbench.benchmark.folder import load_experiment
    from tbench.benchmark.report import check, sweep_json, sweep_text
    from tbench.capture.errors import InputError
    from tbench.commands.output import show, terminal

    for option in [*given, *(["--samples"] if samples else [])]:
        instead = ELSEWHERE.get(option, "report one of its runs").format(shlex.quote(str(folder)))
        raise InputError(f"{option}: not of a benchmark's folder; {instead}")
    sweep = load_experiment(folder)
    if sweep.points:
        show(dump(sweep_json(sweep)) if as_json else sweep_text(sweep, **terminal()))
    check(sweep)


PAGES: Final = "tbench plot --experiments-folder {}"
ELSEWHERE: Final = {
    "--html": f"its pages: {PAGES} --format html",
    "--charts": f"its pictures: {PAGES}",
    "--xlsx": "its workbook: tbench excel --experiment-folder {} --excel-name NAME",
}
"""Where a benchmark has what an option asks for."""
