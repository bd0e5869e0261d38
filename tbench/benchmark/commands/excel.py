"""tbench excel: a benchmark's folder, ours or genai-bench's, as a workbook."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tbench.capture.option import Option
from tbench.flags import verb


@verb
def excel(
    experiment_folder: Annotated[
        Path, Option(help="Folder of a benchmark, of tbench or of genai-bench.", unit="DIR")
    ],
    excel_name: Annotated[
        str, Option(help="Name of the workbook, in that folder; .xlsx is added.", unit="NAME")
    ],
    metric_percentile: Annotated[
        Literal["mean", "p25", "p50", "p75", "p90", "p95", "p99"],
        Option(help="Figure of a point's requests that Summary and Appendix show.", unit="FIGURE"),
    ] = "mean",
    metrics_time_unit: Annotated[
        Literal["s", "ms"] | None, Option(help="Unit of latencies.", default="as the results")
    ] = None,
) -> None:
    """Make a workbook of a benchmark: what to choose, every point, every request, and charts.

    What its reader must know (points that are missing, requests that failed) is in it, and on stderr.
    """
    from tbench.benchmark.folder import load_experiment
    from tbench.benchmark.workbook import write_workbook
    from tbench.capture.errors import InputError

    if not excel_name.strip():
        raise InputError("--excel-name '': give the workbook a name")
    name = excel_name if excel_name.lower().endswith(".xlsx") else f"{excel_name}.xlsx"
    experiment = load_experiment(experiment_folder, metrics_time_unit)
    if not experiment.points:
        raise InputError(f"{experiment_folder}: there is no result of a benchmark in it")
    path = experiment_folder / name
    for note in write_workbook(experiment, path, metric_percentile):
        print(note, file=sys.stderr)
    print(path)
