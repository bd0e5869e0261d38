"""The order: what a user asked for, checked word by word before anything is read or sent."""

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

from tbench.capture.errors import InputError, TbenchError
from tbench.capture.exchange import Headers, Request
from tbench.capture.providers import GENERATIVE
from tbench.capture.tracereader import Trace, read_trace
from tbench.capture.writing import check_folder
from tbench.replay.job import Job
from tbench.replay.pace import Mode, Pacing
from tbench.replay.plan import Plan
from tbench.replay.runfile import read_run
from tbench.replay.sender import Deadlines
from tbench.replay.senders import Choice, chosen
from tbench.replay.target import CURE, Target, checked_base_url, find_key, new_salt
from tbench.replay.warmup import Warmup
from tbench.replay.workers.tasks import needed

FLAGS: Final[Mapping[str, Mode]] = {
    "speed": "speed",
    "rate": "rate",
    "poisson": "poisson",
    "constant": "constant",
    "concurrency": "concurrency",
    "concurrency_scale": "concurrency-scale",
}
"""The pacings, of which an order may name one: field -> mode. The flag is the field with hyphens."""
PREVIEW: Final = 10_000
"""So many requests of a trace are looked at for what all of it is like."""


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """The options of `tbench replay` and of `tbench.replay`, None where not given.

    `speed` is a factor, `rate`, `poisson` and `constant` are requests per second, `concurrency` requests in
    flight, `concurrency_scale` a factor; at most one of them. `loop` is how many times the trace is sent.
    `duration` and `timeout` are seconds, `max_cost` US dollars. `workers` is how many processes send.
    `cache` is `cold` to give the run a salt of its own (replay.target). `only` are endpoints, models and
    hosts: a request that has none of them is left out. `model` replaces the models of one kind of
    endpoint: text generation where the trace has any, else the only kind that it has. `map_model` maps
    recorded models to new ones, `set` replaces top-level members of JSON bodies (None removes one).
    `api_key_env` names the variable that holds the key (None: TOGETHER_API_KEY, empty: no key). `out`
    may not exist yet.
    """

    trace: Path
    out: str | Path | None = None
    base_url: str | None = None
    speed: float | None = None
    rate: float | None = None
    poisson: float | None = None
    constant: float | None = None
    concurrency: int | None = None
    concurrency_scale: float | None = None
    until: Literal["profile", "trace"] | None = None
    seed: int = 0
    max_in_flight: int | None = None
    spawn_rate: float | None = None
    loop: int | None = None
    requests: int | None = None
    duration: float | None = None
    warmup: Warmup = field(default=Warmup())
    only: Sequence[str] = ()
    model: str | None = None
    map_model: Mapping[str, str] = field(default_factory=dict)
    set: Mapping[str, Any] = field(default_factory=dict)
    headers: Headers = field(default=(), repr=False)
    api_key_env: str | None = None
    timeout: float = 600.0
    ca: str | Path | None = None
    sender: Choice = "auto"
    http2: bool = False
    proxy: str | None = None
    workers: int | Literal["auto"] = "auto"
    allow_unsafe: bool = False
    max_cost: float | None = None
    cache: Literal["as-is", "cold"] = "as-is"

    def __post_init__(self) -> None:
        """Raise InputError for a value or a combination that makes no sense."""
        for name in POSITIVE:
            _positive(name, getattr(self, name))
        if self.workers != "auto" and self.workers < 1:
            raise InputError(f"--workers {self.workers}: give a number from 1, or auto")
        given = self._pacings()
        if len(given) > 1:
            raise InputError(f"{_flag(given[0])} and {_flag(given[1])} are two pacings; give one")
        self._check_company(given[0] if given else "speed")

    def pace(self) -> Pacing:
        """The pacing; without any, the recorded times as they are."""
        given = self._pacings()
        name = given[0] if given else "speed"
        return Pacing(
            mode=FLAGS[name],
            value=float(getattr(self, name) or 1.0),
            seed=self.seed,
            until=self.until or "profile",
            max_in_flight=self.max_in_flight,
            spawn_rate=self.spawn_rate,
        )

    def job(
        self,
        argv: Sequence[str] = (),
        *,
        send: bool = True,
        part_of: Mapping[str, Any] | None = None,
    ) -> Job:
        """The job, with its trace opened and its key found; without `send` no key is needed.

        `part_of` says of which experiment the run is a part (tbench.abtest); it is only written down.
        """
        trace = read_trace(self.trace)
        only = frozenset([self.only] if isinstance(self.only, str) else self.only)
        plan = Plan(trace=trace.requests, allow_unsafe=self.allow_unsafe, only=only)
        host = None if self.base_url or trace.header.upstream else self._host(plan)
        base_url = self._base_url(trace, host)
        out = default_out(self.trace) if self.out is None else Path(self.out)
        if send:
            make_room(out)
        return Job(
            trace=trace,
            trace_path=self.trace,
            out=out,
            target=self._target(base_url, self._serves(plan), send=send),
            pace=self.pace(),
            deadlines=Deadlines(first_byte=self.timeout, total=self.timeout),
            sender=chosen(self.sender, http2=self.http2, proxy=self.proxy),
            http2=self.http2,
            proxy=self.proxy,
            workers=self._workers(),
            rounds=self.loop or 1,
            requests=self.requests,
            duration_s=self.duration,
            warmup=self.warmup,
            allow_unsafe=plan.allow_unsafe,
            only=plan.only,
            host=None if host is None else host.host,
            max_cost=self.max_cost,
            key_name=self.api_key_env or "TOGETHER_API_KEY",
            ca=None if self.ca is None else Path(self.ca),
            argv=tuple(argv),
            part_of=part_of,
        )

    def check_key(self, cure: str = CURE) -> None:
        """Raise InputError where `base_url` needs a key and there is none, before anything is made ready.

        `cure` is what to do about it.
        """
        find_key(self.api_key_env, checked_base_url(self.base_url or ""), self.headers, cure)

    def _workers(self) -> int:
        """How many processes send; `auto` is as many as the load needs and the machine has to spare."""
        wanted = self._enough() if self.workers == "auto" else self.workers
        return min(wanted, self.concurrency or wanted, self.max_in_flight or wanted)

    def _enough(self) -> int:
        """One core stays with the parent; a budget is kept by one worker."""
        spare = max(1, _cores() - 1)
        return min(spare, 1 if self.max_cost is not None else needed(self.pace()))

    def _pacings(self) -> list[str]:
        return [name for name in FLAGS if getattr(self, name) is not None]

    def _check_company(self, pacing: str) -> None:
        """Options that only go with some pacings."""
        closed = pacing in {"concurrency", "concurrency_scale"}
        if self.max_cost is not None and self.workers not in {"auto", 1}:
            raise InputError("--max-cost is kept by one worker: drop --workers, or make it 1")
        if self.max_in_flight is not None and closed:
            raise InputError(
                f"--max-in-flight and {_flag(pacing)} both limit what is in flight; give one"
            )
        if self.spawn_rate is not None and pacing != "concurrency":
            raise InputError(f"--spawn-rate goes with --concurrency, not with {_flag(pacing)}")
        if self.until is not None and pacing != "concurrency_scale":
            raise InputError(f"--until goes with --concurrency-scale, not with {_flag(pacing)}")
        follows = pacing == "concurrency_scale" and self.until != "trace"
        if self.loop is not None and follows:
            raise InputError(
                "--loop and --concurrency-scale: the recorded profile decides how much is sent; "
                "drop --loop or add --until trace"
            )

    def _base_url(self, trace: Trace, request: Request | None) -> str:
        """What was given, else the upstream of the capture, else where `request` went."""
        if self.base_url is not None:
            return checked_base_url(self.base_url)
        if trace.header.upstream is not None:
            return checked_base_url(trace.header.upstream)
        if request is None:
            raise InputError(f"{self.trace}: does not say where its requests went; give --base-url")
        return checked_base_url(f"{request.scheme}://{request.host}")

    def _host(self, plan: Plan) -> Request | None:
        """A request to the one host of a trace from a forward proxy; None where it names no host.

        A key is for one host, so requests to several are never sent without being told where.
        """
        hosts: dict[str, Request] = {}
        for planned in islice(plan, PREVIEW):
            request = planned.exchange.request
            if request.host and not request.host.endswith(".invalid"):
                hosts.setdefault(request.host, request)
        if len(hosts) > 1:
            raise InputError(
                f"{self.trace}: its requests went to {len(hosts)} hosts ({', '.join(sorted(hosts))}): "
                "give --base-url, or choose one by --only HOST"
            )
        return next(iter(hosts.values()), None)

    def _serves(self, plan: Plan) -> frozenset[str] | None:
        """The endpoints that `model` is for; None without one."""
        if self.model is None:
            return None
        endpoints: set[str] = set()
        for planned in islice(plan, PREVIEW):
            if planned.info.endpoint in GENERATIVE:
                return GENERATIVE
            endpoints.add(planned.info.endpoint)
        if len(endpoints) > 1:
            raise InputError(
                f"--model {self.model}: no one model serves {' and '.join(sorted(endpoints))}; "
                "use --map-model OLD=NEW, or choose one by --only ENDPOINT"
            )
        return frozenset(endpoints)

    def _target(self, base_url: str, serves: frozenset[str] | None, *, send: bool) -> Target:
        return Target(
            base_url=base_url,
            model=self.model,
            serves=serves,
            models=self.map_model,
            fields=self.set,
            headers=self.headers,
            key=find_key(self.api_key_env, base_url, self.headers) if send else None,
            salt=new_salt() if self.cache == "cold" else None,
        )


POSITIVE: Final = (
    *FLAGS,
    "max_in_flight",
    "spawn_rate",
    "loop",
    "requests",
    "duration",
    "timeout",
    "max_cost",
)


def _positive(name: str, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise InputError(f"{_flag(name)} {value:g}: must be more than 0")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def default_out(trace: Path) -> Path:
    """A new name in the current folder: the trace's, and the time."""
    stem = trace.resolve().name.removesuffix(".part").removesuffix(".msgpack") or "trace"
    return Path(f"{stem}.{time.strftime('%Y%m%d-%H%M%S')}.run")


def make_room(out: Path) -> None:
    """Raise InputError where `out` holds something, or has no folder; a run without a success is removed."""
    check_folder(out)
    if not os.path.lexists(out):
        return
    try:
        barren = not read_run(out).totals["completed"]
    except TbenchError:
        barren = False
    if not barren:
        raise InputError(f"{out}: exists already; choose another name with -o or remove it")
    out.unlink()


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse_workers(text: str) -> int | Literal["auto"]:
    """`auto`, or a number of processes."""
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--workers {text}: give a number from 1, or auto") from None
