"""Planning: how many requests and runs it takes to find an effect or to pass a margin, from a pilot."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Final

import numpy as np
from scipy import optimize, special

from tbench.analysis import power
from tbench.analysis.arms import (
    Replicates,
    check_distinct,
    invalid_runs,
    load_arm,
    load_replicates,
    runs_among,
    started_ns,
)
from tbench.analysis.contrast import SURE_REQUESTS, SURE_S
from tbench.analysis.gate import ERRORS, USUAL
from tbench.analysis.metrics import METRICS
from tbench.analysis.summary import Caution
from tbench.analysis.t_tests import CONFIDENCE
from tbench.analysis.variance import Spread, Within, correlation, keep, spread
from tbench.capture.errors import InputError
from tbench.replay.metrics import minimum_n
from tbench.replay.table import Desk

RUNS: Final = (3, 4, 5, 6, 8, 10, 15, 20)
"""Per arm: what a plan is shown for."""
USUAL_RUNS: Final = 5
_BLOCKS: Final = {16: 0.8, 8: 0.165, 4: 0.035}
"""How often so many blocks are taken where requests are independent (1,500 simulated pairs, p50 and p95)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerGoal:
    """What the runs to come shall do: find `effect`, pass `margin` if nothing changed; each with `power`.

    `asked` are pairs of metric and quantile; none means those that `--margin` gates.
    """

    effect: float = 0.05
    margin: float = 0.05
    power: float = power.POWER
    asked: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PairPlan:
    """One pair of runs as long as it takes. Half-widths are of the log ratio's 95 % interval.

    `requests` give the interval a half-width of log(1 + effect), `requests_to_find` exclude 1 with the aim's
    power, the pilot's own width at its upper limit (`power.SURE`); None where it is unbounded.
    `seconds` is how long the latter lasts at the pilot's rate. None is below what a quantile and the
    label "95%" need.
    """

    half_width: float
    requests: int | None
    requests_to_find: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRate:
    """What so many runs per arm achieve, as shares of experiments, one gate by itself.

    `passes` if the arms are equal, and with the spread at the upper end of its 95 % interval
    (`passes_at_worst`, None where it is assumed); `sees` and `fails` if the candidate is slower by
    the effect.
    """

    runs: int
    half_width: float
    passes: float
    passes_at_worst: float | None
    sees: float
    fails: float


@dataclass(frozen=True, kw_only=True)
class PowerEstimate:
    """One quantile of one metric: its spread in the pilot, and what follows for the plan."""

    spread: Spread
    aim: PowerGoal
    run_s: float

    @property
    def assumed(self) -> bool:
        """Whether `sd` rests on an assumption: no two runs say how much they differ."""
        return self.spread.sd is None and self.sd is not None

    @property
    def sd(self) -> float | None:
        """What is planned with: the measured sd of a run's log-quantile, at its upper limit (`power.SURE`).

        Else ASSUMED_SD and what one run's blocks leave open.
        """
        if self.spread.sd is not None:
            return power.upper_sd(self.spread.sd, self.spread.df)
        if self.spread.within is None:
            return None
        expected = math.hypot(power.ASSUMED_SD, self.spread.within.se)
        return expected if math.isfinite(expected) else None

    @cached_property
    def one_pair(self) -> PairPlan | None:
        within, p = self.spread.within, self.spread.quantile
        if within is None:
            return None
        to_find = requests_to_find(within, self.aim, p)
        rate = within.n / self.run_s if self.run_s > 0 else math.inf
        return PairPlan(
            half_width=within.half_width,
            requests=requests_needed(within, math.log1p(self.aim.effect), p),
            requests_to_find=to_find,
            seconds=None if to_find is None else max(SURE_S, to_find / rate),
        )

    @cached_property
    def chances(self) -> tuple[PassRate, ...]:
        sd, worst, aim = self.sd, self.spread.high, self.aim
        if sd is None:
            return ()
        return tuple(
            PassRate(
                runs=runs,
                half_width=power.half_width(runs, sd),
                passes=power.chance_to_pass(runs, sd, aim.margin),
                passes_at_worst=None
                if worst is None
                else power.chance_to_pass(runs, worst, aim.margin),
                sees=power.chance_to_see(runs, sd, aim.effect),
                fails=power.chance_to_fail(runs, sd, aim.margin, ratio=1 + aim.effect),
            )
            for runs in RUNS
        )

    @cached_property
    def runs_to_pass(self) -> int | None:
        if self.sd is None:
            return None
        return power.runs_needed(self.sd, self.aim.margin, power=self.aim.power)

    @cached_property
    def runs_to_see(self) -> int | None:
        if self.sd is None:
            return None
        return power.runs_to_see(self.sd, self.aim.effect, power=self.aim.power)

    @property
    def warning(self) -> str | None:
        """Why the usual number of runs would often not decide."""
        if self.sd is None:
            return None
        return power.plan_warning(USUAL_RUNS, self.aim.margin, self.sd, self.aim.power)


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """All gates that can be planned, as one verdict needs them: shares of experiments with equal arms.

    `passes` are for RUNS, `runs` is the fewest per arm with the aim's power, None where MOST_RUNS do not.
    """

    gates: int
    passes: tuple[float, ...]
    runs: int | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A pilot's arms, what is wanted, and the prospect for each quantile. `run_s` is how long a run lasts."""

    arms: tuple[Replicates, ...]
    aim: PowerGoal
    prospects: tuple[PowerEstimate, ...]
    run_s: float
    warnings: tuple[Caution, ...]

    @cached_property
    def together(self) -> Together | None:
        """None where no gate can be planned. Without repeated runs they are taken as independent."""
        planned = [prospect for prospect in self.prospects if prospect.sd is not None]
        if not planned:
            return None
        sds = [prospect.sd for prospect in planned if prospect.sd is not None]
        measured = all(not prospect.assumed for prospect in planned)
        known = correlation([prospect.spread.figures for prospect in planned])
        # Independent is the careful guess: gates that go together pass together more often.
        matrix = known if measured else np.eye(len(sds))
        margin = self.aim.margin
        return Together(
            gates=len(sds),
            passes=tuple(power.chance_to_pass_all(runs, sds, matrix, margin) for runs in RUNS),
            runs=power.runs_to_pass_all(sds, matrix, margin, power=self.aim.power),
        )


def plan(arms: Sequence[Replicates], aim: PowerGoal) -> Plan:
    """What the pilot's arms (of one trace, each of one run or more) say about the aim."""
    run_s, metrics = math.inf, [METRICS[name] for name, _ in aim.asked or USUAL]
    for run in (run for arm in arms for run in arm.runs):
        run_s = min(run_s, float(np.nanmax(run.offset_s) - np.nanmin(run.offset_s)))
        keep(run, metrics)
    prospects = tuple(
        PowerEstimate(spread=spread(arms, METRICS[metric], p), aim=aim, run_s=run_s)
        for metric, p in aim.asked or USUAL
    )
    return Plan(
        arms=tuple(arms),
        aim=aim,
        prospects=prospects,
        run_s=run_s,
        warnings=tuple(_warnings(arms, prospects, run_s)),
    )


def requests_to_find(within: Within, aim: PowerGoal, p: float) -> int | None:
    """Per run, for one pair whose interval excludes 1 with the aim's power; None where unbounded."""
    # The half-width is t of standard errors, by the usual K; the effect must be `_distance` of them away.
    usual = float(special.stdtrit(max(_BLOCKS) - 1, (1 + CONFIDENCE) / 2))
    return requests_needed(within, math.log1p(aim.effect) * usual / _distance(aim.power), p)


@cache
def _distance(wanted: float) -> float:
    """How many standard errors away a difference is seen so often, K being what the data make it."""
    df = np.array(list(_BLOCKS)) - 1
    critical = special.stdtrit(df, (1 + CONFIDENCE) / 2)

    def short(distance: float) -> float:
        seen = 1 - special.nctdtr(df, distance, critical)
        return wanted - float(np.dot(list(_BLOCKS.values()), seen))

    return float(optimize.brentq(short, 0.0, 20.0))


def requests_needed(within: Within, half_width: float, p: float) -> int | None:
    """Per run, for this half-width of the log ratio; None where today's is unbounded.

    N grows with the square of how much narrower the interval must become, K being fixed.
    """
    if not math.isfinite(within.half_width):
        return None
    projected = within.n * (power.upper_sd(within.half_width, within.df) / half_width) ** 2
    # Fewer might be narrow enough, but would be refused or labelled low.
    return max(math.ceil(projected), minimum_n(p), SURE_REQUESTS)


def _warnings(
    arms: Sequence[Replicates], prospects: Sequence[PowerEstimate], run_s: float
) -> Iterator[Caution]:
    yield from invalid_runs(run for arm in arms for run in arm.runs)
    if all(len(arm.runs) == 1 for arm in arms):
        yield Caution(
            code="ASSUMED_SPREAD",
            text=f"one run cannot say how much runs differ: {power.ASSUMED_SD * 100:g} % from run to run "
            "is an assumption; three runs or more of one arm measure it",
        )
    if run_s < SURE_S:
        yield Caution(
            code="SHORT_PILOT",
            text=f"the pilot's shortest run lasts {run_s:.0f} s; in less than {SURE_S / 60:.0f} min slow "
            "changes are not seen, and the requests needed come out too low",
        )
    spreads = [prospect.spread for prospect in prospects]
    if drifting := [spread for spread in spreads if spread.within and spread.within.drift]:
        where = ", ".join(f"{spread.metric} p{spread.quantile * 100:.6g}" for spread in drifting)
        yield Caution(
            code="SLOW_DRIFT",
            text=f"conditions changed slowly within the pilot's runs ({where}): more requests per run will "
            "not narrow an interval as projected",
        )


# Pilot: the runs that a plan is made from, and the options that say what it is for.

_SHARE = re.compile(r"(\d+(?:\.\d+)?)%")
_ASKED = re.compile(r"(?P<metric>\w+):p(?P<quantile>\d+(?:\.\d+)?)")


def load_pilot(texts: Sequence[str | Path]) -> tuple[Replicates, ...]:
    """The arms that these paths, folders and globs name; a folder or a glob of runs is one arm.

    Single runs of one model, target and pacing are one arm too. Of many samples one run is held at a time.
    Raises InputError where the arms are not of one trace, or a run is named twice.
    """
    desk = Desk()
    arms = _gathered([_load(text, desk) for text in texts])
    runs = [run for arm in arms for run in arm.runs]
    check_distinct(runs)
    if len({run.source for run in runs}) > 1:
        raise InputError("the pilot's runs are of different traces; give runs of one trace")
    for run in runs:
        if not run.succeeded:
            raise InputError(f"{run.path}: no request succeeded; a pilot needs some")
    return arms


def _load(text: str | Path, desk: Desk) -> Replicates:
    """One run, one trace (whatever its name says), or the runs of a folder or a glob."""
    if runs_among(text):
        return load_replicates(text, desk=desk)
    run = load_arm(text, desk)
    run.keep_figures()
    return Replicates(name=str(text), runs=(run,))


def _gathered(arms: Sequence[Replicates]) -> tuple[Replicates, ...]:
    """Single runs that were made alike become one arm, in the order in which they began."""
    groups: dict[object, list[Replicates]] = {}
    for place, arm in enumerate(arms):
        first = arm.runs[0]
        alone = len(arm.runs) == 1 and first.kind == "run"
        # Only single runs are sorted: several of a folder or a glob are one arm by the user's word.
        likeness = (first.model, first.target, first.pacing) if alone else place
        groups.setdefault(likeness, []).append(arm)

    def merged(alike: Sequence[Replicates]) -> Replicates:
        if len(alike) == 1:
            return alike[0]
        runs = sorted((arm.runs[0] for arm in alike), key=started_ns)
        return Replicates(name=f"{alike[0].name} and {len(alike) - 1} more", runs=tuple(runs))

    return tuple(map(merged, groups.values()))


def parse_share(option: str, text: str) -> float:
    """`5%` -> .05. Raises InputError naming the option."""
    digits = _SHARE.fullmatch(text.strip())
    if not digits or not float(digits[1]):
        raise InputError(f"{option} {text}: write it as 5%")
    return float(digits[1]) / 100


def parse_asked(text: str) -> tuple[str, float]:
    """`ttft:p95` -> ("ttft", .95). Raises InputError saying what the right form is."""
    parts = _ASKED.fullmatch(text.strip())
    if text.strip() == ERRORS:
        raise InputError(f"--metric {text}: a share has no quantile; plans are for quantiles")
    if not parts:
        raise InputError(f"--metric {text}: write it as ttft:p95")
    if parts["metric"] not in METRICS:
        raise InputError(
            f"--metric {text}: no metric {parts['metric']}; there are {', '.join(METRICS)}"
        )
    p = float(parts["quantile"]) / 100
    if not 0 < p < 1:
        raise InputError(f"--metric {text}: the quantile lies between p0 and p100")
    return parts["metric"], p
