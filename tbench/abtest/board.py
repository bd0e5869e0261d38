"""What a person sees of an experiment: what it would do, how it goes, what its runs differ by."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tbench.abtest.plan import MEANINGS, AbPlan, Slot
from tbench.abtest.runner import Outlook, RunResult, shortage
from tbench.abtest.verdict import spreads
from tbench.analysis.gate_results import GateResults
from tbench.analysis.power import plan_warning
from tbench.analysis.words import quantity
from tbench.board import Board
from tbench.capture.errors import TbenchError
from tbench.capture.terminal import plural
from tbench.capture.trace_reader import read_trace
from tbench.replay.closing import dollars, priced, tokens_expected, with_hidden
from tbench.replay.closing import outlook as outlook_of_run
from tbench.replay.metrics import minimum_n
from tbench.replay.options import ReplayOptions
from tbench.replay.progress import clock, watching
from tbench.replay.runner import Watch
from tbench.run_store import DONE

COLUMNS: Final = (
    ("TTFT p50", "ttft", "p50"),
    ("p95", "ttft", "p95"),
    ("e2e p50", "e2e", "p50"),
)
"""Heading, metric and quantile."""


class AbBoard:
    """An experiment under way: a row for each arm, below it the replay of now; a line for each run made.

    All of the runs that were `left` when it was taken up.
    """

    def __init__(self, plan: AbPlan, left: Sequence[Slot]) -> None:
        self._plan = plan
        self._left = Counter(arm for slot in left for arm in slot.arms)
        self._runs: dict[str, list[RunResult]] = defaultdict(list)
        self._latencies: dict[str, list[list[float | None]]] = defaultdict(list)
        self._board = Board(self._drawn)

    def watch(self, slot: Slot) -> Watch:
        names = " and ".join(self._plan.treatments[arm].name for arm in slot.arms)
        self._board.begin(f"round {slot.round} of {self._plan.repeats}: {names}")
        return watching(self._board)

    def ended(self, result: RunResult) -> None:
        self._runs[result.arm.name].append(result)
        if result.ended == DONE:
            self._latencies[result.arm.name].append(latencies(result))
        self._board.say(run_line(result))
        self._board.redraw()

    def close(self) -> None:
        self._board.close()

    def _drawn(self, line: Text) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("arm")
        for name in ("runs", *(column[0] for column in COLUMNS), "failed", "USD"):
            table.add_column(name, justify="right")
        for place, arm in enumerate(self._plan.treatments):
            made = self._runs[arm.name]
            runs = [result.numbers for result in made if result.ended == DONE]
            cells = [
                f"{len(runs)}/{self._left[place]}",
                *(
                    map(mean_ms, zip(*self._latencies[arm.name], strict=True))
                    if runs
                    else "-" * len(COLUMNS)
                ),
                f"{sum(run['failed'] for run in runs):,}",
                f"{sum(result.usd for result in made):.4f}",
            ]
            table.add_row(arm.name, *cells)
        return Group(table, line)


def latencies(result: RunResult) -> list[float | None]:
    """A run's figure for each of COLUMNS, s, its timeouts as the slowest; None where it lies among them."""
    return [
        with_hidden(result.run, metric, result.numbers[f"{metric}_s"])[0][level]
        for _, metric, level in COLUMNS
    ]


def run_line(result: RunResult) -> str:
    """What became of a run, in one line."""
    numbers = result.numbers
    lost = f"ended early: {result.ended}"
    if result.ended == "invalid":
        lost = numbers["invalid_because"] or "another arm of its duet is invalid"
    figures = "  ".join(
        f"{name} {mean_ms([seconds])}"
        for (name, *_), seconds in zip(COLUMNS, latencies(result), strict=True)
    )
    return (
        f"{result.run.path.name:<16} {numbers['completed']:,} of {numbers['planned']:,} done in "
        f"{clock(numbers['duration_s'])}  {figures}"
        + (f"  {numbers['failed']:,} failed" if numbers["failed"] else "")
        + ("" if result.ended == DONE else f"  DOES NOT COUNT: {lost}")
    )


def mean_ms(seconds: Sequence[float | None]) -> str:
    """The geometric mean of several runs' figures, in ms."""
    known = [second for second in seconds if second]
    if not known or len(known) < len(seconds):
        return "-"
    return f"{math.exp(sum(map(math.log, known)) / len(known)) * 1e3:.1f} ms"


# Before the first request, and after the last.


def opening(plan: AbPlan, left: int) -> str:
    """What is about to be done, of which so many replays are still to be made."""
    names = ", ".join(arm.name for arm in plan.treatments)
    done = f", {left} of {len(plan.slots)} still to be made" if left < len(plan.slots) else ""
    return (
        f"{names}: {plural(plan.repeats, 'run')} each, {MEANINGS[plan.schedule]} (seed {plan.seed}); "
        f"{plan.order.meaning}{done}"
    )


def outlook_text(plan: AbPlan, seen: Outlook, spent: float = 0.0) -> Iterator[str]:
    """What a dry run prints; so many US dollars were spent before."""
    yield f"order     {MEANINGS[plan.schedule]}, seed {plan.seed}"
    for number, slots in groupby(plan.slots, key=lambda slot: slot.round):
        names = (" + ".join(plan.treatments[arm].name for arm in slot.arms) for slot in slots)
        yield f"          round {number}: {', '.join(names)}"
    yield f"gates     {', '.join(gate.text for gate in plan.gates)}"
    if looks := plan.looks:
        yield f"looks     after {', '.join(map(str, looks.runs))} runs of each arm (O'Brien-Fleming)"
    for doubt in doubts(plan):
        yield f"!         {doubt}"
    for arm, estimate in seen.arms:
        yield f"\narm {arm.name}, each run: {arm.changes.get('model') or 'the recorded models'}"
        yield from outlook_of_run(estimate)
    about = "about " if seen.estimated else ""
    requests = f"{'about ' if seen.requests_estimated else ''}{seen.requests:,} requests"
    sources: dict[str, list[str]] = {}
    for _, estimate in seen.arms:
        for source, models in estimate.prices.items():
            sources[source] = sorted({*sources.get(source, ()), *models})
    cost = priced(seen.cost_usd, seen.uncounted, seen.unpriced, sources, about="about ")
    yield f"\nin all    {seen.runs} runs, {requests}, {about}{clock(seen.duration_s)}"
    tokens = tokens_expected(
        seen.prompt_tokens, seen.output_tokens, uncounted=seen.uncounted, requests=seen.requests
    )
    yield f"          tokens {tokens}"
    if seen.probe_requests:
        yield "          two equal requests before the first run of each arm: they are in the cost"
    yield f"          cost {cost}"
    if seen.budget_usd:
        yield f"          a --max-cost of {dollars(spent + seen.budget_usd)} should last to the end"
    if short := shortage(plan, seen, spent):
        yield f"limit     {short}"


def doubts(plan: AbPlan) -> Iterator[str]:
    """Why the plan may decide nothing, before it begins; the spread from run to run is assumed."""
    gated = [gate for gate in plan.gates if gate.quantile is not None and gate.limit is None]
    needed = min((minimum_n(gate.quantile) for gate in gated if gate.quantile), default=0)
    if (most := _most_requests(plan.order)) is not None and most < needed:
        yield (
            f"no gate on a quantile can be tested: a run has {plural(most, 'request')} at most, and the "
            f"least demanding needs {needed:,}; take a longer trace, or --loop"
        )
        return
    for margin in sorted({gate.margin for gate in gated}):
        if doubt := plan_warning(plan.repeats, margin):
            yield f"{doubt} (3 % is assumed: tbench power tells it from runs that there are)"


def _most_requests(order: ReplayOptions) -> int | None:
    """No run has more requests; None where that is not to be told by the trace's index alone."""
    if any((order.loop, order.clones, order.concurrency_scale, order.duration)):
        return None
    try:
        held = read_trace(order.trace).totals.get("requests")
    except (TbenchError, OSError):  # said by whoever reads it first
        return None
    return min((n for n in (held, order.requests) if n is not None), default=None)


def outlook_json(plan: AbPlan, seen: Outlook, spent: float = 0.0) -> dict[str, Any]:
    """What a dry run prints with --json (docs/json.md)."""
    sums = {name: value for name, value in asdict(seen).items() if name != "arms"}
    short = shortage(plan, seen, spent)
    return {
        **sums,
        "order": [
            {"round": slot.round, "arms": [plan.treatments[arm].name for arm in slot.arms]}
            for slot in plan.slots
        ],
        "gates": [gate.text for gate in plan.gates],
        "warnings": [*doubts(plan), *([short] if short else [])],
        "arms": [{"name": arm.name, **asdict(estimate)} for arm, estimate in seen.arms],
    }


def spread_text(judgement: GateResults) -> Iterator[str]:
    """The spread that intervals are made of, and whether more runs narrow it, or more requests in each."""
    for spread in spreads(judgement):
        if spread.sd is None:
            continue
        label = quantity(spread.metric, spread.quantile)
        known = spread.within is not None and math.isfinite(spread.within.se)
        within = f"{spread.within.se:.1%}" if spread.within and known else "unknown"
        advice = f"; {spread.advice}" if spread.advice else ""
        yield f"spread     {label}: between-run CV {spread.sd:.1%}, within-run {within}{advice}"
