"""Plots: the points of benchmarks as panels on sheets, by presets or by a layout of the user's own.

Each sheet becomes a combined picture and one of each panel, under genai-bench's names.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import altair as alt
import vl_convert

from tbench.analysis.report import vega
from tbench.analysis.report.markup import Html, join, tag
from tbench.benchmark.folder import SCENARIO, BenchmarkFolder, Unit, load_experiments
from tbench.benchmark.plots import panels as drawing
from tbench.benchmark.plots.data import Sheet, check, safe, sheets
from tbench.benchmark.plots.layout import SWEPT, Grid, preset, read_grid
from tbench.benchmark.sweep import BATCHED
from tbench.capture.errors import InputError
from tbench.capture.writing import write_whole

__all__ = ["DEFAULT", "FORMATS", "checked", "default_plots", "plot", "preset_for", "read_grid"]

DEFAULT: Final = "2x4_default"

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


def page(title: str, spec: dict[str, Any]) -> str:
    """The page of one Vega-Lite specification; nothing in its data can become markup."""
    scripts = (vega.script(), DRAW)
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    body = tag(
        "body",
        tag("div", id="sheet"),
        tag("noscript", "The picture is drawn by a script, which is in this page and did not run."),
        tag("script", Html(_json(spec)), type="application/json", id="spec"),
        join([tag("script", Html(script)) for script in scripts]),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _json(data: object) -> str:
    """JSON that ends no script element, whatever is in it."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


SCALE: Final = 2
_VERSION: Final = ".".join(alt.SCHEMA_VERSION.split(".")[:2])


def _png(spec: dict[str, Any]) -> bytes:
    return bytes(
        vl_convert.vegalite_to_png(spec, vl_version=_VERSION, scale=SCALE, allowed_base_urls=[])
    )


def _svg(spec: dict[str, Any]) -> bytes:
    return str(vl_convert.vegalite_to_svg(spec, vl_version=_VERSION, allowed_base_urls=[])).encode()


def _html(spec: dict[str, Any]) -> bytes:
    return page(spec["title"]["text"], spec).encode()


FORMATS: Final[Mapping[str, Callable[[dict[str, Any]], bytes]]] = {
    "png": _png, "svg": _svg, "html": _html,
}  # fmt: skip
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
        for name, spec, single in _pictures(sheet, grid, unit):
            for form in formats:
                if not (single and form == "html"):
                    path = folder / f"{name}.{form}"
                    write_whole(path, FORMATS[form](spec))
                    yield path


def default_plots(folder: Path) -> list[Path]:
    """A benchmark's default pictures, by scenario, into its own folder; latencies as in its results.

    None without a result. Raises InputError as `load_experiments` and `plot`.
    """
    folders = load_experiments(folder)
    if not any(each.points for each in folders):
        return []
    grid = preset_for(DEFAULT, folders)
    return list(plot(checked(folders, grid), grid, folder, folders[0].unit))


def _pictures(sheet: Sheet, grid: Grid, unit: Unit) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Names without their endings, specifications, and whether it is of a single panel."""
    for panel in grid.panels:
        yield f"{sheet.name}_{safe(panel.title)}", drawing.single(sheet, panel, unit), True
    combined = drawing.whole(sheet, grid, unit)
    yield f"{sheet.name}_combined_plots_{grid.rows}x{grid.columns}", combined, False
