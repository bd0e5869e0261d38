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
    """What a point must have more than `over` of, in tokens/s."""

    figure: Figure
    name: str
    over: float


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
    over=10,
)
THROUGHPUT: Final = Rule(figure=lambda point, _: point.number(TOKENS), name="throughput", over=100)
RULES: Final[Mapping[str, Rule]] = {
    "text-to-embeddings": THROUGHPUT,
    "image-to-embeddings": THROUGHPUT,
    "text-to-rerank": THROUGHPUT,
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


def _step(value: float, runs: Sequence[Result], rule: Rule, level: str) -> Step:
    return Step(
        value=value,
        figure=_mean(rule.figure(run, level) for run in runs),
        tokens_per_s=_mean(run.number(TOKENS) for run in runs) or 0.0,
        requests_per_s=_mean(run.number("requests_per_second") for run in runs) or 0.0,
        error_rate=_mean(run.number("error_rate") for run in runs),
        valid=all(run.aggregate.get("valid") is not False for run in runs),
    )


def pick(ladder: Sequence[Step], rule: Rule) -> Pick:
    """The step of one scenario that the summary names."""
    best: Step | None = None
    for step in ladder:
        if step.figure is None or step.figure <= rule.over:
            continue
        if (
            best
            and _alike(best.tokens_per_s, step.tokens_per_s)
            and _alike(best.requests_per_s, step.requests_per_s)
        ):
            return Pick(step=best, why=f"{step.value:g} changes throughput and requests/s by < 5 %")
        best = step
    if best is None:
        return Pick(step=None, why=f"no point has a {rule.name} over {rule.over:g} tokens/s")
    return Pick(step=best, why=f"the highest with a {rule.name} over {rule.over:g} tokens/s")


def _alike(before: float, after: float) -> bool:
    return abs(after - before) < PLATEAU * before if before else after == before


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
