"""The layout of a sheet of panels: genai-bench's plot-config JSON, checked; complaints name their place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, Final, Literal, cast

from PIL import ImageColor

from tbench.benchmark.fields import AXES
from tbench.benchmark.folder import read_object
from tbench.capture.errors import InputError

Kind = Literal["line", "scatter", "bar"]
Scale = Literal["linear", "log"]

MOST_ROWS: Final = 5
MOST_COLUMNS: Final = 6
LARGEST_IN: Final = 100
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
    config = Entry(content, place, "")
    layout = config.child("layout")
    rows, columns = layout.whole("rows", MOST_ROWS, 2), layout.whole("cols", MOST_COLUMNS, 4)
    size = layout.pair("figsize")
    if size and not all(0 < inches <= LARGEST_IN for inches in size):
        raise layout.wrong("figsize", f"two sizes above 0 and up to {LARGEST_IN}, in inches")
    layout.end()
    panels: dict[tuple[int, int], Panel] = {}
    for entry in config.children("plots"):
        panel = _panel(entry, rows, columns)
        if panel.position in panels:
            first = list(panels).index(panel.position)
            raise entry.wrong("position", f"{list(panel.position)} is taken by plots[{first}]")
        panels[panel.position] = panel
    config.end()
    if not panels:
        raise config.wrong("plots", "there is none; give at least one")
    return Grid(rows=rows, columns=columns, panels=tuple(panels.values()), size=size)


def _panel(entry: "Entry", rows: int, columns: int) -> Panel:
    pair = entry.pair("position")
    if pair is None or any(value != int(value) or value < 0 for value in pair):
        raise entry.wrong("position", "give row and column from 0, as in [0, 1]")
    row, column = map(int, pair)
    if row >= rows or column >= columns:
        raise entry.wrong("position", f"[{row}, {column}] is outside {rows} rows of {columns}")
    field, fields = entry.text("y_field"), entry.children("y_fields")
    if field and fields:
        raise entry.wrong("y_fields", "y_field is there as well; give one of the two")
    if not field and not fields:
        raise entry.wrong("y_field", "missing; give y_field, or y_fields with at least one")
    panel = Panel(
        title=entry.needed("title"),
        x=entry.needed("x_field"),
        curves=(Curve(field=field),) if field else tuple(map(_curve, fields)),
        position=(row, column),
        x_label=entry.text("x_label"),
        y_label=entry.text("y_label"),
        kind=cast("Kind", entry.text("plot_type", ("line", "scatter", "bar")) or "line"),
        scale=cast("Scale | None", entry.text("y_scale", ("linear", "log"))),
    )
    entry.end()
    return panel


def _curve(entry: "Entry") -> Curve:
    colour = entry.text("color")
    if colour is not None:
        try:
            red, green, blue = ImageColor.getrgb(colour)[:3]
        except ValueError:
            raise entry.wrong(
                "color", f"{colour!r} is no colour of CSS; as in blue or #1f77b4"
            ) from None
        colour = f"#{red:02x}{green:02x}{blue:02x}"
    curve = Curve(
        field=entry.needed("field"),
        label=entry.text("label"),
        colour=colour,
        dash=entry.text("linestyle", tuple(DASHES)),
    )
    entry.end()
    return curve


class Entry:
    """A JSON object that is being read: a complaint about it says its file and its place."""

    def __init__(self, content: object, file: str, place: str) -> None:
        self._file = file
        self._place = place
        if not isinstance(content, dict):
            raise self.wrong("", "not a JSON object")
        self._left: dict[str, Any] = dict(content)

    def wrong(self, key: str, complaint: str) -> InputError:
        """The error for a key of it, or for itself."""
        place = ".".join(part for part in (self._place, key) if part)
        return InputError(f"{self._file}: {f'{place}: ' if place else ''}{complaint}")

    def needed(self, key: str) -> str:
        if not (value := self.text(key)):
            raise self.wrong(key, "missing; give a text")
        return value

    def text(self, key: str, words: Sequence[str] = ()) -> str | None:
        """A text, of these words if there are some; None where there is none."""
        value = self._left.pop(key, None)
        if value is not None and not isinstance(value, str):
            raise self.wrong(key, f"{value!r} is not a text")
        if words and value is not None and value not in words:
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
            # Not isinstance: true is an int.
            type(number) in (int, float) and isfinite(number)
            for number in value
        )
        if not numbers or len(value) != 2:
            raise self.wrong(key, f"{value!r} is not two numbers")
        return value[0], value[1]

    def child(self, key: str) -> "Entry":
        return Entry(self._left.pop(key, None) or {}, self._file, key)

    def children(self, key: str) -> list["Entry"]:
        value = self._left.pop(key, None) or []
        if not isinstance(value, list):
            raise self.wrong(key, "not a list")
        place = f"{self._place}.{key}" if self._place else key
        return [Entry(entry, self._file, f"{place}[{k}]") for k, entry in enumerate(value)]

    def end(self) -> None:
        """Everything was read: what is left is a mistake."""
        for key in self._left:
            raise self.wrong(key, "no such key")


# The presets: layouts with genai-bench's names and titles, which name the files; labels follow the fields.
#
# Its "Request Success Rate" showed the error rate, and is called so here. Tasks that give no text have a
# default of their own, since all output figures of theirs are 0.

DEFAULT: Final = "2x4_default"
OUT, IN = "mean_output_throughput_tokens_per_s", "mean_input_throughput_tokens_per_s"
TOTAL, RPS, ERRORS = (
    "mean_total_tokens_throughput_tokens_per_s",
    "requests_per_second",
    "error_rate",
)
SWEPT: Final = "num_concurrency"
SPEED, TTFT, E2E = "stats.output_inference_speed", "stats.ttft", "stats.e2e_latency"
INPUT_SPEED: Final = "stats.input_throughput"
Row = tuple[str, str, str | tuple[Curve, ...], Kind]
"""Title, x, y or several of them, kind."""


def _percentiles(mean: str) -> tuple[Curve, ...]:
    levels = {"mean": ("Mean", "-"), "p90": ("P90", "--"), "p99": ("P99", "-.")}
    return tuple(
        Curve(field=f"{E2E}.{level}", label=mean.replace("Mean", name), dash=dash)
        for level, (name, dash) in levels.items()
    )


_TTFTS: Final = (
    Curve(field=f"{TTFT}.mean", label="Mean TTFT"),
    Curve(field=f"{TTFT}.p95", label="P95 TTFT"),
)
_TAILS: Final[tuple[Row, ...]] = (
    ("Mean E2E Latency per Request vs RPS", RPS, f"{E2E}.mean", "line"),
    ("Error Rates by HTTP Status vs Concurrency", SWEPT, ERRORS, "bar"),
    ("P90 E2E Latency per Request vs RPS", RPS, f"{E2E}.p90", "line"),
    ("P99 E2E Latency per Request vs RPS", RPS, f"{E2E}.p99", "line"),
)
_SPEED: Final = "Output Inference Speed per Request vs"
_SERVER: Final = "Total Throughput (Input + Output) of Server"

PRESETS: Final[Mapping[str, tuple[int, int, tuple[Row, ...]]]] = {
    DEFAULT: (2, 4, (
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
        ("Throughput Components", SWEPT, (
            Curve(field=OUT, label="Output Throughput"), Curve(field=TOTAL, label="Total Throughput"),
        ), "line"),
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
INSTEAD: Final = {
    OUT: IN,
    SPEED: INPUT_SPEED,
    "Output Inference Speed": "Input Throughput",
    "Output Throughput": "Input Throughput",
}
"""Fields and words of other presets -> what they show of such tasks instead."""


def preset(name: str, axis: str = SWEPT, *, speaks: bool = True) -> Grid:
    """A preset for benchmarks that swept this axis (a key of AXES) over a task that gives text, or not.

    What it shows against the concurrency is shown against what was swept.
    """
    rows, columns, panels = PRESETS[name]
    if not speaks and name == DEFAULT:
        panels = TEXTLESS

    def read(text: str) -> str:
        for before, after in () if speaks else INSTEAD.items():
            text = text.replace(before, after)
        return text

    swept, drawn = AXES[axis], []
    name = "Request Rate" if swept.field == "request_rate" else swept.title
    for number, (title, x, y, kind) in enumerate(panels):
        curves = (Curve(field=y),) if isinstance(y, str) else y
        drawn.append(
            Panel(
                title=read(title).replace("Concurrency", name) if x == SWEPT else read(title),
                x=swept.field if x == SWEPT else read(x),
                curves=tuple(
                    replace(curve, field=read(curve.field), label=curve.label and read(curve.label))
                    for curve in curves
                ),
                position=(number // columns, number % columns),
                kind=kind,
            )
        )
    return Grid(rows=rows, columns=columns, panels=tuple(drawn))
