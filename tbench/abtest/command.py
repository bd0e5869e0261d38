"""tbench ab: one trace to several arms, several times each and in turns; then a verdict."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tbench.commands.options import (
    LIMITS,
    OUTPUT,
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
    SpawnRate,
    Speed,
    Until,
)
from tbench.commands.output import Charts, Shared, Xlsx

if TYPE_CHECKING:
    from tbench.abtest.plan import AbPlan

PLAN, VERDICT = "The plan", "The verdict"


def ab(
    trace: Annotated[
        Path | None, typer.Argument(help="A trace: file, first segment, folder or glob.")
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="name=A,model=M,base_url=URL,api_key_env=VAR,set.max_tokens=64: one arm, by what it has "
            "of its own (also map_model.OLD=NEW, header.NAME=VALUE). Repeatable; the first is the baseline.",
            rich_help_panel=PLAN,
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="Take the plan from this TOML file (keys as the options, [[arm]] tables); options given "
            "here go before it.",
            rich_help_panel=PLAN,
        ),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(help="Runs of each arm; a verdict needs 3. Default: 5.", rich_help_panel=PLAN),
    ] = None,
    schedule: Annotated[
        Literal["random", "abba", "duet"] | None,
        typer.Option(
            help="random (default): rounds that hold every arm once, two by two: in a drawn order, then in "
            "its reverse. abba: forwards and backwards. duet: all arms at once, request by request.",
            rich_help_panel=PLAN,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="For the order of the runs, and --poisson.", rich_help_panel=PLAN),
    ] = None,
    pause: Annotated[
        float | None, typer.Option(help="Seconds between two runs.", rich_help_panel=PLAN)
    ] = None,
    redo_invalid: Annotated[
        int | None,
        typer.Option(
            help="How often a run is done again whose own client was the limit. Default: 1.",
            rich_help_panel=PLAN,
        ),
    ] = None,
    margin: Annotated[
        str | None,
        typer.Option(
            help="TTFT and end to end, p50 and p95, may get worse by less than this, and failures by 0.5 "
            "points (--gate errors:2pp says otherwise). Default: 5%, unless there is a --gate.",
            rich_help_panel=VERDICT,
        ),
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            help="Gate one quantity: ttft:p95:5%, errors:0.5pp, goodput:1pp, requests_per_s:5%, or a limit "
            "that candidates must hold: 'ttft:p95<=500ms', 'goodput>=99%'. Repeatable.",
            rich_help_panel=VERDICT,
        ),
    ] = None,
    slo: Annotated[
        str | None,
        typer.Option(
            help="What makes a request a good one, for gates on goodput: 'ttft<500ms,tpot<50ms,e2e<3s'.",
            rich_help_panel=VERDICT,
        ),
    ] = None,
    trend: Annotated[
        bool,
        typer.Option(
            "--trend",
            help="Take a straight drift over the runs out of the difference (random schedule only).",
            rich_help_panel=VERDICT,
        ),
    ] = False,
    monitor: Annotated[
        bool,
        typer.Option(
            "--monitor",
            help="Look after every round from the third, and stop once PASS or FAIL is sure at that look's "
            "level (O'Brien-Fleming: looking costs no wrong verdicts).",
            rich_help_panel=VERDICT,
        ),
    ] = False,
    speed: Speed = None,
    rate: Rate = None,
    concurrency: Concurrency = None,
    concurrency_scale: ConcurrencyScale = None,
    poisson: Poisson = None,
    constant: Constant = None,
    until: Until = None,
    max_in_flight: MaxInFlight = None,
    spawn_rate: SpawnRate = None,
    loop: Loop = None,
    requests: Requests = None,
    duration: Duration = None,
    warmup: Annotated[
        str | None,
        typer.Option(
            help="Left out of each run: auto (default: 60 s, at most 1/16), none, seconds, or a share.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(
            help="US dollars at list prices for all runs together: refused if the plan needs more, and "
            "stopped before it is exceeded.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    only: Only = None,
    allow_unsafe: AllowUnsafe = False,
    base_url: Annotated[
        str | None,
        typer.Option(
            help="Where arms without a base_url of their own send.", rich_help_panel=TARGET
        ),
    ] = None,
    cache: Cache = None,
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds for one request. Default: 600.", rich_help_panel=TARGET),
    ] = None,
    ca: Ca = None,
    sender: Annotated[
        Literal["auto", "engine", "httpx"] | None,
        typer.Option(help="What sends, as in replay.", rich_help_panel=TARGET),
    ] = None,
    http2: Http2 = False,
    proxy: Proxy = None,
    workers: Annotated[
        str | None,
        typer.Option(help="Processes that send, as in replay.", rich_help_panel=TARGET),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The folder for runs and reports. One that holds this experiment already is gone on with; "
            "then it is enough to name it.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Send nothing; say what the whole plan would.", rich_help_panel=OUTPUT
        ),
    ] = False,
    charts: Charts = None,
    xlsx: Xlsx = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=OUTPUT)
    ] = False,
) -> int:
    """Replay one trace to two arms or more, several times each and in turns; say which is worse, how surely.

    Every run of every arm sends the same requests by the same pacing. The run is the unit: 0 is PASS,
    1 FAIL, 3 INCONCLUSIVE, 4 INVALID, 130 interrupted. The same command again goes on where it stopped.
    """
    from tbench.abtest.conducting import conducted, foretold, words_of

    given = {
        "trace": None if trace is None else str(trace),
        "arm": _tables(arm),
        "repeats": repeats,
        "schedule": schedule,
        "seed": seed,
        "pause": pause,
        "redo_invalid": redo_invalid,
        "margin": margin,
        "gate": gate,
        "slo": slo,
        "trend": trend or None,
        "monitor": monitor or None,
        "speed": speed,
        "rate": rate,
        "concurrency": concurrency,
        "concurrency_scale": concurrency_scale,
        "poisson": poisson,
        "constant": constant,
        "until": until,
        "max_in_flight": max_in_flight,
        "spawn_rate": spawn_rate,
        "loop": loop,
        "requests": requests,
        "duration": duration,
        "warmup": warmup,
        "max_cost": max_cost,
        "only": only or None,
        "allow_unsafe": allow_unsafe or None,
        "base_url": base_url,
        "cache": cache,
        "timeout": timeout,
        "ca": None if ca is None else str(ca),
        "sender": sender,
        "http2": http2 or None,
        "proxy": proxy,
        "workers": workers,
    }
    experiment: AbPlan = words_of(given, plan, out)
    if dry_run:
        return foretold(experiment, out, as_json=as_json)
    return conducted(experiment, out, Shared(html=None, charts=charts, xlsx=xlsx), as_json=as_json)


def _tables(arms: Sequence[str] | None) -> list[dict[str, Any]] | None:
    from tbench.abtest.plan import parse_arm

    return [parse_arm(text) for text in arms] if arms else None
