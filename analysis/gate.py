"""Gates: what must not get worse, and by how much it may. Parsed from what a user writes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from analysis.metrics import METRICS
from capture.errors import InputError

ERRORS: Final = "errors"
USUAL: Final = (("ttft", 0.5), ("ttft", 0.95), ("e2e", 0.5), ("e2e", 0.95))
"""What `--margin` stands for: as many of these as the runs can carry."""
_GATE = re.compile(r"(?P<metric>\w+)(?::p(?P<quantile>[\d.]+))?:(?P<margin>[\d.]+)(?P<unit>%|pp)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One thing that must not get worse by more than `margin`.

    `quantile` is None for `errors`, whose margin is a difference of shares (0.005 is half a point); for
    any other metric it is a share of the baseline's quantile. `usual` gates are dropped where the runs
    have too few requests; one that was asked for is refused instead.
    """

    metric: str
    quantile: float | None
    margin: float
    usual: bool = False

    @property
    def text(self) -> str:
        """As a user writes it."""
        if self.quantile is None:
            return f"{self.metric}:{self.margin * 100:.4g}pp"
        return f"{self.metric}:p{self.quantile * 100:.6g}:{self.margin * 100:.4g}%"


def parse_gate(text: str) -> Gate:
    """`ttft:p95:5%` or `errors:0.5pp`. Raises InputError saying what the right form is."""
    found = _GATE.fullmatch(text.strip())
    if not found:
        raise InputError(f"--gate {text}: write it as ttft:p95:5% or errors:0.5pp")
    metric, level, unit = found["metric"], found["quantile"], found["unit"]
    margin = _number(text, found["margin"]) / 100
    if metric == ERRORS:
        if level is not None or unit != "pp":
            raise InputError(f"--gate {text}: errors have a margin in points, as in errors:0.5pp")
        return Gate(metric=metric, quantile=None, margin=margin)
    if metric not in METRICS:
        raise InputError(
            f"--gate {text}: no metric {metric}; there are errors, {', '.join(METRICS)}"
        )
    if METRICS[metric].better == "neutral":
        raise InputError(f"--gate {text}: neither more nor less of {metric} is worse")
    if level is None or unit != "%":
        raise InputError(
            f"--gate {text}: {metric} needs a quantile and per cent, as in {metric}:p95:5%"
        )
    quantile = _number(text, level) / 100
    if not 0 < quantile < 1 or margin <= 0:
        raise InputError(
            f"--gate {text}: the quantile lies between p0 and p100, the margin above 0"
        )
    return Gate(metric=metric, quantile=quantile, margin=margin)


def parse_margin(text: str) -> tuple[Gate, ...]:
    """`5%`: the usual gates with that margin."""
    found = re.fullmatch(r"([\d.]+)%", text.strip())
    if not found or _number(text, found[1]) <= 0:
        raise InputError(f"--margin {text}: write it as 5%")
    margin = _number(text, found[1]) / 100
    return tuple(Gate(metric=m, quantile=p, margin=margin, usual=True) for m, p in USUAL)


def parse_gates(margin: str | None, gates: Sequence[str]) -> tuple[Gate, ...]:
    """Those of `--margin`, then those of `--gate`, which replace the usual one of the same quantile."""
    asked = tuple(parse_gate(text) for text in gates)
    named = {(gate.metric, gate.quantile) for gate in asked}
    usual = () if margin is None else parse_margin(margin)
    return (*(gate for gate in usual if (gate.metric, gate.quantile) not in named), *asked)


def _number(text: str, digits: str) -> float:
    try:
        return float(digits)
    except ValueError:
        raise InputError(f"{text}: {digits} is no number") from None
