"""Calibrating: without a tokenizer, a benchmark's prompts are as long as its server's own counts say."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from tbench.benchmark.calibration import REQUESTS, Calibrator, UncalibratedError
from tbench.benchmark.layout import OWN, write_json
from tbench.benchmark.order import BenchmarkOrder
from tbench.benchmark.view import Log
from tbench.capture.errors import InvalidRunError
from tbench.capture.jsontext import read_json
from tbench.capture.synthesis import Workload, calibrated, parse
from tbench.capture.synthesis.order import read_task
from tbench.replay.order import Order
from tbench.replay.performance import Watch
from tbench.replay.progress import screen, watching


def with_lengths(
    asked: BenchmarkOrder, base: Workload, order: Order, folder: Path, log: Log
) -> Workload:
    """Without a tokenizer, lengths go by the server's own counts, which a folder keeps."""
    if asked.model_tokenizer or base.from_dataset or asked.task == "image-text-to-text":
        return base
    kept = read_json(folder / OWN)
    if "chars_per_token" not in kept:
        log.say(
            "no --model-tokenizer: asking the server how long its tokens are (12 small requests)"
        )
        kept |= _asked(asked, base, order, folder, log)
        write_json(folder / OWN, kept, failure=InvalidRunError)
    if kept["chars_per_token"] is None:
        log.say(
            f"{kept.get('uncalibrated', 'too few counts of prompt tokens from the server')}: lengths "
            "are estimated from English text; --model-tokenizer makes them exact"
        )
        return base
    log.say(f"lengths: {kept['chars_per_token']:.3f} characters a token, by the server's counts")
    return replace(base, tokens=calibrated(kept["chars_per_token"]))


def _asked(
    asked: BenchmarkOrder, base: Workload, order: Order, folder: Path, log: Log
) -> dict[str, float | str | None]:
    """What the folder keeps of the calibration."""

    def watch(tokens: int) -> Watch:
        log.say(f"lengths: {REQUESTS} requests of about {tokens} tokens")
        return watching(screen())

    calibrator = Calibrator(
        order=order,
        workload=partial(_plain, base),
        task=asked.task,
        folder=folder,
        flags=asked.flags,
        watch=watch,
    )
    try:
        return {"chars_per_token": calibrator.calibrate().chars_per_token}
    except UncalibratedError as reason:
        return {"chars_per_token": None, "uncalibrated": str(reason)}


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
