"""Replays from the machines of a Ray cluster, two of which are on this one; and what a loss leaves."""

import asyncio
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, override
from zlib import crc32

import pytest

from tbench.capture.exchange import Exchange, Response
from tbench.capture.records import TraceHeader
from tbench.capture.remote import PIECE
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.runfile import Run, read_run
from tbench.replay.totals import identity
from tbench.replay.workers import on_ray
from tests.conftest import KEYS, PATIENCE_S, Done, interruptible, run_tbench, until
from tests.recorded import chat_request
from tests.test_command_benchmark import words
from tests.test_remote import Ranges
from tests.test_workers_end_to_end import MODEL, _alive, seen, write_trace

pytest.importorskip("ray", reason="needs the extra [ray]")

HERE = Path(__file__).parent
TRIES = 2
START_S = 60.0
"""Ray gives up where a part of it takes over 30 s to start, as on a machine that is busy elsewhere."""
STRICT = ("--causal", "strict")  # turns that wait are due later on a busy machine
PLANNED = 160
KEY = "test-key-that-nobody-may-keep-0123456789"


class Cluster:
    """Two machines that are none: tests/ray_cluster.py. `aws` is where they have credentials, if any."""

    def __init__(self, aws: Path) -> None:
        self.aws = aws
        self.process = subprocess.Popen(
            [sys.executable, HERE / "ray_cluster.py"],
            env={**os.environ, "AWS_CONFIG_FILE": str(aws)},
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
                pid = int(entry.name)
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                words = (entry / "cmdline").read_text()
            except (OSError, ValueError):
                continue
            parents[pid] = (parent, words)

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


def started(aws: Path) -> Cluster:
    for _ in range(TRIES):
        cluster = Cluster(aws)
        if cluster.address:
            return cluster
        cluster.close()
    pytest.skip("no Ray cluster starts here: the machine is too busy for it")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = started(tmp_path_factory.mktemp("aws") / "config")
    yield cluster
    cluster.close()


def command(cluster: Cluster, trace: Path, url: str, *words: object) -> list[object]:
    given = [trace, "--base-url", url, "--on", f"ray://{cluster.address}", "--warmup", "none"]
    return ["replay", *given, *words]


def begun(folder: Path, *words: object) -> subprocess.Popen[str]:
    """A command to be interrupted, or to lose what it needs."""
    return subprocess.Popen(
        [sys.executable, "-m", "tbench", *map(str, words)],
        cwd=folder,
        env=interruptible(TOGETHER_API_KEY=KEY),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def verb(folder: Path, *words: object, **environ: str) -> Done:
    return run_tbench(folder, *words, TOGETHER_API_KEY=KEY, **environ)


def sent(cluster: Cluster, folder: Path, trace: Path, url: str, *words: object) -> Done:
    return verb(folder, *command(cluster, trace, url, *words))


@pytest.fixture(scope="module")
def runs(
    cluster: Cluster, simulator: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Run]:
    """The same trace sent from here and from the cluster, by two workers each."""
    folder = tmp_path_factory.mktemp("runs")
    trace = write_trace(folder / "t.msgpack", 120, turns=3, gap_s=0.02)
    with urllib.request.urlopen(f"{simulator.url}/_reset", timeout=10):
        there = sent(cluster, folder, trace, simulator.url, "-o", "there.run", "--json", *STRICT)
    assert there.ended, there.err
    assert sorted(seen(simulator.url)) == [f"{seq:032x}" for seq in range(120)]
    assert json.loads(there.out)["completed"] == 120
    words = ("--base-url", simulator.url, "-o", "here.run", "--warmup", "none", "--workers", 2)
    here = run_tbench(folder, "replay", trace, *words, *STRICT)
    assert here.ended, here.err
    return {name: read_run(folder / f"{name}.run") for name in ("here", "there")}


def test_a_cluster_sends_what_processes_here_send(runs: dict[str, Run]) -> None:
    """The same requests, due at the same times, with the same answers."""
    for name in ("index", "id", "session", "outcome", "output_tokens", "token_events", "due"):
        here, there = (list(runs[side].columns[name]) for side in ("here", "there"))
        assert here == there, name


def test_the_plan_says_who_sends_what(runs: dict[str, Run]) -> None:
    """By a rule in the run's header, which was written first; the workers' parts add up."""
    for side, run in runs.items():
        rule, shards = run.header["shards"], run.totals["shards"]
        places = (crc32(b"%d" % session) % rule["places"] for session in run.columns["session"])

        assert Counter(place % rule["workers"] + 1 for place in places) == Counter(
            {shard["worker"]: shard["planned"] for shard in shards}
        ), side
        assert [shard["ended"] for shard in shards] == [shard["planned"] for shard in shards], side


def test_clocks_of_one_machine_are_equal_within_what_is_said(runs: dict[str, Run]) -> None:
    """Before the start and at the end; both machines are this one, so that the truth is known."""
    for shard in runs["there"].totals["shards"]:
        pairs = zip(shard["clock_ahead_s"], shard["clock_uncertainty_s"], strict=True)
        assert [abs(ahead) <= uncertainty for ahead, uncertainty in pairs] == [True, True]


def test_each_machine_reads_the_trace_itself(runs: dict[str, Run]) -> None:
    """Where it finds the file of the command at the same path; here nobody else is to read it."""
    for run in runs.values():
        assert [shard["unread"] for shard in run.totals["shards"]] == [None, None]


class Vanishing(Ranges):
    """The trace as its planner reads it: for who asks again for a piece in the middle it is gone."""

    planned: set[str]

    @override
    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        first = int(asked.removeprefix("bytes=").partition("-")[0] or 0)
        if first >= PIECE and first + PIECE < len(self.content):
            if asked in self.planned:
                self.send_error(404)
                return
            self.planned.add(asked)
        super().do_GET()


def long_trace(path: Path, number: int, letters: Callable[[int], str]) -> Path:
    """Chats that hold so much that workers read them as they go, `letters` that no server reads."""
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq in range(number):
            messages = [{"role": "user", "content": f"{seq}"}]
            payload = {"model": MODEL, "messages": messages, "stream": True, "max_tokens": 2}
            payload["metadata"] = {"letters": letters(seq)}
            arrive = seq * 10**7
            writer.exchange(
                Exchange(
                    request=chat_request(seq, arrive, json.dumps(payload).encode()),
                    response=Response(head_ns=arrive, end_ns=arrive + 10**7, status=200),
                )
            )
    return path


def unfinished(done: Done, url: str, folder: Path, number: int) -> None:
    """A run whose trace went away: in its parts, what was sent as planned, and a line that says so."""
    assert done.code == 4, done
    run = read_run(folder / "o.run")
    totals, shards = run.totals, run.totals["shards"]
    reason = "the trace could not be read to its end: by worker "

    assert identity(run).planned == number == sum(shard["planned"] for shard in shards)
    assert (totals["completed"], totals["lost_in_flight"]) == (len(run), 0)
    assert [shard["unread"] for shard in shards] == [None, None], "each machine reads it itself"
    assert totals["completed"] > 0
    assert 0 < totals["never_sent"] == sum(shard["never_sent"] for shard in shards)
    assert sorted(seen(url)) == sorted(run.columns["id"])
    assert totals["ended_by"] == "trace"
    assert len([line for line in done.err.splitlines() if reason in line]) == 1, done


def test_a_trace_that_vanishes_from_its_store_is_counted(
    cluster: Cluster, simulator: Any, tmp_path: Path
) -> None:
    """While the machines read it: what was built is sent, the rest was never sent, and nobody waits."""
    pytest.importorskip("aiohttp", reason="needs aiohttp: pip install -e '.[cloud]'")
    handler = type("Handler", (Vanishing,), {"planned": set()})
    random = Random(1)
    trace = long_trace(tmp_path / "t.msgpack", 80, lambda _: random.randbytes(120_000).hex())
    handler.content = trace.read_bytes()
    assert len(handler.content) > 2 * PIECE
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        urllib.request.urlopen(f"{simulator.url}/_reset", timeout=10),
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        there: Any = f"http://127.0.0.1:{server.server_port}/t.msgpack"
        words = ("--concurrency", 4, "-o", "o.run")
        done = sent(cluster, tmp_path, there, simulator.url, *words)
        server.shutdown()

    unfinished(done, simulator.url, tmp_path, 80)
    assert "is not there any more" in done.err


def test_a_trace_that_is_cut_short_is_counted(
    cluster: Cluster, simulator: Any, tmp_path: Path
) -> None:
    """On a disk that the machines share, as by another that writes it anew."""
    number = 160  # of a megabyte, of which workers hold 64 at hand
    trace = long_trace(tmp_path / "t.msgpack", number, lambda seq: f"{seq:x}" * 500_000)
    size = trace.stat().st_size
    with urllib.request.urlopen(f"{simulator.url}/_reset", timeout=10):
        words = command(cluster, trace, simulator.url, "--concurrency", 2, "-o", "o.run")
        process = begun(tmp_path, *words)
    until(lambda: seen(simulator.url) or process.poll() is not None)
    os.truncate(trace, size // 2)
    out, err = process.communicate(timeout=PATIENCE_S)

    unfinished(Done(process.returncode, out, err), simulator.url, tmp_path, number)


@pytest.fixture
def bucket(cluster: Cluster, s3: tuple[str, Path]) -> Path:
    """A store's folder, s3://results, for which all machines have credentials."""
    endpoint, data = s3
    keys = "".join(f"{name.lower()} = {word}\n" for name, word in KEYS.items())
    cluster.aws.write_text(f"[default]\nregion = us-east-1\nendpoint_url = {endpoint}\n{keys}")
    return data / "results"


def without_credentials(cluster: Cluster, *places: Path | Done) -> None:
    """No credential of the store stands in these files, folders and words, nor in what Ray writes down."""
    places = (*places, Path(cluster.session))
    files = [
        path for place in places if isinstance(place, Path) for path in (place, *place.rglob("*"))
    ]
    written = [path.read_bytes() for path in files if path.is_file()]
    said = [(done.out + done.err).encode() for done in places if isinstance(done, Done)]
    for word in map(str.encode, KEYS.values()):
        assert not any(word in data for data in (*written, *said))


def test_traces_and_runs_in_a_store(
    cluster: Cluster, simulator: Any, tmp_path: Path, bucket: Path
) -> None:
    """Each machine reads the trace by its own credentials, which stand nowhere; the run is put there."""
    write_trace(bucket / "t.msgpack", 60, turns=3, gap_s=0.02)
    trace: Any = "s3://results/t.msgpack"
    environ = {"AWS_CONFIG_FILE": str(cluster.aws)}
    run_url = "s3://results/new/o.run"
    with urllib.request.urlopen(f"{simulator.url}/_reset", timeout=10):
        words = command(cluster, trace, simulator.url, "-o", run_url, *STRICT)
        done = verb(tmp_path, *words, **environ)
    run = read_run(bucket / "new" / "o.run")

    assert done.ended, done
    assert [shard["unread"] for shard in run.totals["shards"]] == [None, None]
    assert run.totals["completed"] == 60
    assert sorted(seen(simulator.url)) == [f"{seq:032x}" for seq in range(60)]
    report = verb(tmp_path, "report", run_url, "--json", "--html", "o.html", **environ)
    assert json.loads(report.out)["completed"] == 60
    without_credentials(cluster, tmp_path / "o.html", run.path, done, report)


def test_machines_without_the_trace_are_sent_its_requests(
    cluster: Cluster, simulator: Any, tmp_path: Path
) -> None:
    """By the command, which says so: here its path leads to the command's own folder."""
    write_trace(tmp_path / "t.msgpack", 60, turns=3, gap_s=0.02)
    with urllib.request.urlopen(f"{simulator.url}/_reset", timeout=10):
        trace = Path("/proc/self/cwd/t.msgpack")
        done = sent(cluster, tmp_path, trace, simulator.url, "-o", "o.run", *STRICT)
    run = read_run(tmp_path / "o.run")

    assert [shard["unread"] for shard in run.totals["shards"]] == [
        f"{trace}: no such file, folder or matching glob"
    ] * 2
    assert re.search(r"^trace  .* for .* where it is not to be read \(", done.out, re.MULTILINE), (
        done
    )
    assert sorted(seen(simulator.url)) == [f"{seq:032x}" for seq in range(60)]
    assert run.totals["completed"] == 60


def test_no_key_and_no_prompt_stays_with_ray(cluster: Cluster, runs: dict[str, Run]) -> None:
    """Neither its logs nor whatever else it writes down hold one."""
    files = [path for path in Path(cluster.session).rglob("*") if path.is_file()]
    leaks = [
        str(path)
        for path in files
        if any(word in path.read_bytes() for word in (KEY.encode(), b"conversation 7"))
    ]

    assert len(files) > 10
    assert leaks == []


class Absent:
    """An actor that is unavailable as often as `times` says, then answers; its machine is gone for None."""

    def __init__(self, times: int | None) -> None:
        self.clock, self.times = self, times

    async def remote(self) -> str:
        import ray

        if self.times is None:
            raise ray.exceptions.ActorDiedError
        self.times -= 1
        if self.times >= 0:
            raise ray.exceptions.ActorUnavailableError("its machine is slow", None)
        return "answer"


async def asked(times: int | None) -> Any:
    import ray

    fleet: Any = SimpleNamespace(ray=ray)
    return await on_ray.RayWorker(fleet, Absent(times), "node")._ask("clock", within=on_ray.GRACE_S)


def test_an_actor_that_is_unavailable_for_a_moment_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is asked again for as long as the grace lasts; one that died is lost at once."""
    monkeypatch.setattr(on_ray, "AGAIN_S", 0.0)

    assert asyncio.run(asked(3)) == "answer"
    with pytest.raises(on_ray.Lost, match="its actor died"):
        asyncio.run(asked(None))
    monkeypatch.setattr(on_ray, "GRACE_S", 0.0)
    with pytest.raises(on_ray.Lost, match="gave no answer"):
        asyncio.run(asked(3))


@pytest.fixture
def playing(
    cluster: Cluster, serve: Callable[..., Any], tmp_path: Path
) -> Iterator[subprocess.Popen[str]]:
    """A replay from both machines against a slow simulator, in the middle of its sending."""
    url = serve("serve", "--port", "0", "--profile", "slow").url
    trace = write_trace(tmp_path / "t.msgpack", PLANNED, tokens=64)
    words = command(cluster, trace, url, "--concurrency", 20, "-o", "o.run", "--json")
    process = begun(tmp_path, *words)
    until(lambda: len(seen(url)) >= 30 or process.poll() is not None)
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate(timeout=30)


def test_ctrl_c_cancels_on_every_machine(
    cluster: Cluster, playing: subprocess.Popen[str], tmp_path: Path
) -> None:
    """While streams run: what is in flight is cancelled and kept, nothing is lost, exit 130.

    Ray has all that it starts give way to everything else, and a sender would be late: it does not, where
    root may undo that.
    """
    niceness = [os.getpriority(os.PRIO_PROCESS, pid) for pid in cluster.workers()]
    playing.send_signal(signal.SIGINT)
    out, err = playing.communicate(timeout=PATIENCE_S)
    run = read_run(tmp_path / "o.run")

    assert playing.returncode == 130, err
    assert json.loads(out)["cancelled"] == run.totals["cancelled"] == 20
    assert (run.totals["lost_in_flight"], run.totals["lost_workers"]) == (0, [])
    assert identity(run).planned == PLANNED
    assert niceness == [0, 0] or (os.geteuid() != 0 and len(niceness) == 2)


def test_an_experiment_from_the_cluster(
    cluster: Cluster, simulator: Any, tmp_path: Path, bucket: Path
) -> None:
    """Each run of each arm sends all of a store's trace, in parts that add up, from both machines."""
    write_trace(bucket / "t.msgpack", 40)
    arms = [f"name={name},base_url={simulator.url}" for name in "AB"]
    done = verb(
        tmp_path,
        *(
            "ab",
            "s3://results/t.msgpack",
            "--arm",
            arms[0],
            "--arm",
            arms[1],
            "--repeats",
            1,
            "--redo-invalid",
            9,
        ),
        *("--on", f"ray://{cluster.address}", "--concurrency", 8, "--warmup", "none"),
        *("--gate", "errors:20pp", "-o", "x", "--json"),
        AWS_CONFIG_FILE=str(cluster.aws),
    )
    assert json.loads(done.out)["verdict"] != "INVALID", done  # a busy machine: it is run again
    runs = [read_run(tmp_path / "x" / f"{name}.run") for name in ("A.1", "B.1")]

    for run in runs:
        shards = run.totals["shards"]
        assert identity(run).planned == run.totals["completed"] == 40
        assert sum(shard["ended"] for shard in shards) == 40
        assert [shard["ended"] > 0 for shard in shards] == [True, True]
        assert [shard["unread"] for shard in shards] == [None, None]
    without_credentials(cluster, tmp_path / "x", done)


def test_a_benchmark_from_the_cluster(
    cluster: Cluster, simulator: Any, tmp_path: Path, bucket: Path
) -> None:
    """Each point is sent whole, by both machines where it has places for them, and put in a store."""
    done = verb(
        tmp_path,
        *words(simulator.url, "--num-concurrency", "1,4", "--traffic-scenario", "D(20,4)"),
        *("--on", f"ray://{cluster.address}", "--upload-results", "s3://results/put", "--json"),
        AWS_CONFIG_FILE=str(cluster.aws),
    )
    runs = [read_run(tmp_path / point["run"]) for point in json.loads(done.out)["points"]]

    assert done.ended, done.err
    assert [identity(run).planned for run in runs] == [12, 12]
    assert [len(run.totals["shards"]) for run in runs] == [1, 2]
    assert [sum(shard["ended"] for shard in run.totals["shards"]) for run in runs] == [12, 12]
    for run in runs:
        put = bucket / "put" / run.path.relative_to(tmp_path)
        assert put.read_bytes() == run.path.read_bytes()
    without_credentials(cluster, tmp_path / "x", bucket / "put", done)


def all_accounted_for(run: Run) -> None:
    shards = run.totals["shards"]
    assert identity(run).planned == PLANNED == sum(shard["planned"] for shard in shards)
    for name in ("lost_in_flight", "never_sent"):
        assert run.totals[name] == sum(shard[name] for shard in shards)


@pytest.mark.parametrize("allowed", [0, PLANNED])
def test_an_experiment_that_loses_a_worker(
    cluster: Cluster, serve: Callable[..., Any], tmp_path: Path, allowed: int
) -> None:
    """It ends there, as INVALID; it goes on where so many may be lost. Every request is accounted for.

    What the killed actor's worker had in flight is lost, what it had not sent never sent; the other goes on.
    """
    url = serve("serve", "--port", "0", "--profile", "slow").url
    trace = write_trace(tmp_path / "t.msgpack", PLANNED, tokens=64)
    arms = [word for name in "AB" for word in ("--arm", f"name={name},base_url={url}")]
    more = ["--repeats", "1", "--redo-invalid", "0", "--gate", "errors:100pp", "-o", "x", "--json"]
    process = begun(
        tmp_path,
        *("ab", trace, *arms, *more, "--warmup", "none", "--on", f"ray://{cluster.address}"),
        *("--concurrency", 20, "--allow-lost", allowed),
    )
    try:
        until(lambda: len(seen(url)) >= 30 or process.poll() is not None)
        worker, actor = min(cluster.workers().items())
        os.kill(actor, signal.SIGKILL)
        err = process.communicate(timeout=PATIENCE_S)[1]
    finally:
        process.kill()
    first, *later = sorted(
        map(read_run, (tmp_path / "x").rglob("*.run*")), key=lambda run: run.header["wall_ns"]
    )
    lost, going = sorted(first.totals["shards"], key=lambda shard: shard["lost_at_s"] is None)

    assert len(first.totals["lost_workers"]) == 1
    assert "its actor died" in first.totals["lost_workers"][0]
    all_accounted_for(first)
    assert 1 <= lost["lost_in_flight"] <= 20
    assert going["ended"] == going["planned"]
    until(lambda: not _alive(worker))
    assert [identity(run).planned for run in later] == ([PLANNED] if allowed else [])
    assert allowed or process.returncode == 4, err


def test_a_machine_that_is_gone_is_counted(
    cluster: Cluster, playing: subprocess.Popen[str], tmp_path: Path
) -> None:
    """No word comes from it any more: it is waited for a while, then counted as lost. Comes last."""
    cluster.remove()
    out, err = playing.communicate(timeout=PATIENCE_S)
    assert playing.returncode == 4, err
    run = read_run(tmp_path / "o.run")

    assert json.loads(out)["valid"] is False
    assert "was lost" in err
    all_accounted_for(run)
    assert len(run.totals["lost_workers"]) == 1
    assert sum(shard["lost_at_s"] is None for shard in run.totals["shards"]) == 1
