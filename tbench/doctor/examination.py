"""The examination: a few probes within twenty seconds, and what follows from them.

A probe is a replay of made traffic against the doctor's server, held against what that server did.
"""

import json
import os
import platform
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from tbench.capture.errors import InvalidRunError
from tbench.capture.exchange import Exchange, Request, Response
from tbench.capture.records import TraceHeader
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.job import resolve
from tbench.replay.options import ReplayOptions
from tbench.replay.runfile import Run
from tbench.replay.runner import run_replay
from tbench.replay.system import headroom
from tbench.replay.totals import numbers
from tbench.replay.workers.process import module_command, module_environ

# Facts about this machine that bound what a replay can do. Cheap to ask for.


def machine_facts() -> Mapping[str, Any]:
    """Cores (of the machine, and that this process may use), limits, load. None where not known."""
    room = headroom()
    try:
        backlog = int(Path("/proc/sys/net/core/somaxconn").read_text())
    except (OSError, ValueError):
        backlog = None
    return {
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "load_average": os.getloadavg()[0],
        "descriptors": room.descriptors,
        "ports": room.ports,
        "backlog": backlog,
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
        # A container's quota (cgroup v2) shows in no count of cores: it is time that is taken away.
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(float(allowed), int(quota) / int(period))
    except (OSError, ValueError):  # no such file, or "max"
        return float(allowed)


def notes(facts: Mapping[str, Any]) -> Iterator[str]:
    """What of it makes figures low."""
    if facts["usable_cores"] < 2:
        yield "one core for the client, the server and everything else: figures are low"
    elif facts["load_average"] > facts["usable_cores"] / 2:
        yield f"other work is running (load {facts['load_average']:.1f}): figures are low"


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

    `cpu_share` is the busiest sending process's share of a core, `waited_share` of the time how long one
    waited for a core that others had. `server_late_s` is the p99 of the server's own lateness, `server_share`
    its share of a core while it had requests, less what it waited awake. None where not known. `errors`
    counts failures by kind.
    """

    completed: int
    requests_per_s: float
    of_ideal: float | None
    ttft_error_s: Mapping[str, float]
    lag_s: Mapping[str, float | None]
    cpu_share: float | None
    waited_share: float | None
    coalesced_share: float | None
    server_late_s: float
    server_share: float | None
    clock: str
    lost: int
    failed: int
    errors: Mapping[str, int]
    invalid_because: str | None


def probe(load: Load, folder: Path, workers: int = 1) -> ProbeResult:
    """Replay a load against a server of its own."""
    trace, out = folder / "made.msgpack", folder / "made.run"
    for path in (trace, out):
        path.unlink(missing_ok=True)
    write_trace(trace, load)
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
    summary, ideal, client = numbers(run), load.ideal, run.totals["client"]
    cpu, runnable = client["cpu_share"], client["runnable_share"]
    return ProbeResult(
        completed=summary["completed"],
        requests_per_s=summary["requests_per_s"],
        of_ideal=summary["requests_per_s"] / ideal if ideal else None,
        # By the run's and the server's wall clock, which are
        # one on one machine: no offset has to be estimated.
        ttft_error_s=stamp_errors(run, known["first"]),
        lag_s={name: summary["lag_s"][name] for name in ("p50", "p99")},
        cpu_share=cpu,
        waited_share=None if runnable is None else max(0.0, runnable - cpu),
        coalesced_share=run.totals["coalesced_share"],
        server_late_s=float(np.quantile(known["late"], 0.99)) if known["late"] else 0.0,
        server_share=known["share"],
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
        # It prints its port once it listens, so that nobody has to try until somebody answers.
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"

        def truth() -> Mapping[str, Any]:
            with urllib.request.urlopen(f"{url}/_truth", timeout=PATIENCE_S) as answer:  # noqa: S310 (ours)
                known: Mapping[str, Any] = json.load(answer)
            return known

        yield url, truth
    finally:
        # It ends with its input, also where this process is killed and comes to no line here.
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def write_trace(path: Path, load: Load) -> None:
    """A trace of that many streamed chat completions, whose headers tell the server what to do."""
    headers = (
        ("content-type", "application/json"),
        ("x-sim-ttft-ms", f"{load.ttft_ms:g}"),
        ("x-sim-itl-ms", f"{load.itl_ms:g}"),
        ("x-sim-tokens", f"{load.tokens}"),
    )
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq in range(load.requests):
            messages = [{"role": "user", "content": f"request {seq}"}]
            body = json.dumps({"model": "m", "messages": messages, "stream": True}).encode()
            at = seq * 10**6
            request = Request(
                id=f"{seq:032x}",
                seq=seq,
                arrive_ns=at,
                end_ns=at,
                method="POST",
                scheme="http",
                host="doctor",
                path="/v1/chat/completions",
                headers=headers,
                body=body,
                body_bytes=len(body),
            )
            response = Response(head_ns=at, end_ns=at, status=200)
            writer.exchange(Exchange(request=request, response=response))


# The verdict on a probe: whether it was held, and if not who was the limit and what to do. Pure.

HELD: Final = 0.95
"""Of the ideal rate: what holds a load."""
EXACT_S: Final = 0.001
"""The p99 of the TTFT error that a held load may have."""
PUNCTUAL_S: Final = 0.005
"""The p99 of the lag that a held load may have."""
LATE_S: Final = 0.005
"""A server that was later than this (p99) was a limit itself, or did not get its core."""
BUSY: Final = 0.85
"""Of a core: a process that used so much of it could not do much more."""
CROWDED: Final = 0.1
"""Of the time: a sending process that waited so long for a core sends late."""

Who = Literal["client", "server", "machine"]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Who was the limit, why that is known, and what to do about it."""

    who: Who
    why: str
    cure: str

    def __str__(self) -> str:
        return f"limited by {WORDS[self.who]}: {self.why}; {self.cure}"


WORDS: Final[dict[Who, str]] = {
    "client": "the client",
    "server": "the built-in server",
    "machine": "the machine",
}


def held(result: ProbeResult) -> bool:
    """Whether a load was held: the rate, the due times and the stamps, nothing lost and the run valid."""
    slow = result.of_ideal is not None and result.of_ideal < HELD
    inexact = result.ttft_error_s.get("p99", 0.0) > EXACT_S
    late = (result.lag_s.get("p99") or 0.0) > PUNCTUAL_S
    return not (slow or inexact or late or result.lost or result.failed or result.invalid_because)


def limit(result: ProbeResult) -> Limit:
    """Who was the limit of a load that was not held, or that had none but what is possible."""
    lost = result.lost + result.failed
    errors = ", ".join(f"{count:,} {kind}" for kind, count in result.errors.items())
    server, client = result.server_share or 0.0, result.cpu_share or 0.0
    waited = result.waited_share or 0.0
    workers = "send from more processes with --workers, or ask for less"
    free = "stop what else is running, or give it more cores"
    # By how much each sign proves: a loss is a fact, a busy core is measured, and
    # that a server was late may have come of either. The first that shows is named.
    signs: tuple[tuple[bool, Who, str, str], ...] = (
        (
            lost > 0,
            "machine",
            f"{lost:,} requests came to nothing" + (f" ({errors})" if errors else ""),
            "look at the limits above, and at what watches connections on this machine",
        ),
        (
            server >= BUSY,
            "server",
            f"it used {server:.0%} of a core",
            "the client may hold more; a real target is another machine, and benchmarks/ has a server in C",
        ),
        (client >= BUSY, "client", f"its busiest process used {client:.0%} of a core", workers),
        (
            waited >= CROWDED,
            "machine",
            f"its cores were busy: the client waited {waited:.0%} of the time for one",
            free,
        ),
        (
            result.server_late_s > LATE_S,
            "machine",
            f"the server had its core {result.server_late_s * 1e3:.0f} ms late",
            free,
        ),
        (result.invalid_because is not None, "client", str(result.invalid_because), workers),
        (
            True,
            "client",
            "nothing else was busy",
            "ask for less, or look at --debug and at the kernel's settings",
        ),
    )
    return next(Limit(who=who, why=why, cure=cure) for shown, who, why, cure in signs if shown)


FLAT_OUT: Final = Load(requests=8000, concurrency=64, most_s=3.0)
PACED: Final = Load(requests=2000, rate=1000.0)
RAMP: Final = (100, 200, 500, 1000, 2000)
ENOUGH_S: Final = 17.0
"""After so long no further step of the ramp is begun."""

Probe = Callable[[Load, Path, int], ProbeResult]


def streams(number: int) -> Load:
    """A step of the ramp: `number` streams at 50 tokens/s, three rounds of half a second."""
    return Load(requests=3 * number, tokens=21, ttft_ms=100, itl_ms=20, concurrency=number)


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What it came to. `steps` are the streams that were tried, with what became of them.

    `untried` says why the next step was not tried, where the system would not have allowed it.
    """

    facts: Mapping[str, Any]
    flat_out: ProbeResult
    paced: ProbeResult
    steps: Sequence[tuple[int, ProbeResult]]
    took_s: float
    untried: str | None = None

    @property
    def holds(self) -> int:
        """The most streams at 50 tokens/s that were held; 0 where not even the first step was."""
        return max((number for number, result in self.steps if held(result)), default=0)

    def as_json(self) -> dict[str, Any]:
        """What `tbench doctor --json` prints."""
        return {
            "machine": dict(self.facts),
            "flat_out": _judged(self.flat_out, free=True),
            "paced": _judged(self.paced),
            "streams": [{"streams": number, **_judged(result)} for number, result in self.steps],
            "holds_streams": self.holds,
            "untried": self.untried,
            "took_s": self.took_s,
        }


def _judged(result: ProbeResult, *, free: bool = False) -> dict[str, Any]:
    """A probe with its limit: None where it was held, unless it was `free` to go as fast as it could."""
    limited_by = asdict(limit(result)) if free or not held(result) else None
    return {"limited_by": limited_by, **asdict(result)}


def examine(workers: int, say: Callable[[str], None], probe: Probe = probe) -> Examination:
    """Probe this machine; `say` is told what is being done.

    Raises InvalidRunError when nothing came back from our own server: then there is nothing to say.
    """
    began = time.monotonic()
    facts = machine_facts()
    with tempfile.TemporaryDirectory() as name:

        def tried(load: Load, words: str) -> ProbeResult:
            say(words)
            result = probe(load, Path(name), workers)
            if result.completed == 0:
                raise InvalidRunError(
                    f"doctor: nothing came back from our own server; {limit(result)}"
                )
            return result

        flat_out = tried(FLAT_OUT, "flat out: 64 in flight, one token")
        paced = tried(PACED, "paced: 1,000 requests/s")
        steps: list[tuple[int, ProbeResult]] = []
        untried = None
        for number in RAMP:
            untried = headroom().objection(number, workers)
            if untried or time.monotonic() - began > ENOUGH_S:
                break
            steps.append((number, tried(streams(number), f"streams: {number:,} at 50 tokens/s")))
            if not held(steps[-1][1]):
                break
    return Examination(
        facts=facts,
        flat_out=flat_out,
        paced=paced,
        steps=steps,
        took_s=time.monotonic() - began,
        untried=untried,
    )
