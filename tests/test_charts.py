"""Charts: what each one holds, in which unit, on which axis, and what it says of itself."""

from typing import Any

import numpy as np
import pytest
import vl_convert

from analysis import charts
from analysis.charts import Picture
from analysis.charts.timeline import SCATTERED
from analysis.comparison import Shift


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
    assert picture.note.startswith("run n = 4, 1 timed out.")


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
    assert "a p50 50 s, p90 90 s, p95 95 s, p99 99 s; b p50 200 ms." in picture.text


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
    assert "p50 1.200 [1.100, 1.300]; p99 2.000 [1.500, ∞)" in picture.text


def test_requests_in_flight_are_the_mean_of_each_moment() -> None:
    """Two overlapping requests: two in flight at most, one and a half on average."""
    picture = drawn(charts.in_flight({"run": [(np.array([0.0, 1.0]), np.array([4.0, 3.0]))]}))
    assert picture.text == "run 1.5 on average, 2 at most."


def test_nothing_to_draw_is_no_picture() -> None:
    """No finite value, no ratio, no request."""
    nothing = np.array([np.nan, np.inf])
    assert charts.ecdf("TTFT", "s", {"run": [nothing]}) is None
    assert charts.ecdf("TTFT", "s", {}) is None
    assert charts.over_time("TTFT", "s", {"run": [(np.zeros(2), nothing)]}) is None
    assert charts.in_flight({"run": [(nothing[:1], nothing[:1])]}) is None
    absent = Shift(p=0.5, ratio=None, low=None, high=None, band_low=None, band_high=None)
    assert charts.shift("TTFT", [absent]) is None


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
