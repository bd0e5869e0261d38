"""The examination: a few probes within twenty seconds, and what follows from them."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from replay.doctor.facts import machine_facts, notes
from replay.doctor.probes import Found, Load, probe

FLAT_OUT: Final = Load(requests=8000, concurrency=64)
PACED: Final = Load(requests=2000, rate=1000.0)
RAMP: Final = (100, 200, 500, 1000)
ENOUGH_S: Final = 17.0
"""After so long no further step of the ramp is begun."""
HELD: Final = 0.95
"""Of the ideal rate: what holds a number of streams."""
EXACT_S: Final = 0.001
"""The p99 of the TTFT error that a step may have."""
LATE_S: Final = 0.005
"""A server that was later than this (p99) was a limit itself."""


def streams(number: int) -> Load:
    """A step of the ramp: `number` streams at 50 tokens/s, three rounds of half a second."""
    return Load(requests=3 * number, tokens=21, ttft_ms=100, itl_ms=20, concurrency=number)


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What was found. `steps` are the streams that were tried, with what became of them."""

    facts: Mapping[str, Any]
    flat_out: Found
    paced: Found
    steps: Sequence[tuple[int, Found]]
    took_s: float

    @property
    def holds(self) -> int:
        """The most streams at 50 tokens/s that were held; 0 where not even the first step was."""
        return max((number for number, found in self.steps if limit(found) is None), default=0)

    def as_json(self) -> dict[str, Any]:
        """What `tbench doctor --json` prints."""
        return {
            "machine": dict(self.facts),
            "flat_out": asdict(self.flat_out),
            "paced": asdict(self.paced),
            "streams": [
                {"streams": number, "limited_by": limit(found), **asdict(found)}
                for number, found in self.steps
            ],
            "holds_streams": self.holds,
            "took_s": self.took_s,
        }


def examine(workers: int, say: Callable[[str], None]) -> Examination:
    """Probe this machine; `say` is told what is being done."""
    began = time.monotonic()
    facts = machine_facts()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say("flat out: 64 in flight, one token")
        flat_out = probe(FLAT_OUT, folder, workers)
        say("paced: 1,000 requests/s")
        paced = probe(PACED, folder, workers)
        steps = []
        for number in RAMP:
            if time.monotonic() - began > ENOUGH_S:
                break
            say(f"streams: {number:,} at 50 tokens/s")
            steps.append((number, probe(streams(number), folder, workers)))
            if limit(steps[-1][1]) is not None:
                break
    took = time.monotonic() - began
    return Examination(facts=facts, flat_out=flat_out, paced=paced, steps=steps, took_s=took)


def limit(found: Found) -> str | None:
    """What limited a step of the ramp; None when it was held."""
    if found.lost or found.failed:
        return f"{found.lost + found.failed} requests came to nothing"
    slow = found.of_ideal is not None and found.of_ideal < HELD
    inexact = found.ttft_error_s.get("p99", 0.0) > EXACT_S
    if not (slow or inexact or found.invalid_because):
        return None
    if found.server_late_s > LATE_S:
        return "the doctor's own server, which is Python: the client may hold more"
    return found.invalid_because or ("the client" if slow else "the exactness of the stamps")


def text(found: Examination) -> Iterator[str]:
    """What a person reads."""
    facts, flat, paced = found.facts, found.flat_out, found.paced
    cores = f"{facts['usable_cores']:g} of {facts['cores']} cores"
    yield f"machine   {cores}, {facts['kernel']}, Python {facts['python']}"
    yield f"limits    {facts['descriptors']:,} descriptors a process, {facts['ports']:,} ports to one address"
    busy = "-" if flat.cpu_share is None else f"{flat.cpu_share:.0%} of a core"
    yield f"flat out  {flat.requests_per_s:,.0f} requests/s with 64 in flight ({busy})"
    lag, error = paced.lag_s, paced.ttft_error_s
    late = f"sent late by {_us(lag.get('p50'))} (p99 {_us(lag.get('p99'))})"
    yield f"pacing    {paced.requests_per_s:,.0f} of 1,000 requests/s, {late}"
    yield f"stamps    {paced.clock}, TTFT off by {_us(error.get('p50'))} (p99 {_us(error.get('p99'))})"
    for number, step in found.steps:
        yield f"streams   {number:>5,} at 50 tokens/s: {_step(step)}"
    more = found.steps and found.holds == found.steps[-1][0]
    yield f"holds     {found.holds:,} streams" + (", the most that was tried" if more else "")
    for note in notes(facts):
        yield f"note      {note}"


def _step(step: Found) -> str:
    share = "" if step.of_ideal is None else f"{step.of_ideal:.1%} of the ideal rate, "
    busy = "" if step.cpu_share is None else f"{step.cpu_share:.0%} of a core, "
    error = f"TTFT off by {_us(step.ttft_error_s.get('p99'))} (p99)"
    reason = limit(step)
    return share + busy + error + (f"; limited by {reason}" if reason else "")


def _us(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:,.0f} us"
