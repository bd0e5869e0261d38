"""What several tests need: the simulator as a process of its own, and commands run as a user runs them."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ADDRESS = re.compile(r"listening on (https?://[\w.:]+)")


@dataclass(frozen=True)
class Done:
    """A finished command: its exit code and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture
def tbench(tmp_path: Path) -> Callable[..., Done]:
    """Run `tbench ARGUMENTS` in an empty folder; returns exit code, stdout, stderr."""

    def run(*arguments: object, timeout: float = 90, **environ: str) -> Done:
        whole = [sys.executable, "-m", "tbench", *map(str, arguments)]
        env = {**os.environ, "TOGETHER_API_KEY": "test-key-0123456789", **environ}
        done = subprocess.run(
            whole,
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


class Server:
    """A `tbench` server process: `.url`, `.stop()` -> exit code, `.said` so far on stderr."""

    def __init__(self, *arguments: object) -> None:
        whole = [sys.executable, "-m", "tbench", *map(str, arguments)]
        self.process = subprocess.Popen(
            whole, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        self.said = ""
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._listening.wait(30), self.said
        found = ADDRESS.search(self.said)
        assert found, self.said
        self.url = found[1]

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.said += line
            if ADDRESS.search(self.said):
                self._listening.set()
        self._listening.set()

    def stop(self, signum: int = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signum)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self._reader.join(timeout=5)
            if self.process.stderr:
                self.process.stderr.close()
        return self.process.returncode


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start any `tbench` server verb: `serve("serve", "--port", 0)`; all are stopped at the end."""
    servers: list[Server] = []

    def start(*arguments: object) -> Server:
        servers.append(Server(*arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def simulator() -> Iterator[Server]:
    """One fast simulator for the whole session; its address is `.url`."""
    server = Server("serve", "--port", "0", "--profile", "fast")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer of 1,500 tokens, trained on the spot; it cuts at 32 unless told not to."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    from capture.synthesis.corpus import pool

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(pool()[:1000], trainer)
    tokenizer.enable_truncation(32)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path
