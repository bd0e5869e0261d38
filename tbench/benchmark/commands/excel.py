"""tbench excel: a benchmark's folder, ours or genai-bench's, as a workbook."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tbench.capture.option import Option
from tbench.flags import verb


@verb
def excel(
    experiment_folder: Annotated[
        Path, Option(help="The folder of a benchmark, of tbench or of genai-bench.")
    ],
    excel_name: Annotated[
        str, Option(help="What the workbook is called, in that folder; .xlsx is added.")
    ],
    metric_percentile: Annotated[
        Literal["mean", "p25", "p50", "p75", "p90", "p95", "p99"],
        Option(help="Which figure of a point's requests Summary and Appendix show."),
    ] = "mean",
    metrics_time_unit: Annotated[
        Literal["s", "ms"] | None, Option(help="Of latencies. Default: as the results.")
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
