"""The job: the options of a replay resolved once, into what the rest only reads."""

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from tbench.capture.errors import InputError, TbenchError
from tbench.capture.exchange import Exchange, Headers, Request
from tbench.capture.filters import Filter, bind
from tbench.capture.providers import GENERATIVE, ParsedRequest
from tbench.capture.records import CONTENTLESS
from tbench.capture.remote import RemotePath, as_path
from tbench.capture.terminal import plural
from tbench.capture.trace_reader import Trace, read_trace
from tbench.capture.writing import check_folder
from tbench.replay.cost import as_prices
from tbench.replay.options import ReplayOptions
from tbench.replay.pacing import Pacing, Warmup, parse_warmup
from tbench.replay.plan import Plan, Refusal
from tbench.replay.price_table import prices_at
from tbench.replay.request import address
from tbench.replay.runfile import read_run
from tbench.replay.sender import Deadlines, Kind, chosen
from tbench.replay.target import (
    CURE,
    EXACT,
    LIMIT_NAMES,
    Target,
    checked_base_url,
    find_key,
    new_salt,
    parse_headers,
)

WORKER_STREAMS: Final = 500
WORKER_RATE: Final = 2000
"""What one worker does with ease: requests in flight, and requests/s of an open loop."""
MOST_WORKERS: Final = 32
"""Workers for each core of this machine: more are a slip of the keyboard that would take all its memory."""
PREVIEW: Final = 10_000
"""How many requests of a trace are looked at to learn what all of it is like."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that a replay needs to know: its options, and what was made of them.

    `workers` is how many processes send. `argv` and `part_of` (the experiment of which the run is a part)
    are only written down. `host` is the one recorded host whose requests are sent; None: all. `beside` are
    the other arms' targets: what cannot be put to one of them is sent to none, so that all get the same.
    `probe` is what the two requests before the run told (replay.probe), if they were asked for; `spent` is
    what these, and those of the targets beside it, may have cost, US dollars. `ledger` is a file that keeps
    what was spent of a budget, however the run ends (replay.workers.counters); its owner removes it.
    """

    options: ReplayOptions
    trace: Trace
    out: Path
    target: Target
    pace: Pacing
    deadlines: Deadlines
    sender: Kind
    workers: int
    ca: Path | None
    warmup: Warmup
    only: Filter
    host: str | None
    argv: tuple[str, ...] = ()
    part_of: Mapping[str, Any] | None = None
    beside: tuple[Target, ...] = ()
    probe: Mapping[str, Any] | None = None
    spent: float = 0.0
    ledger: Path | None = None

    @property
    def rounds(self) -> int:
        """How many times the trace is sent, where no recorded profile decides it."""
        return self.options.loop or 1

    @property
    def tick_s(self) -> float | None:
        """The tick of the coarse clock by which requests are due together; None where they are not."""
        made = self.trace.header.extra.get("import")
        if (
            not isinstance(made, dict)
            or made.get("spread")
            or self.pace.mode not in {"speed", "rate"}
        ):
            return None
        tick_ns = made.get("tick_ns")
        return tick_ns / 1e9 if isinstance(tick_ns, int) else None

    @property
    def budget(self) -> float | None:
        """US dollars that may be spent; None: no bound."""
        return None if self.options.max_cost is None else self.options.max_cost - self.spent

    @property
    def probes(self) -> bool:
        """Whether two equal requests go before the run (replay.probe)."""
        auto = self.options.probe == "auto" and self.options.cache != "as-is"
        return auto or self.options.probe == "on"

    def plan(self, *, answers: bool = True, noted: int = 0) -> Plan:
        """What is sent: without end where a recorded profile decides how much.

        Without `answers` only the ends of the recorded responses are read, unless `--only` asks for more:
        that takes less time. Then the first `noted` arrivals are.
        """
        answers = answers or self.only.reads_answers
        targets = (self.target, *self.beside)
        follows = self.pace.mode == "concurrency-scale" and self.pace.until == "profile"
        return Plan(
            trace=self.trace if answers else self.trace.ends,
            noted=0 if answers else noted,
            rounds=None if follows else self.rounds,
            requests=self.options.requests,
            clones=self.pace.clones,
            by_session=self.pace.mode == "sessions",
            most_idle=self.pace.max_idle,
            timed=self.pace.option.timed,
            allow_unsafe=self.options.allow_unsafe,
            only=self.only,
            host=self.host,
            rewrites=any(target.rewrites for target in targets),
            refuses=refused_by(targets),
            apart=self.workers > 1 or self.pace.mode == "sessions",
            live=self.pace.live,
            mixed=len(self.trace.captures) > 1,
        )


def resolve(
    options: ReplayOptions,
    argv: Sequence[str] = (),
    *,
    send: bool = True,
    part_of: Mapping[str, Any] | None = None,
    beside: Sequence[Target] = (),
    ledger: Path | None = None,
) -> Job:
    """The job, with its trace opened and its key found; without `send` no key is needed.

    Raises InputError for a trace, a target, a key or a file that cannot be used.
    """
    trace = read_trace(options.trace)
    trace.check_apart()
    if (privacy := trace.header.privacy) in CONTENTLESS:
        raise InputError(
            f"{options.trace}: holds no texts (trace redact --content {privacy}); a copy by --content shape "
            "replays, and so does what 'trace export --format mooncake' makes of one by --content hash, "
            "imported again"
        )
    only = bind(options.only, trace)
    requests = trace if only.reads_answers else trace.requests
    plan = Plan(trace=requests, allow_unsafe=options.allow_unsafe, only=only)
    base, host = options.base_url, None
    if base is None:
        base = trace.header.upstream
    if base is None:
        host = _host(options, plan)
        base = f"{host.scheme}://{host.host}"
    base_url = checked_base_url(base)
    out = default_out(as_path(options.trace)) if options.out is None else as_path(options.out)
    if send:
        make_room(out)
    headers = _headers(options)
    pacing = options.pacing()
    lengths = LIMIT_NAMES | EXACT if options.match_length == "exact" else LIMIT_NAMES
    if options.match_length != "no" and (clash := lengths & options.set.keys()):
        raise InputError(
            f"--match-length {options.match_length} and --set {min(clash)} both set the length of the "
            "output; give one"
        )
    if "model" in options.set and (options.model or options.map_model):
        raise InputError("--set model and --model or --map-model both name the model; give one")
    as_is = options.cache == "as-is"
    return Job(
        options=options,
        trace=trace,
        out=out,
        target=Target(
            base_url=base_url,
            model=options.model,
            serves=_serves(options, plan),
            models=options.map_model,
            fields=options.set,
            headers=headers,
            key=find_key(options.api_key_env, base_url, headers) if send else None,
            # Clones of one request would find each other in a cache:
            # they have salts even where prompts go as they are.
            salt=None if as_is and len(pacing.clones) == 1 else new_salt(),
            as_is=as_is,
            cold=options.cache == "cold",
            salt_field=None if options.cache_by == "text" else options.cache_by,
            lengths=options.match_length,
            prices=prices_at(address(base_url).host, as_prices(options.price), options.prices),
            portable=options.portable,
            to=options.to,
        ),
        pace=pacing,
        deadlines=Deadlines(first_byte=options.timeout, total=options.timeout),
        sender=chosen(options.sender, http2=options.http2, proxy=options.proxy),
        workers=_workers(options, pacing, send=send),
        ca=None if options.ca is None else Path(options.ca),
        warmup=Warmup("seconds", options.ramp)  # by itself it is the ramp
        if options.ramp is not None and options.warmup == "auto"
        else parse_warmup(options.warmup),
        only=only,
        host=None if host is None else host.host,
        argv=tuple(argv),
        part_of=part_of,
        beside=tuple(beside),
        ledger=None if options.max_cost is None else ledger,
    )


def refused_by(targets: Sequence[Target]) -> Refusal:
    """The rule of a plan for several targets: what cannot be put to one of them is put to none."""
    if len(targets) == 1:
        return targets[0].refuses

    def refuses(exchange: Exchange, parsed: ParsedRequest) -> str | None:
        for target in targets:
            if reason := target.refuses(exchange, parsed):
                return reason
        return None

    return refuses


def check_key(options: ReplayOptions, cure: str = CURE) -> None:
    """Raise InputError where `base_url` needs a key and there is none; `cure` is what to do about it."""
    base_url = checked_base_url(options.base_url or "")
    find_key(options.api_key_env, base_url, _headers(options), cure)


def _headers(options: ReplayOptions) -> Headers:
    if isinstance(options.headers, Mapping):
        return parse_headers([f"{name}: {value}" for name, value in options.headers.items()])
    return tuple(options.headers)


def _workers(options: ReplayOptions, pacing: Pacing, *, send: bool) -> int:
    """How many processes send; `auto` is as many as the load needs, and one core stays with the parent.

    On a cluster it is one for each core; where nothing is sent it is not asked.
    """
    if options.workers == "auto" and options.on is not None:
        from tbench.replay.workers.on_ray import cluster_cores  # noqa: PLC0415 (an extra)

        wanted = cluster_cores(options.on) if send else 1
    elif options.workers == "auto":
        wanted = min(max(1, usable_cores() - 1), needed(pacing))
    else:
        wanted = options.workers
    wanted = min(wanted, pacing.places or wanted)
    if options.on is None:
        check_workers(wanted)
    return wanted


def usable_cores() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def check_workers(wanted: int, flag: str = "--workers") -> None:
    """Raise InputError for more workers, as `flag` asks for them, than this machine bears."""
    cores = usable_cores()
    if wanted > (most := MOST_WORKERS * cores):
        raise InputError(
            f"{flag} {wanted:,}: at most {most:,}, {MOST_WORKERS} for each of this machine's "
            f"{plural(cores, 'core')}; more only take its memory"
        )


def needed(pacing: Pacing) -> int:
    """How many workers a pacing needs, by what its value says: recorded times and profiles count as one."""
    ease = {"streams": WORKER_STREAMS, "rate": WORKER_RATE, None: math.inf}[pacing.option.load]
    return max(1, math.ceil(pacing.value / ease))


def _host(options: ReplayOptions, plan: Plan) -> Request:
    """A request to the one host of a trace from a forward proxy. Raises InputError where it names no host.

    A key is for one host, so requests to several are never sent without being told where.
    """
    hosts: dict[str, Request] = {}
    for planned in islice(plan, PREVIEW):
        request = planned.exchange.request
        # RFC 2606: what importers and generators write where no host is known. Nobody answers there.
        if request.host and not request.host.endswith(".invalid"):
            hosts.setdefault(request.host, request)
    if len(hosts) > 1:
        raise InputError(
            f"{options.trace}: its requests went to {len(hosts)} hosts ({', '.join(sorted(hosts))}): "
            "give --base-url, or choose one by --only HOST"
        )
    if not hosts:
        raise InputError(f"{options.trace}: does not say where its requests went; give --base-url")
    return next(iter(hosts.values()))


def _serves(options: ReplayOptions, plan: Plan) -> frozenset[str] | None:
    """The endpoints that `--model` is for; None without one."""
    if options.model is None:
        return None
    endpoints: set[str] = set()
    for planned in islice(plan, PREVIEW):
        if planned.info.endpoint in GENERATIVE:
            return GENERATIVE
        endpoints.add(planned.info.endpoint)
    if len(endpoints) > 1:
        raise InputError(
            f"--model {options.model}: no one model serves {' and '.join(sorted(endpoints))}; "
            "use --map-model OLD=NEW, or choose one by --only ENDPOINT"
        )
    return frozenset(endpoints)


def default_out(trace: Path) -> Path:
    """A new name in the current folder: the trace's, and the time."""
    stem = trace.resolve().name.removesuffix(".part").removesuffix(".msgpack") or "trace"
    return Path(f"{stem}.{time.strftime('%Y%m%d-%H%M%S')}.run")


def make_room(out: Path) -> None:
    """Raise InputError where `out` holds something, or has no folder; a run without a success is removed."""
    if isinstance(out, RemotePath):
        out.check_new()
        return
    check_folder(out)
    # Of a link that leads nowhere too: what is written would land where it points.
    if not os.path.lexists(out):
        return
    try:
        barren = not read_run(out).totals["completed"]
    except TbenchError:
        # What cannot be read as a run is somebody's file, and not ours to remove.
        barren = False
    if not barren:
        raise InputError(f"{out}: exists already; choose another name with -o or remove it")
    out.unlink()
