"""tbench plot: the points of benchmarks as pictures (genai-bench's flags and file names)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tbench.capture.errors import InputError
from tbench.capture.option import Option
from tbench.capture.terminal import plural
from tbench.flags import verb

if TYPE_CHECKING:
    from tbench.benchmark.folder import BenchmarkFolder
    from tbench.benchmark.plots.layout import Grid

DEFAULT = "2x4_default"


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
        Option(help="Layout of your own: a JSON file (docs/benchmark.md).", unit="FILE"),
    ] = None,
    preset: Annotated[
        Literal["2x4_default", "simple_2x2", "multi_line_latency", "single_scenario_analysis"]
        | None,
        Option(
            help="Layout that is there; goes before --plot-config.",
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
    """Draw the points of benchmarks: throughput against latency, errors, by group; a picture for each panel.

    A combined picture and one for each panel, under genai-bench's names. Reads its folders, too.
    """
    from tbench.benchmark.folder import chosen, load_experiments

    chosen_formats = _formats(formats or ["png"])
    folders = load_experiments(experiments_folder, metrics_time_unit)
    if filter_criteria is not None:
        folders = chosen(folders, _criteria(filter_criteria))
    _say(folders, verbose=verbose)
    if list_fields:
        _list(folders)
        return
    grid, place = _grid(folders, plot_config, preset)
    _draw(folders, grid, place, group_key, None if validate_only else output or experiments_folder,
          chosen_formats, verbose=verbose)  # fmt: skip


def _draw(
    folders: Sequence["BenchmarkFolder"],
    grid: "Grid",
    place: str,
    key: str,
    folder: Path | None,
    formats: Sequence[str],
    *,
    verbose: bool,
) -> None:
    """Check everything, then write into the folder; None: the check is all."""
    import sys

    from tbench.benchmark.plots.files import checked, plot

    sheets = checked(folders, grid, key, place)
    if folder is None:
        print(f"{place}: {len(grid.panels)} plots on each of {len(sheets)} sheets are in order")
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"-o {folder}: cannot be made: {error.strerror}") from None
    for path in list(
        plot(sheets, grid, folder, folders[0].unit, formats)
    ):  # a reader may leave early
        print(path)
        if verbose:
            print(f"wrote {path.stat().st_size:,} bytes: {path}", file=sys.stderr)


def _formats(names: Sequence[str]) -> list[str]:
    """`png,svg` and the option given several times; raises InputError for another format."""
    formats = list(dict.fromkeys(name for text in names for name in text.split(",")))
    for name in formats:
        if name not in {"png", "svg", "html"}:
            raise InputError(f"--format {name}: give png, svg or html")
    return formats


def _criteria(text: str) -> dict[str, Any]:
    from tbench.capture.jsontext import loads

    try:
        criteria = loads(text)
    except ValueError as error:
        raise InputError(f"--filter-criteria: no JSON: {error}") from None
    if not isinstance(criteria, dict):
        raise InputError('--filter-criteria: give a JSON object, as in {"model": "m"}')
    return criteria


def _grid(
    folders: Sequence["BenchmarkFolder"], config: Path | None, preset: str | None
) -> tuple["Grid", str]:
    """The layout, and where it comes from."""
    from tbench.benchmark.plots.files import preset_for
    from tbench.benchmark.plots.layout import read_grid

    if config and not preset:
        return read_grid(config), str(config)
    name = preset or DEFAULT
    return preset_for(name, folders), f"preset {name}"


def _say(folders: Sequence["BenchmarkFolder"], *, verbose: bool) -> None:
    """What is missing always, what is there when asked for."""
    import sys

    for folder in folders:
        if verbose:
            scenarios = ", ".join(folder.scenarios) or "no scenario"
            print(
                f"{folder.folder}: {plural(len(folder.points), 'point')} of {scenarios}",
                file=sys.stderr,
            )
        for note in folder.notes:
            print(f"{folder.folder}: {note}", file=sys.stderr)


def _list(folders: Sequence["BenchmarkFolder"]) -> None:
    from tbench.benchmark.plots.data import held

    points = [point for folder in folders for point in folder.points]
    print(f"{'field':<46}{'unit':<12}{'points':>7}  values")
    for field in held(points, folders[0].unit):
        span = "-"
        if field.low is not None and field.high is not None:
            span = f"{field.low:.6g}" + (f" to {field.high:.6g}" if field.high > field.low else "")
        print(f"{field.field:<46}{field.unit:<12}{field.points:>7}  {span}")
