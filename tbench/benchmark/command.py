"""`tbench benchmark` with its options read: the plan of a sweep, its points made, its results shown."""

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from tbench.analysis.arms import load_arm
from tbench.analysis.slo import met, parse_slo
from tbench.benchmark.board import Log, board
from tbench.benchmark.calibration import with_lengths
from tbench.benchmark.conduct import RUNS, STORE, Benchmark, PointResult, conduct
from tbench.benchmark.folder import load_experiment
from tbench.benchmark.genai_bench import METADATA, OWN, Trim, write_json
from tbench.benchmark.options import BenchmarkOptions
from tbench.benchmark.plan import MINUTE_S, BenchmarkPlan, resolve
from tbench.benchmark.report import sweep_text
from tbench.benchmark.sweep import BATCHED, Point, Sweep, kept, search
from tbench.benchmark.upload import Delivery, Upload
from tbench.capture.errors import InputError, TbenchError, UnreachableError
from tbench.capture.synthesis import Workload, parse
from tbench.capture.synthesis.content import materials
from tbench.capture.synthesis.workload import resolve as workload_from
from tbench.capture.terminal import plural
from tbench.commands.output import show, terminable, terminal
from tbench.replay.options import ReplayOptions
from tbench.replay.runfile import Run
from tbench.replay.system import headroom
from tbench.replay.totals import duration_s
from tbench.run_store import RunStore, make_folder

INTERRUPTED: Final = 130


def benchmarked(options: BenchmarkOptions, *, as_json: bool) -> int:
    """Make the points, write their results, print a table. Returns the exit code."""
    asked = resolve(options)
    sweep, folder, order = asked.sweep, asked.folder(time.time()), asked.order
    base = workload_from(asked.source)
    for scenario in sweep.scenarios:
        replace(base, scenario=parse(scenario))  # what is wrong with one is said before any is sent
    _check_headroom(asked, sweep)
    if asked.options.log_dir is not None:
        make_folder(asked.options.log_dir, "--log-dir")
    store, upload = _opened(asked, folder)
    made: list[PointResult] = []
    with Log.opened(asked.options.log_dir or folder) as log, terminable():
        for line in _preamble(asked, base):
            log.say(line)
        if upload:
            log.say(upload.announcement())
        with _told(upload, log):
            interrupted = False
            try:
                base = with_lengths(asked, base, order, store, log)
                log.say(f"{folder}: {asked.source.task}; {_extent(asked, sweep, base)}")
                write_json(folder / METADATA, asked.metadata(folder))
                _conduct(_plan(asked, base, order, store), sweep, asked, log, made)
            except KeyboardInterrupt:  # between two points; within one its run ends, and says so
                interrupted = True
            except TbenchError:
                if any(point.numbers["completed"] for point in made):
                    _print(made, folder, None, as_json=as_json)
                raise
            interrupted |= asked.options.summary and _summary_was_interrupted(made, folder, log)
        delivery = upload.made(log.say) if upload and made else None
        if upload and not made:
            log.say(upload.again())
    _print(made, folder, delivery, as_json=as_json)
    code = _exit(made, asked.options.experiment_folder_name or folder.name, interrupted=interrupted)
    return code or (delivery.exit_code if delivery else 0)


@contextmanager
def _told(upload: Upload | None, log: Log) -> Iterator[None]:
    """What ends without an upload that was asked for says so."""
    try:
        yield
    except BaseException:
        if upload:
            log.say(upload.again())
        raise


def _check_headroom(asked: BenchmarkPlan, sweep: Sweep) -> None:
    """Raise InputError where the most that is to be in flight needs more connections than can be had."""
    if asked.options.saturate or sweep.axis != "num_concurrency":
        return
    workers = asked.options.num_workers or max(1, (os.cpu_count() or 1) - 1)
    if objection := headroom().objection(int(max(sweep.values)), workers):
        raise InputError(objection.replace("--workers", "--num-workers"))


def _preamble(asked: BenchmarkPlan, base: Workload) -> Iterator[str]:
    """What a user should know of the options."""
    if asked.options.api_key is not None:
        yield (
            "--api-key is in the history of your shell, and everyone on this machine can read it at the "
            "start; use the environment variable"
        )
    yield from asked.idle()
    if base.dataset is not None and (complaint := base.dataset.complaint()):
        yield complaint
    if base.from_dataset and asked.source.task in BATCHED and asked.source.tokenizer is None:
        yield "no --model-tokenizer: tokens of the dataset are known only where the server counts them"


def _plan(asked: BenchmarkPlan, base: Workload, order: ReplayOptions, store: RunStore) -> Benchmark:
    return Benchmark(
        task=asked.source.task,
        store=store,
        order=order,
        workload=partial(workload_of, base),
        requests=asked.source.requests,
        duration_s=asked.options.max_time_per_run * MINUTE_S,
        trim=Trim(warmup=asked.options.warmup_ratio, cooldown=asked.options.cooldown_ratio),
        unit=asked.options.metrics_time_unit,
        judged=partial(goodput, asked.options.slo),
        spawn_rate=asked.options.spawn_rate,
        flags=asked.flags,
    )


def _extent(asked: BenchmarkPlan, sweep: Sweep, base: Workload) -> str:
    """What will be run, defaults included. Raises InputError for a shared prefix that does not fit."""
    for scenario in sweep.scenarios if base.prefix_tokens else ():
        next(materials(replace(base, scenario=parse(scenario), requests=1)))
    values = ",".join(f"{value:g}" for value in sweep.values)
    over = (
        f"{sweep.axis} from {sweep.values[0]:g} on"
        if asked.options.saturate
        else f"{sweep.axis} {values}"
    )
    again = f", {asked.options.repeats} times each" if asked.options.repeats > 1 else ""
    return (
        f"{' '.join(sweep.scenarios)} at {over}{again}; each point ends after "
        f"{plural(asked.source.requests, 'request')} or {asked.options.max_time_per_run:g} min; "
        f"seed {asked.source.seed}"
    )


def workload_of(base: Workload, point: Point) -> Workload:
    """The requests of a point: a scenario, a batch size and a seed of its own."""
    return replace(
        base, scenario=parse(point.scenario), batch_size=point.batch_size, seed=point.seed
    )


def _summary_was_interrupted(made: list[PointResult], folder: Path, log: Log) -> bool:
    """Summarise what was made, unless one is stopped while doing so."""
    try:
        if made:
            _summarise(folder, log)
    except KeyboardInterrupt:
        return True
    return False


def _summarise(folder: Path, log: Log) -> None:
    """The workbook and the pictures of what is there, as genai-bench has them."""
    from tbench.benchmark.plots.files import default_plots
    from tbench.benchmark.workbook import write_workbook

    for note in write_workbook(load_experiment(folder), folder / f"{folder.name}_summary.xlsx"):
        log.say(note)
    log.say(f"{folder.name}_summary.xlsx and {len(default_plots(folder))} pictures are in {folder}")


def _conduct(
    plan: Benchmark, sweep: Sweep, asked: BenchmarkPlan, log: Log, made: list[PointResult]
) -> None:
    """Make every point of the sweep, or those on the way to saturation; `made` grows by each."""
    points = _searched(sweep, asked, made, log) if asked.options.saturate else sweep.points()
    shown = board(plan, None if asked.options.saturate else len(list(sweep.points())), log)
    try:
        for point in conduct(plan, points, shown.watch, tuple(sys.argv[1:])):
            made.append(point)
            shown.made(point)
            for warning in point.warnings:
                log.say(f"  ! {warning}")
    finally:
        shown.close()


def _searched(
    sweep: Sweep, asked: BenchmarkPlan, latest: list[PointResult], log: Log
) -> Iterator[Point]:
    objective = f"{asked.options.slo} for {asked.options.slo_share} of its requests"
    for scenario in sweep.scenarios:
        saturation = yield from search(
            sweep, scenario, lambda: kept(latest[-1].result, latest[-1].point, asked.share)
        )
        log.say(saturation.words(sweep.axis, objective))


def goodput(slo: str | None, run: Run) -> dict[str, Any]:
    """How many of a run's requests kept to the objectives: their share, and how many a second."""
    if slo is None:
        return {}
    arm = load_arm(run.path)
    counted = arm.ok | arm.failed
    good = int((met(arm, parse_slo(slo)) & counted).sum())
    lasts = duration_s(run.columns)
    return {
        "slo": slo,
        "goodput": good / int(counted.sum()) if counted.any() else 0.0,
        "goodput_per_s": good / lasts if lasts else 0.0,
    }


def _opened(asked: BenchmarkPlan, folder: Path) -> tuple[RunStore, Upload | None]:
    """Begin the folder, or find that it holds the same benchmark, and the place that it is uploaded to.

    A benchmark that made no point at all (a wrong key, say) is in nobody's way.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; choose another name")
    empty = not folder.exists() or not any(folder.iterdir())
    begun, resume = (folder / OWN).exists(), asked.options.resume
    if empty or (begun and not resume and not any((folder / RUNS).glob("*.run"))):
        store = RunStore(folder=folder, kind=STORE, plan=asked.words())
    elif not resume:
        raise InputError(
            f"{folder}: exists already; go on with it by --resume, or choose another name"
        )
    elif not begun:
        raise InputError(f"{folder}: no benchmark of tbench is in it; choose another name")
    else:
        store = RunStore.opened(folder, STORE, asked.words())
    store.more.setdefault("id", uuid4().hex)
    upload = None
    if address := asked.address:
        record = {"options": store.plan, **store.more}
        upload = Upload.checked(folder, address, record, traces=asked.options.upload_traces)
    make_folder(folder, "--experiment-base-dir")
    store.write()
    return store, upload


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
    elif (sweep := load_experiment(folder)).points:
        show(sweep_text(sweep, **terminal()))


def _exit(made: list[PointResult], name: str, *, interrupted: bool) -> int:
    if interrupted or (made and made[-1].ended_by == "interrupt"):
        print(
            "interrupted; the same command with "
            f"--experiment-folder-name {shlex.quote(name)} --resume goes on",
            file=sys.stderr,
        )
        return INTERRUPTED
    if made and not any(point.numbers["completed"] for point in made):
        errors = dict.fromkeys(kind for point in made for kind in point.numbers["errors"])
        print(f"no request succeeded in any point: {', '.join(errors)}", file=sys.stderr)
        return UnreachableError.exit_code
    invalid = [point for point in made if not point.numbers["valid"]]
    for point in invalid:
        print(f"{point.run.path}: INVALID, {point.numbers['invalid_because']}", file=sys.stderr)
    return 4 if invalid else 0
