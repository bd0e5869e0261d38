"""`tbench benchmark` with its options read: the plan of a sweep, its points made, its results shown."""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from analysis.arms import load_arm
from analysis.slo import met, parse_slo
from capture.errors import InputError
from capture.synthesis import Workload, calibrated, parse
from capture.synthesis.order import read_task
from replay.benchmark.aggregate import Trim
from replay.benchmark.calibration import calibrate
from replay.benchmark.conduct import Benchmark, Made, conduct
from replay.benchmark.layout import METADATA, OWN, write_json
from replay.benchmark.saturation import search
from replay.benchmark.sweep import Point, Sweep
from replay.order import Order
from replay.runfile import Run
from replay.totals import duration_s
from tbench.benchmark_order import MINUTE_S, BenchmarkOrder
from tbench.benchmark_view import Log, table
from tbench.commands.uploading import Upload, exit_of
from tbench.dashboard.board import board
from tbench.uploading.delivery import Delivery


def benchmarked(asked: BenchmarkOrder, *, as_json: bool) -> int:
    """Make the points, write their results, print a table. Returns the exit code."""
    sweep, folder = asked.sweep(), asked.folder(time.time())
    base = asked.source().workload()
    order = asked.order()
    order.check_key()
    upload = _opened(asked, folder)
    with Log.opened(asked.log_dir or folder) as log:
        if asked.api_key is not None:
            log.say(
                "--api-key is in the history of your shell, and everyone on this machine can read it at the "
                "start; use the environment variable"
            )
        for line in sweep.idle():
            log.say(line)
        if base.dataset is not None and (said := base.dataset.complaint()):
            log.say(said)
        base = _calibrated(asked, base, order, folder, log)
        log.say(
            f"{folder}: {asked.task} at {len(sweep.scenarios)} scenarios; each point ends after "
            f"{asked.max_requests_per_run:,} requests or {asked.max_time_per_run:g} min; seed {asked.seed}"
        )
        if upload:
            log.say(upload.announcement())
        write_json(folder / METADATA, asked.metadata(sweep, folder))
        plan = Benchmark(
            task=asked.task,
            folder=folder,
            order=order,
            workload=partial(workload_of, base),
            requests=asked.max_requests_per_run,
            duration_s=asked.max_time_per_run * MINUTE_S,
            trim=Trim(warmup=asked.warmup_ratio, cooldown=asked.cooldown_ratio),
            unit=asked.metrics_time_unit,
            judged=partial(goodput, asked.slo),
        )
        made, delivery = _made(plan, sweep, asked, upload, log)
    _print(made, folder, delivery, as_json=as_json)
    return _exit(made) or (exit_of(delivery) if delivery else 0)


def _made(
    plan: Benchmark, sweep: Sweep, asked: BenchmarkOrder, upload: Upload | None, log: Log
) -> tuple[list[Made], Delivery | None]:
    """The points with their summary, also of an interrupted sweep, and what became of the upload."""
    try:
        made = list(_points(plan, sweep, asked, log))
        if made and asked.summary:
            _summarise(plan.folder, log)
    except KeyboardInterrupt:  # between two points, or over the summary
        if upload:
            upload.made(log.say)
        raise
    except BaseException:
        if upload:
            log.say(upload.again())
        raise
    return made, upload.made(log.say) if upload else None


def workload_of(base: Workload, point: Point) -> Workload:
    """The requests of a point: a scenario, a batch size and a seed of its own."""
    return replace(
        base, scenario=parse(point.scenario), batch_size=point.batch_size, seed=point.seed
    )


def _summarise(folder: Path, log: Log) -> None:
    """The workbook and the pictures of what is there, as genai-bench has them."""
    from analysis.experiment import load_experiment
    from analysis.plots.files import default_plots
    from analysis.report.benchmark_book import write_workbook

    for note in write_workbook(load_experiment(folder), folder / f"{folder.name}_summary.xlsx"):
        log.say(note)
    log.say(f"{folder.name}_summary.xlsx and {len(default_plots(folder))} pictures are in {folder}")


def _points(plan: Benchmark, sweep: Sweep, asked: BenchmarkOrder, log: Log) -> Iterator[Made]:
    """Every point of the sweep, or those on the way to saturation."""
    latest: list[Made] = []
    points = _searched(sweep, asked, latest, log) if asked.saturate else sweep.points()
    shown = board(plan, None if asked.saturate else len(list(sweep.points())), log)
    try:
        for made in conduct(plan, points, shown.watch, tuple(sys.argv[1:])):
            latest.append(made)
            shown.made(made)
            yield made
    finally:
        shown.close()


def _searched(sweep: Sweep, asked: BenchmarkOrder, latest: list[Made], log: Log) -> Iterator[Point]:
    share = asked.share
    for scenario in sweep.scenarios:
        found = yield from search(
            sweep, scenario, lambda: latest[-1].result["aggregated_metrics"]["goodput"] >= share
        )
        most = "none tried" if found.best is None else f"{found.best:g}"
        less = "" if found.worst is None else f"; {found.worst:g} does not"
        log.say(
            f"saturation of {scenario}: {sweep.axis} {most} keeps {asked.slo} for {share:.4g} of its "
            f"requests{less}"
        )


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


def _opened(asked: BenchmarkOrder, folder: Path) -> Upload | None:
    """Begin the folder, or find that it holds the same benchmark, and the place that it is uploaded to."""
    new = not folder.exists() or not any(folder.iterdir())
    own: dict[str, Any] = {"options": asked.words()} if new else _begun(asked, folder)
    own.setdefault("id", uuid4().hex)
    upload = None
    if address := asked.address:
        upload = Upload.checked(folder, address, own, traces=asked.upload_traces)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_json(folder / OWN, own)
    return upload


def _begun(asked: BenchmarkOrder, folder: Path) -> dict[str, Any]:
    """What a folder that is gone on with keeps of itself; refused where it is not of these options."""
    kept = folder / OWN
    if not asked.resume:
        raise InputError(
            f"{folder}: exists already; go on with it by --resume, or choose another name"
        )
    if not kept.exists():
        raise InputError(f"{folder}: no benchmark of tbench is in it; choose another name")
    own: dict[str, Any] = json.loads(kept.read_text())
    before = own["options"]
    now = json.loads(json.dumps(asked.words()))
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    for name in changed[:1]:
        flag = "--" + name.replace("_", "-")
        raise InputError(
            f"--resume: {folder} was begun with {flag} {before.get(name)}, not {now.get(name)}"
        )
    return own


def _calibrated(
    asked: BenchmarkOrder, base: Workload, order: Order, folder: Path, log: Log
) -> Workload:
    """Without a tokenizer, lengths go by the server's own counts, which a folder keeps."""
    if asked.model_tokenizer or base.from_dataset or asked.task == "image-text-to-text":
        return base
    kept = json.loads((folder / OWN).read_text())
    if "chars_per_token" not in kept:
        log.say(
            "no --model-tokenizer: asking the server how long its tokens are (12 small requests)"
        )
        found = calibrate(order, partial(_plain, base), asked.task, folder)
        kept["chars_per_token"] = found and found.chars_per_token
        write_json(folder / OWN, kept)
    if kept["chars_per_token"] is None:
        log.say("the server does not count prompt tokens: lengths are estimated from English text")
        return base
    log.say(f"lengths: {kept['chars_per_token']:.3f} characters a token, by the server's counts")
    return replace(base, tokens=calibrated(kept["chars_per_token"]))


def _plain(base: Workload, task: str, scenario: str, requests: int) -> Workload:
    """A small workload of the same server, without prefix and dataset."""
    return Workload(
        task=read_task(task),
        model=base.model,
        scenario=parse(scenario),
        requests=requests,
        seed=base.seed,
        additional_request_params=base.additional_request_params,
    )


def _print(made: list[Made], folder: Path, delivery: Delivery | None, *, as_json: bool) -> None:
    if as_json:
        results = [{"run": str(one.run.path), **one.result["aggregated_metrics"]} for one in made]
        upload = delivery.map() if delivery else None
        print(json.dumps({"folder": str(folder), "points": results, "upload": upload}))
    else:
        print("\n".join(table(made)))


def _exit(made: list[Made]) -> int:
    if made and made[-1].ended_by == "interrupt":
        print("interrupted; the same command with --resume goes on", file=sys.stderr)
        return 130
    invalid = [one for one in made if not one.numbers["valid"]]
    for one in invalid:
        print(f"{one.run.path}: INVALID, {one.numbers['invalid_because']}", file=sys.stderr)
    return 4 if invalid else 0
