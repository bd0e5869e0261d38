"""Gates: what must not get worse, and by how much it may; or what must hold. Parsed from what a user writes.

A quantile may get worse by less than M per cent (ttft:p95:5%), a share by less than M points (errors:0.5pp,
goodput:1pp), a rate of the whole run by less than M per cent (requests_per_s:5%). With <= or >= the
candidate alone must hold a limit (ttft:p95<=500ms, goodput>=99%).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from tbench.analysis.metrics import METRICS
from tbench.analysis.run_metrics import (
    ERRORS,
    RUN_LEVEL,
    UNITS,
    RunMetric,
    Slo,
    endpoint,
    parse_amount,
    written,
)
from tbench.capture.errors import InputError

__all__ = ["ERRORS", "USUAL", "Gate", "parse_gate", "parse_gates", "parse_margin"]

USUAL: Final = (("ttft", 0.5), ("ttft", 0.95), ("e2e", 0.5), ("e2e", 0.95))
"""What `--margin` stands for, with the failures: as many of these as the runs can carry."""
MORE_FAILURES: Final = 0.005
"""By how much more of a candidate's requests may fail where no gate says otherwise."""
MARGINS: Final = {"ratio": "%", "points": "pp"}
"""What a margin is written in, by the endpoint's scale."""
SIGNS: Final = {"lower": "<=", "higher": ">="}
"""What a requirement is written with, by which way is better."""
_MOST: Final = 700.0
"""The exponential of more is no float."""
_GATE = re.compile(
    r"(?P<metric>\w+)(?::p(?P<level>[\d.]+))?"
    r"(?::(?P<margin>[\d.]+)(?P<unit>%|pp)|(?P<sign><=|>=)(?P<limit>[\d.]+)(?P<of>%|[a-z/]*))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One thing that must not get worse by more than `margin`, or must keep to `limit`.

    `quantile` is None for the endpoints that are one number per run. `margin` is a share of the
    baseline's figure (0.05 is 5 %), or a difference of shares (0.005 is half a point); 0 with a `limit`,
    which is in the endpoint's unit (s, share, /s) and concerns the candidate alone. `usual` gates are
    dropped where the runs have too few requests; one that was asked for is refused instead. `slo` is what
    goodput counts.
    """

    metric: str
    quantile: float | None
    margin: float
    usual: bool = False
    limit: float | None = None
    slo: Slo = ()

    @property
    def endpoint(self) -> RunMetric:
        return endpoint(self.metric, self.quantile)

    @property
    def scale(self) -> Literal["ratio", "points", "level"]:
        """What the arms are compared by: a ratio, a difference in points, or the candidate's own level."""
        return self.endpoint.scale if self.limit is None else "level"

    @property
    def what(self) -> str:
        """What is looked at, without what is asked of it: `ttft:p95`."""
        return self.metric + ("" if self.quantile is None else f":p{self.quantile * 100:.6g}")

    def y(self, figure: float) -> float:
        """A run's figure as it is compared: its logarithm, or the share as it is."""
        return figure if self.endpoint.scale == "points" else math.log(figure)

    def shown(self, y: float) -> float:
        """A figure, ratio or difference from the scale of y; a share stays one."""
        if self.endpoint.scale == "points":
            return min(1.0, max(y, -1.0 if self.limit is None else 0.0))
        return math.exp(min(y, _MOST))

    @property
    def higher(self) -> bool:
        """Whether more is better."""
        return self.endpoint.better == "higher"

    @property
    def threshold(self) -> float:
        """What the change, or the level, must stay below as y, turned so that more is worse."""
        if self.limit is not None:
            limit = self.y(self.limit)
            return -limit if self.higher else limit
        return self.margin if self.scale == "points" else math.log1p(self.margin)

    @property
    def allowance(self) -> float:
        """Of a share: how many points a margin, or a limit, leaves to what is bad."""
        if self.limit is None:
            return self.margin
        return 1 - self.limit if self.higher else self.limit

    @property
    def text(self) -> str:
        """As a user writes it."""
        return f"{self.what}:{self.asked}" if self.limit is None else f"{self.what}{self.asked}"

    @property
    def asked(self) -> str:
        """What is asked, without of what: `5%`, or `<=500ms`."""
        of = self.endpoint
        if self.limit is None:
            return f"{self.margin * 100:.4g}{MARGINS[of.scale]}"
        share = of.unit == "share"
        limit = f"{self.limit * 100:.6g}%" if share else written(self.limit, of.unit)
        return f"{SIGNS[of.better]}{limit}"


def parse_gate(text: str) -> Gate:
    """`ttft:p95:5%`, `errors:0.5pp`, `goodput>=99%`. Raises InputError saying what the right form is."""
    parts = _GATE.fullmatch(text.strip())
    if not parts:
        raise InputError(
            f"--gate {text}: write it as ttft:p95:5%, errors:0.5pp or 'goodput>=99%' "
            "(docs/statistics.md has the table)"
        )
    of = _endpoint(text, parts["metric"], parts["level"])
    quantile = None if parts["level"] is None else _quantile(text, parts["level"])
    gate = Gate(metric=of.name, quantile=quantile, margin=0.0)
    if parts["limit"] is None:
        return replace(gate, margin=_margin(text, of, parts["margin"], parts["unit"]))
    if parts["sign"] != SIGNS[of.better]:
        raise InputError(f"--gate {text}: good {of.name} is {of.better}: write {SIGNS[of.better]}")
    return replace(gate, limit=_limit(text, of, parts["limit"], parts["of"]))


def _endpoint(text: str, metric: str, level: str | None) -> RunMetric:
    """What the gate is about, or why there is no such thing."""
    if metric in RUN_LEVEL and (level is None or metric not in METRICS):
        of = RUN_LEVEL[metric]
        if level is not None:
            raise InputError(
                f"--gate {text}: {metric} is one number of a run and has no quantile; write {of.form}"
            )
        return of
    if metric not in METRICS:
        known = ", ".join(dict.fromkeys([*RUN_LEVEL, *METRICS]))
        raise InputError(f"--gate {text}: no metric {metric}; there are {known}")
    if METRICS[metric].better == "neutral":
        raise InputError(f"--gate {text}: neither more nor less of {metric} is worse")
    if level is None:
        raise InputError(
            f"--gate {text}: {metric} needs a quantile and per cent, as in {metric}:p95:5%"
        )
    return endpoint(metric, _quantile(text, level))


def _quantile(text: str, level: str) -> float:
    quantile = _number(text, level) / 100
    if not 0 < quantile < 1:
        raise InputError(f"--gate {text}: the quantile lies between p0 and p100")
    return quantile


def _margin(text: str, of: RunMetric, digits: str, unit: str) -> float:
    if unit != MARGINS[of.scale]:
        points, of_run = of.scale == "points", of.name in RUN_LEVEL
        has = "has a margin in points" if points else "has a margin in per cent"
        needs = has if of_run else "needs a quantile and per cent"
        raise InputError(f"--gate {text}: {of.name} {needs}, as in {of.form}")
    margin = _number(text, digits) / 100
    if margin <= 0:
        raise InputError(f"--gate {text}: the margin lies above 0")
    return margin


def _limit(text: str, of: RunMetric, digits: str, unit: str) -> float:
    number = _number(text, digits)
    if of.unit in UNITS:
        return parse_amount("--gate", text, (digits, unit), of.unit)
    if unit != ("%" if of.unit == "share" else ""):
        raise InputError(f"--gate {text}: write {of.form}")
    if number <= 0 or (of.unit == "share" and number >= 100):
        raise InputError(f"--gate {text}: the limit lies above 0, that of a share below 100%")
    return number / 100 if of.unit == "share" else number


def parse_margin(text: str) -> tuple[Gate, ...]:
    """`5%`: the usual gates with that margin, and the failures with theirs."""
    digits = re.fullmatch(r"([\d.]+)%", text.strip())
    if not digits or _number(text, digits[1]) <= 0:
        raise InputError(f"--margin {text}: write it as 5%")
    margin = _number(text, digits[1]) / 100
    failures = Gate(metric=ERRORS, quantile=None, margin=MORE_FAILURES, usual=True)
    return (*(Gate(metric=m, quantile=p, margin=margin, usual=True) for m, p in USUAL), failures)


def parse_gates(
    margin: str | None, gates: Sequence[str], slo: Slo = (), *, standing: bool = False
) -> tuple[Gate, ...]:
    """Those of `--margin`, then those of `--gate`, which replace the usual one of the same quantile.

    `slo` is what goodput counts: InputError where one of the two is there without the other. One that is
    `standing`, in the settings and not asked for, waits for a gate that counts it.
    """
    asked = [parse_gate(text) for text in dict.fromkeys(gates)]
    for place, gate in enumerate(asked):
        if gate.endpoint.needs_slo and not slo:
            raise InputError(
                f"--gate {gate.text}: say what is good with --slo 'ttft<500ms,tpot<50ms,e2e<3s'"
            )
        asked[place] = replace(gate, slo=slo if gate.endpoint.needs_slo else ())
    if slo and not standing and not any(gate.endpoint.needs_slo for gate in asked):
        raise InputError(
            "--slo needs a gate on what it counts: --gate goodput:1pp or 'goodput>=99%'"
        )
    # A limit stands beside the usual margin and does not replace it: it asks another question.
    named = {(gate.metric, gate.quantile) for gate in asked if gate.limit is None}
    usual = () if margin is None else parse_margin(margin)
    return (*(gate for gate in usual if (gate.metric, gate.quantile) not in named), *asked)


def _number(text: str, digits: str) -> float:
    try:
        return float(digits)
    except ValueError:
        raise InputError(f"{text}: {digits} is no number") from None
