"""`tbench capture` as a command: what it refuses before it listens, and what it shows."""

import signal
import socket
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from tbench import __main__ as entry
from tbench.capture.trace_reader import read_trace
from tests.conftest import PATIENCE_S, until
from tests.forked import Command


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
        (
            ["--listen", "0.0.0.0"],
            "would cross the network in the clear; give --cert FILE, or --insecure",
        ),
        (
            ["--mode", "proxy", "--listen", "0.0.0.0", "--insecure"],
            "name the hosts it may reach by --host",
        ),
        (["--listen", "127.0.0.1:8080"], "its port goes to --port"),
        (["--no-tunnel"], "--no-tunnel goes with --mode proxy"),
        (["--cert", "absent.pem"], "--cert absent.pem: no such file"),
        (["--cert", __file__], "not a certificate and its unencrypted key"),
        (["--sample", "0"], "--sample 0"),
        (["--port", "70000"], "--port"),
        (["--upstream-ca", "absent.pem", "--port", "0"], "absent.pem"),
        (["-o", "absent/t.msgpack", "--port", "0"], "absent"),
        (["--grace", "-1"], "--grace"),
        (["--requests", "0"], "--requests"),
        (["--requests", "5", "--processes", "2"], "--requests counts within one process"),
        (["--cert", "c.pem", "--", "true"], "--cert: a command that is run here needs none"),
        (["--processes", "1000"], "at most 256"),
        (["-o", "absent/t.msgpack", "--port", "0", "--processes", "2"], "absent"),
        (["--", "no-such-command", "-x"], "no-such-command: there is no such command"),
        (["--duration", "1", "--", "true"], "a command ends its capture"),
        (["--processes", "2", "--", "true"], "recorded by one process"),
    ],
)
def test_bad_usage(refusal: Callable[..., str], arguments: list[str], said: str) -> None:
    """Each is one line that names the option."""
    assert said in refusal(*arguments)


def test_a_certificate_that_has_expired_is_refused(
    refusal: Callable[..., str], tmp_path: Path
) -> None:
    """Every client would refuse it."""
    issued = trustme.CA().issue_cert("localhost", not_after=datetime(2020, 1, 2, tzinfo=UTC))
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")

    assert "expired on 2020-01-02" in refusal("--cert", str(tmp_path / "server.pem"), "--port", "0")


@pytest.mark.parametrize(
    ("name", "processes"),
    [("t.msgpack", 1), ("t.msgpack.part", 1), ("t.p1.msgpack", 2), ("t.p1.msgpack.part", 2)],
)
def test_an_existing_trace_is_never_overwritten(
    refusal: Callable[..., str], tmp_path: Path, name: str, processes: int
) -> None:
    """Neither a finished one nor the remains of one that was killed; and no other file is begun."""
    (tmp_path / name).write_bytes(b"precious")

    assert name in refusal("-o", "t.msgpack", "--port", "0", "--processes", str(processes))
    assert (tmp_path / name).read_bytes() == b"precious"
    assert [path.name for path in tmp_path.glob("t.*")] == [name]


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


SCRIPT = """
import sys
from openai import OpenAI

client = OpenAI(api_key="key-of-the-script")
answer = client.chat.completions.create(model="meta-llama/Llama-3.3-70B-Instruct-Turbo", messages=[
    {"role": "user", "content": "hello"}])
print(len(answer.choices), *sys.argv[1:])
sys.exit(7)
"""


@pytest.mark.parametrize("reverse", [True, False])
def test_a_command_is_recorded_and_its_exit_code_is_the_captures(
    reverse: bool, tbench: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    """A script of the openai SDK that knows nothing of it: by its base URL, and over TLS by a proxy.

    The base URL is reached where a proxy is set for all else.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = authority.issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    tls = [word for flag in ("--tls-cert", "--tls-key") for word in (flag, tmp_path / "server.pem")]
    server = serve("serve", "--port", 0, *([] if reverse else tls))
    url = server.url.replace("127.0.0.1", "localhost")
    (tmp_path / "app.py").write_text(SCRIPT)
    way = ["--upstream", server.url] if reverse else ["--upstream-ca", tmp_path / "ca.pem"]

    command = [sys.executable, "app.py", "--debug", "-o", "x"]
    others = {"OPENAI_BASE_URL": f"{url}/v1", "HTTP_PROXY": "http://127.0.0.1:9"}
    done = tbench("capture", *way, "--", *command, **others)

    assert (done.code, done.out) == (7, "1 --debug -o x\n"), done.err
    (exchange,) = read_trace(tmp_path / "trace.msgpack")
    assert exchange.request.scheme == ("http" if reverse else "https")
    assert exchange.response is not None
    assert exchange.response.status == 200
    assert "1 request, 1 response" in done.err


def test_a_signal_goes_to_the_command_and_nothing_recorded_is_said(tmp_path: Path) -> None:
    """The capture ends after it, whole, with the exit code that a shell would give."""
    ready = tmp_path / "ready"
    capture = Command(
        ["capture", "-o", "t.msgpack", "--", "sh", "-c", "touch ready; exec sleep 60"], tmp_path
    )
    until(ready.exists)
    capture.send_signal(signal.SIGTERM)

    assert capture.wait(PATIENCE_S) == 128 + signal.SIGTERM
    assert "nothing was recorded" in capture.stderr.read()
    assert list(read_trace(tmp_path / "t.msgpack")) == []
    capture.close()
