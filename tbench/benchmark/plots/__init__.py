"""Plots: the points of benchmarks as panels on sheets, by presets or by a layout of the user's own.

Each sheet becomes a combined picture and one of each panel, under genai-bench's names.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import altair as alt
import vl_convert

from tbench.analysis.report.figures import vega, whole_page
from tbench.analysis.report.markup import Html, join, tag
from tbench.benchmark.folder import SCENARIO, BenchmarkFolder, Unit, load_experiments
from tbench.benchmark.genai_bench import safe
from tbench.benchmark.plots import panels
from tbench.benchmark.plots.data import Sheet, check, sheets
from tbench.benchmark.plots.layout import DEFAULT, SWEPT, Grid, preset, read_grid
from tbench.benchmark.sweep import BATCHED
from tbench.capture.errors import InputError
from tbench.capture.writing import write_whole

__all__ = ["DEFAULT", "FORMATS", "checked", "default_plots", "plot", "preset_for", "read_grid"]

# A sheet as a page: its picture with tooltips, its data and its program, in a file that needs no other.

DRAW: Final = (
    'vegaEmbed(document.getElementById("sheet"), JSON.parse(document.getElementById("spec").textContent),'
    '{ actions: false, ast: true, renderer: "svg" }).then('
    '() => document.body.classList.add("drawn"), (error) => {'
    'document.getElementById("sheet").textContent = `This picture could not be drawn: ${error}`; });'
)
STYLE: Final = (
    "body { margin: 16px; background: #ffffff; color: #1a1d21; font-family: sans-serif; }"
)


def page(spec: dict[str, Any]) -> bytes:
    """The page of one Vega-Lite specification; nothing in its data can become markup, or end the script."""
    scripts = (vega(), DRAW)
    data = json.dumps(spec, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    body = tag(
        "body",
        tag("div", id="sheet"),
        tag("noscript", "The picture is drawn by a script, which is in this page and did not run."),
        tag("script", Html(data), type="application/json", id="spec"),
        join([tag("script", Html(script)) for script in scripts]),
    )
    return whole_page(spec["title"]["text"], STYLE, body, scripts).encode()


# No address is loaded from while a picture is drawn: data may name some.
_CONVERT: Final[dict[str, Any]] = {
    "vl_version": ".".join(alt.SCHEMA_VERSION.split(".")[:2]),
    "allowed_base_urls": [],
}
FORMATS: Final[Mapping[str, Callable[[dict[str, Any]], bytes]]] = {
    "png": lambda spec: bytes(vl_convert.vegalite_to_png(spec, scale=2, **_CONVERT)),
    "svg": lambda spec: str(vl_convert.vegalite_to_svg(spec, **_CONVERT)).encode(),
    "html": page,
}
"""How a picture is written. A page (html) needs nothing else, and holds a whole sheet."""


def preset_for(name: str, experiments: Sequence[BenchmarkFolder]) -> Grid:
    """A preset that suits what was swept, and whether there are output tokens."""
    axes = {point.axis for folder in experiments for point in folder.points}
    speaks = not experiments or any(folder.task not in BATCHED for folder in experiments)
    return preset(name, axes.pop() if len(axes) == 1 else SWEPT, speaks=speaks)


def checked(
    experiments: Sequence[BenchmarkFolder], grid: Grid, key: str = SCENARIO, place: str = "plots"
) -> list[Sheet]:
    """The sheets of these experiments, which are all in one unit; `place` is where the grid comes from.

    Raises InputError for a key that is none, a field that no result has, and a folder without results.
    """
    points = [point for folder in experiments for point in folder.points]
    if not points:
        raise InputError(f"{experiments[0].folder}: there is no result to plot in it")
    check(grid, points, place)
    return sheets(experiments, key)


def plot(
    plotted: Sequence[Sheet],
    grid: Grid,
    folder: Path,
    unit: Unit,
    formats: Sequence[str] = ("png",),
) -> Iterator[Path]:
    """Write every sheet, and yield each file when it is there. `formats` are keys of FORMATS.

    Raises InputError where a file cannot be written.
    """
    for sheet in plotted:
        *alone, combined = pictures(sheet, grid, unit).items()
        for form in formats:
            for name, spec in [*alone, combined] if form != "html" else [combined]:
                path = folder / f"{name}.{form}"
                write_whole(path, FORMATS[form](spec))
                yield path


def pictures(sheet: Sheet, grid: Grid, unit: Unit) -> dict[str, dict[str, Any]]:
    """Names of files without their endings -> specifications: each panel's, and that of the sheet last."""
    specs: dict[str, dict[str, Any]] = {}
    for panel in grid.panels:
        name = f"{sheet.name}_{safe(panel.title)}"
        again = sum(safe(panel.title) == safe(other.title) for other in grid.panels[: len(specs)])
        specs[f"{name} ({again + 1})" if again else name] = panels.single(sheet, panel, unit)
    specs[f"{sheet.name}_combined_plots_{grid.rows}x{grid.columns}"] = panels.combined(
        sheet, grid, unit
    )
    return specs


def default_plots(folder: Path) -> list[Path]:
    """A benchmark's default pictures, by scenario, into its own folder; latencies as in its results.

    None without a result. Raises InputError as `load_experiments` and `plot`.
    """
    folders = load_experiments(folder)
    if not any(each.points for each in folders):
        return []
    grid = preset_for(DEFAULT, folders)
    return list(plot(checked(folders, grid), grid, folder, folders[0].unit))
