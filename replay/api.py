"""`tbench.replay`: the typed way in for programs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from tbench.replay.options import ReplayOptions
from tbench.replay.runfile import Run
from tbench.replay.runner import Watch, run_replay
from tbench.replay.senders import Choice
from tbench.replay.target import parse_headers
from tbench.replay.warmup import parse_warmup


class Options(TypedDict, total=False):
    """The options of `tbench.replay`, as in `tbench replay --help` and replay.options.Order."""

    out: str | Path | None
    base_url: str | None
    speed: float | None
    rate: float | None
    poisson: float | None
    constant: float | None
    concurrency: int | None
    concurrency_scale: float | None
    until: Literal["profile", "trace"] | None
    seed: int
    max_in_flight: int | None
    spawn_rate: float | None
    loop: int | None
    requests: int | None
    duration: float | None
    only: Sequence[str]
    model: str | None
    map_model: Mapping[str, str]
    set: Mapping[str, Any]
    api_key_env: str | None
    timeout: float
    ca: str | Path | None
    sender: Choice
    http2: bool
    proxy: str | None
    workers: int | Literal["auto"]
    allow_unsafe: bool
    max_cost: float | None
    cache: Literal["as-is", "cold"]


def replay(
    trace: str | Path,
    *,
    warmup: str = "auto",
    headers: Mapping[str, str] | None = None,
    watch: Watch | None = None,
    **options: Unpack[Options],
) -> Run:
    """Send a trace again and measure it; returns the run, which is also in its file (`run.path`).

    Args:
        trace: a trace file, folder or glob.
        warmup: `auto`, `none`, seconds or a share such as `5%`.
        headers: added to every request; their values are written nowhere.
        watch: an async function that gets the live figures and is cancelled at the end.
        options: see Order; without a pacing, recorded times are kept.

    Raises InputError before anything is sent. Failed requests are samples, not exceptions: look at
    `replay.totals.numbers(run)`.
    """
    order = ReplayOptions(
        trace=Path(trace),
        warmup=parse_warmup(warmup),
        headers=parse_headers([f"{name}: {value}" for name, value in (headers or {}).items()]),
        **options,
    )
    return run_replay(order.job(), watch)
