"""tbench benchmark, excel, plot and upload: their options; what they do is loaded when one runs.

The flags are genai-bench's, and ours.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, Literal

from tbench.benchmark.options import BenchmarkOptions
from tbench.capture.errors import InputError
from tbench.capture.option import Option
from tbench.commands.output import Json
from tbench.flags import verb

# genai-bench's flags for uploads: refused with one line that says what to write here instead.

SCHEMES: Final = {"aws": "s3", "azure": "az", "gcp": "gs"}
"""Its --storage-provider, and the scheme of a URL."""
ABSENT: Final = {
    "oci": "; OCI's S3-compatible endpoint goes in AWS_ENDPOINT_URL",
    "github": "; GitHub releases are no store for it",
}


def refuse(words: Sequence[str]) -> None:
    """Raise InputError for one of them, or for --upload-results without a value, which is theirs."""
    given = _given(words)
    theirs = [flag for flag in given if flag.startswith(("--storage-", "--github-"))]
    if "--namespace" in given:
        theirs.append("--namespace")
    bare = "--upload-results" in given and given["--upload-results"] is None
    if not theirs and not bare:
        return
    provider = given.get("--storage-provider") or "oci"
    scheme = SCHEMES.get(provider, "s3")
    place = f"{given.get('--storage-bucket') or 'BUCKET'}/{given.get('--storage-prefix') or ''}"
    raise InputError(
        f"{theirs[0] if theirs else '--upload-results'}: here the place is one URL: --upload-results "
        f"{scheme}://{place.rstrip('/')}, and credentials come from the environment (docs/genai-bench.md)"
        f"{ABSENT.get(provider, '') if theirs else ''}"
    )


def _given(words: Sequence[str]) -> dict[str, str | None]:
    """The flags, each with its value where the next word, or what stands behind `=`, is one."""
    flags: dict[str, str | None] = {}
    for word, behind in pairwise([*words, "--"]):
        flag, mark, value = word.partition("=")
        if flag.startswith("--"):
            flags[flag] = value if mark else None if behind.startswith("--") else behind
    return flags


@partial(verb, before=refuse)
def benchmark(options: BenchmarkOptions, *, as_json: Json = False) -> int:
    """Measure a model at every point of a sweep: scenario by concurrency, batch size or rate.

    The folder has genai-bench's layout and JSON, and beside them the runs, which report and compare read.
    A point whose requests all fail is a result. Exit code 0; 4 where a point's client was the limit; 5
    where nothing succeeds, or files could not be uploaded; 130 when interrupted (--resume continues).
    """
    from tbench.benchmark.command import benchmarked

    return benchmarked(options, as_json=as_json)


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

    Missing points and failed requests are named in it, and on stderr.
    """
    import sys

    from tbench.benchmark.folder import load_experiment
    from tbench.benchmark.workbook import write_workbook

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


@verb
def plot(
    experiments_folder: Annotated[
        Path, Option(help="Folder of a benchmark, or folder of several.", unit="DIR")
    ],
    group_key: Annotated[
        str,
        Option(
            help="What a line is: traffic_scenario; experiment_folder_name or a field of the metadata (a "
            "sheet for each scenario, a line for each experiment); none (a sheet for each scenario).",
            unit="FIELD",
        ),
    ] = "traffic_scenario",
    filter_criteria: Annotated[
        str | None,
        Option(
            help="Take only experiments whose metadata have these values; traffic_scenario picks points as "
            "well.",
            unit="JSON",
        ),
    ] = None,
    plot_config: Annotated[
        Path | None,
        Option(help="Custom layout: a JSON file (docs/benchmark.md).", unit="FILE"),
    ] = None,
    preset: Annotated[
        Literal["2x4_default", "simple_2x2", "multi_line_latency", "single_scenario_analysis"]
        | None,
        Option(
            help="Built-in layout; overrides --plot-config.",
            unit="NAME",
            default="2x4_default",
        ),
    ] = None,
    metrics_time_unit: Annotated[
        Literal["s", "ms"], Option(help="Unit of latencies in the pictures.")
    ] = "s",
    formats: Annotated[
        list[str] | None,
        Option(
            help="png, svg or html (one page for each sheet, which needs nothing else). Repeatable.",
            unit="FORMAT",
            flag="--format",
            default="png",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        Option(help="Folder for the pictures.", unit="DIR", short="-o", default="the experiments'"),
    ] = None,
    list_fields: Annotated[
        bool, Option(help="Print the fields that can be plotted, and end.")
    ] = False,
    validate_only: Annotated[bool, Option(help="Check the layout and the data, and end.")] = False,
    verbose: Annotated[bool, Option(help="Print what is read and what is written.")] = False,
) -> None:
    """Draw charts of benchmarks: throughput against latency, errors, by group.

    Writes a combined picture and one for each panel, under genai-bench's names. Reads its folders, too.
    """
    import sys

    from tbench.benchmark import plots
    from tbench.benchmark.folder import load_experiments, selected
    from tbench.benchmark.plots.data import field_lines
    from tbench.capture.terminal import plural
    from tbench.run_store import make_folder

    names = list(dict.fromkeys(name for text in formats or ["png"] for name in text.split(",")))
    for name in names:
        if name not in plots.FORMATS:
            raise InputError(f"--format {name}: give {', '.join(plots.FORMATS)}")
    folders = load_experiments(experiments_folder, metrics_time_unit)
    if filter_criteria is not None:
        folders = selected(folders, filter_criteria)
    for folder in folders:
        if verbose:
            scenarios = ", ".join(folder.scenarios) or "no scenario"
            points = plural(len(folder.points), "point")
            print(f"{folder.folder}: {points} of {scenarios}", file=sys.stderr)
        for note in folder.notes:
            print(f"{folder.folder}: {note}", file=sys.stderr)
    if list_fields:
        print(*field_lines(folders), sep="\n")
        return
    if plot_config and not preset:
        grid, place = plots.read_grid(plot_config), str(plot_config)
    else:
        name = preset or plots.DEFAULT
        grid, place = plots.preset_for(name, folders), f"preset {name}"
    sheets = plots.checked(folders, grid, group_key, place)
    if validate_only:
        print(f"{place}: {len(grid.panels)} plots on each of {len(sheets)} sheets are in order")
        return
    into = output or experiments_folder
    make_folder(into, "-o")
    # All are written before the first is named: who reads the names may leave early.
    for path in list(plots.plot(sheets, grid, into, folders[0].unit, names)):
        print(path)
        if verbose:
            print(f"wrote {path.stat().st_size:,} bytes: {path}", file=sys.stderr)


@verb
def upload(
    folder: Annotated[Path, Option(help="Folder that tbench benchmark made.", argument=True)],
    url: Annotated[
        str,
        Option(
            help="Where to put it: s3://bucket/prefix, gs://, az://, file:///folder (whatever fsspec knows).",
            argument=True,
        ),
    ],
    traces: Annotated[bool, Option(help="Upload traces/ too, which hold the prompts.")] = False,
    as_json: Json = False,
) -> int:
    """Upload a benchmark's folder below a URL, and compare each file there; an older copy of it is replaced.

    The same as benchmark's --upload-results, at any time. Credentials come from the environment. Exit
    code 5 where files could not be uploaded, which are named.
    """
    from tbench.benchmark.upload import uploaded

    return uploaded(folder, url, traces=traces, as_json=as_json)
