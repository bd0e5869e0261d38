"""A plan of runs, and a self-check of equal runs, for a person and for a program."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from tbench.analysis.comparison import Verdict
from tbench.analysis.planning import (
    RUNS,
    USUAL_RUNS,
    Plan,
    PowerEstimate,
)
from tbench.analysis.power import ASSUMED_SD, MOST_RUNS, SURE
from tbench.analysis.selfcheck import Floor, SelfCheck
from tbench.analysis.variance import Spread
from tbench.analysis.words import aligned, lasting, percent, percentile, table
from tbench.capture.terminal import plural

UNBOUNDED: Final = "unbounded"
ONE_PAIR: Final = "One pair of runs. It advises only: what differs from run to run is not in it."
REPEATED: Final = (
    "Repeated runs, which take turns. Each gate by itself, "
    f"with the sd at its upper {SURE:.0%} limit."
)


def plan_json(plan: Plan) -> dict[str, Any]:
    """What `tbench power --json` prints. Shares and logarithms, .03 = 3%; null where there is none."""
    together = plan.together
    return {
        "pilot": [
            {
                "name": arm.name,
                "runs": [str(run.path) for run in arm.runs],
                "requests": [len(run) for run in arm.runs],
            }
            for arm in plan.arms
        ],
        "effect": plan.aim.effect,
        "margin": plan.aim.margin,
        "power": plan.aim.power,
        "run_s": plan.run_s,
        "together": together and {**asdict(together), "plans": list(RUNS)},
        "metrics": [
            {
                **spread_json(prospect.spread),
                "planned_sd": prospect.sd,
                "assumed": prospect.assumed,
                "one_pair": prospect.one_pair and asdict(prospect.one_pair),
                "plans": [asdict(chance) for chance in prospect.chances],
                "runs_to_pass": prospect.runs_to_pass,
                "runs_to_see": prospect.runs_to_see,
                "warning": prospect.warning,
            }
            for prospect in plan.prospects
        ],
        "warnings": [str(caution) for caution in plan.warnings],
    }


def spread_json(spread: Spread) -> dict[str, Any]:
    """One quantile's spread from run to run and within a run, as in `power --json`."""
    within = spread.within
    return {
        "metric": spread.metric,
        "quantile": spread.quantile,
        "n": spread.n,
        "runs": spread.runs,
        "run_sd": spread.sd,
        "run_sd_ci": [spread.low, spread.high],
        "within_se": None if within is None else within.se,
        "within_from": None if within is None else within.source,
        "between_sd": spread.between,
        "advice": spread.advice,
        "drift": within is not None and within.drift,
        "refusal": spread.refusal,
    }


def plan_text(plan: Plan) -> Iterator[str]:
    """Lines for a terminal or a log."""
    aim = plan.aim
    for arm in plan.arms:
        what = "1 trace" if arm.runs[0].kind == "trace" else plural(len(arm.runs), "run")
        yield f"pilot      {arm.name}: {what} of {lasting(plan.run_s)} or more"
    yield (
        f"plan       find +{percent(aim.effect)}, pass a margin of {percent(aim.margin)} if nothing "
        f"changed; power {percent(aim.power)}"
    )
    yield ""
    yield ONE_PAIR
    yield from _one_pair(plan)
    spreads = [prospect for prospect in plan.prospects if prospect.spread.within]
    if spreads:
        heads = ("", "run to run", "95% interval", "within a run", "what helps")
        yield ""
        yield from aligned(table("", heads, map(_spread_row, spreads)), {0, 2, 4})
    shown = [prospect for prospect in plan.prospects if prospect.chances]
    yield ""
    if shown:
        rows = [row for prospect in shown for row in _chances(prospect)]
        # A verdict needs all gates: each row's chance by itself promises too much.
        if (together := plan.together) is not None and together.gates > 1:
            shares = (f"{share * 100:.0f} %" for share in together.passes)
            name = f"all {together.gates}"
            rows.append([name, "equal arms PASS", *shares, _takes(together.runs)])
        runs = [str(chance.runs) for chance in shown[0].chances]
        yield REPEATED
        yield from aligned(table("", ("", "runs per arm", *runs, "takes"), rows), {0, 1})
        yield ""
        yield from _conclusions(plan, shown)
    for caution in plan.warnings:
        yield f"! {caution.text}"


def _one_pair(plan: Plan) -> Iterator[str]:
    """What one pair of runs can find, by metric."""
    effect = percent(plan.aim.effect)
    heads = ("", "requests", "interval", f"±{effect} takes", f"+{effect} found by", "lasts", "")
    rows = []
    for prospect in plan.prospects:
        pair, spread = prospect.one_pair, prospect.spread
        cells = ["-"] * 4
        if pair is not None:
            bounded = math.isfinite(pair.half_width)
            counts = (pair.requests, pair.requests_to_find)
            cells = [
                f"±{percent(math.expm1(pair.half_width))}" if bounded else UNBOUNDED,
                *("-" if requests is None else f"{requests:,}" for requests in counts),
                "-" if pair.seconds is None else lasting(pair.seconds),
            ]
        rows.append([_name(spread), f"{spread.n:,}", *cells, spread.refusal or ""])
    yield from aligned(table("", heads, rows), {0, 6})
    sources = {
        prospect.spread.within.source for prospect in plan.prospects if prospect.spread.within
    }
    if "pairs" in sources:
        yield "interval: of neighbouring runs, request by request (docs/statistics.md)"
    if "blocks" in sources:
        yield "interval: from one run's own blocks, as if nothing were shared; pairs are often narrower"


def _spread_row(prospect: PowerEstimate) -> list[str]:
    """What differs from run to run, and how much of that the requests of a run explain."""
    spread, run_sd, interval = prospect.spread, "-", "-"
    if prospect.assumed:
        run_sd, interval = percent(ASSUMED_SD), "assumed"
    elif spread.low is not None and spread.high is not None:
        run_sd, interval = percent(spread.sd), f"{percent(spread.low)} to {percent(spread.high)}"
    within = percent(spread.within.se) if spread.within else "-"
    return [_name(spread), run_sd, interval, within, spread.advice or "-"]


def _chances(prospect: PowerEstimate) -> Iterator[list[str]]:
    """How often plans of so many runs PASS equal arms, see the effect, and FAIL it."""
    aim, high = prospect.aim, prospect.spread.high
    effect = f"+{percent(aim.effect)}"
    rows = [("equal arms PASS", "passes", _takes(prospect.runs_to_pass))]
    rows += [(f"  if sd is {percent(high)}", "passes_at_worst", "")] if high is not None else []
    rows += [(f"{effect} is seen", "sees", _takes(prospect.runs_to_see))]
    rows += [(f"{effect} FAILs", "fails", "")] if aim.effect > aim.margin else []
    name = _name(prospect.spread)
    for what, field, takes in rows:
        shares = (f"{getattr(chance, field) * 100:.0f} %" for chance in prospect.chances)
        yield [name, what, *shares, takes]
        name = ""


def _takes(runs: int | None) -> str:
    return f"> {MOST_RUNS:,}" if runs is None else str(runs)


def _conclusions(plan: Plan, shown: list[PowerEstimate]) -> Iterator[str]:
    """The warning of the metric that spreads most, and how many runs pass all gates."""
    worst = max(shown, key=lambda prospect: prospect.sd or 0.0)
    if worst.warning:
        yield f"{_name(worst.spread)}: {worst.warning}."
    together = plan.together
    if together is None:
        return
    margin, runs = percent(plan.aim.margin), together.runs
    if runs is None:
        yield f"No number of runs up to {MOST_RUNS:,} passes {margin} so often: take a wider margin."
        return
    gates, passing = f"All {together.gates} gates", "pass"
    if together.gates == 1:
        gates, passing = "The gate", "passes"
    yield (
        f"{gates} of {margin} {passing} in {percent(plan.aim.power)} of plans if nothing changed with "
        f"{runs} + {runs} runs like the pilot's, {lasting(2 * runs * plan.run_s)} one after another."
    )


def _name(quantile: Spread | Floor) -> str:
    return f"{quantile.metric} {percentile(quantile.quantile)}"


# A self-check for a person, and for a program.

ORDER: Final = (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE)
NOT_INDEPENDENT: Final = (
    "Comparisons that share a run are not independent of each other: read the shares roughly."
)


def self_check_json(check: SelfCheck) -> dict[str, Any]:
    """What `compare --self-check --json` prints. Shares: .03 is 3%; null where there is none."""
    return {
        "arms": [
            {"name": arm.name, "runs": [str(run.path) for run in arm.runs]} for arm in check.arms
        ],
        "pairs": check.pairs,
        "floors": [
            {
                "metric": floor.metric,
                "quantile": floor.quantile,
                "comparisons": len(floor.answered),
                "median_change": floor.median_change,
                "largest_change": floor.largest_change,
                "missed": floor.missed,
                "drifting": floor.drifting,
                "run_sd": floor.sd,
                "margin": floor.margin,
                "ratios": [row.ratio for row in floor.rows],
                "refused": len(floor.rows) - len(floor.answered),
                "refusals": list(floor.refusals),
            }
            for floor in check.floors
        ],
        "splits": [
            {
                "gate": splits.gate.text,
                "count": splits.count,
                "missed": splits.missed,
                "verdicts": {verdict.value: splits.verdicts.get(verdict, 0) for verdict in ORDER},
            }
            for splits in check.splits
        ],
        "split_runs": list(check.split_runs),
        "warnings": [str(caution) for caution in check.warnings],
    }


def self_check_text(check: SelfCheck) -> Iterator[str]:
    """Lines for a terminal or a log."""
    for arm in check.arms:
        yield f"self-check  {arm.name}: {plural(len(arm.runs), 'run')}, which should not differ"
    yield ""
    yield f"One pair of runs, {plural(check.pairs, 'comparison')}; 5% of the intervals may miss 1:"
    margin = f"margin for {USUAL_RUNS} + {USUAL_RUNS}"
    heads: tuple[str, ...] = ("", "compared", "median", "largest", "missed 1", "drift", margin, "")
    rows = []
    for floor in check.floors:
        cells = ["-"] * 5
        if answered := len(floor.answered):
            changes = (floor.median_change, floor.largest_change)
            cells = [percent(size, unknown="-") for size in changes]
            cells += [f"{floor.missed} ({floor.missed / answered:.0%})", str(floor.drifting)]
            cells += [percent(floor.margin, unknown="-")]
        refusals = "; ".join(floor.refusals) if not answered else ""
        rows.append([_name(floor), f"{answered}/{len(floor.rows)}", *cells, refusals])
    yield from aligned(table("", heads, rows), {0, 7})
    if check.splits:
        halves = ", ".join(f"{runs} + {runs}" for runs in check.split_runs)
        yield ""
        yield f"Gates on splits of {halves} runs that took turns, as shares:"
        rows = []
        for splits in check.splits:
            counts = (*(splits.verdicts.get(verdict, 0) for verdict in ORDER), splits.missed)
            shares = (f"{n / splits.count:.0%}" for n in counts)
            rows.append([splits.gate.text, str(splits.count), *shares])
        heads = ("", "splits", *(verdict.value for verdict in ORDER), "missed")
        yield from aligned(table("", heads, rows), {0})
    yield ""
    yield NOT_INDEPENDENT
    yield from _noise(check)
    for caution in check.warnings:
        yield f"! {caution.text}"


def _noise(check: SelfCheck) -> Iterator[str]:
    """How far equal runs differed, and which margins will often not pass."""
    changed = [floor for floor in check.floors if floor.largest_change is not None]
    if changed:
        most = max(changed, key=lambda floor: floor.largest_change or 0.0)
        yield (
            f"Equal runs differed by up to {percent(most.largest_change)} ({_name(most)}) in these "
            "pairs; another pair may differ by more. No bound."
        )
    # The largest change is one pair's, the margin rests on the spread of all runs.
    planned = [floor for floor in changed if floor.margin is not None]
    if planned:
        most = max(planned, key=lambda floor: floor.margin or 0.0)
        yield (
            f"With {USUAL_RUNS} + {USUAL_RUNS} runs a margin below {percent(most.margin)} "
            f"({_name(most)}) will often not pass, even if nothing changed."
        )
