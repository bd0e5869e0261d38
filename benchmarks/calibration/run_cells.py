"""RUN_CELLS: repeated runs before the judge. Rows of name, simulation and bars."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from calibration import drifts
from calibration.bars import FAILS, FPR, NONE, PASSES, Bar, Cell
from calibration.disturbances import POINTS
from calibration.failing import (
    KINDS,
    PASSES_ANYWAY,
    UNSEEN_KINDS,
    Failing,
    RarelyBad,
    Shedding,
)
from calibration.monitored import PEEKING, Monitored
from calibration.pairs import WRONG
from calibration.runs import (
    EQUAL_FAILS,
    QUEUES,
    REFUSED,
    SEES,
    WELCH,
    Drifting,
    Simulated,
    Unturned,
)
from calibration.scenes import before_pool, full, on_sessions, queue, routed
from calibration.traffic import poisson
from tbench.analysis.gate_estimate import Method
from tbench.analysis.interim import NAMES, Looks

GATED = (
    Bar(measure=FPR, points=POINTS, high=0.08),
    Bar(measure=PASSES, points=POINTS, high=0.08),
    Bar(measure=FAILS, points=NONE, high=0.08),
)
DRIFTED = tuple(
    Bar(measure=bar.measure, points=bar.points[:1], low=bar.low, high=bar.high) for bar in GATED
)

_RUNS: dict[str, Cell] = {
    f"{repeats}+{repeats} runs {name}": Cell(
        experiment=Simulated(scene=on_sessions(2000, play), repeats=repeats),
        bars=(
            *GATED,
            *(
                [Bar(measure=SEES, points=(0.5,), low=0.65)]
                if (repeats, name) == (5, "full")
                else []
            ),
        ),
    )
    for repeats in (3, 5)
    for name, play in (("full", full), ("FIFO queue at .8", partial(queue, load=0.8)))
}

_ROUTED: dict[str, Cell] = {
    f"{repeats}+{repeats} runs, 40 users on 8 replicas": Cell(
        experiment=Simulated(scene=routed(40), repeats=repeats, offset=0.0),
        bars=tuple(replace(bar, high=0.065) for bar in GATED),
    )
    for repeats in (3, 5)
}

_POOLS: dict[str, Cell] = {
    f"5+5 runs of 8 servers, load {load:g}": Cell(
        experiment=Simulated(scene=before_pool(poisson, load), repeats=5, offset=0.0),
        bars=(
            *GATED,
            Bar(measure=EQUAL_FAILS, points=NONE, high=0.065),
            *((Bar(measure=QUEUES, points=NONE, low=0.98),) if load >= 1 else ()),
        ),
    )
    for load in (0.5, 0.9, 1.0, 1.05, 1.2)
}

_HOURS: Mapping[str, drifts.Drift] = {
    "no drift": drifts.none,
    "linear 6 %": drifts.linear(0.06),
    "linear 20 %": drifts.linear(0.20),
    "sine 10 %": drifts.sine(0.1),
    "AR(1) 3 %": drifts.wandering(0.03),
    "AR(1) 10 %": drifts.wandering(0.1),
    "regimes of 20 min": drifts.two_states(20),
    "regimes of 60 min": drifts.two_states(60),
}
_ORDERS = {"pairs": drifts.random_pairs, "ABBA": drifts.abba}

_DRIFTS: dict[str, Cell] = {
    f"{repeats}+{repeats} {order} {name}": Cell(
        experiment=Drifting(drift=drift, order=_ORDERS[order], repeats=repeats), bars=DRIFTED
    )
    for repeats in (3, 5)
    for order in _ORDERS
    for name, drift in _HOURS.items()
}
_TRENDS: dict[str, Cell] = {
    f"{repeats}+{repeats} pairs by trend {name}": Cell(
        experiment=Drifting(
            drift=drift, order=drifts.random_pairs, repeats=repeats, contrast="trend"
        ),
        bars=(
            *DRIFTED,
            *(
                [Bar(measure=SEES, points=(0.5,), low=0.65)]
                if (repeats, name) == (5, "linear 20 %")
                else []
            ),
        ),
    )
    for repeats in (3, 5)
    for name, drift in _HOURS.items()
}
_PLACES: Mapping[str, tuple[drifts.Drift, float]] = {
    "every second run +10 %, noise 1 %": (drifts.every_second(math.log(1.1)), 0.01),
    "every second run +5 %, noise 1 %": (drifts.every_second(math.log(1.05)), 0.01),
    "every second run +5 %, noise 2 %": (drifts.every_second(math.log(1.05)), 0.02),
    "first of each pair +5 %": (drifts.first_of_pair(math.log(1.05)), 0.01),
    "AR(1) -.8 of 5 %": (drifts.wandering(0.05, -0.8), 0.0),
}
"""What a run's place among its neighbours does to it, and how far runs differ besides."""
_METHODS: Mapping[str, tuple[drifts.Order, Method]] = {
    "pairs": (drifts.random_pairs, "welch"),
    "ABBA": (drifts.abba, "welch"),
    "pairs by trend": (drifts.random_pairs, "trend"),
}
_STRICT = tuple(replace(bar, high=0.065) for bar in DRIFTED)


def _in_place(
    place: str, repeats: int, order: drifts.Order, contrast: Method = "welch"
) -> Drifting:
    drift, noise = _PLACES[place]
    return Drifting(
        drift=drift, order=order, repeats=repeats, offset=noise, within=0.0, contrast=contrast
    )


_IN_PLACE: dict[str, Cell] = {
    f"{repeats}+{repeats} {name} {place}": Cell(
        experiment=_in_place(place, repeats, order, contrast), bars=_STRICT
    )
    for repeats in (3, 5, 10)
    for name, (order, contrast) in _METHODS.items()
    for place in _PLACES
}
_BY_CHANCE: dict[str, Cell] = {
    f"{repeats}+{repeats} drawn one by one {place}": Cell(
        experiment=_in_place(place, repeats, drifts.drawn_pairs),
        bars=(
            Bar(measure=FPR, points=(0.5,), low=0.08),
            Bar(measure=WRONG, points=(0.5,), high=0.065),
        ),
    )
    for repeats in (3, 5, 10)
    for place in _PLACES
}
"""The control: without balance the same runs fool Welch, and the judge flags the orders that do."""
_UNTURNED: dict[str, Cell] = {
    f"{repeats}+{repeats} AAA BBB linear 20 %": Cell(
        experiment=Unturned(drift=_HOURS["linear 20 %"], repeats=repeats),
        bars=(
            Bar(measure=REFUSED, points=NONE, low=1.0),
            Bar(measure=WELCH, points=(0.5,), low=0.3),
        ),
    )
    for repeats in (3, 5)
}

_MONITORED: dict[str, Cell] = {
    f"looks after {' '.join(map(str, looks.runs))} runs {NAMES[looks.shape]} {name}": Cell(
        experiment=Monitored(looks=looks, drift=drift, spread=spread),
        bars=(
            Bar(measure=PASSES, points=NONE, high=0.08),
            Bar(measure=FAILS, points=NONE, high=0.08),
            *([Bar(measure=PEEKING, points=NONE, low=0.15)] if name == "no drift" else []),
        ),
    )
    for looks in (
        Looks(runs=(3, 5, 8)),
        Looks(runs=(3, 6, 9, 12, 15)),
        Looks(runs=(3, 6, 9, 12, 15), shape="pocock"),
    )
    for name, (drift, spread) in {
        "no drift": (drifts.none, 0.04),
        "AR(1) 10 %": (_HOURS["AR(1) 10 %"], 0.04),
        "every second run +10 %": (drifts.every_second(math.log(1.1)), 0.01),
    }.items()
}

_SHARES: Mapping[str, tuple[float, float]] = {
    "errors:0.5pp": (0.005, 0.01),
    "errors<=1%": (0.0, 0.01),
}
_FAILING: dict[str, Cell] = {
    f"{gate} {kind}, {repeats} runs of {n:,}": Cell(
        experiment=Failing(
            gate=gate, errors=errors, baseline=first, candidate=second, n=n, repeats=repeats
        ),
        bars=(
            *([] if kind in UNSEEN_KINDS else [Bar(measure=PASSES, points=NONE, high=0.065)]),
            Bar(measure=FAILS, points=NONE, high=0.065),
        ),
    )
    for gate, (first, second) in _SHARES.items()
    for kind, errors in KINDS.items()
    for n in (300, 2000)
    for repeats in (3, 5, 10)
}
_NONE_PASSES = (Bar(measure=PASSES_ANYWAY, points=NONE, high=0.01),)
_SHEDDING: dict[str, Cell] = {
    f"5+5 runs {name}, {asked}": Cell(
        experiment=Shedding(margin=margin, gates=gates, random_share=by_chance, slow_share=slowest),
        bars=_NONE_PASSES,
    )
    for name, by_chance, slowest in (
        ("3 % fail by chance", 0.03, 0.0),
        ("half fail by chance", 0.5, 0.0),
        ("the slowest 2.7 % fail", 0.0, 0.027),
    )
    for asked, margin, gates in (
        ("--margin 5%", "5%", ()),
        ("--gate ttft:p95:5%", None, ("ttft:p95:5%",)),
        ("--gate ttft:p50:5%", None, ("ttft:p50:5%",)),
    )
}
_PACED: dict[str, Cell] = {
    f"5+5 runs half as slow again, open loop, --gate {rate}:5%": Cell(
        experiment=Shedding(margin=None, gates=(f"{rate}:5%",), slow=1.5), bars=_NONE_PASSES
    )
    for rate in ("requests_per_s", "output_tokens_per_s")
}
_RARE: dict[str, Cell] = {
    f"{repeats}+{repeats} one run in {one_in} is bad": Cell(
        experiment=RarelyBad(one_in=one_in, repeats=repeats)
    )
    for one_in in (5, 10)
    for repeats in (3, 5, 10)
}
"""No test can see what did not happen: shown, and printed beside every PASS."""

RUN_CELLS: Mapping[str, Cell] = {
    **_RUNS,
    **_ROUTED,
    **_POOLS,
    **_DRIFTS,
    **_TRENDS,
    **_IN_PLACE,
    **_BY_CHANCE,
    **_UNTURNED,
    **_MONITORED,
    **_FAILING,
    **_SHEDDING,
    **_PACED,
    **_RARE,
}
