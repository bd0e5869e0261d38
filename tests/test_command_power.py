"""`tbench power` as a user runs it: which files make an arm, the JSON contract, and every bad input."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbench.__main__ import run as tbench
from tbench.analysis.planning import load_pilot, parse_asked, parse_share
from tbench.capture.errors import InputError
from tbench.capture.exchange import Exchange, Outcome, Response
from tbench.capture.records import TraceHeader
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.runfile import RunWriter
from tbench.replay.sample import Sample
from tests.recorded import chat_request

Said = pytest.CaptureFixture[str]
DOC = (Path(__file__).parent.parent / "docs" / "json.md").read_text()


def write_run(
    path: Path, *, wall: int = 0, slow: float = 1.0, n: int = 500, **changes: Any
) -> Path:
    """`n` requests of one trace, `slow` times slower."""
    capture, model = changes.pop("capture", "c1"), changes.pop("model", "m")
    late, outcome = changes.pop("late", 0.0001), changes.pop("outcome", Outcome.OK)
    header = {
        "wall_ns": wall,
        "trace": {"capture_id": capture},
        "pacing": {"mode": "speed", "value": 1.0},
    }
    path.parent.mkdir(exist_ok=True)
    writer = RunWriter(path, header, clock=lambda: 0.0)
    noise = np.random.default_rng(wall).lognormal(sigma=0.2, size=n) * slow
    for k in range(n):
        at = k * 4.0
        writer.add(
            Sample(
                id=f"r{k}",
                index=k,
                endpoint="chat",
                model=model,
                stream=True,
                due=at,
                sent=at + late,
                first_token=at + 0.03 * noise[k],
                last_token=at + 0.23 * noise[k],
                end=at + 0.23 * noise[k],
                status=200,
                output_tokens=21,
                token_times=(at + 0.03 * noise[k], at + 0.23 * noise[k]),
                outcome=outcome,
            )
        )
    ok = outcome is Outcome.OK
    rest = {"cancelled": 0, "lost_in_flight": 0, "never_sent": 0, "warmup_s": 0.0}
    writer.close({"planned": n, "completed": n if ok else 0, "failed": 0 if ok else n, **rest})
    return path


@pytest.fixture
def pilots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders of three runs each, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for i, slow in enumerate((1.0, 1.03, 0.98)):
        write_run(tmp_path / "A" / f"{i}.run", wall=10 + i, slow=slow)
        write_run(tmp_path / "B" / f"{i}.run", wall=20 + i, slow=2 * slow, model="other")
    return tmp_path


def names(*texts: str) -> list[list[str]]:
    return [[run.name for run in arm.runs] for arm in load_pilot(texts)]


def test_what_makes_an_arm(pilots: Path) -> None:
    """A folder, a glob, single runs of one model; the runs of another model are another arm."""
    assert names("A") == names("A/*.run") == names("A/0.run", "A/1.run", "A/2.run")
    assert names("A/2.run", "A/0.run") == [["0", "2"]]
    assert names("A", "B") == [["0", "1", "2"], ["0", "1", "2"]]
    assert names("A/0.run", "B/0.run") == [["0"], ["0"]]


def test_a_trace_is_a_pilot_of_one_run(pilots: Path, capsys: Said) -> None:
    """What the proxy saw: no spread from run to run, which is assumed."""
    with TraceWriter(pilots / "t.msgpack", TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq in range(400):
            at = seq * 20_000_000
            request = chat_request(seq, at, b"{}")
            response = Response(head_ns=at, end_ns=at + 9_000_000 + seq % 7 * 10**5, status=200)
            writer.exchange(Exchange(request=request, response=response))

    assert tbench(["power", "t.msgpack", "--metric", "e2e:p50"]) == 0

    said = capsys.readouterr().out
    assert "1 trace" in said
    assert "! one run cannot say how much runs differ" in said


def test_the_json_contract(pilots: Path, capsys: Said) -> None:
    """One object, every key of which docs/json.md knows in its section."""
    assert tbench(["power", "A", "B", "--json", "--effect", "10%", "--power", "0.9"]) == 0

    found = json.loads(capsys.readouterr().out)
    section = re.findall(r"^## `power`$(.*?)(?=^## )", DOC, re.MULTILINE | re.DOTALL)[0]
    known = set(re.findall(r"`(\w+)`", section))
    row = found["metrics"][0]
    said = [found, found["pilot"][0], row, row["one_pair"], row["plans"][0], found["together"]]
    assert set().union(*said) <= known
    assert (found["effect"], found["margin"], found["power"]) == pytest.approx((0.1, 0.05, 0.9))
    assert (row["metric"], row["quantile"], row["runs"], row["assumed"]) == ("ttft", 0.5, 6, False)
    assert row["run_sd"] == pytest.approx(0.025, abs=0.015)
    assert row["run_sd_ci"][0] < row["run_sd"] < row["run_sd_ci"][1]


def test_the_text_names_the_runs_it_takes(pilots: Path, capsys: Said) -> None:
    """And nothing is on stderr."""
    assert tbench(["power", "A/*.run", "--metric", "e2e:p50"]) == 0

    said = capsys.readouterr()
    assert "A/*.run: 3 runs of 33 min or more" in said.out
    assert "The gate of 5 % passes in 80 % of plans" in said.out
    assert said.err == ""


def test_a_pilot_whose_client_was_the_limit_is_invalid(pilots: Path, capsys: Said) -> None:
    """The plan is printed, with the reason and exit code 4."""
    write_run(pilots / "late.run", late=0.02)

    assert tbench(["power", "late.run"]) == 4
    assert "! late.run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.run"], "missing.run"),
        (["none/*.run"], "none/*.run"),
        (["empty"], "empty"),
        (["junk.run"], "junk.run"),
        (["A/0.run", "elsewhere.run"], "different traces"),
        (["A", "A/1.run"], "named twice"),
        (["A", "copy.run"], "copy.run: one run, named twice or copied"),
        (["dead.run"], "no request succeeded"),
        (["A", "--effect", "5"], "--effect 5: write it as 5%"),
        (["A", "--margin", "0%"], "--margin 0%: write it as 5%"),
        (["A", "--power", "80"], "--power 80"),
        (["A", "--metric", "ttft"], "write it as ttft:p95"),
        (["A", "--metric", "speed:p50"], "no metric speed"),
        (["A", "--metric", "ttft:p100"], "between p0 and p100"),
        (["A", "--metric", "errors"], "quantiles"),
        ([], "--help"),
    ],
)
def test_bad_input_is_one_line(
    pilots: Path, capsys: Said, arguments: list[str], words: str
) -> None:
    """What is wrong, where, and what to do; nothing on stdout."""
    write_run(pilots / "elsewhere.run", capture="c2")
    write_run(pilots / "dead.run", outcome=Outcome.CONNECT_ERROR)
    (pilots / "copy.run").write_bytes((pilots / "A" / "1.run").read_bytes())
    (pilots / "junk.run").write_text("no run at all")
    (pilots / "empty").mkdir()

    assert tbench(["power", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_options_are_read_exactly() -> None:
    """Per cent to shares; metric and quantile; a repeated decimal point is no number."""
    assert parse_share("--effect", "2.5%") == pytest.approx(0.025)
    assert parse_asked("e2e:p99.9") == ("e2e", pytest.approx(0.999))
    with pytest.raises(InputError, match="write it as"):
        parse_asked("e2e:p9.9.9")
