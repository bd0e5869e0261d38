"""Rates: what a run did as a whole, per second, and the share of good requests where there are objectives.

They have no interval: a run gives one figure of each. In an open loop the arrivals set them for as long as
the server keeps up.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from tbench.analysis.arms import Arm
from tbench.analysis.endpoints import GOODPUT, RUN_LEVEL
from tbench.analysis.pairing import Places
from tbench.analysis.shared import Observed
from tbench.analysis.slo import Slo
from tbench.replay.throughput import Throughput, Tokens, three, throughput

OPEN_LOOP: Final = "open loop: the trace sets the load, so that equal rates say nothing of speed"

GOOD: Final = ("goodput", "goodput_per_s")
"""Those that need objectives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """One figure of a run, None where there is none; at least that where `uncounted` names no tokens."""

    name: str
    title: str
    unit: str
    value: float | None
    uncounted: int = 0

    @property
    def text(self) -> str:
        """With its doubt; the unit stands in the title."""
        if self.value is None:
            return "unknown" if self.uncounted else "-"
        figure = f"{self.value:.2%}" if self.unit == "share" else three(self.value)
        return f"≥ {figure}" if self.uncounted else figure


Pair = tuple[Rate, Rate]


def rates(arm: Arm, places: Places | None = None, slo: Slo = ()) -> tuple[Rate, ...]:
    """Those of the requests at these places; of all outside the warm-up without any."""
    places = np.flatnonzero(arm.measured) if places is None else places
    whole = throughput(arm.columns, places)
    return (*rates_of(whole), *_goodput(arm, places, slo, whole))


def rates_of(whole: Throughput) -> tuple[Rate, ...]:
    """Those that need no single request."""
    sides = {
        "output": (whole.output,),
        "input": (whole.input,),
        "total": (whole.input, whole.output),
    }
    return (
        Rate(
            name="requests_per_s",
            title="requests/s",
            unit="/s",
            value=whole.per_s(whole.successes),
        ),
        *(_tokens(whole, name, *tokens) for name, tokens in sides.items()),
    )


def _tokens(whole: Throughput, side: str, *tokens: Tokens) -> Rate:
    return Rate(
        name=f"{side}_tokens_per_s",
        title=f"{side} tokens/s",
        unit="tok/s",
        value=whole.tokens_per_s(*tokens),
        uncounted=sum(one.uncounted for one in tokens),
    )


def _goodput(arm: Arm, places: Places, slo: Slo, whole: Throughput) -> Iterator[Rate]:
    """The share of requests that met every objective, and how many of them there were per second."""
    if not slo:
        return
    good = RUN_LEVEL[GOODPUT].figure(Observed(arm=arm, places=places, at=0), slo)
    share, per_s = (None, None) if good.refusal else (good.value, whole.per_s(good.events))
    yield Rate(name="goodput", title="goodput", unit="share", value=share)
    yield Rate(name="goodput_per_s", title="good requests/s", unit="/s", value=per_s)


def ratio(pair: Pair) -> float | None:
    """Candidate / baseline of rates; None of shares, and where either is unknown or only a bound."""
    first, second = pair
    if first.unit == "share" or first.uncounted or second.uncounted or not first.value:
        return None
    return None if second.value is None else second.value / first.value


def footnote(pairs: tuple[Pair, ...]) -> str | None:
    """How many successes name no tokens, where some do not."""
    missing = [
        f"{pair[0].title} {pair[0].uncounted:,} and {pair[1].uncounted:,}"
        for pair in pairs
        if pair[0].uncounted or pair[1].uncounted
    ]
    return f"successes without token counts: {'; '.join(missing)}" if missing else None
