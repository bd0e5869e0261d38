"""What several tests need: the simulator as a process of its own, and commands run as a user runs them."""

import gc
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from hypothesis import settings

from tbench.analysis.arms import Arm, Replicates
from tbench.replay.runfile import Run, recount
from tests.forked import Command, loaded
from tests.recorded import Columns, arm_of, run_columns

settings.register_profile("house", deadline=None)
settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True)  # of `make test`
settings.load_profile("house")  # no test asserts a timing: a busy machine made one fail at 200 ms
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # commands inherit what nohup left of it
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has a background job ignore it
ADDRESS = re.compile(r"listening on (https?://[\w.:]+)")
PATIENCE_S = 300.0
"""How long a test waits for what must come: what hangs meets it, a busy machine does not."""
BUSY = re.compile("this client (?:read answers late|sent late|was the limit|could not keep up)")


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: each full collection of garbage took 0.5 s to look through them."""
    gc.freeze()


def interruptible(**environ: str) -> dict[str, str]:
    """The environment of a command that a signal will interrupt: it runs without coverage.

    Coverage takes a lock at the first call into each file; an interrupt just then leaves it locked, and the
    command waits for it for ever.
    """
    plain = {name: word for name, word in os.environ.items() if "COVERAGE_PROCESS" not in name}
    return {**plain, "TOGETHER_API_KEY": "test-key-0123456789", **environ}


def until[T](look: Callable[[], T | None]) -> T:
    """What a look shows as soon as it shows something: for what another process does, and nobody tells of."""
    ends = time.monotonic() + PATIENCE_S
    while not (seen := look()):
        assert time.monotonic() < ends, "it never happened"
        time.sleep(0.02)
    return seen


def has_signal(pid: int, mask: str, number: int) -> bool:
    """Whether a mask of a process in /proc has a signal: SigCgt (caught), ShdPnd (waits to be taken)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{mask}:"))
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses every connection, until a server that was told of it listens there.

    It is bound all the while, so that no other process is given it. The server must set SO_REUSEADDR, as
    asyncio and http.server do.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@dataclass(frozen=True)
class Done:
    """A finished command: its exit code and what it said."""

    code: int
    out: str
    err: str

    @property
    def ended(self) -> bool:
        """Whether it did all it was asked for: a busy machine makes a run INVALID (4), and no less whole."""
        return self.code in {0, 4}

    def __repr__(self) -> str:
        """What a busy machine did comes first: pytest cuts long words, and runs such a test again."""
        busy = "".join(BUSY.findall(self.err + self.out)[:1])
        return f"Done({busy}: code={self.code}, out={self.out!r}, err={self.err!r})"


@pytest.fixture(scope="session", autouse=True)
def _commands() -> Iterator[None]:
    """Ends what commands are forked from, after all that uses it: it was set up first."""
    yield
    if loaded.cache_info().currsize:
        loaded().close()


def run_tbench(
    folder: Path, *arguments: object, timeout: float = PATIENCE_S, **environ: str
) -> Done:
    """Run `tbench ARGUMENTS` in a folder; `timeout` is in seconds."""
    environment = {**os.environ, "TOGETHER_API_KEY": "test-key-0123456789", **environ}
    done = Done(*loaded().run([*map(str, arguments)], folder, environment, timeout))
    assert not re.search(r"^\S+:\d+: \w*Warning: ", done.err, re.MULTILINE), done.err
    return done


@pytest.fixture
def tbench(tmp_path: Path) -> Callable[..., Done]:
    """Run `tbench ARGUMENTS` in an empty folder; returns exit code, stdout, stderr."""
    return partial(run_tbench, tmp_path)


class Server:
    """A `tbench` server process: `.url`, `.stop()` -> exit code, `.said` so far on stderr."""

    def __init__(self, *arguments: object) -> None:
        self.process = Command([*map(str, arguments)], Path.cwd())
        self.said = ""
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._listening.wait(PATIENCE_S), self.said
        found = ADDRESS.search(self.said)
        assert found, self.said
        self.url = found[1]

    def _read(self) -> None:
        for line in self.process.stderr:
            self.said += line
            if ADDRESS.search(self.said):
                self._listening.set()
        self._listening.set()

    def stop(self, signum: int = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signum)
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self._reader.join(PATIENCE_S)
            self.process.close()
        assert self.process.returncode is not None
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


TURNS = ((0, 1), (1, 0), (0, 1), (0, 1), (1, 0))
"""Which arm begins each pair of runs: no rule in it."""


class Repeats:
    """Makes repeated runs of two arms, in memory."""

    def columns(self, n: int, seed: int, factor: float = 1.0) -> Columns:
        """So many streamed requests with lognormal latencies times `factor`."""
        wait_s = np.exp(np.random.default_rng(seed).normal(size=n) * 0.3 - 2) * factor
        columns = run_columns(n, gap_s=0.1, wait_s=wait_s, stream_s=0.5 * factor)
        return columns | {"cached_tokens": np.full(n, 100)}

    def run(self, found: Columns, started: int, source: str = "trace-1", **totals: Any) -> Arm:
        complete = totals.pop("complete", True)
        named = {name: totals.pop(name) for name in ("model", "target", "pacing") if name in totals}
        path, whole = Path(f"{started}-{id(found)}.run"), {**recount(found), **totals}
        n = len(found["id"])
        return arm_of(
            found,
            "a",
            run=Run(path, {"wall_ns": started}, found, whole, complete=complete),
            source=source,
            as_recorded="pacing" not in named,
            token_gaps=lambda: (np.arange(n + 1), np.full(n, 0.1)),
            **named,
        )

    def arms(
        self,
        factor: float = 1.0,
        repeats: int = 5,
        *,
        turns: bool = True,
        noise: float = 0.01,
        drift: float = 0.0,
        spoil: Callable[[Columns], None] = lambda _: None,
        **told: Any,
    ) -> tuple[Replicates, Replicates]:
        """Arms of 500 requests a run, the second slower by `factor` and spoilt; runs differ by `noise`.

        Each run is `drift` slower than the one before, as a logarithm. `told` is what the second's runs say.
        """
        random = np.random.default_rng(5)
        arms: tuple[list[Arm], list[Arm]] = ([], [])
        for pair in range(repeats):
            for place, which in enumerate(TURNS[pair % 5]):
                at = 2 * pair + place if turns else which * 100 + pair
                slow = float(np.exp(random.normal() * noise + drift * at)) * (
                    factor if which else 1
                )
                found = self.columns(500, seed=10 * pair + which, factor=slow)
                if which:
                    spoil(found)
                arms[which].append(self.run(found, at, **(dict(told) if which else {})))
        first, second = (
            Replicates(
                name=name, runs=tuple(sorted(one, key=lambda arm: arm.run.header["wall_ns"]))
            )
            for name, one in zip("AB", arms, strict=True)
        )
        return first, second


@pytest.fixture(scope="session")
def repeats() -> Repeats:
    """`repeats.arms(1.3)`: two arms of five runs that took turns, the second 30 % slower."""
    return Repeats()


@pytest.fixture(scope="session")
def experiment() -> Callable[..., Any]:
    """Arms of repeated runs as files, which took turns unless told otherwise.

    `experiment(folder, {"A": 1.0, "B": 1.2}, repeats)` makes A-0.run ... and returns their Replicates:
    lognormal latencies times the factor, `failing` the share of 429 by arm, n requests each.
    """
    from tbench.analysis.arms import load_replicates
    from tbench.replay import columns as blocks
    from tbench.replay.runfile import RunWriter

    def columns(n: int, seed: int, factor: float, failing: float, model: str) -> Columns:
        random = np.random.default_rng(seed)
        lag_s = random.exponential(0.001, n)
        wait_s = factor * np.exp(random.normal(-2, 0.3, n))
        bad = random.random(n) < failing
        columns = run_columns(
            n, gap_s=0.01, wait_s=wait_s, stream_s=factor * 0.02 * 49, lag_s=lag_s
        )
        columns["first_byte"] = columns["first_token"]
        for name in ("first_byte", "first_token", "first_answer", "last_token"):
            columns[name] = np.where(bad, np.nan, columns[name])
        columns |= {
            "end": np.where(bad, columns["sent"] + 0.05, columns["end"]),
            "status": np.where(bad, 429, 200),
            "sent_wall_ns": 10**18 + (columns["sent"] * 1e9).astype(int),
            "output_tokens": np.where(bad, -1, 50),
            "token_events": np.where(bad, 0, 50),
            "prompt_tokens": np.full(n, 9),
            "model": [model] * n,
            "outcome": np.where(bad, "http_error", "ok").tolist(),
            "error": ["slow down" if failed else None for failed in bad],
            "finish_reason": [None] * n,
            "request_id": [f"s{k}" for k in range(n)],
        }
        return columns

    def write(path: Path, began: int, whole: dict[str, Any]) -> None:
        header = {
            "wall_ns": began * 10**9,
            "trace": {"capture_id": "c", "path": "t.msgpack"},
            "pacing": {"mode": "speed", "value": 1.0, "meaning": "open loop: as recorded"},
            "target": {"base_url": f"http://{path.stem[0]}", "sender": "engine"},
            "host": {"cpus": 2, "python": "3.13.0"},
            "argv": ["replay", "t.msgpack", "-o", path.name],
        }
        writer = RunWriter(path, header, clock=lambda: 0.0)
        n = len(whole["index"])
        for at in range(0, n, 50_000):
            part = {name: column[at : at + 50_000] for name, column in whole.items()}
            writer.append(blocks.pack(part))
            none = np.zeros(len(part["index"]))
            writer.append(blocks.tokens_record(part["index"], none, np.zeros(0)))
        failed = int((whole["status"] == 429).sum())
        writer.close(
            {"planned": n, "completed": n - failed, "failed": failed, "cancelled": 0,
             "lost_in_flight": 0, "never_sent": 0, "clock": "kernel"}
        )  # fmt: skip

    def make(
        folder: Path,
        factors: dict[str, float],
        repeats: int,
        *,
        n: int = 500,
        failing: dict[str, float] | None = None,
        model: str = "m",
        turns: bool = True,
    ) -> list[Any]:
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(7)
        for k in range(repeats):
            order = list(factors) if k % 2 else list(reversed(factors))
            for place, name in enumerate(order):
                factor = factors[name] * float(np.exp(noise.normal() * 0.005))
                share = (failing or {}).get(name, 0.0)
                began = 1 + (100 * k + place if turns else 1000 * list(factors).index(name) + k)
                whole = columns(n, 10 * k + place, factor, share, model)
                write(folder / f"{name}-{k}.run", began, whole)
        return [load_replicates(f"{folder}/{name}-*.run") for name in factors]

    return make


@pytest.fixture
def repeated() -> Callable[..., Any]:
    """Runs of one arm in memory: `repeated([1.0, 1.03], n=2000)` are two, the second 3 % slower.

    Latencies are lognormal: `shared` is the sd that the requests of the trace have in common, `own` that
    of each run by itself. One request each `gap` seconds. Run i begins at place
    `at + step * i`: `step` arms take turns, forwards and backwards, and this one is the `at`th of them.
    """

    def make(
        slow: Sequence[float],
        n: int = 2000,
        *,
        seed: int = 1,
        shared: float = 0.3,
        own: float = 0.3,
        gap: float = 1.0,
        at: int = 0,
        step: int = 1,
        name: str = "A",
        spoil: Callable[[dict[str, Any]], None] = lambda _: None,
        **changes: Any,
    ) -> Replicates:
        common = np.random.default_rng(99).normal(size=n) * shared
        runs = []
        for i, factor in enumerate(slow):
            logs = common + np.random.default_rng(1000 * seed + i).normal(size=n) * own
            wait_s = np.exp(logs - 2) * factor
            columns = run_columns(n, gap_s=gap, wait_s=wait_s, stream_s=0.5 * factor)
            spoil(columns)
            turned = i % 2 and at < step
            place = step * i + (step - 1 - at if turned else at)
            runs.append(arm_of(columns, f"{name}-{i}", {"wall_ns": place}, **changes))
        return Replicates(name=name, runs=tuple(runs))

    return make


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer of 1,500 tokens, trained on the spot; it cuts at 32 unless told not to."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    from tbench.capture.synthesis.corpus import pool

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


SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLE"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": SECRET}


@pytest.fixture
def s3(tmp_path: Path, free_port: int) -> Iterator[tuple[str, Path]]:
    """An S3-compatible server whose buckets are folders: its address and where they are; `results` is one."""
    pytest.importorskip("s3fs", reason="needs s3fs: pip install -e '.[cloud]'")
    data = tmp_path / "buckets"
    (data / "results").mkdir(parents=True)
    command = [sys.executable, "-m", "localbucket", str(data), "--port", str(free_port)]
    url = f"http://127.0.0.1:{free_port}"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:

        def answers() -> bool:
            assert server.poll() is None
            try:
                urlopen(url).close()
            except HTTPError:
                return True
            except OSError:
                return False
            return True

        until(answers)
        yield url, data
        server.terminate()
    shutil.rmtree(data)
