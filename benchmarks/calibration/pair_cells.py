"""PAIR_CELLS: two replays of one trace. Rows of name, simulation and bars."""

from collections.abc import Mapping
from functools import cache, partial

from numpy.random import Generator

from calibration import disturbances, servers
from calibration.advice import HEADLINES, UNLABELLED, WRONG_95, Advice, covers_95
from calibration.bars import FPR, NONE, TYPICAL, Bar, Cell
from calibration.disturbances import POINTS, Effect, shift, tail
from calibration.pairs import (
    AGREES,
    BY_TIME,
    FIXED,
    FLAG,
    WRONG,
    Errors,
    Intervals,
    Lengths,
    Replays,
    SlowerServer,
    Ticks,
    Typical,
    bootstrap_median,
    kolmogorov_smirnov,
    mann_whitney,
)
from calibration.runs import QUEUES
from calibration.scenes import (
    MINUTE,
    Scene,
    apart,
    before_pool,
    before_queue,
    deadline,
    disturbed,
    full,
    lost_in_bursts,
    narrow,
    on_poisson,
    on_server,
    on_sessions,
    pool,
    population,
    queue,
    routed,
)
from calibration.traffic import Traffic, interleaved, poisson, self_exciting, surging
from tbench.analysis.blocks import FEW

USUAL_TESTS = {
    "Mann-Whitney": mann_whitney,
    "Kolmogorov-Smirnov": kolmogorov_smirnov,
    "bootstrap of the median": bootstrap_median,
}
BENIGN = (
    Bar(measure=FPR, points=(0.5, 0.95), low=0.025, high=0.08),
    Bar(measure=FPR, points=(0.99,), high=0.08),
)
SATURATED = (
    Bar(measure=FPR, points=POINTS, high=0.15),
    Bar(measure=WRONG, points=POINTS, high=0.08),
)
REFUSED = (Bar(measure=UNLABELLED, points=HEADLINES, low=0.98),)
SURGE = partial(surging, peak=1.7, share=0.2)
SLOW = (Bar(measure=WRONG, points=POINTS, high=0.08),)


def covers(*effects: str) -> tuple[Bar, ...]:
    """The interval must hold the truth."""
    return tuple(Bar(measure=f"covers {name}", points=POINTS, low=0.92) for name in effects)


def fooled(least: float, *names: str) -> tuple[Bar, ...]:
    """The usual tests must fail here at least so often."""
    return tuple(Bar(measure=f"A/A differs, {name}", points=NONE, low=least) for name in names)


@cache
def _full_effects() -> tuple[Effect, ...]:
    return shift(1.05), tail(population(full))


_FULL = partial(on_sessions, play=full, hide=deadline(full, 0.005))
_QUEUES = {load: partial(queue, load=load) for load in (0.8, 0.85)}
SHIFTED = covers("shift5", "tail10")

_INVERSION: dict[str, Cell] = {
    "full n=2000": Cell(
        experiment=Replays(
            scene=_FULL(2000), effects=_full_effects, controls=USUAL_TESTS, fixed=True
        ),
        bars=(*BENIGN, *SHIFTED, *fooled(0.12, *USUAL_TESTS)),
    ),
    "full n=10000": Cell(
        experiment=Replays(scene=_FULL(10_000), effects=_full_effects, controls=USUAL_TESTS),
        bars=(
            *BENIGN,
            *SHIFTED,
            *fooled(0.12, *USUAL_TESTS),
            Bar(measure="sees shift5", points=(0.5,), low=0.35),
        ),
    ),
    "independent n=500": Cell(
        experiment=Replays(scene=on_poisson(500, 30), points=POINTS[:2]), bars=BENIGN[:1]
    ),
    "independent n=2000": Cell(
        experiment=Replays(scene=on_poisson(2000, 30), controls=USUAL_TESTS, fixed=True),
        bars=BENIGN,
    ),
    "independent n=10000": Cell(experiment=Replays(scene=on_poisson(10_000, 60)), bars=BENIGN),
    "batching server at .3": Cell(experiment=Replays(scene=on_server(2000, 0.3)), bars=BENIGN),
    "batching server at .6": Cell(experiment=Replays(scene=on_server(2000, 0.6)), bars=BENIGN),
    "batching server at .85": Cell(
        experiment=Replays(scene=on_server(2000, 0.85), fixed=True), bars=SATURATED
    ),
    "batching server at .6 x1.08": Cell(
        experiment=SlowerServer(
            scene=on_server(2000, 0.6).against(partial(servers.batching, slow=1.08)),
            name="x1.08",
            traces=4,
            runs=100,
        ),
        bars=covers("x1.08"),
    ),
    **{
        f"closed loop of {users}": Cell(
            experiment=Replays(
                scene=Scene(
                    traffic=partial(poisson, 2000, 30 * MINUTE),
                    play=partial(servers.batching, users=users),
                )
            ),
            bars=BENIGN,
        )
        for users in (8, 64)
    },
    "Pareto tails and timeouts in bursts": Cell(
        experiment=Replays(
            scene=on_poisson(
                2000,
                60,
                disturbed(lambda due, random: disturbances.pareto(len(due), 0.05, 1.5, random)),
                hide=lost_in_bursts(timeouts=0.005, failures=0.03, mean=20),
            )
        ),
        bars=BENIGN,
    ),
    "Pareto tails and bursts of errors": Cell(
        experiment=Replays(
            scene=on_poisson(
                2000,
                60,
                disturbed(lambda due, random: disturbances.pareto(len(due), 0.05, 1.5, random)),
                hide=lost_in_bursts(timeouts=0.0, failures=0.03, mean=20),
            )
        ),
        bars=BENIGN,
    ),
    **{
        f"FIFO queue at {load}": Cell(
            experiment=Replays(scene=on_sessions(2000, play), controls=USUAL_TESTS, fixed=True),
            bars=(*SATURATED, *fooled(0.3, *USUAL_TESTS)),
        )
        for load, play in _QUEUES.items()
    },
    **{
        f"FIFO queue at {load} x1.08": Cell(
            experiment=SlowerServer(
                scene=on_sessions(2000, play).against(partial(play, slow=1.08)), name="x1.08"
            ),
            bars=covers("x1.08"),
        )
        for load, play in _QUEUES.items()
    },
}


def _slow(n: int, minutes: float, disturb: disturbances.Disturb) -> Replays:
    return Replays(scene=on_poisson(n, minutes, disturbed(disturb)), fixed=True)


def _regimes(n: int, minutes: float, dwell_min: float, factor: float = 1.5) -> Replays:
    return _slow(
        n,
        minutes,
        lambda due, random: disturbances.regimes(due, dwell_min * MINUTE, factor, random),
    )


def _drifting(reach: float) -> Replays:
    """In the candidate alone."""
    candidate = disturbed(lambda due, _: disturbances.linear(due, reach))
    return Replays(scene=on_poisson(2000, 60).against(candidate), fixed=True)


_SLOW: dict[str, Cell] = {
    "regimes of 30 s": Cell(experiment=_regimes(2000, 30, 0.5), bars=SLOW),
    "regimes of 1 min": Cell(experiment=_regimes(3600, 60, 1), bars=SLOW),
    "regimes of 2 min": Cell(experiment=_regimes(2000, 30, 2), bars=SLOW),
    "regimes of 5 min": Cell(
        experiment=_regimes(3600, 60, 5),
        bars=(
            *SLOW,
            Bar(measure=FLAG, points=(0.5,), low=0.85),
            Bar(measure=FIXED, points=(0.5,), low=0.12),
        ),
    ),
    "regimes of 20 min": Cell(experiment=_regimes(3600, 60, 20), bars=SLOW),
    "regimes of 40 min in 30": Cell(experiment=_regimes(2000, 30, 40, 1.2)),
    "linear drift of 10 % in one arm": Cell(experiment=_drifting(0.1), bars=SLOW),
    "linear drift of 30 % in one arm": Cell(experiment=_drifting(0.3), bars=SLOW),
    "sine of 20 min and 10 %": Cell(
        experiment=_slow(
            2000, 60, lambda due, random: disturbances.sine(due, 20 * MINUTE, 0.1, random)
        ),
        bars=SLOW,
    ),
    "AR(1) with memory .98": Cell(
        experiment=_slow(
            2000,
            30,
            lambda due, random: disturbances.autoregressive(len(due), 0.98, 0.2, random),
        ),
        bars=SLOW,
    ),
}

_INTERVALS: dict[str, Cell] = {
    f"intervals of {name}": Cell(
        experiment=Intervals(scene=scene), bars=(Bar(measure=AGREES, points=POINTS, low=0.99),)
    )
    for name, scene in {
        "full n=2000": on_sessions(2000, full),
        "FIFO queue at 0.8": on_sessions(2000, _QUEUES[0.8]),
        "regimes of 5 min": _regimes(3600, 60, 5).scene,
    }.items()
}


def _interleaved(sessions: int, share: float, spread: float, power: float = 0.0) -> Cell:
    """Sessions that last the whole hour and are `spread` apart in each arm; few ones carry a flag."""

    def traffic(random: Generator) -> Traffic:
        drawn = poisson(2000, 60 * MINUTE, random)
        return interleaved(drawn, random, sessions=sessions, share=share, power=power)

    points, blind = (0.5, 0.95), spread > 0.1 and sessions < 100
    return Cell(
        experiment=Replays(
            scene=Scene(traffic=traffic, play=partial(apart, spread=spread, sessions=sessions)),
            sessions=True,
            effects=lambda: (shift(1.05),),
            points=points,
        ),
        bars=(
            Bar(measure=WRONG, points=points, high=0.065),
            Bar(
                measure="covers shift5",
                points=points,
                low=0.88 if sessions < FEW or power else 0.93,
            ),
            *((Bar(measure=BY_TIME, points=(0.5,), low=0.2),) if blind else ()),
        ),
    )


_ROUTED: dict[str, Cell] = {
    f"{users} users on 8 replicas": Cell(
        experiment=Replays(scene=routed(users), sessions=True, points=(0.5, 0.95)),
        bars=(
            Bar(measure=WRONG, points=(0.5, 0.95), high=0.065),
            *((Bar(measure=BY_TIME, points=(0.5,), low=0.1),) if users < 100 else ()),
        ),
    )
    for users in (40, 200)
}
"""Where the trace knows its users. Where it does not, a pair speaks of its own two routes alone."""

_BUSY: dict[str, Cell] = {
    **{
        f"{name} at a load of {load}": Cell(
            experiment=Advice(scene=before_queue(draw, load)),
            bars=(Bar(measure=WRONG_95, points=HEADLINES, high=0.065),) if labelled else REFUSED,
        )
        for name, draw, load, labelled in (
            ("self-exciting arrivals", self_exciting, 0.2, True),
            ("self-exciting arrivals", self_exciting, 0.4, True),
            ("self-exciting arrivals", self_exciting, 0.6, False),
            ("a surge to 0.34", SURGE, 0.2, True),
            ("a surge to 0.68", SURGE, 0.4, True),
            ("a surge to 1.36", SURGE, 0.8, False),
        )
    },
    **{
        f"self-exciting arrivals at a load of {load} x1.08": Cell(
            experiment=Advice(
                scene=SlowerServer(
                    scene=before_queue(self_exciting, load).against(
                        partial(queue, load=load, slow=1.08)
                    ),
                    name="x1.08",
                    points=HEADLINES,
                )
            ),
            bars=(Bar(measure=covers_95("x1.08"), points=HEADLINES, low=0.93),),
        )
        for load in (0.2, 0.4)
    },
}
"""Where a queue waits so long that its luck decides, no row is labelled 95 %."""

_BACKLOG = (
    Bar(measure=UNLABELLED, points=POINTS, low=0.98),
    Bar(measure=QUEUES, points=NONE, low=0.98),
)
_POOLS: dict[str, Cell] = {
    "8 servers at a load of 0.5": Cell(
        experiment=Advice(scene=before_pool(poisson, 0.5), points=POINTS),
        bars=(Bar(measure=WRONG_95, points=(0.5,), high=0.065),),
    ),
    **{
        f"8 servers at a load of {load:g}": Cell(
            experiment=Advice(scene=before_pool(poisson, load), points=POINTS), bars=_BACKLOG
        )
        for load in (0.9, 1.0, 1.05, 1.2)
    },
    "8 servers at a load of 1.05, self-exciting arrivals": Cell(
        experiment=Advice(scene=before_pool(self_exciting, 1.05), points=POINTS), bars=_BACKLOG
    ),
    "8 servers at a load of 1.05, 20,000 requests": Cell(
        experiment=Advice(scene=before_pool(poisson, 1.05, 20_000), points=POINTS), bars=_BACKLOG
    ),
    **{
        f"8 servers at a load of {load:g} x1.05": Cell(
            experiment=Advice(
                scene=SlowerServer(
                    scene=before_pool(poisson, load).against(partial(pool, load=load, slow=1.05)),
                    name="x1.05",
                    traces=4,
                    runs=50,
                ),
                points=POINTS,
            ),
            bars=_BACKLOG,
        )
        for load in (0.9, 1.0, 1.05, 1.2)
    },
}
"""More arrives than is served: a backlog that grows evenly has no long tail, and is named all the same."""

_SESSIONS: dict[str, Cell] = {
    "6 sessions hold 80 %, 15 % apart": _interleaved(6, 0.8, 0.15),
    "6 sessions hold 80 %, 5 % apart": _interleaved(6, 0.8, 0.05),
    "30 sessions, 15 % apart": _interleaved(30, 1.0, 0.15),
    "30 sessions, 5 % apart": _interleaved(30, 1.0, 0.05),
    "200 sessions, 15 % apart": _interleaved(200, 1.0, 0.15),
    "200 sessions, not apart": _interleaved(200, 1.0, 0.0),
    "200 sessions of size 1/k, 15 % apart": _interleaved(200, 1.0, 0.15, power=1.0),
}

_LENGTHS: dict[str, Cell] = {
    f"answers differ in length by {spread:.0%}{text}, memory {memory:g}": Cell(
        experiment=Lengths(spread=spread, longer=longer, memory=memory),
        bars=(
            Bar(measure="covers x1.05", points=(0.5, 0.95), low=0.94),
            Bar(measure="covers x1.05, unflagged", points=(0.5, 0.95), low=0.93),
        ),
    )
    for spread, longer, text in (
        (0.4, 1.0, ""),
        (0.2, 1.0, ""),
        (0.0, 1.0, ""),
        (0.4, 1.2, ", 20 % longer"),
    )
    for memory in (0.0, 0.95)
}

_TICKS: dict[str, Cell] = {
    f"ticks of {tick_s * 1000:g} ms at {middle_s * 1000:g} ms": Cell(
        experiment=Ticks(
            scene=on_poisson(2000, 60, partial(narrow, middle_s=middle_s)), tick_s=tick_s
        ),
        bars=(
            Bar(measure=FPR, points=(0.5, 0.95), high=0.065),
            Bar(measure="sees x1.05", points=(0.5,), low=0.95),
            Bar(measure="covers x1.05", points=(0.5, 0.95), low=0.94),
            Bar(measure="interval, p-value agree", points=NONE, low=1),
        ),
    )
    for tick_s, middle_s in ((0.01, 0.06), (0.02, 0.25), (0.001, 0.06))
}

_ERRORS: dict[str, Cell] = {
    f"errors {how} n={n}": Cell(
        experiment=Errors(n=n, share=0.02, burst=burst),
        bars=(
            Bar(measure=FPR, points=NONE, high=0.08),
            *(fooled(0.3, "McNemar") if burst else ()),
        ),
    )
    for n in (2000, 10_000)
    for how, burst in (("each by itself", None), ("in bursts of 20", 20.0))
}

_TYPICAL: dict[str, Cell] = {
    f"typical request: {name}": Cell(
        experiment=experiment,
        bars=(Bar(measure=TYPICAL, points=NONE, high=most),),
    )
    for name, experiment, most in (
        ("independent n=2000", Typical(scene=on_poisson(2000, 30)), 0.08),
        ("full n=2000", Typical(scene=on_sessions(2000, full), effects=_full_effects), 0.08),
        ("FIFO queue at 0.8", Typical(scene=on_sessions(2000, _QUEUES[0.8])), 0.15),
    )
}

PAIR_CELLS: Mapping[str, Cell] = {
    **_INVERSION,
    **_SLOW,
    **_INTERVALS,
    **_TYPICAL,
    **_SESSIONS,
    **_ROUTED,
    **_BUSY,
    **_POOLS,
    **_LENGTHS,
    **_TICKS,
    **_ERRORS,
}
