"""Plots: what the pictures hold is what the results say; layouts, presets, groups; bad input in one line."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import vl_convert

from tbench import __main__ as entry
from tbench.benchmark.folder import load_experiments
from tbench.benchmark.plots import (
    FORMATS,
    checked,
    default_plots,
    pictures,
    plot,
    preset_for,
    read_grid,
)
from tbench.benchmark.plots import panels as drawing
from tbench.benchmark.plots.data import KNOWN, held, label
from tbench.benchmark.plots.layout import PRESETS, Grid, grid_of
from tbench.benchmark.plots.panels import scheme, span
from tbench.capture.errors import InputError
from tests.benchmark_folder import BenchmarkFolder
from tests.conftest import PATIENCE_S, Done

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run", "--disable-quic"]  # fmt: skip
CHAT = ["D(100,100)", "D(100,1000)"]


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """Two scenarios at 1, 2 and 4; every request of the last point failed."""
    folder = BenchmarkFolder(tmp_path / "chat").metadata(
        num_concurrency=[1, 2, 4], traffic_scenario=CHAT
    )
    for k, scenario in enumerate(CHAT):
        for value in (1, 2):
            folder.point(
                scenario, value, rps=value * 1.5 + k, tokens=100.0 * value, errors=value - 1
            )
        folder.point(scenario, 4, rps=4.0, n=5, errors=5 * k, tokens=0 if k else 700.0)
    return folder.path


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    folder = BenchmarkFolder(tmp_path / "embeddings").metadata(
        task="text-to-embeddings", batch_size=[1, 8], num_concurrency=[1], iteration_type="batch_size",
        traffic_scenario=["E(64)"],
    )  # fmt: skip
    for value in (1, 8):
        folder.point("E(64)", value, axis="batch_size", rps=9.0 / value)
    return folder.path


def several_axes(path: Path) -> Path:
    """One request in flight, and rates of 3 and 6 a second at which one was; a third of each failed."""
    BenchmarkFolder(path / "c").metadata().point("D(1,2)", 1, rps=1.5, errors=1)
    rate = BenchmarkFolder(path / "r").metadata(iteration_type="rate")
    for value in (3, 6):
        rate.point("D(1,2)", value, axis="rate", rps=value / 2, errors=1)
    return path


def grid(*plots: dict[str, Any], **layout: Any) -> Grid:
    usual = {"title": "t", "x_field": "requests_per_second", "y_field": "stats.ttft.mean"}
    whole = [{**usual, "position": [0, k], **one} for k, one in enumerate(plots)]
    return grid_of({"layout": layout, "plots": whole}, "x.json")


def rows(folder: Path, of: Grid, key: str = "traffic_scenario", unit: Any = None) -> dict[str, Any]:
    """The tables of the only sheet."""
    found = load_experiments(folder, unit)
    (sheet,) = checked(found, of, key)
    return dict(drawing.combined(sheet, of, found[0].unit)["datasets"])


def aggregates(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(path.read_text())["aggregated_metrics"]
        for path in sorted(folder.glob("*_time_*s.json"))
    ]


def test_points_are_those_of_the_results(chat: Path) -> None:
    """X and y are the numbers of the files, to the last digit; a point without answers has no latency."""
    shown = rows(chat, grid({"y_field": "stats.e2e_latency.p90"}))["dots 0,0"]
    truth = {
        (one["scenario"], one["num_concurrency"]): (
            one["requests_per_second"], one["stats"]["e2e_latency"]["p90"],
        )
        for one in aggregates(chat)
        if one["stats"]["e2e_latency"]["p90"] is not None
    }  # fmt: skip

    assert {(row["group"], row["at"]): (row["x"], row["y"]) for row in shown} == truth
    assert len(truth) == 5


def test_the_default_shows_every_point_in_all_eight_panels(chat: Path) -> None:
    experiments = load_experiments(chat)
    of = preset_for("2x4_default", experiments)
    tables = rows(chat, of)
    for panel in of.panels:
        row, column = panel.position
        (curve,) = panel.curves
        if curve.field == "error_rate":
            continue
        expected = sorted(
            (x, y)
            for point in experiments[0].points
            if (x := point.number(panel.x)) is not None
            and (y := point.number(curve.field)) is not None
        )
        assert sorted((d["x"], d["y"]) for d in tables[f"dots {row},{column}"]) == expected
    assert len(of.panels) == 8


def test_error_rates_are_stacked_by_status(chat: Path) -> None:
    """Counts over all requests of the point, also where genai-bench's file says a rate of 0."""
    shown = rows(
        chat, grid({"x_field": "num_concurrency", "y_field": "error_rate", "plot_type": "bar"})
    )

    assert {(row["group"], row["at"], row["code"]): row["y"] for row in shown["codes 0,0"]} == {
        ("D(100,100)", 2, "429 Too Many Requests"): 1 / 3,
        ("D(100,1000)", 2, "429 Too Many Requests"): 1 / 3,
        ("D(100,1000)", 4, "429 Too Many Requests"): 1.0,
    }


def test_bars_of_several_statuses_lie_on_each_other(tmp_path: Path) -> None:
    folder = BenchmarkFolder(tmp_path / "e").metadata(num_concurrency=[1])
    path = folder.point("D(1,2)", 1, n=10, errors=5)
    content = json.loads(path.read_text())
    content["aggregated_metrics"]["error_codes_frequency"] = {"429": 3, "503": 1, "599": 1}
    path.write_text(json.dumps(content))
    shown = rows(
        folder.path,
        grid({"x_field": "num_concurrency", "y_field": "error_rate", "plot_type": "bar"}),
    )["codes 0,0"]

    assert [(row["code"], row["from"], row["to"]) for row in shown] == [
        ("429 Too Many Requests", 0.0, 0.3),
        ("503 Service Unavailable, or connection failed", 0.3, 0.4), ("599", 0.4, 0.5),
    ]  # fmt: skip


def test_points_without_answers_and_invalid_ones_are_named(chat: Path) -> None:
    path = next(chat.glob("*concurrency_1_time*"))
    content = json.loads(path.read_text())
    content["aggregated_metrics"]["valid"] = False
    path.write_text(json.dumps(content))
    of = grid({})
    (sheet,) = checked(load_experiments(chat), of)
    said = drawing.combined(sheet, of, "s")["title"]["subtitle"]
    scenario = content["aggregated_metrics"]["scenario"]

    assert said[-2:] == [
        f"INVALID, not to be used: {scenario} at concurrency 1.",
        "No request succeeded, so in no plot of latencies: D(100,1000) at concurrency 4.",
    ]


def test_lines_go_through_the_means_of_repeats(tmp_path: Path) -> None:
    folder = BenchmarkFolder(tmp_path / "e").metadata(num_concurrency=[1])
    for repeat, rps in ((1, 1.0), (2, 2.0), (3, 6.0)):
        folder.point("D(1,2)", 1, rps=rps, repeat=repeat)
    shown = rows(folder.path, grid({}))

    assert sorted(row["x"] for row in shown["dots 0,0"]) == [1.0, 2.0, 6.0]
    assert [(row["x"], row["runs"]) for row in shown["means 0,0"]] == [(3.0, 3)]


def test_latencies_are_in_the_unit_asked_for(chat: Path) -> None:
    of = grid({"y_label": "my TTFT (s)"})
    seconds, ms = rows(chat, of, unit="s"), rows(chat, of, unit="ms")
    experiments = load_experiments(chat, "ms")
    (sheet,) = checked(experiments, of)

    assert [one["y"] for one in ms["dots 0,0"]] == pytest.approx(
        [1e3 * one["y"] for one in seconds["dots 0,0"]]
    )
    assert [one["x"] for one in ms["dots 0,0"]] == [one["x"] for one in seconds["dots 0,0"]]
    assert "my TTFT (ms), log" in json.dumps(drawing.combined(sheet, of, "ms"))


def test_the_unit_of_latencies_is_that_of_latencies_alone(chat: Path) -> None:
    """A run's duration stays in seconds beside them, and a curve's label follows as an axis does."""
    curves = [{"field": "stats.ttft.p50", "label": "half (s)"}, {"field": "stats.ttft.p99"}]
    of = grid(
        {"x_field": "run_duration", "x_label": "took (s)", "y_label": "TTFT (s)", "title": "by took (s)"},
        {"x_field": "stats.e2e_latency.mean", "x_label": "E2E (s)", "y_field": "run_duration",
         "y_label": "took (s)"},
        {"y_field": None, "y_fields": curves},
    )  # fmt: skip
    (sheet,) = checked(load_experiments(chat, "ms"), of)
    shown = json.dumps(drawing.combined(sheet, of, "ms"))

    assert all(
        f'"{text}"' in shown for text in ("took (s)", "E2E (ms)", "half (ms)", "by took (s)")
    )
    assert '"TTFT (ms), log"' in shown
    assert "took (ms)" not in shown
    assert "half (s)" not in shown


def test_points_are_named_by_what_was_swept(chat: Path) -> None:
    """Or by their y, where that is x."""
    swept = rows(chat, grid({}))["marks 0,0"]
    of = grid({"x_field": "num_concurrency", "y_field": "requests_per_second"})

    assert {row["mark"] for row in swept} == {"1", "2", "4"}
    assert {row["mark"] for row in rows(chat, of)["marks 0,0"]} == {"1.5", "2.5", "3", "4"}


def test_a_point_of_another_axis_is_named_by_what_it_swept(tmp_path: Path) -> None:
    """At one concurrency (the most in flight) lie points of several rates."""
    several = several_axes(tmp_path)
    of = grid({"x_field": "num_concurrency", "y_field": "requests_per_second"})
    shown = rows(several, of)["marks 0,0"]

    assert [(row["x"], row["mark"]) for row in shown] == [(1, "1.5"), (1, "3"), (1, "6")]


@pytest.mark.parametrize("field", ["error_rate", "requests_per_second"])
def test_bars_of_points_at_one_x_neither_add_up_nor_hide_each_other(
    tmp_path: Path, field: str
) -> None:
    """As Vega draws them: each from 0, at a place of its own."""
    several = several_axes(tmp_path)
    of = grid({"x_field": "num_concurrency", "y_field": field, "plot_type": "bar"}, rows=1, cols=1)
    (sheet,) = checked(load_experiments(several), of)
    svg = vl_convert.vegalite_to_svg(drawing.combined(sheet, of, "s"), allowed_base_urls=[])
    bars = re.findall(r'aria-roledescription="bar" d="M([\d.]+),([\d.]+)h[\d.]+v([\d.]+)', svg)

    assert len(bars) == len({left for left, _, _ in bars}) == 3
    assert {float(top) + float(height) for _, top, height in bars} == {drawing.HEIGHT}


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("task", ["chat", "embeddings"])
def test_every_preset_renders(name: str, task: str, request: pytest.FixtureRequest) -> None:
    """Vega draws it without complaint and says no NaN; each panel has a picture of its own."""
    experiments = load_experiments(request.getfixturevalue(task))
    of = preset_for(name, experiments)
    (sheet,) = checked(experiments, of)
    (*alone, (file, whole)) = pictures(sheet, of, "s").items()
    svg = vl_convert.vegalite_to_svg(whole, allowed_base_urls=[])

    assert file == f"traffic_scenario_combined_plots_{of.rows}x{of.columns}"
    assert len(alone) == len(of.panels)
    assert "NaN" not in svg
    assert svg.count("<path") > len(of.panels)


def test_embeddings_are_shown_against_their_batch_size(embeddings: Path) -> None:
    """None of their panels is about output tokens, of which they have none."""
    of = preset_for("2x4_default", load_experiments(embeddings))

    assert not [field for panel in of.panels for field in panel.fields if "output" in field]
    assert "Error Rates by HTTP Status vs Batch Size" in [panel.title for panel in of.panels]
    assert {row["x"] for row in rows(embeddings, of)["dots 1,0"]} == {1.0, 8.0}


def test_beside_chats_embeddings_are_in_no_plot_of_text(chat: Path, embeddings: Path) -> None:
    """Their JSON has an output of 0 tokens, and their whole latency as TTFT."""
    out = "mean_output_throughput_tokens_per_s"
    of = grid({}, {"y_field": "stats.e2e_latency.mean"}, {"x_field": out, "y_field": "error_rate"})
    found = load_experiments(chat.parent)
    (sheet,) = checked(found, of)
    combined = drawing.combined(sheet, of, "s")
    drawn = [
        {row["experiment"] for row in combined["datasets"][f"dots 0,{column}"]}
        for column in range(3)
    ]

    assert drawn == [{"chat"}, {"chat", "embeddings"}, {"chat"}]
    said = "Without text, so in no plot of output, TTFT or TPOT: E(64), embeddings."
    assert said in combined["title"]["subtitle"]
    assert rows(embeddings, grid({}))["dots 0,0"], "alone they are as genai-bench draws them"


def test_files_have_the_names_of_genai_bench(chat: Path) -> None:
    found = {path.name for path in default_plots(chat)}

    assert "traffic_scenario_combined_plots_2x4.png" in found
    assert "traffic_scenario_Mean E2E Latency per Request vs RPS.png" in found
    assert "traffic_scenario_TTFT vs Total Throughput Input + Output of Server.png" in found, (
        "without parentheses"
    )
    assert len(found) == 9
    assert all((chat / name).read_bytes().startswith(b"\x89PNG") for name in found)


def test_panels_of_one_title_are_files_of_their_own(chat: Path, tmp_path: Path) -> None:
    of = grid({}, {"y_field": "stats.tpot.mean"}, rows=1, cols=2)
    names = [path.name for path in plot(checked(load_experiments(chat), of), of, tmp_path, "s")]

    assert names == [f"traffic_scenario_{end}.png" for end in ("t", "t (2)", "combined_plots_1x2")]


def test_pictures_are_made_in_every_format(chat: Path, tmp_path: Path) -> None:
    """A page holds a whole sheet and needs nothing from elsewhere."""
    experiments = load_experiments(chat)
    of = grid({}, rows=1, cols=1)
    paths = list(plot(checked(experiments, of), of, tmp_path, "s", tuple(FORMATS)))
    (page,) = [path for path in paths if path.suffix == ".html"]
    (svg, _) = [path for path in paths if path.suffix == ".svg"]

    assert page.name == "traffic_scenario_combined_plots_1x1.html"
    assert svg.read_text().startswith("<svg")


@pytest.mark.browser
def test_a_browser_draws_the_page(tmp_path: Path) -> None:
    """Headless Chromium: no error, no request, no script from the data."""
    sync = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    evil = "</script><script>document.title = 'broken'</script>"
    folder = BenchmarkFolder(tmp_path / "e").metadata(model=evil, num_concurrency=[1])
    folder.point("D(1,2)", 1)
    of = grid({}, rows=1, cols=1)
    sheets = checked(load_experiments(folder.path), of, "model")
    (file,) = plot(sheets, of, tmp_path, "s", ("html",))
    said: list[str] = []
    asked: list[str] = []
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        tab = browser.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(file.as_uri())
        tab.wait_for_selector("body.drawn", timeout=PATIENCE_S * 1000)
        marks = tab.eval_on_selector_all("svg path", "all => all.length")
        title = tab.title()
        browser.close()

    assert said == []
    assert len(asked) == 1
    assert marks > 3
    assert title == "D(1,2)"


def several(tmp_path: Path) -> Path:
    for name, engine in (("a", "vLLM"), ("b", "SGLang"), ("c", "vLLM")):
        folder = BenchmarkFolder(tmp_path / "many" / name).metadata(server_engine=engine)
        for value in (1, 2):
            folder.point("D(100,100)", value)
    return tmp_path / "many"


@pytest.mark.parametrize(
    ("key", "name", "groups"),
    [
        ("server_engine", "D100_100_group_by_server_engine",
         ["server_engine: vLLM", "server_engine: SGLang"]),
        ("experiment_folder_name", "D100_100_group_by_experiment_folder_name",
         [f"experiment_folder_name: {one}" for one in "abc"]),
        ("traffic_scenario", "traffic_scenario", [f"D(100,100), {one}" for one in "abc"]),
    ],
)  # fmt: skip
def test_lines_are_by_group(tmp_path: Path, key: str, name: str, groups: list[str]) -> None:
    """Experiments of one group are lines of their own that look alike."""
    (sheet,) = checked(load_experiments(several(tmp_path)), grid({}), key)

    assert (sheet.name, sheet.groups) == (name, groups)
    assert [line.experiment for line in sheet.lines] == ["a", "b", "c"]


def test_without_a_group_each_scenario_of_each_experiment_is_a_sheet(
    chat: Path, tmp_path: Path
) -> None:
    alone = checked(load_experiments(chat), grid({}), "none")
    many = checked(load_experiments(several(tmp_path)), grid({}), "none")

    assert [one.name for one in alone] == ["single_analysis_D100_100", "single_analysis_D100_1000"]
    assert [one.name for one in many] == [f"{one}_single_analysis_D100_100" for one in "abc"]


def test_several_curves_have_the_colours_and_dashes_asked_for(chat: Path) -> None:
    curves = [
        {"field": "stats.ttft.mean", "label": "mean", "color": "blue", "linestyle": "-"},
        {"field": "stats.ttft.p99", "label": "tail", "color": "#ff7f0e", "linestyle": "-."},
    ]
    of = grid({"y_field": None, "y_fields": curves})
    sheet = checked(load_experiments(chat), of, "none")[0]
    line = drawing.single(sheet, of.panels[0], "s")["vconcat"][0]["layer"][0]["encoding"]

    assert line["color"]["scale"] == {"domain": ["mean", "tail"], "range": ["#0000ff", "#ff7f0e"]}
    assert line["strokeDash"]["scale"]["range"] == [[1, 0], [7, 3, 2, 3]]


def test_the_fields_are_those_of_the_results(chat: Path) -> None:
    """All that the schema has, with how many points have a value and from where to where it goes."""
    found = {one.field: one for one in held(load_experiments(chat)[0].points, "s")}
    metrics = {
        "ttft", "tpot", "e2e_latency", "output_latency", "output_inference_speed", "num_input_tokens",
        "num_output_tokens", "num_reasoning_tokens", "total_tokens", "input_throughput",
        "output_throughput",
    }  # fmt: skip
    levels = ["min", "max", "mean", "stddev", "sum", "p25", "p50", "p75", "p90", "p95", "p99"]

    assert {f"stats.{m}.{level}" for m in metrics for level in levels} <= set(found)
    assert {
        "run_duration", "mean_input_throughput_tokens_per_s", "mean_output_throughput_tokens_per_s",
        "mean_total_tokens_throughput_tokens_per_s", "requests_per_second", "error_rate",
        "num_error_requests", "num_completed_requests", "num_requests",
    } <= set(found)  # fmt: skip
    assert found["stats.ttft.mean"].points == 5
    assert (found["error_rate"].low, found["error_rate"].high) == (0.0, 1.0)
    assert set(found) == set(KNOWN)
    assert label("stats.ttft.p90", "ms") == "p90 TTFT (ms)"


PLOT = {"title": "t", "x_field": "error_rate", "y_field": "error_rate", "position": [0, 0]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "not a JSON object"),
        ({"plots": []}, "plots: there is none"),
        (
            {"layout": {"rows": 6}, "plots": [PLOT]},
            "layout.rows: 6 is not a whole number from 1 to 5",
        ),
        (
            {"layout": {"cols": 7}, "plots": [PLOT]},
            "layout.cols: 7 is not a whole number from 1 to 6",
        ),
        ({"layout": {"figsize": [1]}, "plots": [PLOT]}, "layout.figsize: [1] is not two numbers"),
        ({"layout": {"figsize": [0, 2]}, "plots": [PLOT]}, "layout.figsize: two sizes above 0"),
        ({"layout": {"figsize": [9e9, 2]}, "plots": [PLOT]}, "layout.figsize: two sizes above 0"),
        ({"plots": [{**PLOT, "plot_type": "pie"}]}, "plots[0].plot_type: 'pie' is none of line"),
        ({"plots": [{**PLOT, "y_scale": "ln"}]}, "plots[0].y_scale: 'ln' is none of linear log"),
        ({"plots": [{**PLOT, "position": [2, 0]}]}, "plots[0].position: [2, 0] is outside 2 rows"),
        ({"plots": [PLOT, PLOT]}, "plots[1].position: [0, 0] is taken by plots[0]"),
        ({"plots": [{**PLOT, "title": ""}]}, "plots[0].title: missing"),
        ({"plots": [{**PLOT, "colour": "red"}]}, "plots[0].colour: no such key"),
        (
            {"plots": [{**PLOT, "y_fields": [{"field": "x"}]}]},
            "plots[0].y_fields: y_field is there",
        ),
        ({"plots": [{**PLOT, "y_field": None}]}, "plots[0].y_field: missing"),
        (
            {
                "plots": [
                    {**PLOT, "y_field": None, "y_fields": [{"field": "a", "color": "tab:blue"}]}
                ]
            },
            "plots[0].y_fields[0].color: 'tab:blue' is no colour",
        ),
        (
            {"plots": [{**PLOT, "y_field": None, "y_fields": [{"field": "a", "linestyle": "="}]}]},
            "plots[0].y_fields[0].linestyle: '='",
        ),
    ],
)
def test_a_bad_layout_is_refused_with_its_place(content: object, said: str, tmp_path: Path) -> None:
    path = tmp_path / "layout.json"
    path.write_text(json.dumps(content))

    with pytest.raises(InputError) as error:
        read_grid(path)

    assert str(path) in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_bars_stand_around_their_value(chat: Path) -> None:
    """Two panels of bars share no places: each has as many beside each other as it has bars."""
    bars = {"x_field": "num_concurrency", "y_field": "run_duration", "plot_type": "bar"}
    of = grid(bars, {**bars, "y_field": "requests_per_second"}, rows=1, cols=2)
    (sheet,) = checked(load_experiments(chat), of)
    svg = vl_convert.vegalite_to_svg(drawing.combined(sheet, of, "s"), allowed_base_urls=[])
    widths = {
        float(one)
        for one in re.findall(r'aria-roledescription="bar" d="M[\d.]+,[\d.]+h([\d.]+)', svg)
    }

    assert len(widths) == 1
    assert widths.pop() == pytest.approx(drawing.WIDTH / 3 * 0.8 / 2, rel=0.2)


def test_a_layout_is_read_as_genai_bench_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "layout.json"
    several = [{"field": "stats.ttft.mean", "label": "m", "color": "#102030", "linestyle": ":"}]
    second = {**PLOT, "y_field": None, "y_fields": several, "position": [0, 1], "y_scale": "linear"}
    path.write_text(
        json.dumps({"layout": {"rows": 1, "cols": 2, "figsize": [16, 6]}, "plots": [PLOT, second]})
    )
    found = read_grid(path)

    assert (found.rows, found.columns, found.size) == (1, 2, (16, 6))
    assert found.panels[1].curves[0].colour == "#102030"
    assert not found.panels[1].log, "as asked for, though it is TTFT"


def run(*words: object) -> int:
    return entry.run(["plot", *map(str, words)])


def test_plot_draws_from_the_command_line(tbench: Callable[..., Done], chat: Path) -> None:
    before = set(chat.iterdir())
    drawn = tbench(
        "plot", "--experiments-folder", chat, "--group-key", "traffic_scenario", "-o", chat / "p",
        "--preset", "simple_2x2", "--format", "svg", "--metrics-time-unit", "ms",
        "--filter-criteria", '{"traffic_scenario": "D(100,100)"}',
    )  # fmt: skip

    assert drawn.code == 0, drawn.err
    assert len(drawn.out.splitlines()) == 5
    assert {path.name for path in set(chat.iterdir()) - before} == {"p"}
    assert {path.stat().st_mode & 0o777 for path in (chat / "p").iterdir()} == {0o600}


def test_only_validating_writes_nothing(chat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(chat.iterdir())

    assert run("--experiments-folder", chat, "--preset", "simple_2x2", "--validate-only") == 0
    assert (
        capsys.readouterr().out == "preset simple_2x2: 4 plots on each of 1 sheets are in order\n"
    )
    assert set(chat.iterdir()) == before


def test_the_fields_are_listed(chat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--experiments-folder", chat, "--list-fields") == 0
    out = capsys.readouterr().out
    assert re.search(r"^stats\.ttft\.mean +s +5  0\.1", out, re.MULTILINE)
    assert len(out.splitlines()) == len(KNOWN) + 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--preset", "2x4_tts"], "2x4_tts"),
        (["--group-key", "colour"], "--group-key colour: no such field"),
        (["--filter-criteria", "{"], "--filter-criteria: no JSON"),
        (["--filter-criteria", "[]"], "--filter-criteria: give a JSON object"),
        (["--filter-criteria", '{"model": "other"}'], "no experiment is like that"),
        (["--plot-config", "none.json"], "none.json: cannot be read"),
        (["--format", "gif"], "--format gif"),
        (["-o", "/dev/null/x"], "-o /dev/null/x: cannot be made"),
    ],
)
def test_bad_options_are_one_line(
    chat: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--experiments-folder", chat, *more) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_an_unknown_field_is_refused_with_its_place(chat: Path) -> None:
    with pytest.raises(InputError, match=r"x\.json: plots\[1\]: no field stats\.ttfb\.mean"):
        checked(load_experiments(chat), grid({}, {"y_field": "stats.ttfb.mean"}), place="x.json")


def test_a_folder_without_results_has_no_pictures(tmp_path: Path) -> None:
    """Asked for, that is an error; at the end of a benchmark that was interrupted at once, it is none."""
    folder = BenchmarkFolder(tmp_path / "e").metadata().path

    with pytest.raises(InputError, match="no result to plot"):
        checked(load_experiments(folder), grid({}))
    assert default_plots(folder) == []


def test_an_axis_of_rates_does_not_go_below_nothing(chat: Path) -> None:
    """With room beside the outermost points; a single point stands in the middle."""
    experiments = load_experiments(chat)
    (sheet,) = checked(experiments, of := grid({}), "traffic_scenario")
    (layer, *_) = drawing.combined(sheet, of, "s")["vconcat"][0]["concat"][0]["layer"]
    low, high = layer["encoding"]["x"]["scale"]["domain"]
    x = [row["x"] for row in rows(chat, of)["dots 0,0"]]

    assert 0 <= low < min(x)
    assert high > max(x)
    assert span([0.1, 900.0])[0] == 0
    assert span([4.0]) == [2.0, 6.0]


def test_sixteen_groups_all_look_different(tmp_path: Path) -> None:
    """Eight colours begin again with other shapes."""
    for k in range(16):
        BenchmarkFolder(tmp_path / f"f{k:02}").metadata(num_concurrency=[1]).point("D(1,1)", 1)
    (sheet,) = checked(load_experiments(tmp_path), grid({}), "experiment_folder_name")
    _, colours, shapes = scheme(sheet)

    assert len(set(zip(colours, shapes, strict=True))) == 16
