"""A self-check for a person, and for a program."""

from collections.abc import Iterator
from typing import Any

from tbench.analysis.comparison import Verdict
from tbench.analysis.planning import USUAL_RUNS
from tbench.analysis.report.words import percentile
from tbench.analysis.selfcheck import Floor, SelfCheck, Splits
from tbench.capture.terminal import plural

ORDER = (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE)
NOT_INDEPENDENT = (
    "Comparisons that share a run are not independent of each other: read the shares roughly."
)


def self_check_json(found: SelfCheck) -> dict[str, Any]:
    """What `compare --self-check --json` prints. Shares: .03 is 3 %; null where there is none."""
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
    yield f"One pair of runs, {found.pairs} comparisons; 5 % of the intervals may miss 1:"
    margin = f"margin for {USUAL_RUNS} + {USUAL_RUNS}"
    yield f"{'':<12}{'compared':>9}{'median':>9}{'largest':>9}{'missed 1':>12}{'drift':>7}{margin:>19}"
    for floor in found.floors:
        yield _floor_line(floor)
    yield from _split_lines(found)
    yield ""
    yield NOT_INDEPENDENT
    yield from _conclusion(found)
    for caution in found.warnings:
        yield f"! {caution}"


def _floor_line(floor: Floor) -> str:
    compared = f"{len(floor.answered)}/{len(floor.rows)}"
    start = f"{floor.metric + ' ' + percentile(floor.quantile):<12}{compared:>9}"
    if not floor.answered:
        return f"{start}  {'; '.join(floor.refusals)}"
    sizes = "".join(f"{_percent(size):>9}" for size in (floor.median_change, floor.largest_change))
    missed = f"{floor.missed} ({floor.missed / len(floor.answered):.0%})"
    return f"{start}{sizes}{missed:>12}{floor.drifting:>7}{_percent(floor.margin):>19}"


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
            f"Equal runs differed by up to {_percent(most.largest_change)} ({most.metric} "
            f"{percentile(most.quantile)}) in these pairs; another pair may differ by more. No bound."
        )
    wide = [floor for floor in sizes if floor.margin is not None]
    if wide:
        most = max(wide, key=lambda floor: floor.margin or 0.0)
        yield (
            f"With {USUAL_RUNS} + {USUAL_RUNS} runs a margin below {_percent(most.margin)} "
            f"({most.metric} {percentile(most.quantile)}) will often not pass, even if nothing changed."
        )


def _percent(share: float | None) -> str:
    if share is None:
        return "-"
    return f"{share * 100:.2g} %" if share < 0.1 else f"{share * 100:.3g} %"
