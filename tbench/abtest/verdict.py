"""The verdict of an experiment: its runs held against the plan's gates, and what they were.

At the end of the plan, or at a look of a monitored one. Where it was stopped there is none: what was measured
is shown all the same, with why it ended.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Final

from tbench.abtest.plan import AbPlan, run_name
from tbench.analysis.arms import Replicates, load_replicates
from tbench.analysis.comparison import Verdict
from tbench.analysis.gate_results import GateResults, evaluate_gates
from tbench.analysis.interim import Decision, as_monitored, monitor
from tbench.analysis.metrics import METRICS
from tbench.analysis.report.machine import judgement_json
from tbench.analysis.report.planning import spread_json
from tbench.analysis.summary import Caution
from tbench.analysis.variance import Spread, spread
from tbench.capture.errors import InputError, TbenchError
from tbench.capture.terminal import plural
from tbench.replay.runfile import Run, read_run
from tbench.replay.table import Desk
from tbench.replay.totals import numbers
from tbench.run_store import RunStore

INTERRUPT: Final = "interrupt"
MAX_COST: Final = "max_cost"
ENDS: Final[Mapping[str, str]] = {
    INTERRUPT: "it was interrupted",
    MAX_COST: "the next request might have passed --max-cost",
    "invalid": "a run does not count",
    "errors": "a run had no answer",
    "disk": "the disk took no more answers",
    "error": "a run could not be made",
}
"""How an experiment ends before its plan does, by what ended its last run."""
UNFINISHED: Final = "the plan is not at its end"


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """An experiment that came to no verdict: how its last run ended (ENDS), and what is still missing.

    `failure` is the error that ended it, if one did.
    """

    ended: str
    missing: int
    why: str | None
    failure: TbenchError | None = None

    @property
    def verdict(self) -> Verdict:
        """INCONCLUSIVE where more runs of the same kind would decide, else INVALID."""
        wanted = self.ended in {INTERRUPT, MAX_COST}
        return Verdict.INCONCLUSIVE if wanted else Verdict.INVALID


def verdict(plan: AbPlan, store: RunStore) -> GateResults:
    """Judge the runs of a finished experiment by the gates that it declared."""
    if (looks := plan.looks) is None:
        return _judged(plan, store, plan.repeats)
    return early(plan, store) or _at_look(plan, store, len(looks.runs))[1]


def early(plan: AbPlan, store: RunStore) -> GateResults | None:
    """What a monitored plan was stopped with before its last look; None where it goes on."""
    if plan.looks is None:
        return None
    rounds = _rounds(plan, store)
    for number, runs in enumerate(plan.looks.runs[:-1], start=1):
        # Each look in its turn, also where more rounds are there: a
        # plan that went on after a stop is judged as one that did not.
        if runs <= rounds:
            decision, judgement = _at_look(plan, store, number)
            if decision.stop:
                return judgement
    return None


def so_far(plan: AbPlan, store: RunStore, stopped: Stopped) -> GateResults:
    """What the whole rounds of a stopped experiment say, without a verdict; no row where there is none."""
    rounds = _rounds(plan, store)
    results = GateResults(
        arms=_arms(plan, store, 0),
        rows=(),
        warnings=(),
        verdict=stopped.verdict,
        contrast=plan.contrast,
        planned=True,
    )
    if rounds:
        looks = () if plan.looks is None else plan.looks.runs
        try:
            results = (
                _at_look(plan, store, looks.index(rounds) + 1)[1]
                if rounds in looks
                else _judged(plan, store, rounds)
            )
        except InputError as error:  # too little to judge
            unjudged = Caution(code="NOT_JUDGED", text=str(error))
            results = replace(results, warnings=(unjudged,))
    rows = tuple(
        row
        if row.comparison.verdict is Verdict.SKIPPED
        else replace(
            row,
            comparison=replace(row.comparison, verdict=Verdict.INCONCLUSIVE),
            reason=UNFINISHED,
        )
        for row in results.rows
    )
    left = plural(stopped.missing, "replay")
    caution = Caution(
        code="ENDED_EARLY", text=f"{ENDS[stopped.ended]}, with {left} still to be made: no verdict"
    )
    return replace(
        results, rows=rows, verdict=stopped.verdict, warnings=(caution, *results.warnings)
    )


def _rounds(plan: AbPlan, store: RunStore) -> int:
    """How many rounds have a run of every arm, from the first on."""
    complete = takewhile(
        lambda number: all(store.done(run_name(arm.name, number)) for arm in plan.treatments),
        range(1, plan.repeats + 1),
    )
    return len(list(complete))


def _at_look(plan: AbPlan, store: RunStore, number: int) -> tuple[Decision, GateResults]:
    looks = plan.looks
    assert looks is not None
    judgement = _judged(plan, store, looks.runs[number - 1])
    decision = monitor(judgement, looks, number)
    return decision, as_monitored(judgement, decision)


def _judged(plan: AbPlan, store: RunStore, rounds: int) -> GateResults:
    """The runs of the first so many rounds, held against the plan's gates."""
    arms = _arms(plan, store, rounds)
    return evaluate_gates(arms, plan.gates, contrast=plan.contrast, planned=True)


def _arms(plan: AbPlan, store: RunStore, rounds: int) -> tuple[Replicates, ...]:
    """The arms with their runs of the first so many rounds, in the order in which they began."""
    arms, desk = [], Desk()
    for arm in plan.treatments:
        paths = [store.path(run_name(arm.name, number)) for number in range(1, rounds + 1)]
        runs = load_replicates(*paths, desk=desk).runs if paths else ()
        arms.append(Replicates(name=arm.name, runs=runs))
    return tuple(arms)


def result_json(
    plan: AbPlan, store: RunStore, judgement: GateResults, stopped: Stopped | None = None
) -> dict[str, Any]:
    """What `tbench ab --json` prints (docs/json.md): the judgement, the plan, and each run's figures."""
    judged = judgement_json(judgement)
    arms = [
        {**arm, **{name: spec.changes.get(name) for name in ("model", "base_url")}}
        for arm, spec in zip(judged["arms"], plan.treatments, strict=True)
    ]
    loaded = {run.path: run.run for arm in judgement.arms for run in arm.runs}
    runs, aside = [], []
    for entry in store.entries:
        path = store.folder / entry["run"]
        if not path.exists():
            continue
        if store.counts(entry):
            runs.append(_figures(loaded.get(path) or read_run(path)))
            continue
        try:
            figures = _figures(read_run(path))
        except TbenchError as error:  # what a kill, or a disk, left of it decides nothing
            figures = {"run": str(path), "unreadable": str(error)}
        aside.append({"ended": entry["ended"], **figures})
    variance = [spread_json(spread) for spread in spreads(judgement)]
    return {
        **judged,
        "ended_by": "plan" if stopped is None else stopped.ended,
        "why": stopped and stopped.why,
        "missing": stopped.missing if stopped else 0,
        "spent_usd": store.spent,
        "arms": arms,
        "runs": sorted(runs, key=lambda run: int(run["started_ns"])),
        "set_aside": aside,
        "variance": variance,
        "plan": plan.written,
    }


def _figures(run: Run) -> dict[str, Any]:
    """A run's place in the plan, and what `replay --json` says of it."""
    part = run.header["experiment"]
    started = {"started_ns": run.header["wall_ns"]}
    return {"arm": part["arm"], "round": part["round"], **started, **numbers(run)}


def spreads(judgement: GateResults) -> Iterator[Spread]:
    """What differed from run to run at each gated quantile, and what of it a run's requests explain."""
    gated = {
        (row.gate.metric, row.gate.quantile)
        for row in judgement.rows
        if row.gate.quantile is not None and not row.comparison.refusal
    }
    # Of the requests that the gates are of: a run may have dropped fewer as its own warm-up.
    arms = [
        replace(arm, runs=runs)
        for arm, runs in zip(judgement.arms, judgement.compared, strict=True)
    ]
    for metric, quantile in sorted(gated):
        yield spread(arms, METRICS[metric], quantile)
