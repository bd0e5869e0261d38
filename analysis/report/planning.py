"""A plan for a person, and for a program."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from tbench.analysis.comparison import Verdict
from tbench.analysis.planning import (
    RUNS,
    USUAL_RUNS,
    PairPlan,
    PassRate,
    Plan,
    PowerEstimate,
    Together,
)
from tbench.analysis.power import ASSUMED_SD, MOST_RUNS, SURE
from tbench.analysis.replicates import Replicates
from tbench.analysis.report.words import percentile
from tbench.analysis.selfcheck import Floor, SelfCheck, Splits
from tbench.analysis.variance import Spread
from tbench.capture.terminal import plural

UNBOUNDED = "unbounded"
ONE_PAIR = "One pair of runs. It advises only: what differs from run to run is not in it."
REPEATED = f"Repeated runs, which take turns. Each gate by itself, with the sd at its upper {SURE:.0%} limit."


def plan_json(found: Plan) -> dict[str, Any]:
    """What `tbench power --json` prints. Shares and logarithms, .03 = 3%; null where there is none."""
    return {
        "pilot": [_arm_json(arm) for arm in found.arms],
        "effect": found.aim.effect,
        "margin": found.aim.margin,
        "power": found.aim.power,
        "run_s": found.run_s,
        "together": _together_json(found.together),
        "metrics": [_prospect_json(prospect) for prospect in found.prospects],
        "warnings": [str(caution) for caution in found.warnings],
    }


def _together_json(together: Together | None) -> dict[str, Any] | None:
    return None if together is None else {**asdict(together), "plans": list(RUNS)}


def _arm_json(arm: Replicates) -> dict[str, Any]:
    return {
        "name": arm.name,
        "runs": [str(run.path) for run in arm.runs],
        "requests": [len(run) for run in arm.runs],
    }


def _prospect_json(prospect: PowerEstimate) -> dict[str, Any]:
    spread, pair = prospect.spread, prospect.one_pair
    return {
        **spread_json(spread),
        "planned_sd": prospect.sd,
        "assumed": prospect.assumed,
        "one_pair": None if pair is None else asdict(pair),
        "plans": [asdict(chance) for chance in prospect.chances],
        "runs_to_pass": prospect.runs_to_pass,
        "runs_to_see": prospect.runs_to_see,
        "warning": prospect.warning,
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


def plan_text(found: Plan) -> Iterator[str]:
    """Lines for a terminal or a log."""
    aim = found.aim
    for arm in found.arms:
        what = "1 trace" if arm.runs[0].kind == "trace" else plural(len(arm.runs), "run")
        yield f"pilot      {arm.name}: {what} of {_time(found.run_s)} or more"
    yield (
        f"plan       find +{_percent(aim.effect)}, pass a margin of {_percent(aim.margin)} if nothing "
        f"changed; power {_percent(aim.power)}"
    )
    yield from _one_pair(found)
    yield from _spreads(found)
    yield from _chances(found)
    yield from _conclusions(found)


def _one_pair(found: Plan) -> Iterator[str]:
    effect = _percent(found.aim.effect)
    takes, finds = f"±{effect} takes", f"+{effect} found by"
    yield ""
    yield ONE_PAIR
    yield f"{'':<12}{'requests':>9}{'interval':>11}{takes:>15}{finds:>17}{'lasts':>9}"
    for prospect in found.prospects:
        start = f"{_name(prospect.spread):<12}{prospect.spread.n:>9,}"
        pair = prospect.one_pair
        yield start + (f"  {prospect.spread.refusal}" if pair is None else _pair(pair))
    sources = {one.spread.within.source for one in found.prospects if one.spread.within}
    if "pairs" in sources:
        yield "interval: of neighbouring runs, request by request (docs/statistics.md)"
    if "blocks" in sources:
        yield "interval: from one run's own blocks, as if nothing were shared; pairs are often narrower"


def _pair(pair: PairPlan) -> str:
    width = (
        f"±{_percent(math.expm1(pair.half_width))}" if math.isfinite(pair.half_width) else UNBOUNDED
    )
    lasts = "-" if pair.seconds is None else _time(pair.seconds)
    return f"{width:>11}{_count(pair.requests):>15}{_count(pair.requests_to_find):>17}{lasts:>9}"


def _spreads(found: Plan) -> Iterator[str]:
    if any(prospect.spread.within for prospect in found.prospects):
        yield ""
        yield f"{'':<12}{'run to run':>11}  {'95% interval':<18}{'within a run':>13}  what helps"
    for prospect in found.prospects:
        spread = prospect.spread
        if spread.within is not None:
            advice = spread.advice or "-"
            yield f"{_name(spread):<12}{_run_sd(prospect)}{_percent(spread.within.se):>13}  {advice}"


def _run_sd(prospect: PowerEstimate) -> str:
    spread = prospect.spread
    if prospect.assumed:
        return f"{_percent(ASSUMED_SD):>11}  {'assumed':<18}"
    if spread.low is None or spread.high is None:
        return f"{'-':>11}  {'-':<18}"
    span = f"{_percent(spread.low)} to {_percent(spread.high)}"
    return f"{_percent(spread.sd):>11}  {span:<18}"


def _chances(found: Plan) -> Iterator[str]:
    shown = [prospect for prospect in found.prospects if prospect.chances]
    if not shown:
        return
    runs = "".join(f"{chance.runs:>6}" for chance in shown[0].chances)
    yield ""
    yield REPEATED
    yield f"{'':<12}{'runs per arm':<18}{runs}   takes"
    for prospect in shown:
        yield from _block(prospect)
    if (together := found.together) is not None and together.gates > 1:
        shares = "".join(f"{share * 100:>4.0f} %" for share in together.passes)
        name = f"all {together.gates}"
        yield f"{name:<12}{'equal arms PASS':<18}{shares}   {_takes(together.runs)}"


def _block(prospect: PowerEstimate) -> Iterator[str]:
    aim, high = prospect.aim, prospect.spread.high
    yield _line(
        _name(prospect.spread), "equal arms PASS", prospect, "passes", prospect.runs_to_pass
    )
    if high is not None:
        yield _line("", f"  if sd is {_percent(high)}", prospect, "passes_at_worst", None)
    yield _line("", f"+{_percent(aim.effect)} is seen", prospect, "sees", prospect.runs_to_see)
    if aim.effect > aim.margin:
        yield _line("", f"+{_percent(aim.effect)} FAILs", prospect, "fails", None)


def _line(name: str, what: str, prospect: PowerEstimate, field: str, takes: int | None) -> str:
    shares = "".join(f"{_share(chance, field):>6}" for chance in prospect.chances)
    needed = "" if field not in {"passes", "sees"} else _takes(takes)
    return f"{name:<12}{what:<18}{shares}   {needed}".rstrip()


def _share(chance: PassRate, field: str) -> str:
    return f"{getattr(chance, field) * 100:.0f} %"


def _takes(runs: int | None) -> str:
    return f"> {MOST_RUNS:,}" if runs is None else str(runs)


def _conclusions(found: Plan) -> Iterator[str]:
    yield ""
    passing = [prospect for prospect in found.prospects if prospect.chances]
    if passing:
        worst = max(passing, key=lambda prospect: prospect.sd or 0.0)
        if worst.warning:
            yield f"{_name(worst.spread)}: {worst.warning}."
        if found.together is not None:
            yield _advice(found, found.together)
    for caution in found.warnings:
        yield f"! {caution.text}"


def _advice(found: Plan, together: Together) -> str:
    margin, chance = _percent(found.aim.margin), _percent(found.aim.power)
    gates, pass_ = (
        ("The gate", "passes") if together.gates == 1 else (f"All {together.gates} gates", "pass")
    )
    if together.runs is None:
        return (
            f"No number of runs up to {MOST_RUNS:,} passes {margin} so often: take a wider margin."
        )
    lasts = _time(2 * together.runs * found.run_s)
    return (
        f"{gates} of {margin} {pass_} in {chance} of plans if nothing changed with {together.runs} + "
        f"{together.runs} runs like the pilot's, {lasts} one after another."
    )


def _name(spread: Spread) -> str:
    return f"{spread.metric} {percentile(spread.quantile)}"


def _percent(share: float | None) -> str:
    if share is None or not math.isfinite(share):
        return UNBOUNDED
    return f"{share * 100:.2g} %" if share < 0.1 else f"{share * 100:.3g} %"


def _count(requests: int | None) -> str:
    return "-" if requests is None else f"{requests:,}"


def _time(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:.3g} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


# A self-check for a person, and for a program.

ORDER = (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE)
NOT_INDEPENDENT = (
    "Comparisons that share a run are not independent of each other: read the shares roughly."
)


def self_check_json(found: SelfCheck) -> dict[str, Any]:
    """What `compare --self-check --json` prints. Shares: .03 is 3%; null where there is none."""
    return {
        "arms": [
            {"name": arm.name, "runs": [str(run.path) for run in arm.runs]} for arm in found.arms
        ],
        "pairs": found.pairs,
        "floors": [_floor_json(floor) for floor in found.floors],
        "splits": [_splits_json(splits) for splits in found.splits],
        "split_runs": list(found.split_runs),
        "warnings": [str(caution) for caution in found.warnings],
    }


def _floor_json(floor: Floor) -> dict[str, Any]:
    return {
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


def _splits_json(splits: Splits) -> dict[str, Any]:
    return {
        "gate": splits.gate.text,
        "count": splits.count,
        "missed": splits.missed,
        "verdicts": {verdict.value: splits.verdicts.get(verdict, 0) for verdict in ORDER},
    }


def self_check_text(found: SelfCheck) -> Iterator[str]:
    """Lines for a terminal or a log."""
    for arm in found.arms:
        yield f"self-check  {arm.name}: {plural(len(arm.runs), 'run')}, which should not differ"
    yield ""
    yield f"One pair of runs, {plural(found.pairs, 'comparison')}; 5% of the intervals may miss 1:"
    margin = f"margin for {USUAL_RUNS} + {USUAL_RUNS}"
    yield f"{'':<12}{'compared':>9}{'median':>9}{'largest':>9}{'missed 1':>12}{'drift':>7}{margin:>19}"
    for floor in found.floors:
        yield _floor_line(floor)
    yield from _split_lines(found)
    yield ""
    yield NOT_INDEPENDENT
    yield from _conclusion(found)
    for caution in found.warnings:
        yield f"! {caution.text}"


def _floor_line(floor: Floor) -> str:
    compared = f"{len(floor.answered)}/{len(floor.rows)}"
    start = f"{floor.metric + ' ' + percentile(floor.quantile):<12}{compared:>9}"
    if not floor.answered:
        return f"{start}  {'; '.join(floor.refusals)}"
    sizes = "".join(
        f"{_percentage(size):>9}" for size in (floor.median_change, floor.largest_change)
    )
    missed = f"{floor.missed} ({floor.missed / len(floor.answered):.0%})"
    return f"{start}{sizes}{missed:>12}{floor.drifting:>7}{_percentage(floor.margin):>19}"


def _split_lines(found: SelfCheck) -> Iterator[str]:
    if not found.splits:
        return
    halves = ", ".join(f"{runs} + {runs}" for runs in found.split_runs)
    yield ""
    yield f"Gates on splits of {halves} runs that took turns, as shares:"
    yield f"{'':<22}{'splits':>7}{'PASS':>7}{'FAIL':>7}{'INCONCLUSIVE':>14}{'missed':>9}"
    for splits in found.splits:
        passed, failed, open_ = (splits.verdicts.get(v, 0) / splits.count for v in ORDER)
        yield (
            f"{splits.gate.text:<22}{splits.count:>7}{passed:>7.0%}{failed:>7.0%}{open_:>14.0%}"
            f"{splits.missed / splits.count:>9.0%}"
        )


def _conclusion(found: SelfCheck) -> Iterator[str]:
    sizes = [floor for floor in found.floors if floor.largest_change is not None]
    if sizes:
        most = max(sizes, key=lambda floor: floor.largest_change or 0.0)
        yield (
            f"Equal runs differed by up to {_percentage(most.largest_change)} ({most.metric} "
            f"{percentile(most.quantile)}) in these pairs; another pair may differ by more. No bound."
        )
    wide = [floor for floor in sizes if floor.margin is not None]
    if wide:
        most = max(wide, key=lambda floor: floor.margin or 0.0)
        yield (
            f"With {USUAL_RUNS} + {USUAL_RUNS} runs a margin below {_percentage(most.margin)} "
            f"({most.metric} {percentile(most.quantile)}) will often not pass, even if nothing changed."
        )


def _percentage(share: float | None) -> str:
    if share is None:
        return "-"
    return f"{share * 100:.2g} %" if share < 0.1 else f"{share * 100:.3g} %"
