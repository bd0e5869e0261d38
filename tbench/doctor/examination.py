"""The examination: a few probes within twenty seconds, and what follows from them."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from tbench.capture.errors import InvalidRunError
from tbench.doctor.probes import Load, ProbeResult, machine_facts, notes, probe
from tbench.replay.system import headroom

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
CROWDED: Final = 0.25
"""Cores: where fewer were free, whoever wanted one had to wait for it."""

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
MORE_WORKERS: Final = "send from more processes with --workers, or ask for less"
SERVER: Final = (
    "the client may hold more; a real target is another machine, and benchmarks/ has a server in C"
)
FREE: Final = "stop what else is running, or give it more cores"

Rule = tuple[Who, Callable[[ProbeResult], bool], Callable[[ProbeResult], str], str]
RULES: Final[tuple[Rule, ...]] = (
    (
        "machine",
        lambda result: bool(result.lost + result.failed),
        lambda result: f"{result.lost + result.failed:,} requests came to nothing{_kinds(result)}",
        "look at the limits above, and at what watches connections on this machine",
    ),
    (
        "server",
        lambda result: (result.server_share or 0.0) >= BUSY,
        lambda result: f"it used {result.server_share:.0%} of a core",
        SERVER,
    ),
    (
        "client",
        lambda result: (result.cpu_share or 0.0) >= BUSY,
        lambda result: f"its busiest process used {result.cpu_share:.0%} of a core",
        MORE_WORKERS,
    ),
    (
        "machine",
        lambda result: result.free_cores is not None and result.free_cores < CROWDED,
        lambda result: (
            f"all its cores were busy, {result.others_cores:.1f} of them with other work"
        ),
        FREE,
    ),
    (
        "machine",
        lambda result: result.server_late_s > LATE_S,
        lambda result: f"the server had its core {result.server_late_s * 1e3:.0f} ms late",
        FREE,
    ),
    (
        "client",
        lambda result: result.invalid_because is not None,
        lambda result: str(result.invalid_because),
        MORE_WORKERS,
    ),
    (
        "client",
        lambda _found: True,
        lambda _found: "nothing else was busy",
        "ask for less, or look at --debug and at the kernel's settings",
    ),
)
"""Who it was -> whether it was, by what sign, and the cure. The first that holds is the verdict."""


def held(result: ProbeResult) -> bool:
    """Whether a load was held: the rate, the due times and the stamps, nothing lost and the run valid."""
    slow = result.of_ideal is not None and result.of_ideal < HELD
    inexact = result.ttft_error_s.get("p99", 0.0) > EXACT_S
    late = (result.lag_s.get("p99") or 0.0) > PUNCTUAL_S
    return not (slow or inexact or late or result.lost or result.failed or result.invalid_because)


def limit(result: ProbeResult) -> Limit:
    """Who was the limit of a load that was not held, or that had none but what is possible."""
    who, _, why, cure = next(rule for rule in RULES if rule[1](result))
    return Limit(who=who, why=why(result), cure=cure)


def _kinds(result: ProbeResult) -> str:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in result.errors.items())
    return f" ({kinds})" if kinds else ""


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
    """What was found. `steps` are the streams that were tried, with what became of them.

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
            return _answered(probe(load, Path(name), workers))

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


def _answered(result: ProbeResult) -> ProbeResult:
    """What was found, if anything came back at all."""
    if result.completed == 0:
        raise InvalidRunError(f"doctor: nothing came back from our own server; {limit(result)}")
    return result


# What `tbench doctor` prints for a person: a line for each probe, and who was its limit.


def text(examination: Examination) -> Iterator[str]:
    """The lines."""
    facts, flat, paced = examination.facts, examination.flat_out, examination.paced
    cores = f"{facts['usable_cores']:g} of {facts['cores']} cores"
    yield f"machine   {cores}, {facts['kernel']}, Python {facts['python']}"
    yield f"limits    {facts['descriptors']:,} descriptors a process, {facts['ports']:,} ports to one address"
    yield f"flat out  {flat.requests_per_s:,.0f} requests/s with 64 in flight ({_busy(flat)}); {limit(flat)}"
    lag, error = paced.lag_s, paced.ttft_error_s
    late = f"sent late by {_us(lag.get('p50'))} (p99 {_us(lag.get('p99'))})"
    yield f"pacing    {paced.requests_per_s:,.0f} of 1,000 requests/s, {late}{_unless_held(paced)}"
    exact = f"TTFT off by {_us(error.get('p50'))} (p99 {_us(error.get('p99'))})"
    yield f"stamps    {paced.clock}, {exact}{_clock(paced)}"
    for number, step in examination.steps:
        yield f"streams   {number:>5,} at 50 tokens/s: {_step(step)}"
    if examination.untried:
        yield f"streams   no more tried, limited by the machine: {examination.untried}"
    yield f"holds     {_holds(examination)}"
    for note in notes(facts):
        yield f"note      {note}"


def _holds(examination: Examination) -> str:
    if not examination.steps:
        return "not known: no number of streams was tried, as what came before took too long"
    tried = examination.holds == examination.steps[-1][0]
    return f"{examination.holds:,} streams" + (", the most that was tried" if tried else "")


def _step(step: ProbeResult) -> str:
    share = "" if step.of_ideal is None else f"{step.of_ideal:.1%} of the ideal rate, "
    error = f"TTFT off by {_us(step.ttft_error_s.get('p99'))} (p99)"
    return f"{share}{_busy(step)}, {error}{_unless_held(step)}"


def _unless_held(result: ProbeResult) -> str:
    return "" if held(result) else f"; {limit(result)}"


def _clock(result: ProbeResult) -> str:
    """Why stamps are not the kernel's, where they are not."""
    if result.clock == "kernel":
        return ""
    return "; limited by the machine: its kernel stamps nothing, or its clock was set; Linux does, try again"


def _busy(result: ProbeResult) -> str:
    """Shares of a core."""
    return f"client {_share(result.cpu_share)}, server {_share(result.server_share)} of a core"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _us(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:,.0f} us"
