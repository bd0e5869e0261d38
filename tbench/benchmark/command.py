"""`tbench benchmark` with its options read: the plan of a sweep, its points made, its results shown."""

import json
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final
from uuid import uuid4

from tbench.benchmark.board import Log, SweepBoard, SweepState
from tbench.benchmark.calibration import by_server_counts
from tbench.benchmark.conduct import STORE, Benchmark, PointResult, out_of_reach
from tbench.benchmark.folder import load_experiment
from tbench.benchmark.genai_bench import METADATA, OWN, RUNS, write_json
from tbench.benchmark.options import BenchmarkOptions
from tbench.benchmark.plan import MINUTE_S, BenchmarkPlan, resolve
from tbench.benchmark.report import sweep_text
from tbench.benchmark.sweep import BATCHED, Point, kept, search
from tbench.benchmark.upload import Delivery, Upload
from tbench.capture.errors import InputError, InvalidRunError, TbenchError, UnreachableError
from tbench.capture.synthesis.content import materials
from tbench.capture.synthesis.scenario import parse
from tbench.capture.synthesis.workload import Workload
from tbench.capture.synthesis.workload import resolve as workload_from
from tbench.capture.terminal import plural
from tbench.commands.output import show, terminable, terminal
from tbench.replay.estimate import OverBudgetError
from tbench.run_store import RunStore, make_folder
from tbench.settings import told

INTERRUPTED: Final = 130
INCONCLUSIVE: Final = 3


def benchmarked(options: BenchmarkOptions, *, as_json: bool) -> int:
    """Make the points, write their results, print a table. Returns the exit code."""
    plan = resolve(options)
    sweep, folder = plan.sweep, plan.folder(time.time())
    base = workload_from(plan.source)
    for scenario in sweep.scenarios:
        replace(base, scenario=parse(scenario))  # what is wrong with one is said before any is sent
    if options.log_dir is not None:
        make_folder(options.log_dir, "--log-dir")
    store, upload = _opened(plan, folder)
    made: list[PointResult] = []
    with Log.opened(options.log_dir or folder) as log, terminable():
        for line in _preamble(plan, base):
            log.say(line)
        if upload:
            log.say(upload.announcement())
        interrupted, told, spent, summarised = False, False, False, True
        try:
            try:
                base = by_server_counts(plan, base, store, log)
                log.say(f"{folder}: {plan.source.task}; {_extent(plan, base)}")
                write_json(folder / METADATA, plan.metadata(folder))
                spent = _make_points(Benchmark(plan=plan, store=store, base=base), log, made)
            except KeyboardInterrupt:  # between two points; within one its run ends, and says so
                interrupted = True
            except TbenchError:
                if any(point.numbers["completed"] for point in made):
                    _print(made, folder, None, as_json=as_json)
                raise
            if made and options.summary:
                try:
                    _summarise(folder, log)
                except KeyboardInterrupt:
                    interrupted = True
                except (TbenchError, OSError) as error:  # the points are there, and shown
                    log.say(f"{error}; when that is mended: tbench excel, tbench plot")
                    summarised = False
            told = bool(made)
        finally:  # what ends without an upload that was asked for says so
            if upload and not told:
                log.say(upload.again())
        delivery = upload.made(log.say) if upload and made else None
    _print(made, folder, delivery, as_json=as_json)
    name = options.experiment_folder_name or folder.name
    ended = sum(point.ended_by != "max_cost" for point in made)
    left = None if options.saturate else len(list(sweep.points())) - ended
    code = _exit(made, name, left, interrupted=interrupted, spent=spent)
    lost = 0 if summarised else InvalidRunError.exit_code
    return code or (delivery.exit_code if delivery else 0) or lost


def _opened(plan: BenchmarkPlan, folder: Path) -> tuple[RunStore, Upload | None]:
    """Begin the folder, or see that it holds the same benchmark, and the place that it is uploaded to.

    A benchmark that made no point at all (a wrong key, say) is in nobody's way.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; choose another name")
    empty = not folder.exists() or not any(folder.iterdir())
    begun, resume = (folder / OWN).exists(), plan.options.resume
    if empty or (begun and not resume and not any((folder / RUNS).glob("*.run"))):
        store = RunStore(folder=folder, kind=STORE, plan=plan.words())
    elif not resume:
        raise InputError(
            f"{folder}: exists already; go on with it by --resume, or choose another name"
        )
    elif not begun:
        raise InputError(f"{folder}: no benchmark of tbench is in it; choose another name")
    else:
        store = RunStore.opened(folder, STORE, plan.words())
    store.more.setdefault("id", uuid4().hex)
    upload = None
    if address := plan.address:
        record = {"options": store.plan, **store.more}
        upload = Upload.checked(folder, address, record, traces=plan.options.upload_traces)
    make_folder(folder, "--experiment-base-dir")
    store.write()
    return store, upload


def _preamble(plan: BenchmarkPlan, base: Workload) -> Iterator[str]:
    """What a user should know of the options."""
    yield from (f"settings: {text}" for text in told(plan.options.sources))
    if plan.options.api_key is not None and "api_key" not in plan.options.sources:
        yield (
            "--api-key is in the history of your shell, and everyone on this machine can read it at the "
            "start; use the environment variable"
        )
    yield from plan.idle()
    if base.dataset is not None and (complaint := base.dataset.complaint()):
        yield complaint
    if base.from_dataset and plan.source.task in BATCHED and plan.source.tokenizer is None:
        yield "no --model-tokenizer: tokens of the dataset are known only where the server counts them"


def _extent(plan: BenchmarkPlan, base: Workload) -> str:
    """What will be run, defaults included. Raises InputError for a shared prefix that does not fit."""
    options, sweep = plan.options, plan.sweep
    for scenario in sweep.scenarios if base.prefix_tokens else ():
        next(materials(replace(base, scenario=parse(scenario), requests=1)))
    values = ",".join(f"{value:g}" for value in sweep.values)
    over = f"from {sweep.values[0]:g} on" if options.saturate else values
    again = f", {options.repeats} times each" if options.repeats > 1 else ""
    return (
        f"{' '.join(sweep.scenarios)} at {sweep.axis} {over}{again}; each point ends after "
        f"{plural(plan.source.requests, 'request')} or {plan.duration_s / MINUTE_S:g} min; "
        f"seed {plan.source.seed}"
    )


def _make_points(benchmark: Benchmark, log: Log, made: list[PointResult]) -> bool:
    """Make every point of the sweep, or those on the way to saturation; `made` grows by each.

    Whether the budget ended it.
    """
    plan = benchmark.plan
    options, sweep = plan.options, plan.sweep

    def searched() -> Iterator[Point]:
        for scenario in sweep.scenarios:
            saturation = yield from search(
                sweep, scenario, lambda: kept(made[-1].result, made[-1].point, plan.share)
            )
            objective = f"{options.slo} for {options.slo_share} of its requests"
            log.say(saturation.words(sweep.axis, objective))

    points = searched() if options.saturate else sweep.points()
    count = None if options.saturate else len(list(sweep.points()))
    board = SweepBoard(SweepState.of(plan, count), log)
    try:
        for point in benchmark.conduct(points, board.watch, tuple(sys.argv[1:])):
            made.append(point)
            board.made(point)
            for warning in point.warnings:
                log.say(f"  ! {warning}")
    except (InvalidRunError, OverBudgetError) as error:
        over = OverBudgetError if benchmark.store.entries else ()
        if not (isinstance(error, over) or isinstance(error.__cause__, OverBudgetError)):
            raise
        return True
    finally:
        board.close()
    return bool(made) and made[-1].ended_by == "max_cost"


def _summarise(folder: Path, log: Log) -> None:
    """The workbook and the pictures of what is there, as genai-bench has them."""
    from tbench.benchmark.plots import default_plots
    from tbench.benchmark.workbook import write_workbook

    for note in write_workbook(load_experiment(folder), folder / f"{folder.name}_summary.xlsx"):
        log.say(note)
    log.say(f"{folder.name}_summary.xlsx and {len(default_plots(folder))} pictures are in {folder}")


def _print(
    made: list[PointResult], folder: Path, delivery: Delivery | None, *, as_json: bool
) -> None:
    if as_json:
        results = [
            {
                "run": str(point.run.path),
                "ended_by": point.ended_by,
                **point.result["aggregated_metrics"],
            }
            for point in made
        ]
        upload = delivery.map() if delivery else None
        print(json.dumps({"folder": str(folder), "points": results, "upload": upload}))
    elif made and (sweep := load_experiment(folder)).points:
        show(sweep_text(sweep, **terminal()))


def _exit(
    made: list[PointResult], name: str, left: int | None, *, interrupted: bool, spent: bool
) -> int:
    """The exit code of the points, of which so many are `left`, and on stderr why it is not 0."""
    if interrupted or (made and made[-1].ended_by == "interrupt"):
        print(
            "interrupted; the same command with "
            f"--experiment-folder-name {shlex.quote(name)} --resume goes on",
            file=sys.stderr,
        )
        return INTERRUPTED
    if spent:
        print(
            "stopped before --max-cost was exceeded"
            + (f", with {plural(left, 'point')} still to be made" if left else "")
            + "; the same command with a higher one and "
            f"--experiment-folder-name {shlex.quote(name)} --resume goes on",
            file=sys.stderr,
        )
        return INCONCLUSIVE
    if made and not any(point.numbers["completed"] for point in made):
        errors = dict.fromkeys(kind for point in made for kind in point.numbers["errors"])
        print(f"no request succeeded in any point: {', '.join(errors)}", file=sys.stderr)
        return UnreachableError.exit_code
    if gone := [point for point in made if out_of_reach(point.numbers)]:
        errors = dict.fromkeys(kind for point in gone for kind in point.numbers["errors"])
        print(
            f"no request succeeded in {plural(len(gone), 'point')} of {len(made)}: {', '.join(errors)}; when "
            "that is mended, the same command with --experiment-folder-name "
            f"{shlex.quote(name)} --resume makes them again",
            file=sys.stderr,
        )
        return UnreachableError.exit_code
    invalid = [point for point in made if not point.numbers["valid"]]
    for point in invalid:
        print(f"{point.run.path}: INVALID, {point.numbers['invalid_because']}", file=sys.stderr)
    return 4 if invalid else 0
