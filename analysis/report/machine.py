"""Machine: the same facts as JSON. What is absent, unbounded or infinite is null."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Final

import orjson

from tbench.analysis.arms import Arm
from tbench.analysis.beyond import left_out
from tbench.analysis.compare import Comparison, Comparisons
from tbench.analysis.gate_results import GateResults
from tbench.analysis.means import Overall
from tbench.analysis.metrics import METRICS, values
from tbench.analysis.report.gate_sentences import declared, objectives, unseen_runs
from tbench.analysis.run_metrics import Slo, rates, ratio
from tbench.analysis.spending import TITLES, CostRatio, over_runs, spending
from tbench.analysis.summary import Summary, summarise
from tbench.analysis.words import percentile
from tbench.replay import metrics
from tbench.replay.columns import Column

Json = dict[str, Any]


def dump(document: Json) -> str:
    """One JSON object. NaN and infinity, which JSON lacks, become null."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()


def comparison_json(comparison: Comparisons) -> Json:
    """The object of `compare --json`."""
    errors, equal, shift = comparison.errors, comparison.equal_lengths, comparison.shift
    return {
        "verdict": comparison.verdict.value,
        "comparisons": [_row(row) for row in comparison.rows],
        "costs": {
            first.name: {
                "baseline": first.value,
                "candidate": second.value,
                "ratio": change.value,
                **_bounds(change),
            }
            for first, second, change in comparison.costs
        },
        "rates": {
            first.row.name: {
                "unit": first.row.unit,
                "baseline": first.value,
                "candidate": second.value,
                "ratio": ratio((first, second)),
                "without_token_counts": [first.uncounted, second.uncounted],
            }
            for first, second in comparison.rates
        },
        "warnings": [str(caution) for caution in comparison.warnings],
        "paired": comparison.paired,
        "requests": list(comparison.requests),
        "arms": [_arm(comparison.baseline), _arm(comparison.candidate)],
        "errors": {
            "baseline": errors.baseline,
            "candidate": errors.candidate,
            "difference": errors.difference,
            "ci": [errors.low, errors.high],
            "method": errors.method,
            "n": [errors.n_baseline, errors.n_candidate],
            "kinds": [dict(errors.kinds_baseline), dict(errors.kinds_candidate)],
        },
        "equal_lengths": equal
        and {
            "n": equal.n,
            "overlap": equal.overlap,
            "refusal": equal.refusal,
            "comparisons": [_row(row) for row in equal.rows],
        },
        "shift": {name: [asdict(point) for point in points] for name, points in shift.items()},
        "overall": {name: _overall(overall) for name, overall in comparison.overall.items()},
        "definitions": {name: METRICS[name].definition for name in shift},
    }


def report_json(arm: Arm, *, samples: bool = False, slo: Slo = ()) -> Json:
    """The object of `report --json`: the numbers of `replay --json`, and each metric with its intervals."""
    document = {
        **arm.numbers,
        "fidelity": arm.run.fidelity.json if arm.kind == "run" and arm.sums is None else None,
        "beyond_memory": arm.sums and left_out(arm),
        **_arm(arm),
        **{rate.row.name: rate.value for rate in rates(arm, slo=slo) if rate.row.needs_slo},
        "cost": _cost(arm),
        "summaries": {summary.metric: _summary(summary) for summary in summaries(arm)},
    }
    return document | {"samples": sample_arrays(arm)} if samples else document


def _cost(arm: Arm) -> Json:
    """What an arm's requests cost, and each ratio with its interval."""
    spent = spending(arm)
    each = {name: {"value": cost.value, **_bounds(cost)} for name, cost in spent.ratios.items()}
    return {"usd": spent.usd, "uncounted": spent.uncounted, "refusal": spent.refusal, **each}


def _bounds(cost: CostRatio) -> Json:
    low, high, refusal = cost.interval
    return {"ci": [low, high], "refusal": refusal}


def summaries(arm: Arm, names: Iterable[str] | None = None) -> list[Summary]:
    """Every metric (or those of these names) that the arm has a value for, over the requests that count."""
    every = (
        summarise(
            name,
            METRICS[name].unit,
            values(arm, METRICS[name])[arm.measured] if arm.sums is None else arm.sums.whole(name),
            timeout_s=arm.timeout_s if METRICS[name].waits else None,
        )
        for name in (METRICS if names is None else names)
        if arm.sums is None or name in arm.sums.spreads
    )
    return [summary for summary in every if summary.n]


def sample_arrays(arm: Arm) -> dict[str, list[Any]]:
    """All samples as equally long lists, in the order of the plan; None where absent."""
    columns = arm.columns
    return {
        "id": columns["id"].tolist(),
        "due_s": _floats(columns["due"]),
        "sent_s": _floats(columns["sent"]),
        "sent_wall_ns": _counts(columns["sent_wall_ns"]),
        "first_wall_ns": _counts(columns["first_wall_ns"]),
        "ttft_s": _floats(metrics.ttft(columns)),
        "tpot_s": _floats(metrics.tpot(columns)),
        "e2e_s": _floats(metrics.e2e(columns)),
        "prompt_tokens": _counts(columns["prompt_tokens"]),
        "output_tokens": _counts(columns["output_tokens"]),
        "status": _counts(columns["status"]),
        "outcome": columns["outcome"].tolist(),
    }


def _floats(column: Column) -> list[float | None]:
    return [None if math.isnan(value) else value for value in column.tolist()]


def _counts(column: Column) -> list[int | None]:
    return [None if value < 0 else value for value in column.tolist()]


COMPARED: Final = (
    *("metric", "quantile", "baseline", "candidate", "ratio", "confidence", "method", "unit"),
    *("n_baseline", "n_candidate", "finding", "p_value", "q_value", "sessions", "refusal"),
    *("baseline_at_least", "candidate_at_least", "blocks", "block_requests", "block_seconds"),
    *("rho", "drift"),
)
"""Fields of a row that are written as they are."""


def _row(row: Comparison) -> Json:
    return {
        **{name: getattr(row, name) for name in COMPARED},
        "ci": [row.low, row.high],
        "n": min(row.n_baseline, row.n_candidate),
        "runs": min(row.runs),
        "verdict": row.verdict.value,
        "warnings": [str(caution) for caution in row.warnings],
        "thirds": list(row.thirds) if row.thirds else None,
    }


def _arm(arm: Arm) -> Json:
    names = ("name", "kind", "model", "target", "pacing", "open_loop")
    return {
        **{name: getattr(arm, name) for name in names},
        "path": str(arm.path),
        "hit_rates": arm.run.totals.get("hit_rates"),
        "probe": (arm.run.header.get("cache") or {}).get("probe"),
    }


def _overall(overall: Overall) -> Json:
    """The mean ratio of a metric; the two ends of its interval as one field."""
    mean: Json | None = None
    if overall.geometric:
        mean = asdict(overall.geometric)
        mean = {"ci": [mean.pop("low"), mean.pop("high")], **mean}
    return {
        "geometric_mean": mean,
        "thirds": list(overall.thirds) if overall.thirds else None,
        "n": overall.effective.n,
        "tau": overall.effective.tau,
        "effective_n": overall.effective.n_eff,
        "confidence": overall.confidence,
        "doubts": list(overall.doubts),
    }


def _summary(summary: Summary) -> Json:
    names = ("unit", "n", "timeouts", "absent", "mean")
    return {
        **{name: getattr(summary, name) for name in names},
        "definition": METRICS[summary.metric].definition,
        "min": summary.minimum,
        "max": summary.maximum,
        "quantiles": {
            percentile(point.p): {
                **{
                    name: getattr(point, name)
                    for name in ("value", "at_least", "smooth", "refusal")
                },
                "ci": [point.low, point.high],
                "confidence": "descriptive: as if requests were independent",
            }
            for point in summary.quantiles
        },
    }


# Repeated runs held against gates.

LEVEL: Final = 0.9
"""Of the interval of a change: each end by itself is the one-sided 95% bound that decides."""
GATED: Final = ("metric", "unit", "baseline", "candidate", "confidence", "method")
"""Fields of a gate's comparison that are written as they are."""


def judgement_json(results: GateResults) -> Json:
    """What `tbench compare --margin --json` prints."""
    history, sessions = results.history, None
    if history is not None:
        recorded = [session.recorded for session in history.sessions]
        sessions = {
            "file": str(history.path),
            "sessions": len(recorded),
            "first": recorded[0],
            "last": recorded[-1],
        }
    return {
        "verdict": results.verdict.value,
        "arms": [
            {
                "name": arm.name,
                "runs": [str(run.path) for run in arm.runs],
                "started_ns": list(arm.started_ns),
                "verdict": None if arm is results.baseline else results.verdict_of(arm.name).value,
                "unseen_bad_runs": unseen_runs(len(arm.runs)) if arm.runs else None,
                "cost": _cost_of_runs(arm.runs),
            }
            for arm in results.arms
        ],
        "requests": results.n,
        "contrast": results.contrast,
        "declared": declared(results),
        "slo": objectives(results),
        "history": sessions,
        "comparisons": [
            {
                "arm": row.arm,
                "gate": row.gate.text,
                "quantile": row.gate.quantile,
                "margin": row.gate.margin if row.gate.limit is None else None,
                "limit": row.gate.limit,
                "scale": row.gate.scale,
                **{name: getattr(row.comparison, name) for name in GATED},
                "ratio": row.comparison.ratio if row.gate.scale == "ratio" else None,
                "difference": row.comparison.ratio if row.gate.scale == "points" else None,
                "ci": [row.comparison.low, row.comparison.high],
                "bound": row.bound,
                "level": None if row.comparison.low is None else LEVEL,
                "n": [row.comparison.n_baseline, row.comparison.n_candidate],
                "runs": list(row.comparison.runs),
                "verdict": row.comparison.verdict.value,
                "reason": row.reason,
                "baseline_runs": _finite(row.baseline_runs),
                "candidate_runs": _finite(row.candidate_runs),
            }
            for row in results.rows
        ],
        "warnings": [str(caution) for caution in results.warnings],
    }


def _cost_of_runs(runs: Sequence[Arm]) -> Json:
    """What an arm's runs cost together, and each ratio with what differs from run to run."""
    spent = [spending(run) for run in runs]
    each = {}
    for name in TITLES:
        value, low, high, refusal = over_runs([each_run.ratios.get(name) for each_run in spent])
        each[name] = {"value": value, "ci": [low, high], "refusal": refusal}
    return {
        "usd": sum(each_run.usd for each_run in spent),
        "uncounted": sum(each_run.uncounted for each_run in spent),
        **each,
    }


def _finite(figures: Iterable[float]) -> list[float | None]:
    return [figure if math.isfinite(figure) else None for figure in figures]
