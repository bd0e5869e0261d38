"""`tbench ab` with its options read: say what would be done, or do it, judge it, and report."""

import json
import math
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import typer

from tbench.abtest.api import (
    Stopped,
    default_folder,
    early,
    perform,
    prepared,
    result_json,
    spreads,
    verdict,
)
from tbench.abtest.plan import MEANINGS, AbPlan, Slot, experiment, read_plan
from tbench.abtest.runner import PLAN, Outlook, missing, opened, outlook
from tbench.abtest.view import Progress, board
from tbench.analysis.comparison import Verdict
from tbench.analysis.gate_results import GateResults
from tbench.analysis.power import plan_warning
from tbench.analysis.report.ci import judgement_junit, judgement_markdown
from tbench.analysis.report.judgement import judgement_text
from tbench.analysis.report.machine import dump
from tbench.analysis.report.words import percentile, title
from tbench.capture.errors import InputError, InvalidRunError
from tbench.capture.terminal import plural
from tbench.commands.output import Shared, private, terminable, terminal
from tbench.replay.closing import outlook as outlook_of_run
from tbench.replay.closing import priced
from tbench.replay.progress import clock, watching
from tbench.replay.runner import Watch
from tbench.run_store import RunStore

EXITS = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3, Verdict.INVALID: 4}


def words_of(given: Mapping[str, Any], plan: Path | None, out: Path | None) -> AbPlan:
    """The experiment that the options name: over a plan file, or over the plan that a folder keeps."""
    asked = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    stored = None if out is None else out / PLAN
    if plan is None and "trace" not in asked and "arm" not in asked and stored and stored.exists():
        plan = stored
    return experiment({**(read_plan(plan) if plan else {}), **asked})


def foretold(plan: AbPlan, out: Path | None, *, as_json: bool) -> int:
    """Print what the whole plan would send. Returns 0."""
    ledger = _begun(plan, out)
    seen = outlook(plan, plan.slots if ledger is None else missing(plan, ledger))
    typer.echo(
        json.dumps(_outlook_json(plan, seen)) if as_json else "\n".join(_outlook_text(plan, seen))
    )
    return 0


def _begun(plan: AbPlan, out: Path | None) -> RunStore | None:
    """What a folder holds of the experiment already; looking makes no folder."""
    return opened(out, plan) if out is not None and (out / PLAN).exists() else None


def conducted(plan: AbPlan, out: Path | None, shared: Shared, *, as_json: bool) -> int:
    """Make the runs that are missing, judge, report. Returns the exit code of the verdict."""
    folder = default_folder(Path(plan.order.trace)) if out is None else out
    ledger = prepared(plan, folder)
    print(f"{folder}: {_opening(plan, ledger)}", file=sys.stderr)
    for doubt in doubts(plan):
        print(f"! {doubt}", file=sys.stderr)
    if stopped := _performed(plan, ledger):
        return _left(stopped, folder)
    try:
        judgement = verdict(plan, ledger)
    except InputError as error:  # 2 says that nothing was sent, and here everything was
        print(f"INCONCLUSIVE: {error}; the runs are in {folder}", file=sys.stderr)
        return EXITS[Verdict.INCONCLUSIVE]
    document = dump(result_json(plan, judgement))
    _report(judgement, folder, document, shared)
    lines = [*judgement_text(judgement, terminal()["width"]), *_between(judgement)]
    typer.echo(document if as_json else "\n".join(lines))
    beside = "report.json, report.md, junit.xml and the runs are beside it"
    print(f"report: {folder / 'report.html'}; {beside}", file=sys.stderr)
    return EXITS[judgement.verdict]


def _between(judgement: GateResults) -> Iterator[str]:
    """The spread that intervals are made of, and whether more runs narrow it, or more requests in each."""
    for spread in spreads(judgement):
        if spread.sd is None:
            continue
        label = f"{title(spread.metric)} {percentile(spread.quantile)}"
        known = spread.within is not None and math.isfinite(spread.within.se)
        within = f"{spread.within.se:.1%}" if spread.within and known else "unknown"
        advice = f"; {spread.advice}" if spread.advice else ""
        yield f"spread     {label}: between-run CV {spread.sd:.1%}, within-run {within}{advice}"


def _report(judgement: GateResults, folder: Path, document: str, shared: Shared) -> None:
    """Write what people and CI read beside the runs, and what was asked for besides."""
    from tbench.analysis.report.page import judgement_report
    from tbench.analysis.report.workbook import judgement_book

    line = f"tbench ab -o {shlex.quote(str(folder))}"
    page = judgement_report(judgement, command=line)
    texts = {
        "report.html": page.page(),
        "report.json": document + "\n",
        "report.md": judgement_markdown(judgement, line),
        "junit.xml": judgement_junit(judgement),
    }
    for name, text in texts.items():
        with private(folder / name, "-o") as file:
            file.write(text.encode())
    shared.write(lambda: page, lambda file: judgement_book(judgement, file, command=line))


def _performed(plan: AbPlan, ledger: RunStore) -> Stopped | None:
    if not missing(plan, ledger) or early(plan, ledger):
        return None
    shown = board(plan)

    def watch(slot: Slot) -> Watch:
        shown.begin(slot)
        return watching(Progress(shown))

    try:
        with terminable():
            return perform(plan, ledger, watch, shown.ended, tuple(sys.argv[1:]))
    except KeyboardInterrupt:  # between two runs; within one the run ends, and says so
        return Stopped(ended="interrupt", missing=len(missing(plan, ledger)), why=None)
    finally:
        shown.close()


def _left(stopped: Stopped, folder: Path) -> int:
    """Say why there is no verdict, and how to go on."""
    go_on = f"go on with: tbench ab -o {shlex.quote(str(folder))}"
    left = f"{plural(stopped.missing, 'replay')} still to be made; {go_on}"
    match stopped.ended:
        case "interrupt":
            print(f"interrupted; {left}", file=sys.stderr)
            return 130
        case "max_cost":
            print(f"INCONCLUSIVE: stopped before --max-cost was exceeded; {left}", file=sys.stderr)
            return 3
        case "invalid":
            raise InvalidRunError(f"INVALID: {stopped.why}; {left}")
        case _:
            raise InvalidRunError(f"INVALID: the last run ended early ({stopped.ended}); {left}")


def _opening(plan: AbPlan, ledger: RunStore) -> str:
    names = ", ".join(arm.name for arm in plan.treatments)
    slots = len(missing(plan, ledger))
    done = f", {slots} of {len(plan.slots)} still to be made" if slots < len(plan.slots) else ""
    return (
        f"{names}: {plural(plan.repeats, 'run')} each, {MEANINGS[plan.schedule]} (seed {plan.seed}); "
        f"{plan.order.pacing().meaning}{done}"
    )


def _outlook_text(plan: AbPlan, seen: Outlook) -> Iterator[str]:
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
        yield f"\narm {arm.name}, each run: {arm.model or 'the recorded models'}"
        yield from outlook_of_run(estimate, plan.order.pacing().meaning)
    about = "about " if seen.estimated else ""
    cost = priced(seen.cost_usd, seen.uncounted, seen.unpriced, about="about ")
    yield f"\nin all    {seen.runs} runs, {about}{seen.requests:,} requests, {about}{clock(seen.duration_s)}"
    yield f"          {seen.prompt_tokens:,} prompt and {seen.output_tokens:,} output tokens expected"
    yield f"          cost {cost}"


def doubts(plan: AbPlan) -> Iterator[str]:
    """Why the plan may decide nothing, before it begins; the spread from run to run is assumed."""
    gated = [gate for gate in plan.gates if gate.quantile is not None and gate.limit is None]
    for margin in sorted({gate.margin for gate in gated}):
        if doubt := plan_warning(plan.repeats, margin):
            yield f"{doubt} (3 % is assumed: tbench power tells it from runs that there are)"


def _outlook_json(plan: AbPlan, seen: Outlook) -> dict[str, Any]:
    sums = {name: value for name, value in asdict(seen).items() if name != "arms"}
    return {
        **sums,
        "order": [
            {"round": slot.round, "arms": [plan.treatments[arm].name for arm in slot.arms]}
            for slot in plan.slots
        ],
        "gates": [gate.text for gate in plan.gates],
        "warnings": list(doubts(plan)),
        "arms": [{"name": arm.name, **asdict(estimate)} for arm, estimate in seen.arms],
    }
