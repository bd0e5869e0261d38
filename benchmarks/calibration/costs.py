"""COST_CELLS: what answers cost, on traffic of which few sessions hold most of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.random import Generator

from calibration.bars import FPR, NONE, PASSES, Bar, Cell, Key, Outcomes
from calibration.runs import arm
from tbench.analysis.arms import Arm
from tbench.analysis.blocks import Ints
from tbench.analysis.pairing import Match
from tbench.analysis.spending import PER_SESSION, PER_SUCCESS, compared_costs, spending
from tbench.analysis.summary import Floats
from tbench.analysis.t_tests import difference

Turns = Callable[[Generator, int], Ints]
"""How many turns each of so many sessions has."""
Sizes = Callable[[Generator, int], Floats]
"""The tokens that each of so many sessions begins with."""
MARGIN = 0.05
OPEN = "open towards 0"
COVERS = {PER_SUCCESS: "covers cost per success", PER_SESSION: "covers cost per session"}


def single(_random: Generator, sessions: int) -> Ints:
    """Requests of no conversation."""
    return np.ones(sessions, dtype=np.int64)


def mixed(random: Generator, sessions: int) -> Ints:
    """One session in twelve has 20 to 60 turns, the others up to 8."""
    long = random.random(sessions) < 1 / 12
    return np.where(long, random.integers(20, 61, sessions), random.integers(1, 9, sessions))


def dominated(random: Generator, sessions: int) -> Ints:
    """One session in thirty has 100 turns, and with them nearly all of the cost; the others up to 5."""
    long = random.random(sessions) < 1 / 30
    return np.where(long, 100, random.integers(1, 6, sessions))


def alike(random: Generator, sessions: int) -> Floats:
    """Most within a factor of three."""
    return random.lognormal(7, 0.5, sessions)


def lognormal(sigma: float) -> Sizes:
    """Sizes that no bound has; of sigma 1.5 the dearest hundredth holds a fifth."""
    return lambda random, sessions: random.lognormal(7, sigma, sessions)


def twentieth(random: Generator, sessions: int) -> Floats:
    """One in twenty is ten times what it would be."""
    return random.lognormal(7, 1, sessions) * np.where(random.random(sessions) < 0.05, 10, 1)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Sessions whose prompts grow with each turn; a share `failing` of the requests fails at no cost.

    A run draws the lengths of its answers; of the candidate at the margin all is dearer by that. Where they
    are `proportional`, they grow with their prompts.
    """

    turns: Turns
    sessions: int
    sizes: Sizes = alike
    proportional: bool = False
    repeats: int = 5
    failing: float = 0.05

    @cached_property
    def truth(self) -> dict[str, float]:
        """Of so much traffic that chance has no part in it."""
        many = replace(self, sessions=200_000)
        random = np.random.default_rng(1)
        return {
            name: ratio.value or 0.0
            for name, ratio in spending(many.run(many.traffic(random), random)).ratios.items()
        }

    def traffic(self, random: Generator) -> tuple[Ints, Floats]:
        """The session of each request in order of arrival, and its prompt's tokens."""
        turns = self.turns(random, self.sessions)
        session = np.repeat(np.arange(self.sessions), turns)
        turn = np.arange(len(session)) - np.repeat(np.cumsum(turns) - turns, turns)
        begins = np.sort(random.uniform(0, 1, self.sessions))[session]
        order = np.argsort(begins + 0.002 * turn, kind="stable")
        size = self.sizes(random, self.sessions)[session] * (1 + 0.3 * np.minimum(turn, 30))
        return session[order], size[order]

    def run(
        self, traffic: tuple[Ints, Floats], random: Generator, dearer: float = 1.0, place: int = 0
    ) -> Arm:
        """One run of it, which began as the `place`th."""
        session, prompt = traffic
        n = len(session)
        answers = random.lognormal(5, 0.8, n) * (prompt / np.exp(7) if self.proportional else 1)
        made = arm(np.ones(n), place)
        columns = {
            **made.columns,
            "session": session,
            "model": np.full(n, "m"),
            "outcome": np.where(random.random(n) < self.failing, "http_error", "ok"),
            "prompt_tokens": np.rint(prompt).astype(np.int64),
            "output_tokens": np.rint(answers).astype(np.int64),
        }
        failed = columns["outcome"] != "ok"
        for name in ("prompt_tokens", "output_tokens"):
            columns[name] = np.where(failed, -1, columns[name])
        prices = {"m": [dearer, 4 * dearer]}
        header = {**made.run.header, "target": {"prices": prices}}
        return replace(made, run=replace(made.run, columns=columns, header=header))

    def replay(self, random: Generator) -> Outcomes:
        return dict(self._outcomes(random))

    def _outcomes(self, random: Generator) -> Iterator[tuple[Key, bool]]:
        traffic = self.traffic(random)
        first, second = self.run(traffic, random), self.run(traffic, random)
        for name, ratio in spending(first).ratios.items():
            low, high, _ = ratio.interval
            yield (OPEN, None), low is None
            yield (COVERS[name], None), (low or 0) <= self.truth[name] <= (high or np.inf)
        places = np.arange(len(traffic[0]))
        match = Match(baseline=places, candidate=places, paired=True, dropped=(0, 0), alone=(0, 0))
        low, high, _ = compared_costs((first, second), match)[0][2].interval
        yield (FPR, None), not (low or 0) <= 1 <= (high or np.inf)
        first_logs, second_logs = [
            [
                np.log(spending(self.run(traffic, random, dearer)).ratios[PER_SUCCESS].value or 1.0)
                for _ in range(self.repeats)
            ]
            for dearer in (1.0, 1 + MARGIN)
        ]
        yield (PASSES, None), difference(first_logs, second_logs).above(0.05) < np.log1p(MARGIN)


def _cell(experiment: Costs) -> Cell:
    # Of a hundred sessions none is one of the thirtieth in .034 of samples.
    low = 0.93 if experiment.turns is dominated else 0.945
    return Cell(
        experiment=experiment,
        bars=(
            *(Bar(measure=measure, points=NONE, low=low) for measure in COVERS.values()),
            Bar(measure=FPR, points=NONE, high=0.065),
            Bar(measure=PASSES, points=NONE, high=0.065),
        ),
    )


COST_CELLS: Mapping[str, Cell] = {
    f"costs of {sessions} sessions, {name}": _cell(replace(costs, sessions=sessions))
    for name, costs in (
        ("one request each", Costs(turns=single, sessions=0)),
        ("mixed", Costs(turns=mixed, sessions=0)),
        ("dominated", Costs(turns=dominated, sessions=0)),
        *(
            (name, Costs(turns=single, sessions=0, sizes=sizes, proportional=True))
            for name, sizes in (
                ("lognormal, sigma 1", lognormal(1)),
                ("lognormal, sigma 1.5", lognormal(1.5)),
                ("one in twenty ten times as dear", twentieth),
            )
        ),
    )
    for sessions in (100, 200, 400)
}
