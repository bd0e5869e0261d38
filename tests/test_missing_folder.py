"""An output in a folder that is not there is refused in a line that names the folder, before any work."""

from pathlib import Path

import pytest

from tbench.__main__ import run as tbench
from tests.answering import Given, Received, answering

Said = pytest.CaptureFixture[str]
SYNTH = ["trace", "synth", "--scenario", "D(5,5)", "--model", "m", "--requests", "3"]
ARMS = ["--arm", "name=a,base_url=URL", "--arm", "name=b,base_url=URL", "--repeats", "3"]


@pytest.mark.parametrize(
    ("words", "file"),
    [
        ([*SYNTH, "-o"], "x.msgpack"),
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
    assert tbench([*SYNTH, "-o", "t.msgpack"]) == 0
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
