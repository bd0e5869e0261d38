"""What `tbench doctor` prints for a person: a line for each probe, and who was its limit."""

from collections.abc import Iterator

from tbench.doctor.examination import Examination
from tbench.doctor.probes import Found, notes
from tbench.doctor.verdict import held, limit


def text(found: Examination) -> Iterator[str]:
    """The lines."""
    facts, flat, paced = found.facts, found.flat_out, found.paced
    cores = f"{facts['usable_cores']:g} of {facts['cores']} cores"
    yield f"machine   {cores}, {facts['kernel']}, Python {facts['python']}"
    yield f"limits    {facts['descriptors']:,} descriptors a process, {facts['ports']:,} ports to one address"
    yield f"flat out  {flat.requests_per_s:,.0f} requests/s with 64 in flight ({_busy(flat)}); {limit(flat)}"
    lag, error = paced.lag_s, paced.ttft_error_s
    late = f"sent late by {_us(lag.get('p50'))} (p99 {_us(lag.get('p99'))})"
    yield f"pacing    {paced.requests_per_s:,.0f} of 1,000 requests/s, {late}{_unless_held(paced)}"
    exact = f"TTFT off by {_us(error.get('p50'))} (p99 {_us(error.get('p99'))})"
    yield f"stamps    {paced.clock}, {exact}{_clock(paced)}"
    for number, step in found.steps:
        yield f"streams   {number:>5,} at 50 tokens/s: {_step(step)}"
    if found.untried:
        yield f"streams   no more tried, limited by the machine: {found.untried}"
    yield f"holds     {_holds(found)}"
    for note in notes(facts):
        yield f"note      {note}"


def _holds(found: Examination) -> str:
    if not found.steps:
        return "not known: no number of streams was tried, as what came before took too long"
    tried = found.holds == found.steps[-1][0]
    return f"{found.holds:,} streams" + (", the most that was tried" if tried else "")


def _step(step: Found) -> str:
    share = "" if step.of_ideal is None else f"{step.of_ideal:.1%} of the ideal rate, "
    error = f"TTFT off by {_us(step.ttft_error_s.get('p99'))} (p99)"
    return f"{share}{_busy(step)}, {error}{_unless_held(step)}"


def _unless_held(found: Found) -> str:
    return "" if held(found) else f"; {limit(found)}"


def _clock(found: Found) -> str:
    """Why stamps are not the kernel's, where they are not."""
    if found.clock == "kernel":
        return ""
    return "; limited by the machine: its kernel stamps nothing, or its clock was set; Linux does, try again"


def _busy(found: Found) -> str:
    """Shares of a core."""
    return f"client {_share(found.cpu_share)}, server {_share(found.server_share)} of a core"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _us(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:,.0f} us"
