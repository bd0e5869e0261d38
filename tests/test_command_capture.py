"""`tbench capture` as a command: what it refuses before it listens, and what it shows."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tbench import __main__ as entry


@pytest.fixture
def refusal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Run `tbench capture ARGUMENTS`, which must be refused with exit code 2, one line and no file."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> str:
        before = sorted(tmp_path.iterdir())
        assert entry.run(["capture", *map(str, arguments)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert sorted(tmp_path.iterdir()) == before
        return said.err

    return run


def test_a_port_in_use(refusal: Callable[..., str]) -> None:
    """Which one, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]

        assert f"127.0.0.1:{port}: Address already in use; choose another --port" in refusal(
            "--port", port
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--upstream", "nonsense"], "--upstream 'nonsense'"),
        (["--upstream", "https://x/path"], "leave out the path"),
        (["--mode", "sideways"], "choose reverse or proxy"),
        (["--mode", "proxy", "--upstream", "https://x"], "--upstream goes with reverse mode"),
        (["--host", "x"], "--host goes with --mode proxy"),
        (["--mode", "proxy", "--host", "("], "is not a regular expression"),
        (["--mode", "proxy", "--listen", "0.0.0.0"], "use a loopback address"),
        (["--sample", "0"], "--sample 0"),
        (["--port", "70000"], "--port"),
        (["--upstream-ca", "absent.pem", "--port", "0"], "absent.pem"),
        (["-o", "absent/t.msgpack", "--port", "0"], "absent"),
        (["--grace", "-1"], "--grace"),
        (["--requests", "0"], "--requests"),
        (["--requests", "5", "--processes", "2"], "--requests counts within one process"),
        (["--processes", "1000"], "at most 256"),
        (["-o", "absent/t.msgpack", "--port", "0", "--processes", "2"], "absent"),
    ],
)
def test_bad_usage(refusal: Callable[..., str], arguments: list[str], said: str) -> None:
    """Each is one line that names the option."""
    assert said in refusal(*arguments)


@pytest.mark.parametrize("name", ["t.msgpack", "t.msgpack.part"])
def test_an_existing_trace_is_never_overwritten(
    refusal: Callable[..., str], tmp_path: Path, name: str
) -> None:
    """Neither a finished one nor the remains of one that was killed."""
    (tmp_path / name).write_bytes(b"precious")

    assert name in refusal("-o", "t.msgpack", "--port", "0")
    assert (tmp_path / name).read_bytes() == b"precious"


def test_a_link_that_leads_nowhere_is_refused_at_the_start(
    refusal: Callable[..., str], tmp_path: Path
) -> None:
    """At the end its name would be taken."""
    (tmp_path / "t.msgpack").symlink_to(tmp_path / "nowhere")

    assert "exists already" in refusal("-o", "t.msgpack", "--port", "0")


def test_a_capture_of_nothing_ends_by_itself(tbench: Callable[..., Any], tmp_path: Path) -> None:
    """The duration ends it; the lines to paste were shown, the summary is on stdout."""
    done = tbench("capture", "--port", 0, "--duration", 0.2, "--upstream", "http://127.0.0.1:9")

    assert done.code == 0
    assert "0 requests, 0 responses" in done.out
    assert "dropped: nothing" in done.out
    for line in ("OPENAI_BASE_URL=http://127.0.0.1:", "OpenAI(base_url=", "Together(base_url="):
        assert line in done.err
    assert (tmp_path / "trace.msgpack").exists()
    assert "Traceback" not in done.err
