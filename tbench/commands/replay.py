"""tbench replay: send a trace again, paced, and measure every request."""

from pathlib import Path
from typing import Annotated

import typer

from tbench.commands.options import (
    LIMITS,
    OUTPUT,
    PACING,
    TARGET,
    AllowUnsafe,
    Ca,
    Cache,
    Concurrency,
    ConcurrencyScale,
    Constant,
    Duration,
    Http2,
    Loop,
    MaxInFlight,
    Only,
    Poisson,
    Proxy,
    Rate,
    Requests,
    Sender,
    SpawnRate,
    Speed,
    Timeout,
    Until,
    Verbose,
    Warmup,
    Workers,
)


def replay(
    trace: Annotated[Path, typer.Argument(help="A trace: file, first segment, folder or glob.")],
    speed: Speed = None,
    rate: Rate = None,
    concurrency: Concurrency = None,
    concurrency_scale: ConcurrencyScale = None,
    poisson: Poisson = None,
    constant: Constant = None,
    until: Until = None,
    seed: Annotated[int, typer.Option(help="For --poisson.", rich_help_panel=PACING)] = 0,
    max_in_flight: MaxInFlight = None,
    spawn_rate: SpawnRate = None,
    loop: Loop = None,
    requests: Requests = None,
    duration: Duration = None,
    warmup: Warmup = "auto",
    max_cost: Annotated[
        float | None,
        typer.Option(
            help="Stop before list prices exceed this many US dollars.", rich_help_panel=LIMITS
        ),
    ] = None,
    only: Only = None,
    allow_unsafe: AllowUnsafe = False,
    base_url: Annotated[
        str | None,
        typer.Option(
            help="Where to send, with or without /v1 (default: where the trace was captured).",
            rich_help_panel=TARGET,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Ask for this model instead: in chat and completions, or, of a trace without any, at the "
            "only endpoint that it has.",
            rich_help_panel=TARGET,
        ),
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
    timeout: Timeout = 600.0,
    ca: Ca = None,
    cache: Cache = None,
    sender: Sender = "auto",
    http2: Http2 = False,
    proxy: Proxy = None,
    workers: Workers = "auto",
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
    verbose: Verbose = False,
) -> int:
    """Send a trace again, paced as recorded or otherwise, and measure every request.

    Latency counts from when a request was due in open loops (so waiting for a slow target counts), from
    when it was sent in closed loops. Ctrl-C stops and keeps what is there.
    """
    from tbench.replay.options import ReplayOptions, parse_workers
    from tbench.replay.target import parse_fields, parse_headers, parse_models
    from tbench.replay.warmup import parse_warmup

    order = ReplayOptions(
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
        spawn_rate=spawn_rate,
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
        only=only or (),
        allow_unsafe=allow_unsafe,
        max_cost=max_cost,
        cache=cache or "as-is",
    )
    from tbench.replay.command import dry_run as look
    from tbench.replay.command import send

    if dry_run:
        return look(order, as_json=as_json)
    return send(order, as_json=as_json, verbose=verbose)
