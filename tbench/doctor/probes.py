"""Probes: replays of made traffic against the doctor's server, each held against what the server did."""

import json
import os
import platform
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from tbench.capture.exchange import Exchange, Request, Response
from tbench.capture.records import TraceHeader
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.job import resolve
from tbench.replay.options import ReplayOptions
from tbench.replay.runfile import Run
from tbench.replay.runner import run_replay
from tbench.replay.system import headroom
from tbench.replay.totals import numbers
from tbench.replay.workers.pool import module_command, module_environ

# Facts about this machine that bound what a replay can do. Cheap to ask for.

CPU_MAX: Final = Path("/sys/fs/cgroup/cpu.max")
SOMAXCONN: Final = Path("/proc/sys/net/core/somaxconn")


def machine_facts() -> Mapping[str, Any]:
    """Cores (of the machine, and that this process may use), limits, load. None where not known."""
    room = headroom()
    return {
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "load_average": os.getloadavg()[0],
        "descriptors": room.descriptors,
        "ports": room.ports,
        "backlog": _number(SOMAXCONN),
        "clock_resolution_s": time.get_clock_info("monotonic").resolution,
        "python": platform.python_version(),
        "kernel": f"{platform.system()} {platform.release()}",
    }


def usable_cores() -> float:
    """What the affinity and a container's quota leave."""
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        quota, period = CPU_MAX.read_text().split()
        return min(float(allowed), int(quota) / int(period))
    except (OSError, ValueError):  # no such file, or "max"
        return float(allowed)


def notes(facts: Mapping[str, Any]) -> Iterator[str]:
    """What of it makes figures low."""
    if facts["usable_cores"] < 2:
        yield "one core for the client, the server and everything else: figures are low"
    elif facts["load_average"] > facts["usable_cores"] / 2:
        yield f"other work is running (load {facts['load_average']:.1f}): figures are low"


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


# Work: how much CPU this machine has given, and how much of it to us and our children that have ended.

STAT: Final = Path("/proc/stat")
BUSY: Final = (0, 1, 2, 5, 6, 7)
"""Of its first line: user, nice, system, irq, softirq, and what a hypervisor gave to others (steal)."""
IDLE: Final = (3, 4)
"""Idle, and waiting for a disk."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Seconds: the clock; of all processes on all cores, of idle cores (None: not known); of ours."""

    at: float
    busy: float | None
    idle: float | None
    ours: float

    @classmethod
    def now(cls) -> Self:
        """Up to now."""
        used = os.times()
        used_s = used.user + used.system + used.children_user + used.children_system
        busy, idle = _stat()
        return cls(at=time.monotonic(), busy=busy, idle=idle, ours=used_s)

    def others_since(self, before: "Work") -> float | None:
        """How many cores others had from `before` to this; None where not known."""
        if self.busy is None or before.busy is None or self.at <= before.at:
            return None
        others = (self.busy - before.busy) - (self.ours - before.ours)
        return max(0.0, others / (self.at - before.at))

    def free_since(self, before: "Work", usable: float) -> float | None:
        """How many of the `usable` cores nobody had from `before` to this; None where not known."""
        if self.idle is None or before.idle is None or self.at <= before.at:
            return None
        took = self.at - before.at
        ours = (self.ours - before.ours) / took
        return max(0.0, min((self.idle - before.idle) / took, usable - ours))


def _stat() -> tuple[float | None, float | None]:
    """Of all cores, busy and idle."""
    try:
        counts = [int(word) for word in STAT.read_text().split("\n", 1)[0].split()[1:]]
        tick = os.sysconf("SC_CLK_TCK")
        busy, idle = (sum(counts[place] for place in places) / tick for places in (BUSY, IDLE))
    except (OSError, ValueError, IndexError):  # no such file here, or another format
        return None, None
    return busy, idle


PATIENCE_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """Made traffic: so many requests, answered with these times; sent for `most_s` seconds at most."""

    requests: int
    tokens: int = 1
    ttft_ms: float = 0.0
    itl_ms: float = 0.0
    concurrency: int | None = None
    rate: float | None = None
    most_s: float | None = None

    @property
    def stream_s(self) -> float:
        """How long one answer takes by the server's schedule."""
        return (self.ttft_ms + (self.tokens - 1) * self.itl_ms) / 1e3

    @property
    def ideal(self) -> float | None:
        """The rate of a client that takes no time, requests/s; None where nothing bounds it."""
        if self.rate is None and self.concurrency and self.stream_s:
            return self.concurrency / self.stream_s
        return self.rate


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What a probe found. Errors are of the client's stamp of each first token against the server's write, s.

    `server_late_s` is the p99 of the server's own lateness, `server_share` its share of a core while it had
    requests, less what it waited awake. `others_cores` is what processes that are not ours and the
    hypervisor took, in cores, `free_cores` what nobody took of those that this process may use. None where
    not known. `errors` counts failures by kind.
    """

    completed: int
    requests_per_s: float
    of_ideal: float | None
    ttft_error_s: Mapping[str, float]
    lag_s: Mapping[str, float | None]
    cpu_share: float | None
    coalesced_share: float | None
    server_late_s: float
    server_share: float | None
    others_cores: float | None
    free_cores: float | None
    clock: str
    lost: int
    failed: int
    errors: Mapping[str, int]
    invalid_because: str | None


def probe(load: Load, folder: Path, workers: int = 1) -> ProbeResult:
    """Replay a load against a server of its own."""
    trace = folder / "made.msgpack"
    trace.unlink(missing_ok=True)
    write_trace(trace, load)
    out = folder / "made.run"
    out.unlink(missing_ok=True)
    before = Work.now()
    with serving() as (url, truth):
        order = ReplayOptions(
            trace=trace,
            out=out,
            base_url=url,
            concurrency=load.concurrency,
            constant=load.rate,
            duration=load.most_s,
            api_key_env="",
            workers=workers,
        )
        run = run_replay(resolve(order))
        known = truth()
    return _found(load, run, known, (before, Work.now()))


def _found(load: Load, run: Run, truth: Mapping[str, Any], work: tuple[Work, Work]) -> ProbeResult:
    summary = numbers(run)
    ideal = load.ideal
    return ProbeResult(
        completed=summary["completed"],
        requests_per_s=summary["requests_per_s"],
        of_ideal=summary["requests_per_s"] / ideal if ideal else None,
        ttft_error_s=stamp_errors(run, truth["first"]),
        lag_s={name: summary["lag_s"][name] for name in ("p50", "p99")},
        cpu_share=run.totals["client"]["cpu_share"],
        coalesced_share=run.totals["coalesced_share"],
        server_late_s=float(np.quantile(truth["late"], 0.99)) if truth["late"] else 0.0,
        server_share=truth["share"],
        others_cores=work[1].others_since(work[0]),
        free_cores=work[1].free_since(work[0], usable_cores()),
        clock=summary["clock"],
        lost=summary["lost_in_flight"] + summary["never_sent"],
        failed=summary["failed"],
        errors=summary["errors"],
        invalid_because=summary["invalid_because"],
    )


def stamp_errors(run: Run, first: Mapping[str, int]) -> Mapping[str, float]:
    """Median and p99 of our stamp of each first token less the server's first write, seconds."""
    rows = zip(run.columns["id"], run.columns["first_wall_ns"], strict=True)
    errors = [(at - first[key]) / 1e9 for key, at in rows if at > 0 and key in first]
    if not errors:
        return {}
    return {name: float(np.quantile(errors, p)) for name, p in (("p50", 0.5), ("p99", 0.99))}


@contextmanager
def serving() -> Iterator[tuple[str, Callable[[], Mapping[str, Any]]]]:
    """The server in a process of its own: its base URL, and what asks it for the truth."""
    process = subprocess.Popen(  # noqa: S603 (ourselves)
        module_command("tbench.doctor.server"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=module_environ(),
    )
    assert process.stdin and process.stdout
    try:
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        yield url, lambda: _truth(url)
    finally:
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _truth(url: str) -> Mapping[str, Any]:
    with urllib.request.urlopen(f"{url}/_truth", timeout=PATIENCE_S) as answer:  # noqa: S310 (our own)
        truth: Mapping[str, Any] = json.load(answer)
    return truth


def write_trace(path: Path, load: Load) -> None:
    """A trace of that many streamed chat completions, whose headers tell the server what to do."""
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq in range(load.requests):
            writer.exchange(_exchange(seq, load))


def _exchange(seq: int, load: Load) -> Exchange:
    messages = [{"role": "user", "content": f"request {seq}"}]
    body = json.dumps({"model": "m", "messages": messages, "stream": True}).encode()
    request = Request(
        id=f"{seq:032x}",
        seq=seq,
        arrive_ns=seq * 10**6,
        end_ns=seq * 10**6,
        method="POST",
        scheme="http",
        host="doctor",
        path="/v1/chat/completions",
        headers=(
            ("content-type", "application/json"),
            ("x-sim-ttft-ms", f"{load.ttft_ms:g}"),
            ("x-sim-itl-ms", f"{load.itl_ms:g}"),
            ("x-sim-tokens", f"{load.tokens}"),
        ),
        body=body,
        body_bytes=len(body),
    )
    at = seq * 10**6
    return Exchange(request=request, response=Response(head_ns=at, end_ns=at, status=200))
