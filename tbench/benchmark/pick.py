"""The pick: which point of a scenario a benchmark's summary names. genai-bench's rules.

Walk up the axis and keep the last point that has more than the rule asks for; stop where neither throughput
nor requests per second change by 5 % from the one that is kept.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Final

from tbench.benchmark.result import Result

PLATEAU: Final = 0.05
"""A change of throughput and of requests per second, up or down, that is not worth a higher value."""
TOKENS: Final = "mean_total_tokens_throughput_tokens_per_s"
Figure = Callable[[Result, str], float | None]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a point must have more than `over` of, in `unit`; `over` None: the point that has most."""

    figure: Figure
    name: str
    unit: str
    over: float | None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One value of the axis: the means over its runs, `valid` if all are. `figure` is that of the rule."""

    value: float
    figure: float | None
    tokens_per_s: float
    requests_per_s: float
    error_rate: float | None
    valid: bool


@dataclass(frozen=True, kw_only=True)
class Pick:
    """The step, None where no point qualifies; and why it is this one."""

    step: Step | None
    why: str


SPEED: Final = Rule(
    figure=lambda point, level: point.stat("output_inference_speed", level),
    name="speed",
    unit="tokens/s",
    over=10,
)
THROUGHPUT: Final = Rule(
    figure=lambda point, _: point.number(TOKENS), name="throughput", unit="tokens/s", over=100
)
AUDIO: Final = Rule(
    figure=lambda point, level: point.stat("audio_throughput", level),
    name="audio throughput",
    unit="bytes/s",
    over=None,
)
RULES: Final[Mapping[str, Rule]] = {
    "text-to-embeddings": THROUGHPUT,
    "image-to-embeddings": THROUGHPUT,
    "text-to-rerank": THROUGHPUT,
    "text-to-speech": AUDIO,
}
"""Task -> its rule; every other task speaks, and goes by SPEED."""


def rule_of(task: str) -> Rule:
    """By what points of this task are picked."""
    return RULES.get(task, SPEED)


def steps(points: Sequence[Result], rule: Rule, level: str) -> list[Step]:
    """The values of an axis in order (points are sorted by them), with the means over repeated runs."""
    return [
        _step(value, list(runs), rule, level) for value, runs in groupby(points, lambda p: p.value)
    ]


def pick(found: Sequence[Step], rule: Rule) -> Pick:
    """The step of one scenario that the summary names."""
    return _most(found, rule) if rule.over is None else _last(found, rule, rule.over)


def _step(value: float, runs: Sequence[Result], rule: Rule, level: str) -> Step:
    return Step(
        value=value,
        figure=_mean(rule.figure(run, level) for run in runs),
        tokens_per_s=_mean(run.number(TOKENS) for run in runs) or 0.0,
        requests_per_s=_mean(run.number("requests_per_second") for run in runs) or 0.0,
        error_rate=_mean(run.number("error_rate") for run in runs),
        valid=all(run.aggregate.get("valid") is not False for run in runs),
    )


def _last(found: Sequence[Step], rule: Rule, over: float) -> Pick:
    kept: Step | None = None
    for step in found:
        if step.figure is None or step.figure <= over:
            continue
        if kept and _plateau(kept, step):
            return Pick(step=kept, why=f"{step.value:g} changes throughput and requests/s by < 5 %")
        kept = step
    if kept is None:
        return Pick(step=None, why=f"no point has a {rule.name} over {over:g} {rule.unit}")
    return Pick(step=kept, why=f"the highest with a {rule.name} over {over:g} {rule.unit}")


def _most(found: Sequence[Step], rule: Rule) -> Pick:
    best: Step | None = None
    for step in found:
        if step.figure and step.figure > ((best and best.figure) or 0.0):
            best = step
    return Pick(step=best, why=f"the most {rule.name}" if best else f"no point has {rule.name}")


def _plateau(kept: Step, step: Step) -> bool:
    return _alike(kept.tokens_per_s, step.tokens_per_s) and _alike(
        kept.requests_per_s, step.requests_per_s
    )


def _alike(before: float, after: float) -> bool:
    return abs(after - before) < PLATEAU * before if before else after == before


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
