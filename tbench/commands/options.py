"""The options that `tbench replay` and `tbench ab` share: how requests are paced and sent."""

from pathlib import Path
from typing import Annotated, Literal

import typer

PACING, LIMITS, TARGET, OUTPUT = "Pacing (give one)", "How much", "Where to", "Output"

Speed = Annotated[
    float | None,
    typer.Option(
        help="Recorded times / SPEED, open loop: 2 is twice as fast. The default pacing, at 1.",
        rich_help_panel=PACING,
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(
        help="Recorded times, scaled to a mean of RATE requests/s.", rich_help_panel=PACING
    ),
]
Concurrency = Annotated[
    int | None,
    typer.Option(
        help="Closed loop: this many in flight, in trace order; recorded times are not used.",
        rich_help_panel=PACING,
    ),
]
ConcurrencyScale = Annotated[
    float | None,
    typer.Option(
        help="Closed loop: follow the recorded number in flight (1 s means) times this.",
        rich_help_panel=PACING,
    ),
]
Poisson = Annotated[
    float | None,
    typer.Option(
        help="Poisson arrivals at this rate replace the recorded times.", rich_help_panel=PACING
    ),
]
Constant = Annotated[
    float | None,
    typer.Option(
        help="Evenly spaced arrivals at this rate replace the recorded times.",
        rich_help_panel=PACING,
    ),
]
Until = Annotated[
    Literal["profile", "trace"] | None,
    typer.Option(
        help="--concurrency-scale ends with the recorded profile (default; the trace is repeated if "
        "it runs out) or with the trace (the profile is repeated).",
        rich_help_panel=PACING,
    ),
]
MaxInFlight = Annotated[
    int | None,
    typer.Option(
        help="A safety valve on open loops; waiting for it counts as latency.",
        rich_help_panel=PACING,
    ),
]
SpawnRate = Annotated[
    float | None,
    typer.Option(
        help="--concurrency grows to its number by so many a second, instead of at once.",
        rich_help_panel=PACING,
    ),
]
Loop = Annotated[
    int | None,
    typer.Option(
        help="Send the trace this many times, one mean gap apart.", rich_help_panel=LIMITS
    ),
]
Requests = Annotated[
    int | None, typer.Option(help="End after this many requests.", rich_help_panel=LIMITS)
]
Duration = Annotated[
    float | None,
    typer.Option(
        help="Send for this many seconds; what is in flight then still finishes.",
        rich_help_panel=LIMITS,
    ),
]
Warmup = Annotated[
    str,
    typer.Option(
        help="Left out of the statistics: auto (60 s, at most 1/16 of the run), none, seconds, "
        "or a share (5%).",
        rich_help_panel=LIMITS,
    ),
]
AllowUnsafe = Annotated[
    bool,
    typer.Option(
        "--allow-unsafe",
        help="Also send requests that may change or spend something (images, files, jobs).",
        rich_help_panel=LIMITS,
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ENDPOINT|MODEL|HOST",
        help="Send only requests to this endpoint (chat, completions, embeddings, rerank), for this model or "
        "to this recorded host. Repeatable: any of them.",
        rich_help_panel=LIMITS,
    ),
]
Timeout = Annotated[
    float, typer.Option(help="Seconds for one request, all in all.", rich_help_panel=TARGET)
]
Ca = Annotated[
    Path | None,
    typer.Option(help="PEM file of certificates to trust besides.", rich_help_panel=TARGET),
]
Sender = Annotated[
    Literal["auto", "engine", "httpx"],
    typer.Option(
        help="What sends: our engine with kernel stamps (Linux; auto), or plain httpx.",
        rich_help_panel=TARGET,
    ),
]
Http2 = Annotated[
    bool,
    typer.Option(
        "--http2", help="HTTP/2, by plain httpx (needs httpx[http2]).", rich_help_panel=TARGET
    ),
]
Proxy = Annotated[
    str | None,
    typer.Option(
        help="Through this proxy (http://HOST:PORT), by plain httpx. The environment's is not used.",
        rich_help_panel=TARGET,
    ),
]
Workers = Annotated[
    str,
    typer.Option(
        help="Processes that send, each with whole sessions: a number, or auto (what the load needs "
        "and the machine has to spare).",
        rich_help_panel=TARGET,
    ),
]
Cache = Annotated[
    Literal["as-is", "cold"] | None,
    typer.Option(
        help="cold: a word that no run had before goes first in every prompt of this run, so that no "
        "cache of an earlier run helps (what its requests share, they still share). Default: as-is; in ab "
        "cold.",
        rich_help_panel=TARGET,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Print every table and how the numbers were made.",
        rich_help_panel=OUTPUT,
    ),
]
