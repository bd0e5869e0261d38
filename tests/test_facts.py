"""How a report calls its arms, whether a run kept to its plan, and which requests took longest."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tbench.analysis.arms import Arm, load_arm
from tbench.analysis.report.facts import facts, places, slowest
from tbench.analysis.report.gate_sentences import shown_names
from tbench.analysis.report.tables import accuracy_table
from tbench.capture.exchange import Outcome
from tbench.replay.runfile import RunWriter
from tbench.replay.sample import Sample


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["runs/A-*.run", "runs/B-*.run"], ["A", "B"]),
        (["runs/now", "runs/next"], ["now", "next"]),
        (["old/A-[123].run", "new/A-?.run"], ["old/A-[123].run", "new/A-?.run"]),
        (["*.run", "B"], ["*.run", "B"]),
        (["gpt-4.1", "llama 3"], ["gpt-4.1", "llama 3"]),
    ],
)
def test_names_are_short_as_long_as_they_stay_apart(given: list[str], shown: list[str]) -> None:
    """Globs and folders lose what is no name; where two would be the same, both stay whole."""
    assert list(shown_names(given).values()) == shown


def test_runs_stand_in_the_order_in_which_they_began(
    experiment: Callable[..., Any], tmp_path: Path
) -> None:
    """B A, A B, B A: numbered within their arm and among all."""
    first, second = experiment(tmp_path, {"A": 1.0, "B": 1.0}, 3)
    found = places({"A": first.runs, "B": second.runs})

    assert [one.name for one in found] == ["B 1", "A 1", "A 2", "B 2", "B 3", "A 3"]
    assert [one.order for one in found] == [1, 2, 3, 4, 5, 6]
    assert places({"run": first.runs[:1]})[0].name == "run"


def arm(
    path: Path,
    samples: list[dict[str, Any]],
    *,
    target: dict[str, Any] | None = None,
    **totals: Any,
) -> Arm:
    writer = RunWriter(path, {"clock": "user", "target": target or {}}, clock=lambda: 0.0)
    for index, fields in enumerate(samples):
        known: dict[str, Any] = {
            "id": f"r{index}",
            "endpoint": "chat",
            "model": "m",
            "stream": True,
        }
        writer.add(Sample(**{**known, "index": index, **fields}))
    n = len(samples)
    counts = {"completed": n, "failed": 0, "cancelled": 0, "lost_in_flight": 0, "never_sent": 0}
    return load_arm(writer.close({"planned": n, **counts, "warmup_s": 0.0, **totals}))


def test_prices_are_those_of_the_models_that_were_asked(tmp_path: Path) -> None:
    """By name and with their unit; a list has hundreds of others."""
    prices = {
        "m": [0.5, 2.0, None, 0.625, 8192, "a list", 6404],
        "other": [1.0, 1.0, None, None, None, "", None],
    }
    run = arm(tmp_path / "a.run", [sent(0.0, 0.0)], target={"prices": prices})
    told = {key: cells for title, key, cells in facts({"run": (run,)}) if "price" in key}

    assert told == {
        "prices.m": ["prompt 0.5, output 2, created 0.625 US dollars per million tokens; a list"]
    }


def test_rows_in_a_header_read_as_words(tmp_path: Path) -> None:
    shards = [{"worker": 1, "node": None, "late_s": 0.25}, {"worker": 2, "clock_ahead_s": []}]
    run = arm(tmp_path / "a.run", [sent(0.0, 0.0)], shards=shards)
    told = {key: cells for _, key, cells in facts({"run": (run,)})}

    assert told["shards"] == ["worker 1, node -, late_s 0.25; worker 2, clock_ahead_s none"]


def sent(due: float | None, at: float, took: float = 1.0, **fields: Any) -> dict[str, Any]:
    first = at + took / 2
    stamps = {"first_byte": first, "first_token": first, "last_token": at + took, "end": at + took}
    return {"due": due, "sent": at, **stamps, **fields}


def accuracy(run: Arm) -> dict[str, Any]:
    """The one row of the table: the value of each head, or its text where it has none."""
    made = accuracy_table({"run": (run,)})
    (row,) = made.rows
    shown = (cell.text if cell.value is None else cell.value for cell in row)
    return dict(zip(made.heads, shown, strict=True))


def test_lag_and_rates_are_what_they_are(tmp_path: Path) -> None:
    """Eleven requests, one a second; every tenth of a millisecond later than the one before."""
    samples = [sent(float(k), k + k / 10_000) for k in range(11)]
    found = accuracy(arm(tmp_path / "a.run", samples, clock="kernel", coalesced_share=0.25))

    assert found["lag p50"] == pytest.approx(0.0005)
    assert found["lag max"] == pytest.approx(0.001)
    assert found["within 10 ms"] == 1
    assert found["scheduled/s"] == pytest.approx(1)
    assert found["sent/s"] == pytest.approx(10 / 10.001)
    assert (found["planned"], found["sent"], found["never sent"]) == (11, 11, 0)
    assert (found["stamps by"], found["coalesced"], found["CPU of a core"]) == ("kernel", 0.25, "-")


def test_a_late_client_is_seen(tmp_path: Path) -> None:
    """Half of the requests left 20 ms late: half were on time, and the run does not count."""
    samples = [sent(float(k), k + 0.02 * (k % 2), 0.1) for k in range(10)]
    found = accuracy(arm(tmp_path / "a.run", samples))

    assert found["within 10 ms"] == 0.5
    assert found["lag p99"] == pytest.approx(0.02)


def test_a_closed_loop_was_never_due(tmp_path: Path) -> None:
    """No lag, no rate that was intended."""
    found = accuracy(arm(tmp_path / "a.run", [sent(None, float(k)) for k in range(3)]))

    assert (found["lag p50"], found["within 10 ms"], found["scheduled/s"]) == ("-", "-", "-")
    assert found["sent/s"] == pytest.approx(1)


def test_the_slowest_come_first_with_what_the_server_said(tmp_path: Path) -> None:
    """A timeout among them, counted to its end; warm-up and the quick ones are not."""
    late = {"outcome": Outcome.TIMEOUT, "end": 64.0, "first_token": None, "last_token": None}
    samples = [
        sent(0.0, 0.0, 90.0),
        sent(2.0, 2.0, 1.0),
        sent(3.0, 3.0, 5.0, request_id="s2", headers=(("cf-ray", "x"),), output_tokens=7),
        sent(4.0, 4.0, **late),
    ]
    found = slowest(arm(tmp_path / "a.run", samples, warmup_s=1.0), 2)

    assert [(one.id, one.took_s, one.outcome) for one in found] == [
        ("r3", 60.0, "timeout"),
        ("r2", 5.0, "ok"),
    ]
    assert found[0].ttft_s is None
    assert (found[1].ttft_s, found[1].at_s, found[1].output_tokens) == (2.5, 3.0, 7)
    assert (found[1].request_id, found[1].headers) == ("s2", (("cf-ray", "x"),))


def test_nothing_that_ended_is_no_slow_request(tmp_path: Path) -> None:
    """Of requests that were never sent there is no time."""
    never = {"due": 1.0, "sent": None, "outcome": Outcome.CANCELLED}

    assert slowest(arm(tmp_path / "a.run", [never], completed=0, cancelled=1), 5) == []
