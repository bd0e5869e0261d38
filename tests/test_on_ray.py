"""Replays from the machines of a Ray cluster, two of which are on this one; and what a loss leaves."""

import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbench.replay.runfile import read_run
from tbench.replay.totals import identity
from tests.conftest import Done, interruptible
from tests.test_workers_end_to_end import seen, write_trace

pytest.importorskip("ray", reason="needs the extra [ray]")

HERE = Path(__file__).parent
TRIES = 2
START_S = 60.0
"""Ray gives up where a part of it takes over 30 s to start, as on a machine that is busy elsewhere."""
PATIENCE_S = 120
KEY = "test-key-that-nobody-may-keep-0123456789"


class Cluster:
    """Two machines that are none: tests/ray_cluster.py."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, HERE / "ray_cluster.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            process_group=0,
        )
        giving_up = threading.Timer(START_S, self.process.kill)
        giving_up.start()
        self.address, _, self.session = self.read().partition(" ")
        giving_up.cancel()

    def read(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def remove(self) -> None:
        """Take the second machine away."""
        assert self.process.stdin
        print("remove", file=self.process.stdin, flush=True)
        assert self.read() == "removed"

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def workers(self) -> dict[int, int]:
        """The processes that send, each with the actor that started it."""
        parents: dict[int, tuple[int, str]] = {}
        for entry in Path("/proc").iterdir():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                words = (entry / "cmdline").read_text()
            except (OSError, ValueError):
                continue
            parents[int(entry.name)] = (parent, words)

        def ours(pid: int) -> bool:
            while pid > 1:
                if pid == self.process.pid:
                    return True
                pid = parents.get(pid, (0, ""))[0]
            return False

        return {
            pid: parent
            for pid, (parent, words) in parents.items()
            if "tbench.replay.workers" in words and ours(pid)
        }


def started() -> Cluster:
    for _ in range(TRIES):
        cluster = Cluster()
        if cluster.address:
            return cluster
        cluster.close()
    pytest.skip("no Ray cluster starts here: the machine is too busy for it")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = started()
    yield cluster
    cluster.close()


def command(cluster: Cluster, trace: Path, url: str, *words: object) -> list[str]:
    given = [trace, "--base-url", url, "--on", f"ray://{cluster.address}", "--warmup", "none"]
    return [sys.executable, "-m", "tbench", "replay", *map(str, [*given, *words])]


def sent(cluster: Cluster, folder: Path, trace: Path, url: str, *words: object) -> Done:
    done = subprocess.run(
        command(cluster, trace, url, *words),
        cwd=folder,
        env=interruptible(TOGETHER_API_KEY=KEY),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def server(simulator: Any) -> str:
    """The session's simulator, with its memory of earlier tests cleared."""
    with urllib.request.urlopen(f"{simulator.url}/_reset", timeout=10):
        return str(simulator.url)


def test_a_cluster_sends_what_processes_here_send(
    cluster: Cluster, server: str, tmp_path: Path, tbench: Callable[..., Done]
) -> None:
    """The same requests, due at the same times, by the same number of workers, with the same answers."""
    trace = write_trace(tmp_path / "t.msgpack", 120, turns=3, gap_s=0.02)
    there = sent(cluster, tmp_path, trace, server, "-o", "there.run", "--json")
    assert there.ended, there.err
    assert sorted(seen(server)) == [f"{seq:032x}" for seq in range(120)]
    here = tbench(
        *("replay", trace, "--base-url", server, "-o", "here.run", "--warmup", "none"),
        *("--workers", 2),
    )
    assert here.ended, here.err
    ours, theirs = (read_run(tmp_path / f"{name}.run") for name in ("here", "there"))

    assert json.loads(there.out)["completed"] == 120
    assert theirs.totals["workers"] == 2
    for name in ("index", "id", "session", "outcome", "output_tokens", "token_events"):
        assert list(theirs.columns[name]) == list(ours.columns[name])
    assert np.allclose(theirs.columns["due"], ours.columns["due"])


def test_no_key_and_no_prompt_stays_with_ray(cluster: Cluster, server: str, tmp_path: Path) -> None:
    """Neither its logs nor whatever else it writes down hold one; all requests were sent with the key."""
    trace = write_trace(tmp_path / "t.msgpack", 20)
    done = sent(cluster, tmp_path, trace, server, "--speed", 10, "-o", "o.run")
    assert done.ended, done.err
    files = [path for path in Path(cluster.session).rglob("*") if path.is_file()]
    leaks = [
        str(path)
        for path in files
        if any(word in path.read_bytes() for word in (KEY.encode(), b"conversation 7"))
    ]

    assert len(files) > 10
    assert leaks == []
    assert identity(read_run(tmp_path / "o.run")).completed == 20
