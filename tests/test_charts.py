"""Charts: what each one holds, in which unit, on which axis, and what it says of itself."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import vl_convert

from tbench.analysis import charts
from tbench.analysis.charts import Bar, Dot, Picture
from tbench.analysis.charts.drawing import ticks
from tbench.analysis.charts.timeline import SCATTERED
from tbench.analysis.comparison import Shift
from tbench.analysis.report.figures import pictures


def drawn(picture: Picture | None) -> Picture:
    assert picture is not None
    return picture


def rows(picture: Picture, layer: int = 0) -> list[dict[str, Any]]:
    """The data of a layer, wherever Altair put it."""
    spec = picture.spec
    data = spec["layer"][layer].get("data", spec.get("data"))
    return list(spec["datasets"][data["name"]])


def axis(picture: Picture, channel: str, layer: int = 0) -> dict[str, Any]:
    return dict(picture.spec["layer"][layer]["encoding"][channel])


SLOW = np.array([0.2, 0.1, 0.4, np.nan, np.inf])


def test_a_distribution_counts_timeouts_and_not_the_absent() -> None:
    """Three finite values and a timeout: the curve ends at three quarters."""
    picture = drawn(charts.ecdf("TTFT", "s", {"run": [SLOW]}))
    curve = rows(picture)
    assert [(row["x"], row["y"]) for row in curve] == [(100, 0.25), (200, 0.5), (400, 0.75)]
    assert axis(picture, "x")["title"] == "TTFT, ms"
    assert picture.text.endswith("run n = 4, 1 timed out.")


def test_quantiles_are_marked_on_the_curve_and_said() -> None:
    """Inverse empirical quantiles; those among the timeouts have no mark."""
    picture = drawn(charts.ecdf("TTFT", "s", {"a": [np.arange(1.0, 101.0)], "b": [SLOW]}))
    marks = {(row["arm"], row["at"]): row["x"] for row in rows(picture, 1)}
    assert marks == {
        ("a", "p50"): 50,
        ("a", "p90"): 90,
        ("a", "p95"): 95,
        ("a", "p99"): 99,
        ("b", "p50"): 0.2,
    }
    assert picture.text.startswith(
        "a p50 50.0 s, p90 90.0 s, p95 95.0 s, p99 99.0 s; b p50 200 ms."
    )


@pytest.mark.parametrize(
    ("values", "log"),
    [
        (np.geomspace(0.01, 10, 100), True),
        (np.linspace(1, 2, 100), False),
        (np.append(0.0, np.geomspace(0.01, 10, 100)), False),
    ],
)
def test_an_axis_is_logarithmic_where_that_helps(values: Any, log: bool) -> None:
    """Over a decade, all positive; else it is linear."""
    picture = drawn(charts.ecdf("TTFT", "s", {"run": [values]}))
    assert (axis(picture, "x")["scale"].get("type") == "log") is log


def test_points_over_time_are_all_there_or_said_to_be_thinned() -> None:
    """The note says how many of how many are drawn, and what became of the timeouts."""
    few = drawn(charts.over_time("TTFT", "s", {"a": [(np.arange(5.0), SLOW)]}))
    assert "Points: all 3 requests. Ticks at the top: 1 of a timed out." in few.note
    cold = drawn(
        charts.over_time(
            "TTFT", "s", {"a": [(np.arange(5.0), SLOW)]}, left_out="1 of them in the warm-up"
        )
    )
    assert "Points: all 3 requests. 1 of them in the warm-up" in cold.note
    slow = drawn(
        charts.over_time("TTFT", "s", {"a": [(np.arange(60.0), np.repeat([0.02, 1.6], 30))]})
    )
    assert slow.text == "Running median: a from 20.0 to 1,600 ms."  # not 1.6e+03
    n = 50_000
    many = drawn(
        charts.over_time(
            "TTFT", "s", {"a": [(np.arange(n * 1.0), np.random.default_rng(1).random(n))]}
        )
    )
    assert "of 50,000 requests, thinned" in many.note
    assert len(rows(many)) <= SCATTERED


POINTS = (
    Shift(p=0.5, ratio=1.2, low=1.1, high=1.3, band_low=1.0, band_high=1.4),
    Shift(p=0.99, ratio=2.0, low=1.5, high=None, band_low=None, band_high=None),
)


def test_a_shift_draws_open_ends_to_the_edge_and_says_them() -> None:
    """What is unbounded is drawn as far as the axis goes; the text says infinity."""
    picture = drawn(charts.shift("TTFT", POINTS))
    low, high = axis(picture, "y")["scale"]["domain"]
    assert low < 1
    assert high > 2
    edge = rows(picture)[1]
    assert (edge["low"], edge["high"]) == (1.5, pytest.approx(high, rel=1e-4))
    assert "p50 1.20x [1.10, 1.30]; p99 2.00x [1.50, ∞)" in picture.text


def test_requests_in_flight_are_the_mean_of_each_moment() -> None:
    """Two overlapping requests: two in flight at most, one and a half on average."""
    picture = drawn(charts.in_flight({"run": [(np.array([0.0, 1.0]), np.array([4.0, 3.0]))]}))
    assert picture.text == "run 1.50 on average, 2 at most."


def test_nothing_to_draw_is_no_picture() -> None:
    """No finite value, no ratio, no request."""
    nothing = np.array([np.nan, np.inf])
    assert charts.ecdf("TTFT", "s", {"run": [nothing]}) is None
    assert charts.ecdf("TTFT", "s", {}) is None
    assert charts.over_time("TTFT", "s", {"run": [(np.zeros(2), nothing)]}) is None
    assert charts.in_flight({"run": [(nothing[:1], nothing[:1])]}) is None
    absent = Shift(p=0.5, ratio=None, low=None, high=None, band_low=None, band_high=None)
    assert charts.shift("TTFT", [absent]) is None


def test_what_the_pointer_shows_is_in_the_data() -> None:
    """No tooltip says undefined."""
    runs = [Dot("A", 1, "A 1", 0.1), Dot("A", 2, "A 2", 0.2)]
    timed = {"A": [(np.arange(9.0), np.arange(9.0) + 0.5)] * 2}
    pictures = [
        charts.forest("Change", BARS),
        charts.shift("TTFT", POINTS),
        charts.dots("TTFT p50", "s", runs, {"A": 0.15}),
        charts.failures({"A 1": {"cut": 0.1}}),
        charts.ecdf("TTFT", "s", {"A": [np.arange(9.0) + 1]}),
        charts.over_time("TTFT", "s", timed),
        charts.in_flight(timed),
        charts.arrivals(timed),
    ]
    for picture in map(drawn, pictures):
        for layer, part in enumerate(picture.spec["layer"]):
            for field in (one["field"] for one in part["encoding"].get("tooltip", [])):
                assert all(field in row for row in rows(picture, layer)), (picture.title, field)


def test_every_picture_is_valid_and_describes_itself() -> None:
    """Vega-Lite's own compiler takes each one, as SVG and without a warning from Altair's schema."""
    pair = {"baseline": [SLOW], "candidate": [SLOW * 2]}
    timed = {name: [(np.arange(5.0), one) for one in runs] for name, runs in pair.items()}
    pictures = [
        charts.ecdf("TTFT", "s", pair),
        charts.over_time("TTFT", "s", timed),
        charts.in_flight({"run": [(np.arange(5.0), np.arange(5.0) + 2)]}),
        charts.shift("TTFT", POINTS),
    ]
    for picture in map(drawn, pictures):
        svg = vl_convert.vegalite_to_svg({**picture.spec, "width": 400})
        assert svg.startswith("<svg")
        assert picture.spec["description"]
        assert picture.title


LESS, MORE = (None, 1.05), (1 / 1.05, None)
BARS = (
    Bar(label="TTFT p50", value=1.1, low=1.05, high=1.15, said="FAIL", passes=LESS, decides=1.14),
    Bar(label="TTFT p95", value=0.9, low=0.2, high=None, said="INCONCLUSIVE", passes=LESS),
    Bar(label="speed p50", value=1.01, low=1, high=1.02, said="PASS", passes=MORE, decides=1.003),
    Bar(label="E2E p99", value=None, low=None, high=None, said="INCONCLUSIVE", passes=LESS),
)


def test_a_forest_shades_what_passes_by_the_way_of_the_metric() -> None:
    """Up to the margin where less is better, from it on where more is; a bar without value keeps its zone."""
    picture = drawn(charts.forest("Change", BARS))
    low, high = axis(picture, "x", 4)["scale"]["domain"]
    zones = {row["label"]: (row["from"], row["to"]) for row in rows(picture)}

    assert zones["TTFT p50"] == (pytest.approx(low, rel=1e-4), 1.05)
    assert zones["speed p50"] == (pytest.approx(1 / 1.05, rel=1e-4), pytest.approx(high, rel=1e-4))
    assert set(zones) == {bar.label for bar in BARS}


def test_a_forest_draws_each_interval_and_cuts_it_at_the_edge() -> None:
    """Estimates are always inside; an open end reaches the edge; the words have the whole interval."""
    picture = drawn(charts.forest("Change", BARS))
    low, high = axis(picture, "x", 4)["scale"]["domain"]
    bars = {row["label"]: row for row in rows(picture, 2)}

    assert (bars["TTFT p50"]["low"], bars["TTFT p50"]["high"]) == (1.05, 1.15)
    assert bars["TTFT p95"]["high"] == pytest.approx(high, rel=1e-4)
    assert all(low < row["value"] < high for row in bars.values())
    assert "E2E p99" not in bars
    assert bars["TTFT p95"]["interval"] == "[-80.0%, ∞)"
    assert picture.text == "1 FAIL, 1 INCONCLUSIVE, 1 PASS, 1 without an interval."
    assert "TTFT p50 +10.0% [+5.0%, +15.0%], FAIL" in picture.spec["description"]


def test_a_forest_marks_what_is_approximate() -> None:
    """In its row's name, and in a word below; a forest without such rows has neither."""
    bars = [replace(bar, rough=place == 0) for place, bar in enumerate(BARS)]
    pictures = [charts.forest("Change", given) for given in (bars, BARS)]
    notes = [picture.note for picture in pictures if picture]
    labels = [str(picture.tables) for picture in pictures if picture]

    assert ["~: the interval is approximate." in note for note in notes] == [True, False]
    assert [f"{BARS[0].label} ~'" in text for text in labels] == [True, False]


def test_a_forest_of_shares_is_linear_and_in_points() -> None:
    """Nothing is a logarithm of nothing."""
    zone = (None, 0.005)
    bar = Bar(label="x", value=0.0, low=0.0, high=0.01, said="PASS", passes=zone, share=True)
    picture = drawn(charts.forest("Errors", [bar]))

    assert axis(picture, "x", 4)["scale"]["type"] == "linear"
    assert rows(picture, 2)[0]["interval"] == "[+0.00 pp, +1.00 pp]"


def test_every_run_is_a_dot_at_its_place() -> None:
    """In the order in which they began; what has no value is said and not drawn."""
    runs = [Dot("A", 1, "A 1", 0.1), Dot("B", 2, "B 1", 0.12)]
    runs += [Dot("B", 3, "B 2", np.inf), Dot("A", 4, "A 2", np.nan)]
    picture = drawn(charts.dots("TTFT p50", "s", runs, {"A": 0.1, "B": np.nan}))

    assert [(row["x"], row["run"], row["y"]) for row in rows(picture, 1)] == [
        (1, "A 1", 100),
        (2, "B 1", 120),
    ]
    assert rows(picture, 0) == [{"arm": "A", "y": 100}]
    assert picture.text == "A 100 ms, none; B 120 ms, timed out."


@pytest.mark.parametrize(("far", "log"), [(0.5, False), (5.0, True)])
def test_runs_a_decade_apart_have_a_logarithmic_axis(far: float, log: bool) -> None:
    """So that one odd run does not press the others flat."""
    runs = [Dot("A", 1, "A 1", 0.1), Dot("A", 2, "A 2", far)]
    picture = drawn(charts.dots("TTFT p50", "s", runs, {"A": 0.2}))

    assert (axis(picture, "y", 1)["scale"].get("type") == "log") is log


def test_several_runs_have_a_curve_each_behind_that_of_their_arm() -> None:
    """The strong one is of all values together, each faint one of a run."""
    picture = drawn(charts.ecdf("TTFT", "s", {"A": [np.array([1.0, 2.0]), np.array([3.0, 4.0])]}))
    faint, strong = rows(picture, 0), rows(picture, 1)

    assert [(row["run"], row["x"], row["y"]) for row in faint] == [
        ("A 1", 1, 0.5), ("A 1", 2, 1), ("A 2", 3, 0.5), ("A 2", 4, 1),
    ]  # fmt: skip
    assert [(row["x"], row["y"]) for row in strong] == [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1)]


def test_arrivals_are_rates_of_what_was_due_and_of_what_left() -> None:
    """A hundred requests over ten seconds, the second half of which left five seconds late."""
    due = np.arange(100) / 10
    sent = np.where(due < 5, due, due + 5)
    picture = drawn(charts.arrivals({"A": [(due, sent)]}))
    width = rows(picture)[1]["x"]

    assert sum(row["due"] * width for row in rows(picture)) == pytest.approx(100, rel=1e-3)
    assert sum(row["sent"] * width for row in rows(picture)) == pytest.approx(100, rel=1e-3)
    assert picture.text == "A sent 50.0% of its requests within 10 ms of when they were due."
    assert charts.arrivals({"A": [(np.full(3, np.nan), np.arange(3.0))]}) is None


@pytest.mark.filterwarnings("error")
def test_an_arm_of_which_nothing_left_has_no_share() -> None:
    due, never = np.arange(100) / 10, np.full(100, np.nan)
    picture = drawn(
        charts.arrivals({"A": [(never, never)], "B": [(due, never)], "C": [(due, due)]})
    )

    assert picture.text == (
        "A: nothing left that was due; B: nothing left that was due; "
        "C sent 100.0% of its requests within 10 ms of when they were due."
    )


def test_recorded_arrivals_are_a_line_of_their_own_in_the_same_parts_of_time() -> None:
    """What left as it was recorded has the same rates."""
    due = np.arange(100) / 10
    picture = drawn(charts.arrivals({"A": [(due, due)]}, {"recorded": [(due, due + 1)]}))
    before = rows(picture, 2)

    assert [(row["x"], row["y"]) for row in before] == [
        (row["x"], row["sent"]) for row in rows(picture)
    ]
    assert axis(picture, "color", 2)["scale"]["domain"] == ["A", "recorded"]


def test_failures_are_bars_by_kind_and_nothing_where_nothing_failed() -> None:
    """A run without one has its place all the same."""
    picture = drawn(charts.failures({"A 1": {}, "B 1": {"http_429": 0.02, "cut": 0.01}}))

    assert axis_of(picture, "y")["scale"]["domain"] == ["A 1", "B 1"]
    assert picture.text == "A 1 none; B 1 http_429 2.00%, cut 1.00%."
    assert charts.failures({"A 1": {}}) is None


def axis_of(picture: Picture, channel: str) -> dict[str, Any]:
    return axis(picture, channel, 0)


def test_a_ninth_arm_still_has_a_colour() -> None:
    """They are used again from the first on."""
    arms = {f"arm {k}": [np.array([1.0, 2.0])] for k in range(9)}
    scale = axis(drawn(charts.ecdf("TTFT", "s", arms)), "color")["scale"]

    assert len(scale["range"]) == len(scale["domain"]) == 9
    assert scale["range"][8] == scale["range"][0]


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (9.0, 205.0, [10, 20, 50, 100, 200]),
        (0.03, 12.0, [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]),
        (0.95, 1.3, [0.95, 1, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3]),
    ],
)
def test_axes_are_labelled_at_round_places(low: float, high: float, labels: list[float]) -> None:
    """1, 2 and 5 of each decade where it spans much: never 9 and 90."""
    assert ticks(low, high) == pytest.approx(labels)


def test_a_logarithmic_axis_has_its_round_labels() -> None:
    """Of milliseconds from 9 to 205."""
    picture = drawn(charts.ecdf("TTFT", "s", {"a": [np.geomspace(0.009, 0.205, 500)]}))
    axes = [
        layer["encoding"]["x"]["axis"]
        for layer in picture.spec["layer"]
        if "axis" in layer["encoding"].get("x", {})
    ]
    assert axes[0]["values"] == [10, 20, 50, 100, 200]


def test_an_exported_picture_says_whose_it_is() -> None:
    """Models, n and day under the title: a slide has no page around it."""
    picture = drawn(charts.ecdf("TTFT", "s", {"a": [np.linspace(0.1, 0.2, 50)]}))
    files = dict(pictures({"x": picture}, ["baseline: model-7b, n = 50, 2026-11-28"]))

    assert "baseline: model-7b, n = 50, 2026-11-28" in files["x.svg"].decode()
    assert files["x.png"].startswith(b"\x89PNG")


def test_only_points_say_figures_to_the_pointer() -> None:
    """A line would tell the figure of its first place, wherever the pointer is."""
    times = np.arange(50.0)
    runs = {"a": [(times, times + 1)]}
    for picture in map(drawn, (charts.in_flight(runs), charts.arrivals(runs))):
        assert not [one for one in picture.spec["layer"] if "tooltip" in one["encoding"]]
