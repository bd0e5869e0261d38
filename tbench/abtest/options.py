"""The options of an A/B test, one row each, for `tbench ab`, `tbench.ab(...)` and plan files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from tbench.capture.option import Option, Shared, check
from tbench.commands.output import GATES, Gates, Margin, Slo, Trend
from tbench.replay.options import ReplayOptions

PLAN: Final = "The plan"
FORM: Final = "name=A,model=M,base_url=URL,api_key_env=VAR,set.max_tokens=64,header.NAME=VALUE"
OF_ARM: Final = frozenset(
    {
        "base_url",
        "model",
        "map_model",
        "portable",
        "set",
        "to",
        "headers",
        "api_key_env",
        "cache_by",
        "price",
        "prices",
    }
)
SHARED: Final = frozenset({"base_url", "cache_by", "price", "prices"})
"""Options of a replay that an arm may have of its own, and which of them all arms may share."""
COMMON: Final = frozenset(
    {"speed", "rate", "concurrency", "requests", "max_cost", "base_url", "cache"}
)
"""Options of a replay that most experiments need."""
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
            help="One arm, by its own name, target, model, base_url, api_key_env, portable, to, "
            "set.NAME=JSON, map_model.OLD=NEW, header.NAME=VALUE. Repeatable; the first is the baseline.",
            flag="--arm",
            unit="name=A,model=M,...",
            group=PLAN,
            read=_arms,
            common=True,
        ),
    ]
    repeats: Annotated[
        int,
        Option(
            help="Runs of each arm; a verdict needs 3.",
            unit="N",
            group=PLAN,
            least=1,
            most=10_000,
            common=True,
        ),
    ] = 5
    schedule: Annotated[
        Kind,
        Option(
            help="random: rounds of all arms in a drawn order, then in its reverse. abba: forwards "
            "and backwards. duet: all arms at once, request by request.",
            group=PLAN,
            common=True,
        ),
    ] = "random"
    pause: Annotated[
        float, Option(help="Wait this long between two runs.", unit="SECONDS", group=PLAN, least=0)
    ] = 0.0
    redo_invalid: Annotated[
        int,
        Option(
            help="How often to repeat a run whose client was the limit.",
            unit="N",
            group=PLAN,
            least=0,
        ),
    ] = 1
    margin: Margin = None
    gate: Gates = ()
    slo: Slo = None
    trend: Trend = False
    monitor: Annotated[
        bool,
        Option(
            help="Look after every round from the third, and stop once PASS or FAIL is certain at "
            "that look's level (O'Brien-Fleming: no more wrong verdicts than without looks).",
            group=GATES,
        ),
    ] = False
    replay: Annotated[
        ReplayOptions,
        Shared(
            without=OF_ARM - SHARED | {"out"},
            common=COMMON,
            defaults={"cache": "structure", "probe": "off"},
            rows={
                "seed": {"help": "Seed of the order of the runs, and of --poisson.", "group": PLAN},
                "max_cost": {
                    "help": "Never spend more US dollars than this on all runs together, by "
                    "--prices; a plan that needs more is refused."
                },
                "base_url": {"help": "Server of arms that name none."},
                "probe": {
                    "help": "Send two equal requests before each arm's first run, to see whether "
                    "it reports cached tokens; auto: with --cache structure or cold."
                },
            },
        ),
    ]

    def __post_init__(self) -> None:
        """Check every value by its row."""
        check(self)
