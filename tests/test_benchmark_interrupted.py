"""tbench benchmark that is stopped, in a point or between two: it gives the terminal back and goes on."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.answering import stalling
from tests.conftest import PATIENCE_S, Server, interruptible, until

SCREEN, BACK = b"\x1b[?1049h", b"\x1b[?1049l"
HIDDEN, SHOWN = b"\x1b[?25l", b"\x1b[?25h"
KEY = {"TOGETHER_API_KEY": "test-key-0123456789"}
POINT, BETWEEN = "I(32,32)", "I(3000,3000)"
"""Pictures that are made at once, and so large that making them takes a second or two."""


@dataclass
class Terminal:
    """A benchmark on a terminal of its own; `wait` until it says something, then `end` it."""

    process: subprocess.Popen[bytes]
    fd: int
    said: bytes = b""

    def wait(
        self,
        words: bytes,
    ) -> None:
        ends = time.monotonic() + PATIENCE_S
        while words not in self.said:
            assert time.monotonic() < ends, self.said[-2000:]
            self._read(0.2)

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        ends = time.monotonic() + PATIENCE_S
        while self._read(0.2) and time.monotonic() < ends:
            pass
        return self.process.wait(timeout=PATIENCE_S)

    def _read(self, seconds: float) -> bool:
        if not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            found = os.read(self.fd, 65536)
        except OSError:  # the other end is closed
            return False
        self.said += found
        return bool(found)


def arguments(url: str, scenarios: tuple[str, ...], *more: str) -> list[str]:
    given = [word for one in scenarios for word in ("--traffic-scenario", one)]
    return [
        sys.executable, "-m", "tbench", "benchmark", "--api-backend", "together", "--api-base", url,
        "--api-model-name", "Qwen/Qwen2.5-VL-72B-Instruct", "--task", "image-text-to-text",
        "--num-concurrency", "2", "--experiment-folder-name", "x", "--no-summary",
        "--additional-request-params", '{"max_tokens": 20}', *given, *more,
    ]  # fmt: skip


@pytest.fixture
def terminal(
    simulator: Server, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Terminal]:
    scenarios, most = request.param
    ours, theirs = pty.openpty()
    environ = interruptible(TERM="xterm", COLUMNS="100", LINES="30")
    with subprocess.Popen(
        arguments(simulator.url, scenarios, "--max-requests-per-run", str(most)),
        cwd=tmp_path, env=environ, stdin=theirs, stdout=theirs, stderr=theirs,
    ) as process:  # fmt: skip
        os.close(theirs)
        yield Terminal(process, ours)
        if process.poll() is None:
            process.kill()
    os.close(ours)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("terminal", "when"),
    [
        (((POINT, "I(33,33)"), 300), b" 2 in flight"),
        (((POINT, BETWEEN), 12), b"point 2 of 2: I(3000,3000)"),
    ],
    indirect=["terminal"],
    ids=["in a point", "between two"],
)
def test_the_terminal_is_given_back(terminal: Terminal, when: bytes, number: int) -> None:
    """The screen, the cursor, what was made, and how to go on."""
    terminal.wait(when)
    code = terminal.end(number)
    said = terminal.said

    assert code == 130, said[-2000:]
    assert said.count(SCREEN) == said.count(BACK) == 1
    assert said.rfind(HIDDEN) < said.rfind(SHOWN)
    assert POINT.encode() in said.rpartition(BACK)[2], "the table of what was made"
    assert b"--experiment-folder-name x --resume goes on" in said
    assert b"Traceback" not in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_the_first_point_it_is_an_interrupt_too(tmp_path: Path, number: int) -> None:
    """While it asks a server how long its tokens are, which never answers: no folder is blamed."""
    server = Server("serve", "--odd", "--port", "0", "--duration", "120")
    command = arguments(server.url, ("D(20,4)",), "--max-requests-per-run", "3")
    for flag, value in (("--task", "text-to-text"), ("--api-model-name", "hangs")):
        command[command.index(flag) + 1] = value
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=interruptible()
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if "lengths: 6 requests" in line:
                break
        process.send_signal(number)
        said = process.stderr.read()
    server.stop()

    assert process.returncode == 130, said
    assert "interrupted; the same command with --experiment-folder-name x --resume goes on" in said
    assert "tbench: " not in said


def test_it_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    """A point that was not whole is set aside and made again; the others stay."""
    part = tmp_path / "x" / "runs" / "I33_33_image-text-to-text_num_concurrency_2.run.part"
    environ, killed = {**os.environ, **KEY}, threading.Event()
    with stalling(lambda: part.exists() and not killed.is_set()) as server:
        first = arguments(server.url, (POINT, "I(33,33)"), "--max-requests-per-run", "40")
        with subprocess.Popen(first, cwd=tmp_path, stderr=-1, env=environ) as process:
            until(lambda: process.poll() is not None or part.exists())
            process.kill()
            killed.set()
        again = subprocess.run(
            [*first, "--resume"], cwd=tmp_path, env=environ, check=False, capture_output=True,
            text=True, timeout=PATIENCE_S,
        )  # fmt: skip

    assert again.returncode in {0, 4}, again.stderr  # 4: a busy machine
    assert again.stderr.count("was there already") == 1
    assert len(list((tmp_path / "x").glob("*_time_*s.json"))) == 2
    assert len(list((tmp_path / "x" / "set-aside").iterdir())) == 1
    record = json.loads((tmp_path / "x" / "tbench_benchmark.json").read_text())
    assert [entry["ended"] for entry in record["runs"]] == ["done", "killed", "done"]
