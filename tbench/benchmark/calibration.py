"""Calibration: how many characters a token of the served model has, from the server's own counts.

Two small workloads of different lengths are sent, one request at a time; the slope between the characters
sent and the prompt tokens counted leaves out what a chat template adds to every message.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

import numpy as np

from tbench.benchmark.board import Log
from tbench.benchmark.conduct import check_hope, cost_of, hopeless, too_much
from tbench.benchmark.plan import BenchmarkPlan
from tbench.board import Board
from tbench.capture.providers import ParsedRequest, parse_request
from tbench.capture.synthesis.generate import write
from tbench.capture.synthesis.scenario import Task, parse
from tbench.capture.synthesis.tokens import RATIOS, calibrated
from tbench.capture.synthesis.workload import Workload
from tbench.capture.trace_reader import Trace
from tbench.replay.estimate import OverBudgetError, estimate
from tbench.replay.job import Job, resolve
from tbench.replay.progress import watching
from tbench.replay.runner import run_replay
from tbench.replay.totals import numbers
from tbench.run_store import DONE, RunStore

REQUESTS: Final = 6
"""Of each length."""
SHORT: Final = 64
LONG: Final = (512, 256, 128)
"""Tokens of the two lengths; of the longer ones the first that the server does not refuse, and a budget has
room for."""
EXPLAINED: Final = 0.9
"""The least share of the counts' variance that the length of the texts explains."""
# Few tokens of output: only the prompt is measured, and answers cost time and money.
FORMS: Final = {
    "text-to-text": "D({},16)",
    "image-text-to-text": "D({},16)",
    "text-to-embeddings": "E({})",
    "text-to-rerank": "R({},16)",
}
"""A scenario of each task's texts by their length; a vision model is asked in words alone.

OpenAI's Responses takes no limit below 16 tokens of output."""
WITHOUT_IMAGES: Final = {"image-text-to-text": "text-to-text"}


Pairs = list[tuple[int, int]]
"""Characters sent and tokens counted, of each request."""


UNAFFORDABLE: Final = "--max-cost leaves no room to ask how long its tokens are"


class UncalibratedError(ValueError):
    """Why the server's counts do not say how long its tokens are, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """`chars_per_token` of `requests` requests; `overhead` is what the server adds to each, tokens."""

    chars_per_token: float
    overhead: float
    requests: int


def by_server_counts(plan: BenchmarkPlan, base: Workload, store: RunStore, log: Log) -> Workload:
    """Without a tokenizer, lengths go by the server's own counts, which the store keeps."""
    if plan.source.tokenizer or base.from_dataset or plan.source.task == "image-text-to-text":
        return base
    measured = any(entry["ended"] == DONE for entry in store.entries)
    if store.more.get("chars_per_token") is None and not measured:
        log.say(
            "no --model-tokenizer: asking the server how long its tokens are (12 small requests)"
        )
        store.more.pop("uncalibrated", None)
        try:
            store.more["chars_per_token"] = calibrate(plan, base, store, log).chars_per_token
        except UncalibratedError as reason:
            store.more |= {"chars_per_token": None, "uncalibrated": str(reason)}
        store.write(sent=True)
    if store.more.get("chars_per_token") is None:
        log.say(
            f"{store.more.get('uncalibrated', 'too few counts of prompt tokens from the server')}: lengths "
            "are estimated from English text; --model-tokenizer makes them exact"
        )
        return base
    log.say(
        f"lengths: {store.more['chars_per_token']:.3f} characters a token, by the server's counts"
    )
    return replace(base, tokens=calibrated(store.more["chars_per_token"]))


def calibrate(plan: BenchmarkPlan, base: Workload, store: RunStore, log: Log) -> Calibration:
    """The server's own measure; the requests lie in the store's folder, and replace those of an earlier try.

    Raises UncalibratedError where it does not count, or its counts do not grow with the text;
    UnreachableError where nothing will succeed, and KeyboardInterrupt.
    """
    task = WITHOUT_IMAGES.get(plan.source.task, plan.source.task)

    def counted(tokens: int, *, last: bool = True) -> Pairs | None:
        """What the server counts of texts of a length; empty where it refuses them as too long.

        `last` says that there is no shorter length to try. None where a budget has no room for them.
        """
        path = store.folder / f"calibration_{tokens}.msgpack"
        out = path.with_suffix(".run")
        path.unlink(missing_ok=True)
        store.clear(out)
        workload = Workload(
            task=cast("Task", task),
            api=base.api,
            model=base.model,
            scenario=parse(FORMS[task].format(tokens)),
            requests=REQUESTS,
            seed=base.seed,
            additional_request_params=base.additional_request_params,
        )
        trace = write(workload, path)
        left = store.left(plan.options.max_cost)
        order = replace(plan.order, trace=path, out=out, concurrency=1, max_cost=left)
        job = resolve(order, ledger=store.ledger(out))
        if left is not None and not _affordable(job, left):
            return None
        log.say(f"lengths: {REQUESTS} requests of about {tokens} tokens")
        with Board() as board:
            run = run_replay(job, watching(board))
        store.charge(out, "calibration", cost_of(run))
        if run.totals["ended_by"] == "interrupt":
            raise KeyboardInterrupt
        figures = numbers(run)
        # A length that is refused is no reason to end as long as there is a shorter one to try.
        if last or not (hopeless(figures) and too_much(figures)):
            check_hope(run, figures, plan.flags)
        counts = dict(zip(run.columns["id"].tolist(), run.columns["prompt_tokens"], strict=True))
        return [
            (chars, count)
            for name, chars in characters(trace)
            if (count := int(counts.get(name, -1))) > 0
        ]

    short = counted(SHORT)
    if short is None:
        raise UncalibratedError(UNAFFORDABLE)
    if not short:
        raise UncalibratedError("no counts of prompt tokens from the server")
    for tokens in LONG:
        if long := counted(tokens, last=False):
            return fitted([*short, *long])
    if long is None:
        raise UncalibratedError(UNAFFORDABLE)
    raise UncalibratedError(f"the server takes no prompt of {LONG[-1]} tokens")


def _affordable(job: Job, left: float) -> bool:
    """Whether its requests may cost half of what is left, at the most: the rest is for the points."""
    try:
        seen = estimate(job)
    except OverBudgetError:
        return False
    if seen.budget_usd is None or seen.cost_usd is None:
        return True  # a budget that cannot be kept at all is refused by the run
    return REQUESTS * (seen.budget_usd - seen.cost_usd) <= left / 2


def fitted(pairs: Sequence[tuple[int, int]]) -> Calibration:
    """The line through (characters, tokens). Raises UncalibratedError where there is none to believe.

    Where every request has the same count, the least-squares slope is rounding noise of either sign.
    """
    chars, tokens = np.array(pairs, dtype=float).reshape(-1, 2).T
    # A slope through texts of one length would be that of their noise.
    if len(chars) < REQUESTS or chars.max() < 2 * chars.min():
        raise UncalibratedError("too few counts of prompt tokens from the server")
    spread = float(np.ptp(tokens))
    if spread > 0:
        # Tokens over characters, the way round in which the
        # noise is: a tokenizer's counts scatter, lengths do not.
        slope, overhead = map(float, np.polyfit(chars, tokens, 1))
        rest = float(np.var(tokens - (slope * chars + overhead)) / np.var(tokens))
    if spread == 0 or slope <= 0 or rest > 1 - EXPLAINED:
        raise UncalibratedError(
            "the server's counts of prompt tokens do not grow with the prompt "
            f"({tokens.min():,.0f} to {tokens.max():,.0f} of {chars.min():,.0f} to "
            f"{chars.max():,.0f} characters)"
        )
    low, high = RATIOS
    if not low <= 1 / slope <= high:
        raise UncalibratedError(
            f"the server counts a token for each {1 / slope:.3g} characters, "
            f"which no tokenizer does ({low:g} to {high:g})"
        )
    return Calibration(chars_per_token=1 / slope, overhead=overhead, requests=len(chars))


def characters(trace: Trace) -> Iterator[tuple[str, int]]:
    """The id of each request, and how many characters of text it has."""
    for exchange in trace.requests:
        request = exchange.request
        asked = parse_request(request.method, request.path, request.body)
        yield request.id, sum(map(len, texts(asked)))


def texts(asked: ParsedRequest) -> Iterator[str]:
    """All that a model is given to read."""
    for message in asked.messages:
        content = message["content"]
        yield from [content] if isinstance(content, str) else [p.get("text", "") for p in content]
    body = {} if asked.messages else asked.payload or {}
    for name in ("input", "documents"):
        yield from body.get(name, ())
    yield body.get("query", "")
