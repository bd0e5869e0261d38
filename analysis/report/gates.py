"""Gates in a report: the table of what was judged, each run's figures, and the pictures of both."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from analysis.charts import Bar, Dot, Picture, dots, forest
from analysis.comparison import Verdict
from analysis.gate import ERRORS, Gate
from analysis.judge import Judgement, Row
from analysis.metrics import METRICS
from analysis.report import words
from analysis.report.markup import Html, join, number, span, table, tag
from analysis.report.sides import Place, Sides, places
from analysis.welch import Difference, difference

Names = Mapping[str, str]
"""An arm's own name -> the one that is shown."""


def gate_label(gate: Gate) -> str:
    """What is gated, as people say it: `TTFT p95`, `errors`."""
    if gate.quantile is None:
        return gate.metric
    return f"{words.title(gate.metric)} {words.percentile(gate.quantile)}"


def margin(gate: Gate) -> str:
    """How much worse it may get."""
    return f"{gate.margin * 100:.4g} {'pp' if gate.quantile is None else '%'}"


def change(row: Row) -> str:
    """The change with its sign: per cent of the baseline, or points."""
    return words.change(row.comparison.ratio, share=row.gate.quantile is None)


def interval(row: Row) -> str:
    """The two-sided interval of the change; a dash where there is none."""
    one = row.comparison
    if one.ratio is None:
        return "-"
    return words.change_interval(one.low, one.high, share=row.gate.quantile is None)


def gate_table(found: Judgement, names: Names) -> Html:
    """Every gate of every candidate with its figures, its verdict, and why it is not decided."""
    several = len(found.candidates) > 1
    head = ["gate", *(["arm"] if several else []), "verdict", names[found.baseline.name]]
    head += ["candidate", "change", "margin", "requests", "why, and how"]
    rows = [
        [gate_label(row.gate), *([names[row.arm]] if several else []), *_gate(row)]
        for row in found.rows
    ]
    caption = (
        "What was gated. Quantiles are geometric means over an arm's runs, error rates plain means; "
        "a change is candidate / baseline - 1, of error rates candidate - baseline, with its 95 % interval"
    )
    return table(caption, head, rows)


def _gate(row: Row) -> Iterator[object]:
    one = row.comparison
    yield verdict_mark(one.verdict)
    for value in (one.baseline, one.candidate):
        yield number(value, figure(value, one.unit))
    yield (
        join([number(one.ratio, change(row)), span(one.low, one.high, interval(row))], tag("br"))
        if one.ratio is not None
        else "-"
    )
    yield margin(row.gate)
    yield tag("span", f"{one.n_baseline:,} / {one.n_candidate:,}", class_="whole")
    yield ". ".join(filter(None, [row.reason, one.method]))


def verdict_mark(verdict: Verdict) -> Html:
    """A verdict as a word with a colour."""
    return tag("span", verdict.value, class_=f"mark {verdict.value}")


def figure(value: float | None, unit: str) -> str:
    """A figure as people read it; a share in per cent."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "timed out"
    return f"{value:.2%}" if unit == "share" else words.amount(value, unit)


def forests(found: Judgement, names: Names) -> list[Picture | None]:
    """The ratios in one picture, the differences of error rates in another."""
    several = len(found.candidates) > 1
    rows = [(row, _bar(row, names[row.arm] if several else "")) for row in found.rows]
    ratios = [bar for row, bar in rows if row.gate.quantile is not None]
    shares = [bar for row, bar in rows if row.gate.quantile is None]
    return [
        forest("Change of each gated quantity", ratios) if ratios else None,
        forest("Change of the error rate", shares) if shares else None,
    ]


def _bar(row: Row, arm: str) -> Bar:
    one, gate = row.comparison, row.gate
    higher = gate.metric != ERRORS and METRICS[gate.metric].better == "higher"
    share = gate.quantile is None
    limit = gate.margin if share else 1 + gate.margin
    return Bar(
        label=" ".join(filter(None, [arm, gate_label(gate)])),
        value=one.ratio,
        low=one.low,
        high=one.high,
        said=one.verdict.value,
        passes=(1 / limit, None) if higher else (None, limit),
        decides=_decides(row, higher=higher),
        share=share,
    )


def _decides(row: Row, *, higher: bool) -> float | None:
    """The one-sided bound that is held against the margin (analysis.judge)."""
    if row.comparison.ratio is None:
        return None
    found = _difference(row)
    bound = found.least if higher else found.most
    return bound if row.gate.quantile is None else math.exp(bound)


def _difference(row: Row) -> Difference:
    if row.gate.quantile is None:
        return difference(row.baseline_runs, row.candidate_runs)
    return difference(np.log(row.baseline_runs).tolist(), np.log(row.candidate_runs).tolist())


def run_figures(
    found: Judgement, names: Names
) -> dict[tuple[str, float | None], dict[str, tuple[float, ...]]]:
    """Of each gated quantity the figure of every run, by arm, in the order in which they began."""
    by: dict[tuple[str, float | None], dict[str, tuple[float, ...]]] = {}
    base = names[found.baseline.name]
    for row in found.rows:
        own = by.setdefault((row.gate.metric, row.gate.quantile), {base: row.baseline_runs})
        own[names[row.arm]] = row.candidate_runs
    return by


def run_dots(found: Judgement, names: Names, sides: Sides) -> Iterator[Picture | None]:
    """A picture for each gated quantity: every run's figure, in the order in which they began."""
    order = places(sides)
    means = {
        (row.gate.metric, row.gate.quantile, names[arm]): centre
        for row in found.rows
        for arm, centre in (
            (found.baseline.name, row.comparison.baseline),
            (row.arm, row.comparison.candidate),
        )
    }
    for (metric, p), by_side in run_figures(found, names).items():
        some = [Dot(one.side, one.order, one.name, by_side[one.side][one.number - 1])
                for one in order if one.side in by_side]  # fmt: skip
        centres = {side: means[metric, p, side] for side in by_side}
        title = "Error rate" if p is None else f"{words.title(metric)} {words.percentile(p)}"
        unit = "share" if p is None else METRICS[metric].unit
        known = {side: math.nan if one is None else one for side, one in centres.items()}
        yield dots(title, unit, some, known)


def figures_table(found: Judgement, names: Names, sides: Sides) -> Html:
    """Each run's figure of each gated quantity, as the interval is made of them."""
    by = run_figures(found, names)
    head = ["run", "of all", *(_quantity(metric, p) for metric, p in by)]
    rows = [[one.name, one.order, *_figures(one, by)] for one in places(sides)]
    return table("Figures of each run, in the order in which they began", head, rows)


def _quantity(metric: str, p: float | None) -> str:
    return "error rate" if p is None else f"{words.title(metric)} {words.percentile(p)}"


def _figures(
    place: Place, by: Mapping[tuple[str, float | None], Mapping[str, Sequence[float]]]
) -> Iterator[object]:
    for (metric, p), by_side in by.items():
        runs = by_side.get(place.side)
        value = math.nan if runs is None else runs[place.number - 1]
        unit = "share" if p is None else METRICS[metric].unit
        yield number(value if math.isfinite(value) else None, figure(value, unit))
