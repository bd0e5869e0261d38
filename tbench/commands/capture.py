"""tbench capture: put a recording proxy between an application and its server."""

import re
import sys
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tbench.capture.errors import InputError, InvalidRunError
from tbench.capture.option import Option
from tbench.capture.remote import is_url
from tbench.capture.terminal import plural
from tbench.flags import verb

if TYPE_CHECKING:
    from tbench.capture.status import Status

DEFAULT_UPSTREAM = "https://api.together.xyz"
MEGA = 1 << 20
CURES = {
    "memory": "raise --max-pending, or write to a faster disk",
    "shutdown": "the disk was too slow to take what was queued at the end",
}
"""What helps, by why something was dropped."""
LISTEN, RECORDED, WHERE, STOP = "The proxy", "What is recorded", "The trace", "When it ends"


@verb
def capture(
    command: Annotated[
        list[str] | None,
        Option(
            argument=True,
            help="Command to run and record, behind --; the capture ends with it.",
            unit="COMMAND",
        ),
    ] = None,
    *,
    upstream: Annotated[
        str | None,
        Option(
            help="Server to forward to; not with --mode proxy.",
            unit="URL",
            group=LISTEN,
            default=DEFAULT_UPSTREAM,
        ),
    ] = None,
    output: Annotated[
        Path, Option(help="Trace file to write.", unit="FILE", short="-o", group=WHERE)
    ] = Path("trace.msgpack"),
    mode: Annotated[
        str | None,
        Option(
            help="reverse: the application's base URL points here. proxy: the application uses HTTPS_PROXY "
            "and trusts a throw-away CA.",
            unit="reverse|proxy",
            group=LISTEN,
            default="reverse; proxy for a COMMAND without --upstream",
        ),
    ] = None,
    port: Annotated[
        int | None,
        Option(
            help="Port to listen on; 0 takes a free one.",
            group=LISTEN,
            default="8080; a free one for a COMMAND",
            least=0,
            most=65535,
        ),
    ] = None,
    listen: Annotated[
        str, Option(help="Address to listen on.", unit="ADDRESS", group=LISTEN)
    ] = "127.0.0.1",
    no_tunnel: Annotated[
        bool,
        Option(
            help="With --mode proxy: answer 403 to all other hosts; always on where --listen lets "
            "other machines in.",
            group=LISTEN,
        ),
    ] = False,
    cert: Annotated[
        Path | None,
        Option(
            help="PEM file of a certificate and its key: answer TLS only. This or --insecure is "
            "required where --listen lets other machines in.",
            unit="FILE",
            group=LISTEN,
        ),
    ] = None,
    insecure: Annotated[
        bool,
        Option(
            help="Listen without TLS for other machines: keys and prompts can be read on the "
            "network.",
            group=LISTEN,
        ),
    ] = False,
    metrics_port: Annotated[
        int | None,
        Option(
            help="Port for monitors: /healthz and /metrics (Prometheus).",
            group=LISTEN,
            least=1,
            most=65535,
        ),
    ] = None,
    upstream_ca: Annotated[
        Path | None,
        Option(
            help="PEM file of a private CA that signed the server's certificate.",
            unit="FILE",
            group=LISTEN,
        ),
    ] = None,
    host: Annotated[
        list[str] | None,
        Option(
            help="With --mode proxy: host to look into; all others are tunnelled untouched. Repeatable.",
            unit="REGEX",
            group=RECORDED,
            default="the known LLM APIs",
        ),
    ] = None,
    path: Annotated[
        list[str] | None,
        Option(
            help="Path to record, any method; '*' is all. Repeatable.",
            unit="GLOB",
            group=RECORDED,
            default="inference and model lists",
        ),
    ] = None,
    sample: Annotated[
        float,
        Option(
            help="Share of the sessions to record, 0 to 1; the rest passes through.",
            unit="SHARE",
            group=RECORDED,
        ),
    ] = 1.0,
    privacy: Annotated[
        Literal["full", "shape"],
        Option(
            help="shape: write made-up content of the same lengths; no prompt reaches the disk "
            "(docs/privacy.md).",
            group=RECORDED,
        ),
    ] = "full",
    rotate_mb: Annotated[
        float | None,
        Option(help="Begin a new segment at this size.", unit="MB", group=WHERE, least=0.001),
    ] = None,
    rotate_s: Annotated[
        float | None,
        Option(help="Begin a new segment at this age.", unit="SECONDS", group=WHERE, least=1),
    ] = None,
    max_pending: Annotated[
        int,
        Option(help="Memory for bodies on their way to the disk.", unit="MB", group=WHERE, least=1),
    ] = 256,
    grace: Annotated[
        float,
        Option(
            help="Time for streams to end after a signal.",
            unit="SECONDS",
            group=STOP,
            least=0,
        ),
    ] = 30.0,
    idle_timeout: Annotated[
        int,
        Option(
            help="Close a connection after this much silence.", unit="SECONDS", group=STOP, least=1
        ),
    ] = 3600,
    duration: Annotated[
        float | None, Option(help="Stop after this time.", unit="SECONDS", group=STOP, least=0)
    ] = None,
    processes: Annotated[
        int,
        Option(
            help="Processes that share the port, each on a core of its own, and write one trace.",
            group=LISTEN,
            least=1,
        ),
    ] = 1,
    requests: Annotated[
        int | None,
        Option(help="Stop after this many recorded requests.", unit="N", group=STOP, least=1),
    ] = None,
) -> int:
    """Record what an application sends to an LLM API, and what comes back, chunk by chunk.

    The answers stream through as they arrive; keys and cookies are never written. Stop with Ctrl-C: streams
    in flight may end first (--grace), a second Ctrl-C cuts them. `tbench capture -- python app.py` runs and
    records a command, and ends with its exit code.
    """
    from tbench.capture.intake import API_HOSTS, Recording, Selection
    from tbench.capture.processes import run
    from tbench.capture.proxy import Setup, check_certificate, parse_upstream
    from tbench.capture.status import Watch
    from tbench.capture.terminal import heard
    from tbench.capture_view import View, files_of, summary

    command = command or []
    mode = mode or ("proxy" if command and upstream is None else "reverse")
    proxied, local = mode == "proxy", _is_loopback(listen)
    refusals = (
        (
            is_url(output),
            f"-o {output}: traffic is recorded on a disk of this machine; name a file",
        ),
        (mode not in ("reverse", "proxy"), f"--mode {mode!r}: choose reverse or proxy"),
        (
            not proxied and host,
            "--host goes with --mode proxy; in reverse mode --upstream is the only host",
        ),
        (
            not proxied and no_tunnel,
            "--no-tunnel goes with --mode proxy; in reverse mode there are no tunnels",
        ),
        (
            proxied and upstream,
            "--upstream goes with reverse mode; a proxy forwards to whom the client asks for",
        ),
        (
            re.fullmatch(r"[^:]+:\d+", listen),
            f"--listen {listen}: give the address alone; its port goes to --port",
        ),
        # What others on the network can reach is encrypted, and no way into this one's network.
        (
            not local and not insecure and cert is None,
            (
                f"--listen {listen}: keys and prompts would cross the network in the clear; "
                "give --cert FILE, or --insecure where the network is yours alone"
            ),
        ),
        (
            not local and proxied and not host,
            f"--listen {listen}: a proxy for anyone on the network; name the hosts it may reach by --host",
        ),
        (
            requests and processes > 1,
            "--requests counts within one process: leave out --processes",
        ),
        (
            command and duration is not None,
            "--duration: a command ends its capture; drop it, or limit the command",
        ),
        (
            command and processes > 1,
            "--processes: a command is recorded by one process; drop it",
        ),
        (
            command and cert is not None,
            "--cert: a command that is run here needs none; drop it",
        ),
    )
    for refused, message in refusals:
        if refused:
            raise InputError(message)
    if cert is not None:
        check_certificate(cert)
    selection = Selection(
        hosts=tuple(host or (API_HOSTS if proxied else ())), paths=tuple(path or ()), sample=sample
    )
    recording = Recording(
        output=output,
        selection=selection,
        upstream=None if proxied else parse_upstream(upstream or DEFAULT_UPSTREAM),
        mode=mode,
        max_pending=max_pending * MEGA,
        rotate_bytes=round(rotate_mb * MEGA) if rotate_mb else None,
        rotate_s=rotate_s,
        privacy=privacy,
        processes=processes,
    )
    setup = Setup(
        recording=recording,
        host=listen,
        port=(0 if command else 8080) if port is None else port,
        cert=cert,
        closed=no_tunnel or not local,
        upstream_ca=upstream_ca,
        grace_s=grace,
        duration_s=duration,
        requests=requests,
        idle_s=idle_timeout,
        command=command,
    )
    with ExitStack() as stack:
        view = stack.enter_context(View(recording, command=command))
        watch: Watch = view
        if insecure and not local:
            view.warn("keys and prompts cross the network in the clear to this address")
        if metrics_port is not None:
            from tbench.capture.health import monitored

            watch = stack.enter_context(monitored(view, output.parent, listen, metrics_port))
        status = run(setup, watch)
    files = files_of(recording, stuck=status.stuck)
    stream = sys.stderr if command else sys.stdout  # which is the command's
    with heard(stream):
        for line in summary(status, files):
            typer.echo(f"tbench capture: {line}" if command else line, file=stream)
        if command and not status.counts.requests:
            typer.echo(
                "tbench capture: WARNING: nothing was recorded: the command asked no LLM API that is looked "
                "into, or takes no proxy (docs/capture.md)",
                file=stream,
            )
    if why := _not_whole(status, output, files):
        error = InvalidRunError(why)
        if not status.exit_code:
            raise error
        print(f"tbench: {error}", file=sys.stderr)
    return status.exit_code


def _not_whole(status: "Status", output: Path, files: list[Path]) -> str | None:
    """What should be in the trace and is not; None where all is there that was asked for."""
    counts = status.counts
    if status.failure:
        part = next((file for file in files if file.name.endswith(".part")), None)
        return (
            f"{output}: recording stopped ({status.failure}); {counts.lost_requests} requests and what "
            "followed are not in the trace."
            + (f" 'tbench trace repair {part} -o NEW' keeps what is there." if part else "")
        )
    if not counts.lost:
        return None
    cures = [cure for reason, cure in CURES.items() if counts.lost_by[reason]]
    return (
        f"{output}: not whole: {plural(counts.lost_requests, 'request')}, "
        f"{plural(counts.lost_responses, 'response')} and {plural(counts.lost_bytes, 'byte')} of bodies were "
        f"dropped ({', '.join(reason for reason, n in counts.lost_by.items() if n)})"
        + "".join(f"; {cure}" for cure in cures)
    )


def _is_loopback(listen: str) -> bool:
    try:
        return ip_address(listen).is_loopback
    except ValueError:
        return listen == "localhost"
