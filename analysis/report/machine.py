"""Machine: the same facts as JSON. What is absent, unbounded or infinite is null."""

import math
from dataclasses import asdict
from typing import Any

import orjson

from tbench.analysis.arms import Arm
from tbench.analysis.compare import Comparison, Comparisons
from tbench.analysis.comparison import EqualLengths
from tbench.analysis.mean_ratio import GeometricMean, Overall
from tbench.analysis.metrics import METRICS, Metric, values
from tbench.analysis.proportions import GOOD, ErrorDifference, Pair, rates, ratio
from tbench.analysis.report.words import percentile
from tbench.analysis.slo import Slo
from tbench.analysis.summary import Summary, summarise
from tbench.replay import measures
from tbench.replay.columns import Column
from tbench.replay.totals import numbers

Json = dict[str, Any]


def dump(document: Json) -> str:
    """One JSON object. NaN and infinity, which JSON lacks, become null."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()


def comparison_json(found: Comparisons) -> Json:
    """The object of `compare --json`."""
    return {
        "verdict": found.verdict.value,
        "comparisons": [_row(row) for row in found.rows],
        "rates": {first.name: _pair((first, second)) for first, second in found.rates},
        "warnings": [str(caution) for caution in found.warnings],
        "paired": found.paired,
        "requests": list(found.requests),
        "arms": [_arm(found.baseline), _arm(found.candidate)],
        "errors": _errors(found.errors),
        "equal_lengths": _equal_lengths(found.equal_lengths),
        "shift": {
            name: [asdict(point) for point in points] for name, points in found.shift.items()
        },
        "overall": {name: _overall(one) for name, one in found.overall.items()},
        "definitions": {name: METRICS[name].definition for name in found.shift},
    }


def _pair(pair: Pair) -> Json:
    first, second = pair
    return {
        "unit": first.unit,
        "baseline": first.value,
        "candidate": second.value,
        "ratio": ratio(pair),
        "without_token_counts": [first.uncounted, second.uncounted],
    }


def report_json(arm: Arm, *, samples: bool = False, slo: Slo = ()) -> Json:
    """The object of `report --json`: the numbers of `replay --json`, and each metric with its intervals."""
    document = {
        **numbers(arm.run),
        **_arm(arm),
        **{one.name: one.value for one in rates(arm, slo=slo) if one.name in GOOD},
        "summaries": {one.metric: _summary(one) for one in summaries(arm)},
    }
    return document | {"samples": sample_arrays(arm)} if samples else document


def summaries(arm: Arm) -> list[Summary]:
    """Every metric of METRICS that the arm has a value for, over the requests that count."""
    found = (_summarised(arm, metric) for metric in METRICS.values())
    return [summary for summary in found if summary.n]


def _summarised(arm: Arm, metric: Metric) -> Summary:
    counted = values(arm, metric)[arm.measured]
    return summarise(metric.name, metric.unit, counted, timeout_s=arm.timeout_s)


def sample_arrays(arm: Arm) -> dict[str, list[Any]]:
    """All samples as equally long lists, in the order of the plan; None where absent."""
    columns = arm.columns
    return {
        "id": columns["id"].tolist(),
        "due_s": _floats(columns["due"]),
        "sent_s": _floats(columns["sent"]),
        "sent_wall_ns": _whole(columns["sent_wall_ns"]),
        "first_wall_ns": _whole(columns["first_wall_ns"]),
        "ttft_s": _floats(measures.ttft(columns)),
        "tpot_s": _floats(measures.tpot(columns)),
        "e2e_s": _floats(measures.e2e(columns)),
        "prompt_tokens": _whole(columns["prompt_tokens"]),
        "output_tokens": _whole(columns["output_tokens"]),
        "status": _whole(columns["status"]),
        "outcome": columns["outcome"].tolist(),
    }


def _floats(column: Column) -> list[float | None]:
    return [None if math.isnan(value) else value for value in column.tolist()]


def _whole(column: Column) -> list[int | None]:
    return [None if value < 0 else value for value in column.tolist()]


def _row(row: Comparison) -> Json:
    return {
        "metric": row.metric,
        "quantile": row.quantile,
        "baseline": row.baseline,
        "candidate": row.candidate,
        "ratio": row.ratio,
        "ci": [row.low, row.high],
        "confidence": row.confidence,
        "method": row.method,
        "n": min(row.n_baseline, row.n_candidate),
        "runs": min(row.runs),
        "verdict": row.verdict.value,
        "warnings": [str(caution) for caution in row.warnings],
        "unit": row.unit,
        "n_baseline": row.n_baseline,
        "n_candidate": row.n_candidate,
        "finding": row.finding,
        "p_value": row.p_value,
        "q_value": row.q_value,
        "sessions": row.sessions,
        "refusal": row.refusal,
        "baseline_at_least": row.baseline_at_least,
        "candidate_at_least": row.candidate_at_least,
        "blocks": row.blocks,
        "block_requests": row.block_requests,
        "block_seconds": row.block_seconds,
        "rho": row.rho,
        "drift": row.drift,
        "thirds": list(row.thirds) if row.thirds else None,
    }


def _arm(arm: Arm) -> Json:
    return {
        "name": arm.name,
        "kind": arm.kind,
        "path": str(arm.path),
        "model": arm.model,
        "target": arm.target,
        "pacing": arm.pacing,
        "open_loop": arm.open_loop,
    }


def _overall(one: Overall) -> Json:
    return {
        "geometric_mean": _with_interval(one.geometric) if one.geometric else None,
        "thirds": list(one.thirds) if one.thirds else None,
        "n": one.effective.n,
        "tau": one.effective.tau,
        "effective_n": one.effective.worth,
        "confidence": one.confidence,
        "doubts": list(one.doubts),
    }


def _with_interval(found: GeometricMean) -> Json:
    """Its fields, the two ends as one."""
    fields = asdict(found)
    return {"ci": [fields.pop("low"), fields.pop("high")], **fields}


def _equal_lengths(found: EqualLengths | None) -> Json | None:
    if found is None:
        return None
    rows = [_row(row) for row in found.rows]
    return {"n": found.n, "overlap": found.overlap, "refusal": found.refusal, "comparisons": rows}


def _errors(errors: ErrorDifference) -> Json:
    return {
        "baseline": errors.baseline,
        "candidate": errors.candidate,
        "difference": errors.difference,
        "ci": [errors.low, errors.high],
        "method": errors.method,
        "n": [errors.n_baseline, errors.n_candidate],
        "kinds": [dict(errors.kinds_baseline), dict(errors.kinds_candidate)],
    }


def _summary(summary: Summary) -> Json:
    return {
        "unit": summary.unit,
        "definition": METRICS[summary.metric].definition,
        "n": summary.n,
        "timeouts": summary.timeouts,
        "absent": summary.absent,
        "mean": summary.mean,
        "min": summary.minimum,
        "max": summary.maximum,
        "quantiles": {
            percentile(one.p): {
                "value": one.value,
                "ci": [one.low, one.high],
                "confidence": "descriptive: as if requests were independent",
                "at_least": one.at_least,
                "smooth": one.smooth,
                "refusal": one.refusal,
            }
            for one in summary.quantiles
        },
    }
