"""Gates in a report: the table of what was judged, each run's figures, and the pictures of both."""

import math
from collections.abc import Iterator, Mapping, Sequence

from tbench.analysis.charts import Bar, Dot, Picture, dots, forest
from tbench.analysis.comparison import Verdict
from tbench.analysis.gate import ERRORS, Gate
from tbench.analysis.gate_results import GateResults, GateRow
from tbench.analysis.report import words
from tbench.analysis.report.gate_sentences import (
    Names,
    change,
    change_cell,
    gate_label,
    interval,
    margin,
    reason,
)
from tbench.analysis.report.gate_sentences import sides as figures_of
from tbench.analysis.report.markup import Html, join, number, span, table, tag
from tbench.analysis.report.sides import Place, Sides, places
from tbench.analysis.run_metrics import endpoint


def gate_table(found: GateResults, names: Names) -> Html:
    """Every gate of every candidate with its figures, its verdict, and why it is not decided."""
    several = len(found.candidates) > 1
    other = "candidate" if several else names[found.candidates[0].name]
    head = ["gate", *(["arm"] if several else []), "verdict", names[found.baseline.name]]
    head += [other, "change", "margin", "requests", "reason and method"]
    rows = [
        [gate_label(row.gate), *([names[row.arm]] if several else []), *_gate(row)]
        for row in found.rows
    ]
    caption = (
        "What was gated. Quantiles and rates are geometric means over an arm's runs, shares plain means; a "
        "change is candidate / baseline - 1, of shares candidate - baseline, with its 90% interval, each "
        "end the one-sided 95% bound; where the candidate must hold a limit it is its own figure"
    )
    return table(caption, head, rows, phone={"gate", "arm", "verdict", "change"})


def _gate(row: GateRow) -> Iterator[object]:
    one = row.comparison
    yield verdict_mark(one.verdict)
    for value, shown in zip((one.baseline, one.candidate), figures_of(row), strict=True):
        yield number(value, shown)
    ends = span(one.low, one.high, interval(row)) if interval(row) else None
    shown = change(row) if row.gate.scale == "level" else change_cell(row)
    yield join(filter(None, [number(_shown(row), shown), ends]), tag("br"))
    yield margin(row.gate)
    yield tag("span", f"{one.n_baseline:,} / {one.n_candidate:,}", class_="whole")
    yield ". ".join(filter(None, [reason(row), one.method]))


def _shown(row: GateRow) -> float | None:
    return row.comparison.candidate if row.gate.scale == "level" else row.comparison.ratio


def verdict_mark(verdict: Verdict) -> Html:
    """A verdict as a word with a colour."""
    word = "not testable" if verdict is Verdict.SKIPPED else verdict.value
    return tag("span", word, class_=f"mark {verdict.value}")


def has_intervals(found: GateResults) -> bool:
    """Whether its changes have intervals: an experiment that may stop early has none."""
    return any(interval(row) for row in found.rows)


def forests(found: GateResults, names: Names) -> list[Picture | None]:
    """The ratios in one picture, the differences of shares in another; a limit has no change to draw."""
    several = len(found.candidates) > 1
    labels = _labels([(names[row.arm] if several else "", row.gate) for row in found.rows])
    rows = [(row, _bar(row, label)) for row, label in zip(found.rows, labels, strict=True)]
    ratios = [bar for row, bar in rows if row.gate.scale == "ratio"]
    shares = [bar for row, bar in rows if row.gate.scale == "points"]
    named = {row.gate.metric for row in found.rows if row.gate.scale == "points"}
    title = "Change of the error rate" if named == {ERRORS} else "Change of shares"
    return [
        forest("Change of each gated quantity", ratios) if ratios else None,
        forest(title, shares) if shares else None,
    ]


def _labels(rows: Sequence[tuple[str, Gate]]) -> list[str]:
    """Each gate with its arm; those that differ only in their margin have it, too."""
    plain = [" ".join(filter(None, [arm, gate_label(gate)])) for arm, gate in rows]
    return [
        label if plain.count(label) == 1 else f"{label}, {margin(gate)}"
        for label, (_, gate) in zip(plain, rows, strict=True)
    ]


def _bar(row: GateRow, label: str) -> Bar:
    one, gate = row.comparison, row.gate
    share = gate.scale == "points"
    edge = gate.shown(-gate.threshold if gate.higher else gate.threshold)
    return Bar(
        label=label,
        value=one.ratio,
        low=one.low,
        high=one.high,
        said=one.verdict.value,
        passes=(edge, None) if gate.higher else (None, edge),
        decides=row.bound if interval(row) else None,
        share=share,
        bare=not interval(row),
    )


def run_figures(
    found: GateResults, names: Names
) -> dict[tuple[str, float | None], dict[str, tuple[float, ...]]]:
    """Of each gated quantity the figure of every run, by arm, in the order in which they began."""
    by: dict[tuple[str, float | None], dict[str, tuple[float, ...]]] = {}
    base = names[found.baseline.name]
    for row in found.rows:
        own = by.setdefault((row.gate.metric, row.gate.quantile), {base: row.baseline_runs})
        own[names[row.arm]] = row.candidate_runs
    return by


def run_dots(found: GateResults, names: Names, sides: Sides) -> Iterator[Picture | None]:
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
        title, unit = _quantity(metric, p), endpoint(metric, p).unit
        known = {side: math.nan if one is None else one for side, one in centres.items()}
        yield dots(title, unit, some, known)


def figures_table(found: GateResults, names: Names, sides: Sides) -> Html:
    """Each run's figure of each gated quantity, as the interval is made of them."""
    by = run_figures(found, names)
    head = ["run", "of all", *(_quantity(metric, p) for metric, p in by)]
    rows = [[one.name, one.order, *_figures(one, by)] for one in places(sides)]
    return table("Figures of each run, in the order in which they began", head, rows)


def _quantity(metric: str, p: float | None) -> str:
    if p is None:
        return "Error rate" if metric == ERRORS else metric.replace("_", " ").capitalize()
    return f"{words.title(metric)} {words.percentile(p)}"


def _figures(
    place: Place, by: Mapping[tuple[str, float | None], Mapping[str, Sequence[float]]]
) -> Iterator[object]:
    for (metric, p), by_side in by.items():
        runs = by_side.get(place.side)
        value = math.nan if runs is None else runs[place.number - 1]
        column = [one for figures in by_side.values() for one in figures]
        shown = words.figure(value, endpoint(metric, p).unit, beside=column)
        yield number(value if math.isfinite(value) else None, shown)
