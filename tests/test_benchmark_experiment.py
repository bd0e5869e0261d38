"""A benchmark's folder, read: genai-bench's own schema, by hand."""

import json
from pathlib import Path

import pytest

from tbench.benchmark.folder import load_experiment, load_experiments, selected
from tbench.capture.errors import InputError
from tests.benchmark_folder import BenchmarkFolder


@pytest.fixture
def benchmark_folder(tmp_path: Path) -> BenchmarkFolder:
    return BenchmarkFolder(tmp_path / "experiment")


def test_points_come_in_order(benchmark_folder: BenchmarkFolder) -> None:
    """By the metadata's scenarios, then by number (16 after 2, not before)."""
    benchmark_folder.metadata(traffic_scenario=["N(480,240)/(300,150)", "D(7,7)"])
    for scenario in ("D(7,7)", "N(480,240)/(300,150)"):
        for value in (16, 1, 2):
            benchmark_folder.point(scenario, value)
    found = load_experiment(benchmark_folder.path)

    assert found.scenarios == ("N(480,240)/(300,150)", "D(7,7)")
    assert [point.value for point in found.points] == [1, 2, 16, 1, 2, 16]
    assert found.notes == ()
    assert found.metadata["server_gpu_type"] == "H100"


def test_the_error_rate_is_counted(benchmark_folder: BenchmarkFolder) -> None:
    """genai-bench writes 0 whatever happened; of no request there is no rate."""
    benchmark_folder.metadata()
    benchmark_folder.point("D(100,100)", 1, n=4, errors=1)
    benchmark_folder.point("D(100,100)", 2, n=4, errors=4)
    benchmark_folder.point("D(100,100)", 4, n=0)
    first, second, third = load_experiment(benchmark_folder.path).points

    assert first.number("error_rate") == 0.25
    assert second.number("error_rate") == 1.0
    assert second.stat("ttft", "mean") is None
    assert third.number("error_rate") is None


@pytest.mark.parametrize(("unit", "ttft"), [(None, 0.1), ("s", 0.1), ("ms", 100.0)])
def test_files_of_both_units_become_one(
    benchmark_folder: BenchmarkFolder, unit: str | None, ttft: float
) -> None:
    """Each file says its own unit; what is no latency stays as it is."""
    benchmark_folder.metadata()
    benchmark_folder.point("D(100,100)", 1, unit="s")
    benchmark_folder.point("D(100,100)", 2, unit="ms")
    found = load_experiment(benchmark_folder.path, unit)  # type: ignore[arg-type]

    for point in found.points:
        (first, *_) = point.requests()
        assert point.stat("ttft", "mean") == pytest.approx(ttft)
        assert first["ttft"] == pytest.approx(ttft)
        assert (first["num_input_tokens"], point.stat("output_inference_speed", "mean")) == (
            100,
            50.0,
        )
        assert point.number("run_duration") == 10.0


def test_a_file_without_a_unit_has_that_of_the_metadata(benchmark_folder: BenchmarkFolder) -> None:
    benchmark_folder.metadata(metrics_time_unit="ms")
    path = benchmark_folder.point("D(100,100)", 1, unit="ms")
    content = json.loads(path.read_text())
    del content["_time_unit"]
    path.write_text(json.dumps(content))

    assert load_experiment(benchmark_folder.path, "s").points[0].stat(
        "ttft", "mean"
    ) == pytest.approx(0.1)


def test_missing_points_are_said(benchmark_folder: BenchmarkFolder) -> None:
    """Those that the metadata promise, and those that another scenario has."""
    benchmark_folder.metadata(
        num_concurrency=[1, 2], traffic_scenario=["D(1,1)", "D(2,2)", "D(3,3)"]
    )
    benchmark_folder.point("D(1,1)", 1)
    benchmark_folder.point("D(2,2)", 1)
    benchmark_folder.point("D(2,2)", 2)
    benchmark_folder.point("D(2,2)", 4)

    assert load_experiment(benchmark_folder.path).notes == (
        "D(1,1): no result at num_concurrency 2, 4",
        "D(3,3): no result at num_concurrency 1, 2, 4",
    )


def test_a_search_promises_no_points(benchmark_folder: BenchmarkFolder) -> None:
    """What it tried in one scenario it need not try in another."""
    benchmark_folder.metadata(
        num_concurrency=[], traffic_scenario=["D(1,1)", "D(2,2)"], saturate=True
    )
    benchmark_folder.point("D(1,1)", 8)
    benchmark_folder.point("D(2,2)", 12)

    assert load_experiment(benchmark_folder.path).notes == ()


def test_rates_have_an_axis_of_their_own(benchmark_folder: BenchmarkFolder) -> None:
    """Their value is the rate, not the most that were in flight at once."""
    benchmark_folder.metadata(num_concurrency=[], traffic_scenario=["D(1,1)"])
    benchmark_folder.point("D(1,1)", 0.5, axis="poisson", num_concurrency=9)
    benchmark_folder.point("D(1,1)", 12, axis="poisson", num_concurrency=3)
    found = load_experiment(benchmark_folder.path)

    assert [(point.axis, point.value) for point in found.points] == [
        ("poisson", 0.5),
        ("poisson", 12),
    ]
    assert found.notes == ()


def test_repeats_are_points_and_doubles_are_said(benchmark_folder: BenchmarkFolder) -> None:
    """The same run of the same point twice, as when a folder's name is used again."""
    benchmark_folder.metadata(num_concurrency=[1], traffic_scenario=["D(1,1)"])
    path = benchmark_folder.point("D(1,1)", 1)
    benchmark_folder.point("D(1,1)", 1, repeat=2)
    assert load_experiment(benchmark_folder.path).notes == ()
    path.with_name(path.name.replace("10s", "11s")).write_text(path.read_text())
    found = load_experiment(benchmark_folder.path)

    assert [point.repeat for point in found.points] == [1, 1, 2]
    assert found.notes == ("D(1,1): 2 results at num_concurrency 1; all are shown",)


def test_results_of_another_task_are_left_out_and_counted(
    benchmark_folder: BenchmarkFolder,
) -> None:
    """Someone put them there; what a chat is measured by says nothing of embeddings."""
    benchmark_folder.metadata(num_concurrency=[1], traffic_scenario=["D(1,1)"])
    benchmark_folder.point("D(1,1)", 1)
    for size in (1, 4):
        benchmark_folder.point("E(64)", size, axis="batch_size", task="text-to-embeddings")
    found = load_experiment(benchmark_folder.path)

    assert [point.scenario for point in found.points] == ["D(1,1)"]
    assert found.notes == (
        "2 results of another task (text-to-embeddings) left out: put them into a folder of their own",
    )


def test_what_is_no_result_is_left_alone(benchmark_folder: BenchmarkFolder) -> None:
    """genai-bench's debug files, and whatever else lies about."""
    benchmark_folder.metadata(num_concurrency=[1], traffic_scenario=["D(1,1)"])
    benchmark_folder.point("D(1,1)", 1)
    for name in (
        "debug_for_run_D1_1_1.json",
        "debug_for_run_x_num_concurrency_1_time_1s.json",
        "notes.json",
    ):
        (benchmark_folder.path / name).write_text("{")

    assert len(load_experiment(benchmark_folder.path).points) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("{", "no JSON"),
        ("[]", "not a JSON object"),
        ("{}", "aggregated_metrics is missing"),
        ('{"aggregated_metrics": {"iteration_type": "phase"}}', "iteration_type phase"),
        (
            '{"aggregated_metrics": {"num_concurrency": "one"}}',
            "num_concurrency one is not a number",
        ),
        ('{"aggregated_metrics": {}}', "names no scenario"),
        (
            '{"aggregated_metrics": {"scenario": "s", "stats": {"ttft": 1}}}',
            "stats are not numbers",
        ),
        ('{"aggregated_metrics": {"scenario": "s"}, "_time_unit": "h"}', "time unit h"),
        ('{"aggregated_metrics": {"scenario": "s", "num_requests": "2"}}', "are not counts"),
    ],
)
def test_a_bad_file_is_named(benchmark_folder: BenchmarkFolder, change: str, said: str) -> None:
    benchmark_folder.metadata()
    path = benchmark_folder.point("D(1,1)", 1)
    path.write_text(change)
    with pytest.raises(InputError, match=said) as raised:
        load_experiment(benchmark_folder.path)

    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_of_experiments(tmp_path: Path) -> None:
    """Read in the unit of the first; a folder that holds none of them is said."""
    for name, unit in (("a", "ms"), ("b", "s")):
        folder = BenchmarkFolder(tmp_path / name).metadata(metrics_time_unit=unit, model=name)
        folder.point("D(1,1)", 1, unit=unit)
    (tmp_path / "else").mkdir()
    found = load_experiments(tmp_path)

    assert [one.name for one in found] == ["a", "b"]
    assert [one.points[0].stat("ttft", "mean") for one in found] == pytest.approx([100, 100])
    assert [one.name for one in load_experiments(tmp_path / "a")] == ["a"]
    with pytest.raises(InputError, match="neither an experiment nor"):
        load_experiments(tmp_path / "else")
    with pytest.raises(InputError, match="no such folder"):
        load_experiments(tmp_path / "nowhere")


def test_filters_choose_by_metadata(tmp_path: Path) -> None:
    """Whole experiments by a field, points by their scenario; an unknown field is a mistake, and said."""
    for name in ("a", "b"):
        folder = BenchmarkFolder(tmp_path / name).metadata(
            model=name, traffic_scenario=["D(1,1)", "D(2,2)"]
        )
        folder.point("D(1,1)", 1)
        folder.point("D(2,2)", 1)
    found = load_experiments(tmp_path)

    assert [one.name for one in selected(found, '{"model": "b"}')] == ["b"]
    assert [one.scenarios for one in selected(found, '{"traffic_scenario": "D(2,2)"}')] == [
        ("D(2,2)",)
    ] * 2
    with pytest.raises(InputError, match="no such field"):
        selected(found, '{"modle": "b"}')
    with pytest.raises(InputError, match="no experiment is like that"):
        selected(found, '{"model": "c"}')


def test_a_folder_without_results_says_so(benchmark_folder: BenchmarkFolder) -> None:
    found = load_experiment(benchmark_folder.metadata().path)

    assert (found.points, found.notes) == ((), ("there is no result in this folder",))


@pytest.mark.parametrize(
    "change", [{"traffic_scenario": "D(1,1)"}, {"num_concurrency": ["1"]}, {"batch_size": 4}]
)
def test_metadata_of_another_form_are_one_line(
    benchmark_folder: BenchmarkFolder, change: dict[str, object]
) -> None:
    """The field is named."""
    benchmark_folder.metadata(**change)
    with pytest.raises(InputError, match=f"{next(iter(change))} is not a list of"):
        load_experiment(benchmark_folder.path)
