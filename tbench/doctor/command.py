"""tbench doctor: what this machine can hold."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from tbench.capture.option import Option
from tbench.commands.output import Json
from tbench.flags import verb

if TYPE_CHECKING:
    from tbench.doctor.examination import Examination, ProbeResult


@verb
def doctor(
    workers: Annotated[int, Option(help="Processes that send.", least=1)] = 1,
    as_json: Json = False,
) -> int:
    """Measure in 20 s what load this machine can send: requests/s, streams, lag, exactness of timestamps.

    Real replays against a built-in server that knows when it wrote what. On two cores that server takes
    one; where it was the limit, the line says so.
    """
    import json

    from tbench.doctor.examination import examine
    from tbench.replay.job import check_workers

    check_workers(workers)  # the first probe needs fewer than the second
    results = examine(workers, lambda what: print(what, file=sys.stderr, flush=True))
    typer.echo(json.dumps(results.as_json()) if as_json else "\n".join(text(results)))
    return 0


# What `tbench doctor` prints for a person: a line for each probe, and who was its limit.


def text(examination: "Examination") -> Iterator[str]:
    """The lines."""
    from tbench.doctor.examination import held, limit, notes

    def unless_held(result: "ProbeResult") -> str:
        return "" if held(result) else f"; {limit(result)}"

    facts, flat, paced = examination.facts, examination.flat_out, examination.paced
    cores = f"{facts['usable_cores']:g} of {facts['cores']} cores"
    yield f"machine   {cores}, {facts['kernel']}, Python {facts['python']}"
    yield f"limits    {facts['descriptors']:,} descriptors a process, {facts['ports']:,} ports to one address"
    yield f"flat out  {flat.requests_per_s:,.0f} requests/s with 64 in flight ({_busy(flat)}); {limit(flat)}"
    lag, error = paced.lag_s, paced.ttft_error_s
    late = f"sent late by {_us(lag.get('p50'))} (p99 {_us(lag.get('p99'))})"
    yield f"pacing    {paced.requests_per_s:,.0f} of 1,000 requests/s, {late}{unless_held(paced)}"
    stamps = f"{paced.clock}, TTFT off by {_us(error.get('p50'))} (p99 {_us(error.get('p99'))})"
    if paced.clock != "kernel":
        stamps += "; limited by the machine: its kernel stamps nothing, or its clock was set"
        stamps += "; Linux does, try again"
    yield f"stamps    {stamps}"
    for number, step in examination.steps:
        share = "" if step.of_ideal is None else f"{step.of_ideal:.1%} of the ideal rate, "
        off = f"TTFT off by {_us(step.ttft_error_s.get('p99'))} (p99)"
        line = f"{share}{_busy(step)}, {off}{unless_held(step)}"
        yield f"streams   {number:>5,} at 50 tokens/s: {line}"
    if examination.untried:
        yield f"streams   no more tried, limited by the machine: {examination.untried}"
    if examination.steps:
        most = examination.holds == examination.steps[-1][0]
        yield f"holds     {examination.holds:,} streams" + (
            ", the most that was tried" if most else ""
        )
    else:
        yield "holds     not known: no number of streams was tried, as what came before took too long"
    for note in notes(facts):
        yield f"note      {note}"


def _busy(result: "ProbeResult") -> str:
    """Shares of a core."""
    client, server = (
        "-" if share is None else f"{share:.0%}"
        for share in (result.cpu_share, result.server_share)
    )
    return f"client {client}, server {server} of a core"


def _us(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:,.0f} us"
