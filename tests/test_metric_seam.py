"""One row adds a metric: report, compare, gates, objectives and their JSON have it; nothing else changes."""

from typing import Any

import numpy as np
import pytest

from tbench.analysis.compare import CompareOptions, compare
from tbench.analysis.gate import parse_gates
from tbench.analysis.gate_results import evaluate_gates
from tbench.analysis.pairing import RunView
from tbench.analysis.report.machine import comparison_json, judgement_json, report_json
from tbench.analysis.report.tables import throughput_table
from tbench.analysis.report.text import comparison_text, run_text
from tbench.analysis.run_metrics import RUN_LEVEL, Figure, RunMetric, Slo, parse_slo
from tbench.replay.metrics import METRICS, Columns, Metric, Values

DEFINITION = "from the first token to the end of the request"


def stream_time(columns: Columns) -> Values:
    return np.asarray(columns["end"] - columns["first_token"])


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric from outside, twice as long in the second arm of these tests."""
    metric = Metric(
        name="stream_time", unit="s", better="lower", definition=DEFINITION, of=stream_time,
        latency=True, streamed=True,
    )  # fmt: skip
    monkeypatch.setitem(METRICS, "stream_time", metric)  # type: ignore[misc]


def longer(columns: dict[str, Any]) -> None:
    """Streams last twice as long after their first token."""
    for name in ("last_token", "end"):
        columns[name] = columns["first_token"] + 2 * (columns[name] - columns["first_token"])


@pytest.mark.usefixtures("row")
def test_compare_and_report_have_it(repeats: Any) -> None:
    """Asked for by name in a comparison; of a run it is shown with the others."""
    first, second = (arm.runs[0] for arm in repeats.arms(spoil=longer))
    comparison = compare(first, second, CompareOptions(metrics=("stream_time",)))
    document = comparison_json(comparison)
    middle = next(line for line in document["comparisons"] if line["quantile"] == 0.5)
    truth = [
        float(np.median(stream_time(arm.columns)[arm.measured & arm.ok])) for arm in (first, second)
    ]

    assert {line["metric"] for line in document["comparisons"]} == {"stream_time"}
    assert document["definitions"] == {"stream_time": DEFINITION}
    assert middle["ratio"] == pytest.approx(truth[1] / truth[0], rel=0.02)
    assert middle["finding"] == "slower"
    assert report_json(first)["summaries"]["stream_time"]["unit"] == "s"
    assert DEFINITION in " ".join(comparison_text(comparison).split())
    assert DEFINITION in " ".join(run_text(first).split())


@pytest.mark.usefixtures("row")
def test_gates_and_objectives_hold_it(repeats: Any) -> None:
    """A gate on its quantile fails what takes twice as long, and an objective may name it."""
    gates = parse_gates(None, ["stream_time:p50:10%", "goodput:1pp"], parse_slo("stream_time<30s"))
    results = judgement_json(evaluate_gates(repeats.arms(spoil=longer), gates))

    assert results["comparisons"][0]["metric"] == "stream_time"
    assert results["comparisons"][0]["verdict"] == "FAIL"
    assert results["comparisons"][1]["verdict"] != "FAIL"


def test_a_row_of_a_run_is_gated_and_shown(repeats: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is one number of a run is a row as well: gates hold it, and reports show it by its title."""

    def figure(run: RunView, _: Slo) -> Figure:
        duration = float(np.nanmax(run.column("end")) - np.nanmin(run.column("sent")))
        return Figure(value=duration, n=len(run.places))

    row = RunMetric(
        name="lasts", title="seconds", unit="s", better="lower", scale="ratio",
        form="lasts:5%", definition="from the first sent to the last end", figure=figure,
    )  # fmt: skip
    monkeypatch.setitem(RUN_LEVEL, "lasts", row)  # type: ignore[misc]
    arms = repeats.arms(spoil=longer)
    first, second = (arm.runs[0] for arm in arms)
    results = judgement_json(evaluate_gates(arms, parse_gates(None, ["lasts:5%"])))
    document = comparison_json(compare(first, second))

    assert results["comparisons"][0]["metric"] == "lasts"
    assert document["rates"]["lasts"]["candidate"] > document["rates"]["lasts"]["baseline"] > 0
    assert "seconds" in throughput_table({"run": (first,)}).heads
