"""The options of an A/B test, one row each, for `tbench ab`, `tbench.ab(...)` and plan files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from tbench.capture.option import Option, Shared, check
from tbench.replay.options import ReplayOptions

PLAN, VERDICT = "The plan", "The verdict"
FORM: Final = "name=A,model=M,base_url=URL,api_key_env=VAR,set.max_tokens=64,header.NAME=VALUE"
Kind = Literal["random", "abba", "duet"]


def _arms(texts: Sequence[str]) -> list[dict[str, Any]]:
    from tbench.abtest.plan import parse_arm  # noqa: PLC0415 (slow to load)

    return [parse_arm(text) for text in texts]


@dataclass(frozen=True, kw_only=True)
class AbOptions:
    """What an experiment is asked to be (tbench.abtest.plan resolves it). `arms` are tables, baseline first.

    `replay` is what all arms share: their requests, pacing, limits and sender. Raises InputError for a
    value that makes no sense.
    """

    arms: Annotated[
        Sequence[Mapping[str, Any]],
        Option(
            help="One arm, by what it has of its own: name, model, base_url, api_key_env, set.NAME=JSON, "
            "map_model.OLD=NEW, header.NAME=VALUE. Repeatable; the first is the baseline.",
            flag="--arm",
            unit="name=A,model=M,...",
            group=PLAN,
            read=_arms,
        ),
    ]
    repeats: Annotated[
        int, Option(help="Runs of each arm; a verdict needs 3.", unit="N", group=PLAN, least=1)
    ] = 5
    schedule: Annotated[
        Kind,
        Option(
            help="Order of the runs. random: rounds that hold every arm once, two by two: in a drawn "
            "order, then in its reverse. abba: forwards and backwards. duet: all arms at once, request by "
            "request.",
            group=PLAN,
        ),
    ] = "random"
    pause: Annotated[
        float, Option(help="Wait this long between two runs.", unit="SECONDS", group=PLAN, least=0)
    ] = 0.0
    redo_invalid: Annotated[
        int,
        Option(
            help="How often to repeat a run whose own client was the limit.",
            unit="N",
            group=PLAN,
            least=0,
        ),
    ] = 1
    margin: Annotated[
        str | None,
        Option(
            help="Gate TTFT and end to end, p50 and p95: how much worse they may get; failures by 0.5 "
            "points (--gate errors:2pp says otherwise).",
            unit="SHARE",
            group=VERDICT,
            default="5%, unless there is a --gate",
        ),
    ] = None
    gate: Annotated[
        Sequence[str],
        Option(
            help="Gate one quantity: ttft:p95:5%, errors:0.5pp, goodput:1pp, requests_per_s:5%, or a limit "
            "that candidates must hold: 'ttft:p95<=500ms', 'goodput>=99%'. Repeatable.",
            unit="GATE",
            group=VERDICT,
        ),
    ] = ()
    slo: Annotated[
        str | None,
        Option(
            help="What makes a request a good one, for gates on goodput: 'ttft<500ms,tpot<50ms,e2e<3s'.",
            unit="SLO",
            group=VERDICT,
        ),
    ] = None
    trend: Annotated[
        bool,
        Option(
            help="Take a straight drift over the runs out of the difference (random schedule only).",
            group=VERDICT,
        ),
    ] = False
    monitor: Annotated[
        bool,
        Option(
            help="Look after every round from the third, and stop once PASS or FAIL is sure at that look's "
            "level (O'Brien-Fleming: looking costs no wrong verdicts).",
            group=VERDICT,
        ),
    ] = False
    replay: Annotated[
        ReplayOptions,
        Shared(
            without=frozenset({"model", "map_model", "set", "headers", "api_key_env", "out"}),
            defaults={"cache": "cold"},
            rows={
                "seed": {"help": "Seed of the order of the runs, and of --poisson.", "group": PLAN},
                "max_cost": {
                    "help": "Most US dollars at list prices for all runs together: a plan that needs more "
                    "is refused, and the runs stop before it is exceeded."
                },
                "base_url": {"help": "Server for arms without a base_url of their own."},
            },
        ),
    ]

    def __post_init__(self) -> None:
        """Check every value by its row."""
        check(self)
