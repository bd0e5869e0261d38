"""A run file that cannot be: one line and the right exit code, from every verb that reads runs."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tbench.__main__ import run as tbench
from tbench.capture.container_reader import open_container
from tbench.replay import runform
from tbench.replay.runfile import RunWriter
from tbench.replay.runform import IDENTITY
from tbench.replay.sample import Sample

Said = pytest.CaptureFixture[str]
HEADER: dict[str, Any] = {
    "wall_ns": 10**18,
    "trace": {"capture_id": "c"},
    "pacing": {"mode": "speed", "value": 1.0, "meaning": "as recorded", "open_loop": True},
    "target": {"base_url": "http://h"},
}


def sample(index: int, **changes: Any) -> Sample:
    """A stream of 0.2 s, sent when it was due."""
    at = index * 0.1
    plain = Sample(
        id=f"r{index}", index=index, endpoint="chat", model="m", stream=True, due=at, sent=at,
        first_token=at + 0.03, last_token=at + 0.2, end=at + 0.2, status=200, output_tokens=9,
    )  # fmt: skip
    return replace(plain, **changes)


def written(
    path: Path,
    *,
    header: Mapping[str, Any] | None = None,
    totals: Mapping[str, Any] | None = None,
    n: int = 40,
    **changes: Any,
) -> Path:
    """A run of n, each sample with these changes."""
    writer = RunWriter(path, {**HEADER, **(header or {})}, clock=lambda: 0.0)
    for index in range(n):
        writer.add(sample(index, **changes))
    whole = {**dict.fromkeys(IDENTITY, 0), "planned": n, "completed": n, **(totals or {})}
    return writer.close({name: value for name, value in whole.items() if value != "left out"})


TOTALS: list[dict[str, Any]] = [
    {"lost_in_flight": "1"},
    {"lost_in_flight": -1},
    {"planned": "left out"},
    {"planned": 2**60},
    {"planned": True},
    {"planned": None},
    {"skipped": []},
    {"skipped": {"x": "y"}},
    {"skipped": {"x": None}},
    {"reconnected": "2"},
    {"client_limit": ["x"]},
    {"client_limit": {"x": "y"}},
    {"hosts": 3},
    {"hosts": {"h": {}}},
    {"unchanged": "x"},
    {"unchanged": {"not_json": []}},
    {"most_in_flight": [1]},
    {"workers": {}},
    {"loop_stall_s": 3},
    {"loop_stall_s": {}},
    {"loop_stall_s": {"p50": "x", "p99": 1.0, "max": 1.0}},
    {"lost_workers": [[]]},
    {"lost_workers": "x"},
    {"warmup_s": float("nan")},
    {"warmup_s": {}},
    {"trace_losses": {"damaged_blocks": {}}},
    {"ended_by": []},
    {"clock": 7},
    {"client": {"cpu_share": "x"}},
    {"cost": [1]},
    {7: 8},
]
HEADERS: list[dict[str, Any]] = [
    {"pacing": "x"},
    {"pacing": {"meaning": 3}},
    {"target": [1]},
    {"target": {"base_url": {}}},
    {"target": {"match_length": ["cap"]}},
    {"cache": {"mode": ["cold"]}},
    {"trace": {"capture_id": {}}},
    {"wall_ns": "x"},
    {"wall_ns": 2**64 - 1},
    {"argv": "x"},
    {"argv": [b"x"]},
    {"experiment": {"round": "x"}},
    {"experiment": []},
    {"versions": []},
    {"host": {7: 8}},
]


@pytest.mark.parametrize("place", ["totals", "header"])
def test_wrong_types_are_one_line(place: str, tmp_path: Path, capsys: Said) -> None:
    """Whatever is in a sealed header or totals, no verb calls it a defect of its own."""
    (tmp_path / "odd").mkdir()
    (tmp_path / "sound").mkdir()
    for number in range(3):
        sound = str(written(tmp_path / f"sound/{number}.run"))
        written(tmp_path / f"odd/{number}.run")
    for odd in TOTALS if place == "totals" else HEADERS:
        (tmp_path / "odd/2.run").unlink()
        path = str(written(tmp_path / "odd/2.run", **{place: odd}))
        verbs = (
            ["report", path],
            ["report", path, "--json"],
            ["compare", sound, path],
            ["compare", path, sound, "--json"],
            ["compare", str(tmp_path / "sound"), str(tmp_path / "odd"), "--margin", "10%"],
            ["power", path],
        )
        for words in verbs:
            code = tbench(words)
            said = capsys.readouterr().err
            assert code == 2, (odd, words, said)
            assert said.count("\n") == 1
            assert "odd/2.run" in said


def test_a_client_limit_needs_no_other_totals(tmp_path: Path, capsys: Said) -> None:
    """A run that says nothing of workers and descriptors is INVALID all the same, in one line."""
    path = str(written(tmp_path / "a.run", totals={"client_limit": {"no ports": 3}}))

    assert tbench(["report", path]) == 4
    assert "could open no connection for 3 requests" in capsys.readouterr().out


IMPOSSIBLE: list[dict[str, Any]] = [
    {"end": -1e6},
    {"first_token": -50.0},
    {"last_token": -50.0},
    {"due": 1e8},
    {"due": 1e300},
    {"sent": float("inf")},
    {"end": float("-inf")},
    {"held": 1e12},
    {"status": 7},
    {"status": 9999},
    {"output_tokens": -7},
]


@pytest.mark.parametrize("odd", IMPOSSIBLE, ids=str)
def test_what_cannot_be_is_refused(odd: dict[str, Any], tmp_path: Path, capsys: Said) -> None:
    """Times the wrong way round, beyond thirty years, no numbers, no statuses: no report of them."""
    path = str(written(tmp_path / "a.run", **odd))

    for words in (["report", path], ["compare", path, path], ["compare", path, path, "--json"]):
        assert tbench(words) == 2
        said = capsys.readouterr()
        assert next(iter(odd)) in said.err
        assert not said.out


def test_a_killed_run_is_invalid(tmp_path: Path, capsys: Said) -> None:
    """A file without totals: 400 planned, 179 outcomes; every verb says so, and none says valid."""
    now = [0.0]
    writer = RunWriter(tmp_path / "a.run", HEADER, clock=lambda: now[0])
    for index in range(179):
        writer.add(sample(index))
    now[0] = 2.0
    writer.pump({"planned": 400, "issued": 185})
    writer._container._seal()
    killed, whole = str(tmp_path / "a.run.part"), str(written(tmp_path / "b.run", n=400))
    words = "221 of 400 planned requests have no outcome"

    assert tbench(["report", killed]) == 4
    said = capsys.readouterr()
    assert words in " ".join(said.out.split())
    assert words in said.err
    assert tbench(["report", killed, "--json"]) == 4
    said = capsys.readouterr()
    assert '"valid": false' in said.out
    for more in ([], ["--json"]):
        assert tbench(["compare", whole, killed, *more]) == 4
        assert words in " ".join(capsys.readouterr().out.split())


def damaged(path: Path, block: int) -> Path:
    """The file with one bit of one block changed."""
    rows = open_container(path).rows
    assert rows is not None
    data = bytearray(path.read_bytes())
    data[rows[block].offset + rows[block].length - 9] ^= 1
    path.write_bytes(data)
    return path


def test_a_run_that_lost_its_only_block_is_damaged(tmp_path: Path, capsys: Said) -> None:
    """Not empty: its totals know how many samples there were."""
    path = damaged(written(tmp_path / "a.run"), 0)

    for words in (["report", path], ["report", path, "--json"], ["compare", path, path]):
        assert tbench(list(map(str, words))) == 4
        said = capsys.readouterr()
        assert "damaged: it holds 0 of 40 samples" in " ".join((said.out + said.err).split())


def test_a_run_that_lost_samples_ends_with_4(tmp_path: Path, capsys: Said) -> None:
    """As the table of exit codes says of INVALID, from report as from compare."""
    path = damaged(written(tmp_path / "a.run", n=2500), 1)

    assert tbench(["report", str(path)]) == 4
    assert "of 2,500 samples" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted({**runform.HEADER.forms, **runform.TOTALS.forms}))
def test_what_a_run_says_is_documented(name: str) -> None:
    """In the format's page, as a word of code."""
    page = (Path(__file__).parents[1] / "docs" / "trace-format.md").read_text()

    assert re.search(rf"`[^`]*\b{name}\b[^`]*`", page)
