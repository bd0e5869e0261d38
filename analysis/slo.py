"""Service level objectives: what a request must stay within to count as good. `ttft<500ms,tpot<50ms`."""

import re
from dataclasses import dataclass
from typing import Final

from tbench.analysis.arms import Arm, Truths
from tbench.analysis.metrics import METRICS, applies, values
from tbench.capture.errors import InputError

FORM: Final = "ttft<500ms,tpot<50ms,e2e<3s"
UNITS: Final = {"s": {"s": 1.0, "ms": 1e-3, "us": 1e-6}, "tok/s": {"": 1.0, "tok/s": 1.0}}
"""Unit of a metric -> how a limit may be written, and what it is in that unit."""
GAPS: Final = {"tpot": "output_tokens", "itl": "token_events", "itl_p95": "token_events"}
"""Metrics of what lies between tokens, and the column that says how many there were."""
_ONE = re.compile(r"(?P<metric>\w+)(?P<sign><=?|>=?)(?P<limit>\d+(?:\.\d*)?|\.\d+)(?P<unit>[\w/]*)")
_SIGNS = {"lower": "<", "higher": ">"}


@dataclass(frozen=True, slots=True)
class Objective:
    """A metric and what it must stay below (above, where more is better), in the metric's unit."""

    metric: str
    limit: float

    @property
    def text(self) -> str:
        """As a user writes it."""
        metric = METRICS[self.metric]
        return f"{metric.name}{_SIGNS[metric.better]}{written(self.limit, metric.unit)}"


Slo = tuple[Objective, ...]


def parse_slo(text: str) -> Slo:
    """`ttft<500ms,tpot<50ms,e2e<3s`. Raises InputError saying what the right form is."""
    objectives = tuple(_objective(text, part.strip()) for part in text.split(","))
    # Two limits of one metric are a slip of the pen: the laxer one would never show.
    if len({objective.metric for objective in objectives}) < len(objectives):
        raise InputError(f"--slo {text}: a metric is named twice")
    return objectives


def _objective(text: str, part: str) -> Objective:
    parts = _ONE.fullmatch(part)
    if not parts:
        raise InputError(f"--slo {text}: write it as '{FORM}'")
    metric = METRICS.get(parts["metric"])
    if metric is None or metric.unit not in UNITS or metric.better == "neutral":
        known = ", ".join(name for name, row in METRICS.items() if row.unit in UNITS)
        raise InputError(f"--slo {text}: no objective for {parts['metric']}; there are {known}")
    if parts["sign"][0] != _SIGNS[metric.better]:
        raise InputError(
            f"--slo {text}: good {metric.name} is {metric.better}: write {_SIGNS[metric.better]}"
        )
    return Objective(
        metric.name, parse_amount("--slo", text, (parts["limit"], parts["unit"]), metric.unit)
    )


def parse_amount(option: str, text: str, amount: tuple[str, str], unit: str) -> float:
    """Digits and the unit they were written with, as a number of `unit`s above 0."""
    digits, given = amount
    if given not in UNITS[unit]:
        forms = " or ".join(f"{digits}{suffix}" for suffix in UNITS[unit])
        raise InputError(f"{option} {text}: a limit in {unit} is written {forms}")
    if float(digits) <= 0:
        raise InputError(f"{option} {text}: the limit lies above 0")
    return float(digits) * UNITS[unit][given]


def written(value: float, unit: str) -> str:
    """A limit as a user writes it."""
    if unit == "s":
        return f"{value * 1e3:.6g}ms" if value < 1 else f"{value:.6g}s"
    return f"{value:.6g}"


def met(arm: Arm, slo: Slo) -> Truths:
    """True for each request that succeeded and stayed within every objective it can be held to.

    A request without a stream has no first token, one of a single token, or whose tokens all came at once,
    no time between tokens: it is not held to that. What is missing otherwise (no token came, no usage was
    reported) is not met.
    """
    good = arm.ok.copy()
    for objective in slo:
        metric = METRICS[objective.metric]
        measured = values(arm, metric)
        within = (
            measured < objective.limit if metric.better == "lower" else measured > objective.limit
        )
        held = applies(arm, metric)
        if metric.name in GAPS:
            # An answer of one token, or that came all at once, has nothing between its tokens.
            tokens = arm.columns[GAPS[metric.name]]
            held = held & ((tokens < 0) | (tokens > 1))
            held &= arm.columns["first_token"] != arm.columns["last_token"]
        good &= within | ~held
    return good
