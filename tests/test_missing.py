"""What is missing is said in a line that names it: a key at the first 401, a folder before any work."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tbench.__main__ import run as tbench
from tests.answering import EVENTS, Given, Received, answering, stream
from tests.conftest import Done

SYNTH = ("trace", "synth", "--scenario", "D(5,4)", "--model", "m", "--requests", 8, "--rate", 80)
VARIABLE = "TOGETHER_API_KEY"


def guarded(request: Received) -> Given:
    """Whoever has the key is answered."""
    if request.headers.get("authorization") != "Bearer good":
        return Given([b'{"error":{"message":"no key, no answer"}}'], status=401)
    return Given(stream(), headers=EVENTS)


VERBS = {
    "replay": ("replay", "t.msgpack", "--base-url", "URL", "-o", "out"),
    "ab": (
        *("ab", "t.msgpack", "--repeats", 1, "-o", "out"),
        *("--arm", "name=now,base_url=URL", "--arm", "name=next,base_url=URL"),
    ),
    "benchmark": (
        *("benchmark", "--api-backend", "together", "--api-base", "URL", "--api-model-name", "m"),
        *("--task", "text-to-text", "--max-requests-per-run", 4, "--no-summary"),
        *("--traffic-scenario", "D(5,4)", "--num-concurrency", "1,2"),
        *("--experiment-folder-name", "out"),
    ),
}


@pytest.mark.parametrize("verb", VERBS)
def test_the_first_401_ends_it_and_leaves_nothing_in_the_way(
    verb: str, tbench: Callable[..., Done]
) -> None:
    assert tbench(*SYNTH, "-o", "t.msgpack").code == 0
    with answering(guarded) as server:
        words = [str(word).replace("URL", server.url) for word in VERBS[verb]]
        keyless = tbench(*words, **{VARIABLE: ""})
        sent = len(server.received)
        again = tbench(*words, **{VARIABLE: "good"})

    assert keyless.code == 5
    assert keyless.out == ""
    assert sent < 8
    *_, last = keyless.err.splitlines()
    assert f"{VARIABLE} is not set" in last
    assert "no key, no answer" in last
    assert keyless.err.count(VARIABLE) == 1
    assert again.code in {0, 3, 4}, again.err  # 3: one run of each arm decides nothing
    assert again.out


def test_a_report_of_such_a_run_is_no_table(tbench: Callable[..., Done], tmp_path: Path) -> None:
    assert tbench(*SYNTH, "-o", "t.msgpack").code == 0
    with answering(guarded) as server:
        words = [str(word).replace("URL", server.url) for word in VERBS["replay"]]
        tbench(*words, **{VARIABLE: ""})
    shown = tbench("report", "out")
    numbers = json.loads(tbench("report", "out", "--json").out)

    assert shown.code == 5
    assert "metric" not in shown.out
    assert "nan" not in shown.out
    assert "no request succeeded" in shown.err
    assert (numbers["completed"], numbers["failed"]) == (0, 1)


Said = pytest.CaptureFixture[str]
SYNTHESIS = ["trace", "synth", "--scenario", "D(5,5)", "--model", "m", "--requests", "3"]
ARMS = ["--arm", "name=a,base_url=URL", "--arm", "name=b,base_url=URL", "--repeats", "3"]


@pytest.mark.parametrize(
    ("words", "file"),
    [
        ([*SYNTHESIS, "-o"], "x.msgpack"),
        (["trace", "repair", "t.msgpack", "-o"], "x.msgpack"),
        (["replay", "t.msgpack", "--base-url", "URL", "-o"], "x.run"),
        (["ab", "t.msgpack", *ARMS, "-o", "ab", "--xlsx"], "x.xlsx"),
        (["report", "t.msgpack", "--html"], "x.html"),
        (["report", "t.msgpack", "--xlsx"], "x.xlsx"),
        (["compare", "t.msgpack", "t.msgpack", "--html"], "x.html"),
        (["compare", "t.msgpack", "t.msgpack", "--margin", "5%", "--junit"], "x.xml"),
        (["compare", "t.msgpack", "t.msgpack", "--markdown"], "x.md"),
        (["serve", "--port", "0", "--duration", "1", "--log"], "log"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_it_is_said_before_anything_is_sent(
    words: list[str], file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    def refuse(_: Received) -> Given:
        return Given([b"{}"], status=500)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOGETHER_API_KEY", "k")
    assert tbench([*SYNTHESIS, "-o", "t.msgpack"]) == 0
    capsys.readouterr()
    with answering(refuse) as server:
        given = [word.replace("URL", server.url) for word in words]
        assert tbench([*given, f"not/there/{file}"]) == 2
        assert not server.received
    shown = capsys.readouterr()

    assert f"{file}: the folder not/there does not exist; make it first\n" in shown.err
    assert shown.err.count("\n") == 1
    assert not shown.out
    assert not (tmp_path / "not").exists()
