"""The layout of a sheet of panels: genai-bench's plot-config JSON, checked; complaints name their place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, cast

from PIL import ImageColor

from tbench.benchmark.folder import AXES, read_object
from tbench.capture.errors import InputError

Kind = Literal["line", "scatter", "bar"]
Scale = Literal["linear", "log"]

MOST_ROWS: Final = 5
MOST_COLUMNS: Final = 6
DASHES: Final[Mapping[str, list[int]]] = {
    "-": [1, 0],
    "--": [7, 3],
    "-.": [7, 3, 2, 3],
    ":": [2, 3],
}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One field over x. `colour` is `#rrggbb`, `dash` a key of DASHES; None: the plot's own choice."""

    field: str
    label: str | None = None
    colour: str | None = None
    dash: str | None = None


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One plot. `position` is row and column from 0; `scale` None: logarithmic for TTFT, else linear."""

    title: str
    x: str
    curves: tuple[Curve, ...]
    position: tuple[int, int]
    x_label: str | None = None
    y_label: str | None = None
    kind: Kind = "line"
    scale: Scale | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.x, *(curve.field for curve in self.curves))

    @property
    def log(self) -> bool:
        """Whether y is to be logarithmic, where all values can be."""
        if self.scale is not None:
            return self.scale == "log"
        return self.kind != "bar" and any("ttft" in curve.field for curve in self.curves)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Panels in `rows` and `columns`; `size` is width and height of all in inches, None: by the grid."""

    rows: int
    columns: int
    panels: tuple[Panel, ...]
    size: tuple[float, float] | None = None


def read_grid(path: Path) -> Grid:
    """A plot-config file; raises InputError, one line that names the place, where it is none."""
    return grid_of(read_object(path), str(path))


def grid_of(content: object, place: str) -> Grid:
    """The same from what JSON holds; `place` is what complaints begin with."""
    config = _Object(content, place, "")
    layout = config.child("layout")
    rows = layout.whole("rows", MOST_ROWS, 2)
    columns = layout.whole("cols", MOST_COLUMNS, 4)
    size = layout.pair("figsize")
    layout.end()
    panels = tuple(_panel(entry, rows, columns) for entry in config.children("plots"))
    config.end()
    if not panels:
        raise config.wrong("plots", "there is none; give at least one")
    taken: dict[tuple[int, int], int] = {}
    for number, panel in enumerate(panels):
        if panel.position in taken:
            raise config.wrong(
                f"plots[{number}].position",
                f"{list(panel.position)} is taken by plots[{taken[panel.position]}]",
            )
        taken[panel.position] = number
    if size and min(size) <= 0:
        raise config.wrong("layout.figsize", "two sizes above 0, in inches")
    return Grid(rows=rows, columns=columns, panels=panels, size=size)


def _panel(entry: "_Object", rows: int, columns: int) -> Panel:
    panel = Panel(
        title=entry.text("title"),
        x=entry.text("x_field"),
        curves=_curves(entry),
        position=_position(entry, rows, columns),
        x_label=entry.maybe("x_label"),
        y_label=entry.maybe("y_label"),
        kind=cast("Kind", entry.among("plot_type", ("line", "scatter", "bar")) or "line"),
        scale=cast("Scale | None", entry.among("y_scale", ("linear", "log"))),
    )
    entry.end()
    return panel


def _curves(entry: "_Object") -> tuple[Curve, ...]:
    field, several = entry.maybe("y_field"), entry.children("y_fields")
    if field is not None and several:
        raise entry.wrong("y_fields", "y_field is there as well; give one of the two")
    if field is not None:
        return (Curve(field=field),)
    if not several:
        raise entry.wrong("y_field", "missing; give y_field, or y_fields with at least one")
    return tuple(_curve(each) for each in several)


def _curve(entry: "_Object") -> Curve:
    colour = entry.maybe("color")
    curve = Curve(
        field=entry.text("field"),
        label=entry.maybe("label"),
        colour=None if colour is None else _colour(entry, colour),
        dash=entry.among("linestyle", tuple(DASHES)),
    )
    entry.end()
    return curve


def _colour(entry: "_Object", text: str) -> str:
    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        raise entry.wrong("color", f"{text!r} is no colour of CSS; as in blue or #1f77b4") from None
    return f"#{red:02x}{green:02x}{blue:02x}"


def _position(entry: "_Object", rows: int, columns: int) -> tuple[int, int]:
    pair = entry.pair("position")
    if pair is None or any(value != int(value) or value < 0 for value in pair):
        raise entry.wrong("position", "give row and column from 0, as in [0, 1]")
    row, column = map(int, pair)
    if row >= rows or column >= columns:
        raise entry.wrong("position", f"[{row}, {column}] is outside {rows} rows of {columns}")
    return row, column


class _Object:
    """A JSON object that is being read: what is wrong is said with its file and its place."""

    def __init__(self, content: object, file: str, place: str) -> None:
        self._file = file
        self._place = place
        if not isinstance(content, dict):
            raise self.wrong("", "not a JSON object")
        self._left: dict[str, Any] = dict(content)

    def wrong(self, key: str, what: str) -> InputError:
        """The complaint about a key of it, or about itself."""
        place = ".".join(part for part in (self._place, key) if part)
        return InputError(f"{self._file}: {f'{place}: ' if place else ''}{what}")

    def text(self, key: str) -> str:
        value = self.maybe(key)
        if not value:
            raise self.wrong(key, "missing; give a text")
        return value

    def maybe(self, key: str) -> str | None:
        value = self._left.pop(key, None)
        if value is not None and not isinstance(value, str):
            raise self.wrong(key, f"{value!r} is not a text")
        return value

    def among(self, key: str, words: Sequence[str]) -> str | None:
        value = self.maybe(key)
        if value is not None and value not in words:
            raise self.wrong(key, f"{value!r} is none of {' '.join(words)}")
        return value

    def whole(self, key: str, most: int, usual: int) -> int:
        value = self._left.pop(key, usual)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise self.wrong(key, f"{value!r} is not a whole number from 1 to {most}")
        return value

    def pair(self, key: str) -> tuple[float, float] | None:
        value = self._left.pop(key, None)
        if value is None:
            return None
        numbers = isinstance(value, list) and all(
            isinstance(number, (int, float)) and not isinstance(number, bool) for number in value
        )
        if not numbers or len(value) != 2:
            raise self.wrong(key, f"{value!r} is not two numbers")
        return value[0], value[1]

    def child(self, key: str) -> "_Object":
        return _Object(self._left.pop(key, None) or {}, self._file, self._below(key))

    def children(self, key: str) -> list["_Object"]:
        value = self._left.pop(key, None) or []
        if not isinstance(value, list):
            raise self.wrong(key, "not a list")
        place = self._below(key)
        return [_Object(entry, self._file, f"{place}[{k}]") for k, entry in enumerate(value)]

    def end(self) -> None:
        """Everything was read: what is left is a mistake."""
        for key in self._left:
            raise self.wrong(key, "no such key")

    def _below(self, key: str) -> str:
        return f"{self._place}.{key}" if self._place else key


# The presets: layouts with genai-bench's names and titles, which name the files; labels follow the fields.
#
# Its "Request Success Rate" showed the error rate, and is called so here.
#
# What they show against concurrency is shown against what was swept. Tasks that give no text have a default
# of their own, since all output figures of theirs are 0.

OUT, IN = "mean_output_throughput_tokens_per_s", "mean_input_throughput_tokens_per_s"
TOTAL, RPS, ERRORS = (
    "mean_total_tokens_throughput_tokens_per_s",
    "requests_per_second",
    "error_rate",
)
SWEPT: Final = "num_concurrency"
SPEED, TTFT, E2E = "stats.output_inference_speed", "stats.ttft", "stats.e2e_latency"
INPUT_SPEED: Final = "stats.input_throughput"
NAMES: Final[Mapping[str, str]] = {
    "num_concurrency": "Concurrency", "batch_size": "Batch Size", "request_rate": "Request Rate",
}  # fmt: skip
"""What was swept, in titles."""

Row = tuple[str, str, str | Sequence[Mapping[str, str]], str]
"""Title, x, y or several of them, kind."""


def _percentiles(mean: str) -> list[Mapping[str, str]]:
    return [
        {"field": f"{E2E}.mean", "label": mean, "linestyle": "-"},
        {"field": f"{E2E}.p90", "label": mean.replace("Mean", "P90"), "linestyle": "--"},
        {"field": f"{E2E}.p99", "label": mean.replace("Mean", "P99"), "linestyle": "-."},
    ]


_TTFTS: Final = [
    {"field": f"{TTFT}.mean", "label": "Mean TTFT"},
    {"field": f"{TTFT}.p95", "label": "P95 TTFT"},
]
_TAILS: Final[tuple[Row, ...]] = (
    ("Mean E2E Latency per Request vs RPS", RPS, f"{E2E}.mean", "line"),
    ("Error Rates by HTTP Status vs Concurrency", SWEPT, ERRORS, "bar"),
    ("P90 E2E Latency per Request vs RPS", RPS, f"{E2E}.p90", "line"),
    ("P99 E2E Latency per Request vs RPS", RPS, f"{E2E}.p99", "line"),
)
_SPEED: Final = "Output Inference Speed per Request vs"
_SERVER: Final = "Total Throughput (Input + Output) of Server"

PRESETS: Final[Mapping[str, tuple[int, int, tuple[Row, ...]]]] = {
    "2x4_default": (2, 4, (
        (f"{_SPEED} Output Throughput of Server", OUT, f"{SPEED}.mean", "line"),
        ("TTFT vs Output Throughput of Server", OUT, f"{TTFT}.mean", "line"),
        *_TAILS[:2],
        (f"{_SPEED} {_SERVER}", TOTAL, f"{SPEED}.mean", "line"),
        (f"TTFT vs {_SERVER}", TOTAL, f"{TTFT}.mean", "line"),
        *_TAILS[2:],
    )),
    "simple_2x2": (2, 2, (
        ("Throughput vs Latency", OUT, f"{E2E}.mean", "line"),
        ("RPS vs Error Rate", RPS, ERRORS, "scatter"),
        ("Concurrency vs TTFT", SWEPT, f"{TTFT}.mean", "line"),
        ("Throughput Distribution", SWEPT, TOTAL, "line"),
    )),
    "multi_line_latency": (2, 2, (
        ("Latency Percentiles Comparison", RPS, _percentiles("Mean Latency"), "line"),
        ("TTFT Performance Analysis", OUT, _TTFTS, "line"),
        ("Throughput Components", SWEPT, [
            {"field": OUT, "label": "Output Throughput"}, {"field": TOTAL, "label": "Total Throughput"},
        ], "line"),
        _TAILS[1],
    )),
    "single_scenario_analysis": (2, 2, (
        ("Latency Percentiles vs RPS", RPS, _percentiles("Mean"), "line"),
        ("TTFT Analysis", OUT, _TTFTS, "line"),
        ("Throughput vs Concurrency", SWEPT, OUT, "line"),
        ("Error Rate vs Concurrency", SWEPT, ERRORS, "bar"),
    )),
}  # fmt: skip
"""Name -> rows, columns, and the panels from left to right and from top to bottom."""

TEXTLESS: Final[tuple[Row, ...]] = (
    (
        "Input Throughput per Request vs Input Throughput of Server",
        IN,
        f"{INPUT_SPEED}.mean",
        "line",
    ),
    ("P50 E2E Latency per Request vs Input Throughput of Server", IN, f"{E2E}.p50", "line"),
    *_TAILS[:2],
    ("Input Throughput of Server vs Concurrency", SWEPT, IN, "line"),
    ("RPS vs Concurrency", SWEPT, RPS, "line"),
    *_TAILS[2:],
)
"""The default of tasks that give no text."""
INSTEAD: Final[Mapping[str, str]] = {OUT: IN, SPEED: INPUT_SPEED}
WORDS: Final[Mapping[str, str]] = {
    "Output Inference Speed": "Input Throughput", "Output Throughput": "Input Throughput",
}  # fmt: skip
"""What other presets show of such tasks instead."""


def preset(name: str, axis: str = SWEPT, *, speaks: bool = True) -> Grid:
    """A preset for benchmarks that swept this axis (a key of AXES) over a task that gives text, or not."""
    rows, columns, panels = PRESETS[name]
    if not speaks and name == "2x4_default":
        panels = TEXTLESS
    plots = [_plot(panel, k, columns, speaks=speaks) for k, panel in enumerate(panels)]
    grid = grid_of({"layout": {"rows": rows, "cols": columns}, "plots": plots}, f"preset {name}")
    return _against(grid, AXES[axis])


def _plot(panel: Row, number: int, columns: int, *, speaks: bool) -> dict[str, Any]:
    title, x, y, kind = panel
    curves = [{"field": y}] if isinstance(y, str) else [dict(part) for part in y]
    if not speaks:
        title, x = _read(title, WORDS), _read(x, INSTEAD)
        for curve in curves:
            curve["field"] = _read(curve["field"], INSTEAD)
            if "label" in curve:
                curve["label"] = _read(curve["label"], WORDS)
    return {
        "title": title,
        "x_field": x,
        "y_fields": curves,
        "plot_type": kind,
        "position": list(divmod(number, columns)),
    }


def _read(text: str, instead: Mapping[str, str]) -> str:
    for before, after in instead.items():
        text = text.replace(before, after)
    return text


def _against(grid: Grid, field: str) -> Grid:
    """Concurrency gives way to what was swept."""
    panels = tuple(
        replace(panel, x=field, title=panel.title.replace(NAMES[SWEPT], NAMES[field]))
        if panel.x == SWEPT
        else panel
        for panel in grid.panels
    )
    return replace(grid, panels=panels)
