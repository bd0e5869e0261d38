"""The options of a replay, one row each, for `tbench replay`, `ab`, `tbench.replay(...)` and plan files.

Nothing is read or opened here, so that `--help` starts at once; replay.job resolves the options into what a
replay needs.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from tbench.capture.errors import InputError
from tbench.capture.option import Option, check, rows
from tbench.replay.pacing import (
    Causal,
    Clones,
    Pacing,
    PacingOption,
    constant,
    fixed,
    parse_clone_shift,
    parse_warmup,
    poisson,
    profile,
    recorded,
    to_mean_rate,
)

PACING: Final = "Pacing (give one; default: --speed 1)"
LIMITS, TARGET, CLIENT, OUTPUT = "How much", "Where to", "How it is sent", "Output"


Cache = Literal["as-is", "structure", "cold"]
MatchLength = Literal["no", "cap", "exact"]

Timeout = Annotated[
    float,
    Option(help="Time limit of one request, in total.", unit="SECONDS", group=CLIENT, above=0),
]


Prices = Annotated[
    str | Path | None,
    Option(
        help="TOML file of prices by host and model (docs/replay.md, Prices).",
        unit="FILE",
        group=TARGET,
        default="list prices of Together and Anthropic",
    ),
]


MaxCost = Annotated[
    float | None,
    Option(
        help="Never spend more US dollars than this, by --prices.",
        unit="USD",
        group=LIMITS,
        above=0,
        common=True,
    ),
]


Polite = Annotated[
    bool,
    Option(
        help="Wait as a 429, or a 503 with Retry-After, asks, then send again; attempts are "
        "counted.",
        group=CLIENT,
        clauses={True: "what is refused is sent again as the target asks (--polite)"},
    ),
]


Only = Annotated[
    Sequence[str],
    Option(
        help="Select requests by endpoint, model or host, or by a field: status>=400, session=s3, "
        "from=10m, sample=10% ... (docs/trace.md). Repeatable.",
        unit="WORD",
        group=LIMITS,
        common=True,
    ),
]


def parse_workers(text: int | str) -> int | Literal["auto"]:
    """`auto`, or a number of processes."""
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--workers {text}: give a number from 1, or auto") from None


def parse_cluster(text: str) -> str:
    """`ray`, or `ray://HOST:PORT`."""
    if text != "ray" and not re.fullmatch(r"ray://[^/\s]+:\d{1,5}", text):
        raise InputError(
            f"--on {text}: write ray (the cluster of RAY_ADDRESS, or one that runs here, else one on this "
            "machine for this run alone), or ray://HOST:PORT as 'ray start' shows it"
        )
    return text


On = Annotated[
    str | None,
    Option(
        help="Send from the machines of a Ray cluster: ray (the cluster of RAY_ADDRESS, or the one "
        "running here, else a new one on this machine), or ray://HOST:PORT (docs/scale-out.md).",
        unit="ray[://HOST:PORT]",
        group=CLIENT,
        default="this machine",
        read=parse_cluster,
    ),
]


def _read_by(module: str, parser: str) -> Callable[[list[str]], Any]:
    """A reader of words from a module that takes long to load: not for `--help`."""

    def read(words: list[str]) -> Any:  # noqa: ANN401 (what the option is)
        return getattr(import_module(module), parser)(words)

    return read


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """What a replay is asked to do. A value of None is one that was not given.

    Raises InputError for a value or a combination that makes no sense. `headers` are pairs or a mapping; of
    `map_model` and `set` the keys are recorded models and members of the body (None removes one). `watch`
    is an async function that gets the live figures and is cancelled at the end. `sources` says where options
    are from that nobody gave as such, by their names; the run says it as well.
    """

    trace: Annotated[
        str | Path,
        Option(argument=True, help="Trace to send: a file, first segment, folder or glob."),
    ] = field(kw_only=False)
    speed: Annotated[
        float | None,
        PacingOption(
            help="Recorded times / FACTOR, open loop: 2 is twice as fast.",
            unit="FACTOR",
            group=PACING,
            above=0,
            meaning="open loop at {value:g}x recorded speed",
            schedule=recorded,
            timed=True,
            speed=lambda pacing, _: pacing.value,
            common=True,
        ),
    ] = None
    rate: Annotated[
        float | None,
        PacingOption(
            help="Recorded times scaled to this mean rate, requests/s, open loop.",
            unit="RATE",
            group=PACING,
            above=0,
            meaning="open loop: recorded times scaled to a mean of {value:g} requests/s",
            schedule=recorded,
            timed=True,
            speed=to_mean_rate,
            needs_survey=True,
            load="rate",
            common=True,
        ),
    ] = None
    poisson: Annotated[
        float | None,
        PacingOption(
            help="Poisson arrivals at this rate, requests/s, open loop.",
            unit="RATE",
            group=PACING,
            above=0,
            meaning="open loop: Poisson arrivals at {value:g} requests/s (seed {seed}) replace the "
            "recorded times",
            schedule=lambda pacing, _: poisson(pacing.value, pacing.seed),
            load="rate",
            common=True,
        ),
    ] = None
    constant: Annotated[
        float | None,
        PacingOption(
            help="Evenly spaced arrivals at this rate, requests/s, open loop.",
            unit="RATE",
            group=PACING,
            above=0,
            meaning="open loop: one request every {gap:g} s replaces the recorded times",
            schedule=lambda pacing, _: constant(pacing.value),
            load="rate",
        ),
    ] = None
    concurrency: Annotated[
        int | None,
        PacingOption(
            help="Closed loop: keep this many in flight, in trace order.",
            unit="N",
            group=PACING,
            above=0,
            meaning="closed loop: {value:g} in flight, in trace order; recorded times are not used",
            limits=fixed,
            load="streams",
            common=True,
        ),
    ] = None
    sessions: Annotated[
        int | None,
        PacingOption(
            help="Closed loop: keep this many conversations in progress, each turn by turn.",
            unit="N",
            group=PACING,
            above=0,
            meaning="closed loop: {value:g} conversations under way, each turn by turn with its think times; "
            "recorded times are not used",
            limits=fixed,
            load="streams",
        ),
    ] = None
    concurrency_scale: Annotated[
        float | None,
        PacingOption(
            help="Closed loop: the recorded number in flight (1 s means) x FACTOR.",
            unit="FACTOR",
            group=PACING,
            above=0,
            meaning="closed loop: follows the recorded number in flight (1 s means) x {value:g}{each}, "
            "in trace order; ends with the {until}",
            limits=profile,
            timed=True,
            needs_survey=True,
        ),
    ] = None
    until: Annotated[
        Literal["profile", "trace"] | None,
        Option(
            help="What ends --concurrency-scale; the shorter is repeated.",
            group=PACING,
            default="profile",
        ),
    ] = None
    causal: Annotated[
        Causal,
        Option(
            help="When a turn leaves that continues an earlier answer. max: at its time, but not "
            "before that answer has ended and the think time has passed; think: once it has "
            "passed; strict, off: at its time (docs/replay.md).",
            group=PACING,
        ),
    ] = "max"
    live_history: Annotated[
        bool,
        Option(
            help="Put the target's own answers into later turns, in place of the recorded ones.",
            group=PACING,
        ),
    ] = False
    clones: Annotated[
        float | None,
        Option(
            help="Send K copies of each conversation, shifted in time, each with its own salt.",
            unit="K",
            group=PACING,
            least=1,
            most=100,
            common=True,
        ),
    ] = None
    clone_shift: Annotated[
        str,
        Option(
            help="Shift copies round the recording (circular), or by up to SECONDS; 0: not at all.",
            unit="SHIFT",
            group=PACING,
        ),
    ] = "circular"
    seed: Annotated[int, Option(help="Seed of --poisson and --clones.", unit="N", group=PACING)] = 0
    max_in_flight: Annotated[
        int | None,
        Option(
            help="Cap the requests in flight of an open loop; the wait counts as latency.",
            unit="N",
            group=PACING,
            above=0,
        ),
    ] = None
    spawn_rate: Annotated[
        float | None,
        Option(
            help="Start --concurrency with one and add this many a second.",
            unit="RATE",
            group=PACING,
            default="at once",
            above=0,
        ),
    ] = None
    ramp: Annotated[
        float | None,
        Option(
            help="Grow the rate, or --concurrency, from almost nothing over this time; it is the "
            "warm-up.",
            unit="SECONDS",
            group=PACING,
            above=0,
        ),
    ] = None
    max_idle: Annotated[
        float | None,
        Option(
            help="Shorten recorded stretches with nothing in flight to this.",
            unit="SECONDS",
            group=PACING,
            least=0,
        ),
    ] = None
    loop: Annotated[
        int | None,
        Option(
            help="Send the trace this many times, one mean gap apart.",
            unit="N",
            group=LIMITS,
            default="1",
            above=0,
        ),
    ] = None
    requests: Annotated[
        int | None,
        Option(help="End after this many requests.", unit="N", group=LIMITS, above=0, common=True),
    ] = None
    duration: Annotated[
        float | None,
        Option(
            help="Send for this long; what is in flight then still finishes.",
            unit="SECONDS",
            group=LIMITS,
            above=0,
            common=True,
        ),
    ] = None
    warmup: Annotated[
        str,
        Option(
            help="Leave out the beginning: auto (60 s, at most 1/16 of the run), none, seconds or "
            "a share (5%).",
            unit="WARMUP",
            group=LIMITS,
            common=True,
        ),
    ] = "auto"
    max_cost: MaxCost = None
    only: Only = ()
    allow_unsafe: Annotated[
        bool,
        Option(
            help="Also send what may change or spend something (images, files, jobs).",
            group=LIMITS,
        ),
    ] = False
    allow_lost: Annotated[
        int,
        Option(
            help="Accept a run that lost up to N requests with a worker, in flight or not sent.",
            unit="N",
            group=LIMITS,
            least=0,
        ),
    ] = 0
    base_url: Annotated[
        str | None,
        Option(
            help="Server, with or without /v1.",
            unit="URL",
            group=TARGET,
            default="where it was captured",
            rival="target",
            common=True,
        ),
    ] = None
    model: Annotated[
        str | None,
        Option(
            help="Model for chat and completions, or for the trace's only endpoint.",
            unit="NAME",
            group=TARGET,
            default="as recorded",
            common=True,
        ),
    ] = None
    map_model: Annotated[
        Mapping[str, str],
        Option(
            help="Replace one model by another. Repeatable.",
            unit="OLD=NEW",
            group=TARGET,
            read=_read_by("tbench.replay.target", "parse_models"),
            common=True,
        ),
    ] = field(default_factory=dict)
    probe: Annotated[
        Literal["auto", "on", "off"],
        Option(
            help="Send two equal requests first, to see whether the target reports cached tokens; "
            "auto: with --cache structure or cold.",
            group=TARGET,
        ),
    ] = "auto"
    match_length: Annotated[
        MatchLength,
        Option(
            help="Ask for answers as long as recorded. cap: at most; exact: also by min_tokens and "
            "ignore_eos, for vLLM and SGLang.",
            group=TARGET,
            clauses={
                "cap": "answers at most as long as recorded (--match-length cap)",
                "exact": "answers as long as recorded (--match-length exact)",
            },
        ),
    ] = "no"
    portable: Annotated[
        Literal["off", "auto", "strict"],
        Option(
            help="Drop what only its issuer can read. auto: for another maker or model family, and "
            "what OpenAI refuses; strict: always, and what gateways refuse.",
            group=TARGET,
        ),
    ] = "auto"
    to: Annotated[
        Literal["chat", "messages", "responses"] | None,
        Option(
            help="Send every request in this dialect; what it cannot express is counted.",
            group=TARGET,
            default="as recorded",
        ),
    ] = None
    set: Annotated[
        Mapping[str, Any],
        Option(
            help="Set a top-level field of the body (a limit only where the API has that name); "
            "null removes it.",
            unit="KEY=JSON",
            group=TARGET,
            read=_read_by("tbench.replay.target", "parse_fields"),
            common=True,
        ),
    ] = field(default_factory=dict)
    headers: Annotated[
        Sequence[tuple[str, str]] | Mapping[str, str],
        Option(
            help="Add a header; its value is never written to a file. Repeatable.",
            unit="'NAME: VALUE'",
            flag="--header",
            group=TARGET,
            read=_read_by("tbench.replay.target", "parse_headers"),
        ),
    ] = field(default=(), repr=False)
    api_key_env: Annotated[
        str | None,
        Option(
            help="Variable with the key; '' sends none.",
            unit="VARIABLE",
            group=TARGET,
            default="the host's own, such as OPENAI_API_KEY; else TOGETHER_API_KEY",
            common=True,
        ),
    ] = None
    cache: Annotated[
        Cache,
        Option(
            help="What a prompt may find in a prefix cache. as-is: everything; structure: what "
            "this run sent, shared as recorded; cold: its own conversation only.",
            group=TARGET,
            clauses={
                "structure": "prompts may find in a cache what this run sent (--cache structure)",
                "cold": "prompts may find in a cache their own conversation only (--cache cold)",
            },
            common=True,
        ),
    ] = "as-is"
    cache_by: Annotated[
        Literal["text", "cache_salt"],
        Option(
            help="Where the salt of --cache goes: the prompt, or the field cache_salt of vLLM and "
            "SGLang.",
            group=TARGET,
        ),
    ] = "text"
    price: Annotated[
        Mapping[str, Any],
        Option(
            help="USD per million tokens: PROMPT/OUTPUT[/CACHED[/CREATED]]. Repeatable.",
            unit="MODEL=PRICES",
            group=TARGET,
            read=_read_by("tbench.replay.cost", "parse_prices"),
            default="by --prices",
        ),
    ] = field(default_factory=dict)
    prices: Prices = None
    timeout: Timeout = 600.0
    polite: Polite = False
    ca: Annotated[
        str | Path | None,
        Option(help="PEM file of more certificates to trust.", unit="FILE", group=CLIENT),
    ] = None
    sender: Annotated[
        Literal["auto", "engine", "httpx"],
        Option(
            help="Engine with kernel timestamps (Linux), or httpx.",
            group=CLIENT,
        ),
    ] = "auto"
    http2: Annotated[
        bool, Option(help="Speak HTTP/2, by the httpx sender (needs httpx[http2]).", group=CLIENT)
    ] = False
    proxy: Annotated[
        str | None,
        Option(
            help="Proxy, by the httpx sender; the environment's is not used.",
            unit="URL",
            group=CLIENT,
        ),
    ] = field(default=None, repr=False)
    workers: Annotated[
        int | Literal["auto"],
        Option(
            help="Processes that send; auto: as many as needed.",
            unit="N",
            group=CLIENT,
            read=parse_workers,
        ),
    ] = "auto"
    on: On = None
    out: Annotated[
        str | Path | None,
        Option(
            help="Run file to write; it must not exist.",
            unit="FILE",
            short="-o",
            group=OUTPUT,
            default="TRACE.TIME.run",
            common=True,
        ),
    ] = None
    watch: Callable[[Any], Awaitable[None]] | None = field(default=None, compare=False, repr=False)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check every value by its row, and which options go together."""
        check(self)
        parse_warmup(self.warmup)
        if parse_clone_shift(self.clone_shift) is not None and self.clones is None:
            raise InputError("--clone-shift goes with --clones")
        if self.workers != "auto" and self.workers < 1:
            raise InputError(f"--workers {self.workers}: give a number from 1, or auto")
        if self.on is not None:
            parse_cluster(self.on)
        given = self._pacings()
        if len(given) > 1:
            raise InputError(f"{_flag(given[0])} and {_flag(given[1])} are two pacings; give one")
        self._check_live_history()
        self._check_salt()
        self._check_pacing(given[0] if given else "speed")

    def _check_pacing(self, pacing: str) -> None:
        """Raise InputError for an option that contradicts the pacing, or changes nothing with it."""
        option = rows(type(self))[pacing].option
        assert isinstance(option, PacingOption)
        if self.max_in_flight is not None and option.limits:
            raise InputError(
                f"--max-in-flight and {_flag(pacing)} both limit what is in flight; give one"
            )
        if self.max_idle is not None and not option.timed and self.causal in {"strict", "off"}:
            raise InputError(
                f"--max-idle: {_flag(pacing)} uses no recorded times, and by --causal {self.causal} no turn "
                "waits for a think time; drop --max-idle"
            )
        for name, needed in GOES_WITH.items():
            if getattr(self, name) is not None and pacing != needed:
                raise InputError(
                    f"{_flag(name)} goes with {_flag(needed)}, not with {_flag(pacing)}"
                )
        if pacing == "sessions" and self.causal in {"strict", "off"}:
            raise InputError(f"--sessions goes turn by turn; drop --causal {self.causal}")
        if self.ramp is not None and pacing == "concurrency_scale":
            raise InputError("--ramp: the recorded profile says how --concurrency-scale grows")
        if self.ramp is not None and self.spawn_rate is not None:
            raise InputError("--ramp and --spawn-rate both let the load grow; give one")
        if self.loop is not None and pacing == "concurrency_scale" and self.until != "trace":
            raise InputError(
                "--loop and --concurrency-scale: the recorded profile decides how much is sent; "
                "drop --loop or add --until trace"
            )

    def _check_salt(self) -> None:
        """Raise InputError where it is said how a salt is set and there is none."""
        if self.cache_by != "text" and self.cache == "as-is" and self.clones is None:
            raise InputError(
                f"--cache-by {self.cache_by}: --cache as-is sets no salt; give --cache structure or cold"
            )

    def _check_live_history(self) -> None:
        """Raise InputError where an option makes it impossible."""
        given = {
            f"--causal {self.causal}": self.causal not in {"max", "think"},
            f"--to {self.to}": self.to is not None,
            "--max-cost": self.max_cost is not None,
        }
        for flag in (flag for flag, true in given.items() if true and self.live_history):
            raise InputError(
                f"--live-history and {flag}: {APART[flag.split()[0]]}; drop one of them"
            )

    @property
    def meaning(self) -> str:
        """What a run is like, in one sentence: its pacing, and all else that its latencies answer to."""
        return "; ".join([self.pacing().meaning, *clauses(vars(self))])

    def pacing(self) -> Pacing:
        """The pacing; without any, the recorded times as they are."""
        name = next(iter(self._pacings()), "speed")
        option = rows(type(self))[name].option
        assert isinstance(option, PacingOption)
        return Pacing(
            option=option,
            mode=name.replace("_", "-"),
            value=float(getattr(self, name) or 1.0),
            seed=self.seed,
            until=self.until or "profile",
            max_in_flight=self.max_in_flight,
            spawn_rate=self.spawn_rate,
            causal=self.causal,
            live=self.live_history,
            ramp=self.ramp,
            max_idle=self.max_idle,
            clones=Clones(
                number=self.clones or 1.0,
                within=parse_clone_shift(self.clone_shift),
                seed=self.seed,
            ),
        )

    def _pacings(self) -> list[str]:
        """The pacings that were given."""
        return [
            name
            for name, row in rows(type(self)).items()
            if isinstance(row.option, PacingOption) and getattr(self, name) is not None
        ]


def clauses(asked: Mapping[str, Any]) -> list[str]:
    """What latencies answer to besides the pacing, in words, where the options have these values."""
    return [
        row.option.clauses[asked[name]]
        for name, row in rows(ReplayOptions).items()
        if row.option.clauses and asked.get(name) in row.option.clauses
    ]


GOES_WITH: Final = {"spawn_rate": "concurrency", "until": "concurrency_scale"}
"""Options that one pacing alone has a use for."""
APART: Final[Mapping[str, str]] = {
    "--causal": "a turn that does not wait leaves before there is an answer to put into it",
    "--to": "answers come in another dialect than the recorded history has",
    "--max-cost": "how long the target's answers make later prompts is not known ahead",
}
"""Why an option does not go with --live-history."""


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
