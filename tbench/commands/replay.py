"""tbench replay: send a trace again, paced, and measure every request."""

from pathlib import Path
from typing import Annotated, Literal

import typer

PACING, LIMITS, TARGET, OUTPUT = "Pacing (give one)", "How much", "Where to", "Output"


def replay(
    trace: Annotated[Path, typer.Argument(help="A trace: file, first segment, folder or glob.")],
    speed: Annotated[
        float | None,
        typer.Option(
            help="Recorded times / SPEED, open loop: 2 is twice as fast. The default pacing, at 1.",
            rich_help_panel=PACING,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Recorded times, scaled to a mean of RATE requests/s.", rich_help_panel=PACING
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            help="Closed loop: this many in flight, in trace order; recorded times are not used.",
            rich_help_panel=PACING,
        ),
    ] = None,
    concurrency_scale: Annotated[
        float | None,
        typer.Option(
            help="Closed loop: follow the recorded number in flight (1 s means) times this.",
            rich_help_panel=PACING,
        ),
    ] = None,
    poisson: Annotated[
        float | None,
        typer.Option(
            help="Poisson arrivals at this rate replace the recorded times.", rich_help_panel=PACING
        ),
    ] = None,
    constant: Annotated[
        float | None,
        typer.Option(
            help="Evenly spaced arrivals at this rate replace the recorded times.",
            rich_help_panel=PACING,
        ),
    ] = None,
    until: Annotated[
        Literal["profile", "trace"] | None,
        typer.Option(
            help="--concurrency-scale ends with the recorded profile (default; the trace is repeated if "
            "it runs out) or with the trace (the profile is repeated).",
            rich_help_panel=PACING,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="For --poisson.", rich_help_panel=PACING)] = 0,
    max_in_flight: Annotated[
        int | None,
        typer.Option(
            help="A safety valve on open loops; waiting for it counts as latency.",
            rich_help_panel=PACING,
        ),
    ] = None,
    loop: Annotated[
        int | None,
        typer.Option(
            help="Send the trace this many times, one mean gap apart.", rich_help_panel=LIMITS
        ),
    ] = None,
    requests: Annotated[
        int | None, typer.Option(help="End after this many requests.", rich_help_panel=LIMITS)
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            help="Send for this many seconds; what is in flight then still finishes.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    warmup: Annotated[
        str,
        typer.Option(
            help="Left out of the statistics: auto (60 s, at most 1/16 of the run), none, seconds, "
            "or a share (5%).",
            rich_help_panel=LIMITS,
        ),
    ] = "auto",
    max_cost: Annotated[
        float | None,
        typer.Option(
            help="Stop before list prices exceed this many US dollars.", rich_help_panel=LIMITS
        ),
    ] = None,
    allow_unsafe: Annotated[
        bool,
        typer.Option(
            "--allow-unsafe",
            help="Also send requests that may change or spend something (images, files, jobs).",
            rich_help_panel=LIMITS,
        ),
    ] = False,
    base_url: Annotated[
        str | None,
        typer.Option(
            help="Where to send, with or without /v1 (default: where the trace was captured).",
            rich_help_panel=TARGET,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Ask for this model instead.", rich_help_panel=TARGET)
    ] = None,
    map_model: Annotated[
        list[str] | None,
        typer.Option(help="OLD=NEW: replace one model. Repeatable.", rich_help_panel=TARGET),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="key=JSON: set a top-level field of the body; null removes it. Repeatable.",
            rich_help_panel=TARGET,
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            help="'Name: value' for every request; never written to a file. Repeatable.",
            rich_help_panel=TARGET,
        ),
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            help="The variable that holds the API key (default: TOGETHER_API_KEY; '' sends none).",
            rich_help_panel=TARGET,
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds for one request, all in all.", rich_help_panel=TARGET)
    ] = 600.0,
    ca: Annotated[
        Path | None,
        typer.Option(help="PEM file of certificates to trust besides.", rich_help_panel=TARGET),
    ] = None,
    sender: Annotated[
        Literal["auto", "engine", "httpx"],
        typer.Option(
            help="What sends: our engine with kernel stamps (Linux; auto), or plain httpx.",
            rich_help_panel=TARGET,
        ),
    ] = "auto",
    http2: Annotated[
        bool,
        typer.Option(
            "--http2", help="HTTP/2, by plain httpx (needs httpx[http2]).", rich_help_panel=TARGET
        ),
    ] = False,
    proxy: Annotated[
        str | None,
        typer.Option(
            help="Through this proxy (http://HOST:PORT), by plain httpx. The environment's is not used.",
            rich_help_panel=TARGET,
        ),
    ] = None,
    workers: Annotated[
        str,
        typer.Option(
            help="Processes that send, each with whole sessions: a number, or auto (what the load needs "
            "and the machine has to spare).",
            rich_help_panel=TARGET,
        ),
    ] = "auto",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Send nothing; say what would be.", rich_help_panel=OUTPUT),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The run file, which must not exist.", rich_help_panel=OUTPUT
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=OUTPUT)
    ] = False,
) -> int:
    """Send a trace again, paced as recorded or otherwise, and measure every request.

    Latency counts from when a request was due in open loops (so waiting for a slow target counts), from
    when it was sent in closed loops. Ctrl-C stops and keeps what is there.
    """
    from replay.order import Order, parse_workers
    from replay.target import parse_fields, parse_headers, parse_models
    from replay.warmup import parse_warmup

    order = Order(
        trace=trace,
        out=out,
        base_url=base_url,
        speed=speed,
        rate=rate,
        poisson=poisson,
        constant=constant,
        concurrency=concurrency,
        concurrency_scale=concurrency_scale,
        until=until,
        seed=seed,
        max_in_flight=max_in_flight,
        loop=loop,
        requests=requests,
        duration=duration,
        warmup=parse_warmup(warmup),
        model=model,
        map_model=parse_models(map_model or []),
        set=parse_fields(set_ or []),
        headers=parse_headers(header or []),
        api_key_env=api_key_env,
        timeout=timeout,
        ca=ca,
        sender=sender,
        http2=http2,
        proxy=proxy,
        workers=parse_workers(workers),
        allow_unsafe=allow_unsafe,
        max_cost=max_cost,
    )
    from replay.command import dry_run as look
    from replay.command import send

    return look(order, as_json=as_json) if dry_run else send(order, as_json=as_json)
