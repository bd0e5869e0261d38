"""The layout of a benchmark's folder: genai-bench's names and JSON, so that its users' scripts keep working.

`experiment_metadata.json`, and one `SCENARIO_TASK_AXIS_VALUE_time_Ns.json` for each point; beside them what
is ours: the runs, and the traces that they replayed.
"""

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from tbench.benchmark.aggregate import Trim, aggregate, in_unit, individual
from tbench.benchmark.sweep import Point
from tbench.capture.errors import InputError, TbenchError
from tbench.capture.writing import write_whole
from tbench.replay.measures import Columns, in_flight

METADATA: Final = "experiment_metadata.json"
OWN: Final = "tbench_benchmark.json"
"""What is ours in a benchmark's folder besides runs and traces: its id, and the options that made it."""
_UNSAFE: Final = str.maketrans({"/": "_", ",": "_", "(": None, ")": None})


def folder_name(parts: Iterable[str | None], now: float) -> str:
    """`BACKEND_[ENGINE_][VERSION_]TASK_MODEL_YYYYmmdd_HHMMSS` of the parts that there are."""
    stamp = time.strftime("%Y%m%d_%H%M%S", time.localtime(now))
    return "_".join([*(part.replace("/", "_") for part in parts if part), stamp])


def stem(point: Point, task: str) -> str:
    """What the files of a point are called."""
    again = f"_run_{point.repeat}" if point.repeat > 1 else ""
    return f"{point.scenario.translate(_UNSAFE)}_{task}_{point.axis}_{point.value:g}{again}"


def result_name(point: Point, task: str, duration_s: float) -> str:
    """The name of a point's result; those of a rate are ours, which genai-bench's loader passes over."""
    return f"{stem(point, task)}_time_{round(duration_s)}s.json"


def result(point: Point, columns: Columns, trim: Trim, unit: str) -> dict[str, Any]:
    """The content of a point's file. `unit` is that of the latencies, `s` or `ms`.

    Where arrivals are open the most that were in flight at once stands for the concurrency.
    """
    named = {
        "scenario": point.scenario,
        "num_concurrency": point.concurrency or in_flight(columns)["max"] or 1,
        "batch_size": point.batch_size,
        "iteration_type": point.axis,
    }
    ours = {"request_rate": point.rate, "repeat": point.repeat, "seed": point.seed}
    return {
        "aggregated_metrics": {**named, **ours, **in_unit(aggregate(columns, trim), unit)},
        "individual_request_metrics": [in_unit(request, unit) for request in individual(columns)],
        "_time_unit": unit,
    }


def write_json(
    path: Path, content: Mapping[str, Any], *, failure: type[TbenchError] = InputError
) -> None:
    """Write it for its owner only, as a whole or not at all. Raises `failure` where that cannot be."""
    write_whole(path, json.dumps(content, indent=4), failure=failure)
