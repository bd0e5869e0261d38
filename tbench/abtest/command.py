"""tbench ab: one trace to several arms, several times each and in turns; then a verdict."""

import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tbench.abtest.options import PLAN, AbOptions
from tbench.capture.errors import InputError, InvalidRunError, TbenchError, after_sending
from tbench.capture.option import Option, rows
from tbench.capture.remote import as_path
from tbench.capture.terminal import plural
from tbench.commands.output import (
    EXITS,
    OUTPUT,
    Charts,
    Json,
    Reports,
    Xlsx,
    private,
    terminable,
    terminal,
)
from tbench.flags import Given, verb
from tbench.settings import UNCOUNTED, beneath, sources, told

if TYPE_CHECKING:
    from tbench.abtest.plan import AbPlan
    from tbench.abtest.verdict import Stopped
    from tbench.run_store import RunStore


@verb
def ab(
    given: Annotated[Mapping[str, Any], Given(AbOptions)],
    *,
    plan: Annotated[
        Path | None,
        Option(
            help="TOML file with the plan: keys as the options, [[arm]] tables; options given here "
            "override it.",
            unit="FILE",
            group=PLAN,
            common=True,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        Option(
            help="Folder for runs and reports; naming it is enough to continue an experiment.",
            unit="DIR",
            short="-o",
            group=OUTPUT,
            default="TRACE.TIME.ab",
            common=True,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        Option(
            help="Send nothing; print what the whole plan would send.", group=OUTPUT, common=True
        ),
    ] = False,
    charts: Charts = None,
    xlsx: Xlsx = None,
    as_json: Json = False,
) -> int:
    """Replay one trace to two or more arms, several times each, interleaved; decide which is worse.

    Every run of every arm sends the same requests by the same pacing. The exit code is the
    verdict: 0 PASS, 1 FAIL, 3 INCONCLUSIVE, 4 INVALID; 130 interrupted. The same command again continues.
    """
    import json

    import typer

    from tbench.abtest.board import outlook_json, outlook_text
    from tbench.abtest.plan import experiment, read_plan
    from tbench.abtest.runner import PLAN as PLAN_FILE
    from tbench.abtest.runner import missing, opened, outlook

    asked = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    lower = {key: asked.pop(key) for key in tuple(asked) if key in sources}
    begun = out if out is not None and (out / PLAN_FILE).exists() else None
    if begun and plan is None and "trace" not in asked and "arm" not in asked:
        plan, lower = begun / PLAN_FILE, {}  # the folder is enough, and was settled then
    stronger = {**(read_plan(plan) if plan else {}), **asked}
    lower = beneath(lower, stronger, {row.key: row for row in rows(AbOptions).values()})
    origins = {key: sources[key] for key in lower}
    resolved = experiment({**lower, **stronger}, origins)
    if not dry_run:
        reports = Reports(html=None, charts=charts, xlsx=xlsx)
        return _conducted(resolved, out, reports, as_json=as_json)
    store = opened(begun, resolved) if begun else None
    spent = store.spent if store else 0.0
    seen = outlook(resolved, missing(resolved, store) if store else resolved.slots)
    beyond = beyond_budget(resolved, store) if store else []
    document = outlook_json(resolved, seen, spent)
    document["warnings"] += beyond
    unpaid = [f"!         {line}" for line in beyond]
    lines = [*outlook_text(resolved, seen, spent), *unpaid, *settings_of(resolved)]
    typer.echo(json.dumps(document) if as_json else "\n".join(lines))
    return 0


def beyond_budget(plan: "AbPlan", store: "RunStore") -> list[str]:
    """What a budget does not hold for, as nobody knows what it cost."""
    return [
        f"{run} was killed when there was no --max-cost: what it cost is not known, and not in this one"
        for run in (store.uncharged if plan.max_cost is not None else ())
    ]


def settings_of(plan: "AbPlan") -> list[str]:
    """Where the options are from that neither the command line nor a plan file has."""
    shared = [f"settings  {text}" for text in told(plan.order.sources)]
    if "slo" in plan.order.sources and not any(gate.slo for gate in plan.gates):
        shared.append(f"settings  slo: {UNCOUNTED}")
    arms = [(arm.name, text) for arm in plan.treatments for text in told(arm.sources)]
    return shared + [f"settings  arm {name}: {text}" for name, text in arms]


def _conducted(plan: "AbPlan", out: Path | None, reports: Reports, *, as_json: bool) -> int:
    """Make the runs that are missing, judge, report. Returns the exit code of the verdict."""
    import typer

    from tbench.abtest.board import doubts, opening, spread_text
    from tbench.abtest.runner import missing, prepared
    from tbench.abtest.verdict import early, result_json, so_far, verdict
    from tbench.analysis.report.ci import judgement_junit, judgement_markdown
    from tbench.analysis.report.machine import dump
    from tbench.analysis.report.text import judgement_text

    if out is None:  # the trace's name, and the time
        trace = as_path(plan.order.trace).resolve().name.removesuffix(".part")
        stem = trace.removesuffix(".msgpack") or "trace"
        out = Path(f"{stem}.{time.strftime('%Y%m%d-%H%M%S')}.ab")
    store = prepared(plan, out)
    left = len(missing(plan, store))
    print(f"{out}: {opening(plan, left)}", file=sys.stderr)
    beware = (*doubts(plan), *beyond_budget(plan, store))
    for line in [*(f"! {doubt}" for doubt in beware), *settings_of(plan)]:
        print(line, file=sys.stderr)
    if left and not early(plan, store) and (stopped := _performed(plan, store)):
        judgement = so_far(plan, store, stopped)
        if as_json:
            typer.echo(dump(result_json(plan, store, judgement, stopped)))
        elif judgement.rows:
            typer.echo("\n".join(judgement_text(judgement, terminal()["width"])))
        return _ended_early(store, stopped)
    try:
        judgement = verdict(plan, store)
    except InputError as error:  # 2 says that nothing was sent, and here everything was
        print(f"INCONCLUSIVE: {error}; the runs are in {out}", file=sys.stderr)
        return EXITS["INCONCLUSIVE"]
    from tbench.analysis.report.page import judgement_report
    from tbench.analysis.report.workbook import judgement_book

    document = dump(result_json(plan, store, judgement))
    line = f"tbench ab -o {shlex.quote(str(out))}"
    page = judgement_report(judgement, command=line)
    texts = {
        "report.html": page.page(),
        "report.json": document + "\n",
        "report.md": judgement_markdown(judgement, line),
        "junit.xml": judgement_junit(judgement),
    }
    lines = [*judgement_text(judgement, terminal()["width"]), *spread_text(judgement)]
    try:
        with after_sending(True):
            for name, text in texts.items():
                with private(out / name, "-o") as file:
                    file.write(text.encode())
            reports.write(lambda: page, lambda file: judgement_book(judgement, file, command=line))
    finally:  # the verdict stands, also where a full disk takes no reports
        typer.echo(document if as_json else "\n".join(lines))
    beside = "report.json, report.md, junit.xml and the runs are beside it"
    print(f"report: {out / 'report.html'}; {beside}", file=sys.stderr)
    return EXITS[judgement.verdict]


def _performed(plan: "AbPlan", store: "RunStore") -> "Stopped | None":
    """Make the missing runs; None where all are there that it takes."""
    from tbench.abtest.board import AbBoard
    from tbench.abtest.runner import missing, perform
    from tbench.abtest.verdict import ENDS, INTERRUPT, Stopped

    board = AbBoard(plan, missing(plan, store))
    made = len(store.entries)
    try:
        with terminable():
            return perform(plan, store, board.watch, board.ended, tuple(sys.argv[1:]))
    except KeyboardInterrupt:  # between two runs; within one the run ends, and says so
        return Stopped(ended=INTERRUPT, missing=len(missing(plan, store)), why=None)
    except TbenchError as error:
        if len(store.entries) == made:  # nothing was measured
            raise
        ended = store.entries[-1]["ended"]
        return Stopped(
            ended=ended if ended in ENDS else "error",
            missing=len(missing(plan, store)),
            why=str(error),
            failure=error,
        )
    finally:
        board.close()


def _ended_early(store: "RunStore", stopped: "Stopped") -> int:
    """Say why there is no verdict and how to go on; returns the exit code, or raises what has one."""
    if stopped.failure is not None:
        raise stopped.failure
    go_on = f"go on with: tbench ab -o {shlex.quote(str(store.folder))}"
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
