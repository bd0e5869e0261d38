"""Service level objectives: what a request must stay within to count as good. `ttft<500ms,tpot<50ms`."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from tbench.analysis.arms import Arm, Truths
from tbench.analysis.metrics import METRICS, Direction, Metric, applies, values
from tbench.analysis.pairing import Places, RunView
from tbench.analysis.spending import PER_SESSION, PER_SUCCESS, spending
from tbench.analysis.summary import Floats, quantile, refusal
from tbench.analysis.sums import Ints
from tbench.capture.errors import InputError
from tbench.replay.throughput import Tokens, shares_places, three, window

FORM: Final = "ttft<500ms,tpot<50ms,e2e<3s"
UNITS: Final = {
    "s": {"s": 1.0, "ms": 1e-3, "us": 1e-6},
    "tok/s": {"": 1.0, "tok/s": 1.0},
    "USD": {"": 1.0, "usd": 1.0},
}
"""Unit of a metric -> how a limit may be written, and what it is in that unit."""
GAPS: Final = {"tpot": "output_tokens", "itl": "token_events", "itl_p95": "token_events"}
"""Metrics of what lies between tokens, and the column that says how many there were."""
_ONE = re.compile(r"(?P<metric>\w+)(?P<sign><=?|>=?)(?P<limit>\d+(?:\.\d*)?|\.\d+)(?P<unit>[\w/]*)")
_SIGNS = {"lower": "<", "higher": ">"}


@dataclass(frozen=True, slots=True)
class Objective:
    """A metric and what it must stay below (above, where more is better), in the metric's unit."""

    metric: str
    limit: float

    @property
    def text(self) -> str:
        """As a user writes it."""
        metric = METRICS[self.metric]
        return f"{metric.name}{_SIGNS[metric.better]}{written(self.limit, metric.unit)}"


Slo = tuple[Objective, ...]


def parse_slo(text: str) -> Slo:
    """`ttft<500ms,tpot<50ms,e2e<3s`. Raises InputError saying what the right form is."""
    objectives = tuple(_objective(text, part.strip()) for part in text.split(","))
    # Two limits of one metric are a slip of the pen: the laxer one would never show.
    if len({objective.metric for objective in objectives}) < len(objectives):
        raise InputError(f"--slo {text}: a metric is named twice")
    return objectives


def _objective(text: str, part: str) -> Objective:
    parts = _ONE.fullmatch(part)
    if not parts:
        raise InputError(f"--slo {text}: write it as '{FORM}'")
    metric = METRICS.get(parts["metric"])
    if metric is None or metric.unit not in UNITS or metric.better == "neutral":
        known = ", ".join(name for name, row in METRICS.items() if row.unit in UNITS)
        raise InputError(f"--slo {text}: no objective for {parts['metric']}; there are {known}")
    if parts["sign"][0] != _SIGNS[metric.better]:
        raise InputError(
            f"--slo {text}: good {metric.name} is {metric.better}: write {_SIGNS[metric.better]}"
        )
    return Objective(
        metric.name, parse_amount("--slo", text, (parts["limit"], parts["unit"]), metric.unit)
    )


def parse_amount(option: str, text: str, amount: tuple[str, str], unit: str) -> float:
    """Digits and the unit they were written with, as a number of `unit`s above 0."""
    digits, given = amount
    if given not in UNITS[unit]:
        forms = " or ".join(f"{digits}{suffix}" for suffix in UNITS[unit])
        raise InputError(f"{option} {text}: a limit in {unit} is written {forms}")
    if float(digits) <= 0:
        raise InputError(f"{option} {text}: the limit lies above 0")
    return float(digits) * UNITS[unit][given]


def written(value: float, unit: str) -> str:
    """A limit as a user writes it."""
    if unit == "s":
        return f"{value * 1e3:.6g}ms" if value < 1 else f"{value:.6g}s"
    return f"{value:.6g}"


def met(arm: Arm, slo: Slo, of: Callable[[Arm, Metric], Floats] = values) -> Truths:
    """True for each request that succeeded and stayed within every objective it can be held to.

    A request without a stream has no first token, one of a single token, or whose tokens all came at once,
    no time between tokens: it is not held to that. What is missing otherwise (no token came, no usage was
    reported) is not met.
    """
    good = arm.ok.copy()
    for objective in slo:
        metric = METRICS[objective.metric]
        measured = of(arm, metric)
        within = (
            measured < objective.limit if metric.better == "lower" else measured > objective.limit
        )
        held = applies(arm, metric)
        if metric.name in GAPS:
            # An answer of one token, or that came all at once, has nothing between its tokens.
            tokens = arm.columns[GAPS[metric.name]]
            held = held & ((tokens < 0) | (tokens > 1))
            held &= arm.columns["first_token"] != arm.columns["last_token"]
        good &= within | ~held
    return good


# Endpoints: what a gate looks at, as one figure of one run. Quantiles, shares, and rates over the run.
#
# A share or a rate has no quantile: the run is its only unit. Rates are over the wall time from the first
# shared request sent to the last one's end; of a closed loop those of all that it did outside the warm-up.

Scale = Literal["ratio", "points"]
ERRORS: Final = "errors"
GOODPUT: Final = "goodput"
NOTHING: Final = "a run has no request that counts"
SHARED_LOOP: Final = (
    "the arms of a duet share the places of a closed loop: the slower one sets the rate of both"
)
BLOCKS: Final = 16
"""Stretches of a run in which events are counted, to see whether they come in bursts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One run's figure: of `n` requests, `events` of them (shares only). `refusal`: why there is none.

    `clumps` is by how much the events of BLOCKS stretches of the run vary (shares): the sum of their squared
    deviations, to be held against events * (1 - share), what it would be if they came one by one; None
    where the order is not known. `offered` is the rate that an open loop's arrivals would allow (rates).
    Of a rate of tokens `uncounted` successes name none: it is refused, and is `least` at least.
    """

    value: float
    n: int
    events: int = 0
    refusal: str | None = None
    clumps: float | None = None
    offered: float | None = None
    uncounted: int = 0
    least: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMetric:
    """A row of the table. `scale` says whether arms differ by a ratio, or by points of a share.

    `form` is a gate on it as a user writes one. `title` is its heading where reports show it beside the
    quantiles (`rates`). `worst` is the figure with every failure as the slowest request (of latencies).
    `paced`: in an open loop the arrivals set it, up to what the server can take.
    """

    name: str
    unit: str
    better: Direction
    scale: Scale
    form: str
    definition: str
    figure: Callable[[RunView, Slo], Figure]
    title: str = ""
    worst: Callable[[RunView], Figure] | None = None
    needs_slo: bool = False
    paced: bool = False


def endpoint(metric: str, p: float | None) -> RunMetric:
    """The endpoint of a gate: a row of RUN_LEVEL, or a quantile of a metric of METRICS."""
    return RUN_LEVEL[metric] if p is None else _quantile(metric, p)


def _quantile(name: str, p: float) -> RunMetric:
    metric = METRICS[name]

    def figure(values: Floats) -> Figure:
        if why := refusal(len(values), p):
            return Figure(value=math.nan, n=len(values), refusal=why)
        return Figure(value=quantile(values, p), n=len(values))

    return RunMetric(
        name=name,
        unit=metric.unit,
        better=metric.better,
        scale="ratio",
        form=f"{name}:p95:5%",
        definition=metric.definition,
        figure=lambda run, _: figure(run.ordered(metric)),
        worst=(lambda run: figure(run.whole(metric))) if metric.latency else None,
    )


def share(event: Truths) -> Figure:
    """Of requests in the order of the trace, which are events."""
    parts = np.array_split(event, max(1, min(BLOCKS, len(event))))
    counts = np.array([(int(part.sum()), len(part)) for part in parts])
    return counted_share(counts[:, 0], counts[:, 1])


def counted_share(events: Ints, requests: Ints) -> Figure:
    """The same where both were counted in stretches of a run."""
    n, total = int(requests.sum()), int(events.sum())
    if not n:
        return Figure(value=math.nan, n=0, refusal=NOTHING)
    # In order of the trace: events that come together make some stretches full and others empty.
    apart = float(((events - requests * total / n) ** 2).sum())
    # n / (n - 1): the deviations are from the run's own mean, which lies among them.
    clumps = apart * len(events) / (len(events) - 1) if len(events) > 1 else None
    return Figure(value=total / n, n=n, events=total, clumps=clumps)


def _goodput(run: RunView, slo: Slo) -> Figure:
    sums = run.arm.sums

    def count(name: str) -> int:
        return len(run.ordered(METRICS[name])) if sums is None else sums.whole(name).n

    # What no success has is met by none, or, where none is held to it, by all: neither says anything.
    absent = [objective.metric for objective in slo if not count(objective.metric)]
    succeeded = (
        run.counted(run.arm.ok).any() if sums is None else sums.counted.sum() > sums.failed.sum()
    )
    if absent and succeeded:
        return Figure(value=math.nan, n=0, refusal=f"a run has no {' and no '.join(absent)} at all")
    if sums is not None:
        return counted_share(sums.good, sums.counted)
    return share(run.counted(met(run.arm, slo)))


def _rate(run: RunView, amount: float, n: int, most: float | None = None) -> Figure:
    """So much per second of the run; `most` would be there if nothing failed (None: as much as is)."""
    rate, due = run.throughput.per_s(amount), run.due
    if rate is None:
        return Figure(value=math.nan, n=n, refusal=NOTHING)
    if shares_places(run.arm.run):
        return Figure(value=math.nan, n=n, refusal=SHARED_LOOP, least=rate)
    # From the first due to the last: what the server adds at the end is not offered load.
    span = float(np.nanmax(due) - np.nanmin(due)) if np.isfinite(due).any() else 0.0
    offered = (amount if most is None else most) / span if span > 0 else None
    return Figure(value=rate, n=n, offered=offered)


def _requests(run: RunView, _: Slo) -> Figure:
    sums = run.arm.sums
    n = len(run.counted(run.arm.ok)) if sums is None else int(sums.counted.sum())
    return _rate(run, run.throughput.successes, n, n)


def _good_requests(run: RunView, slo: Slo) -> Figure:
    good = _goodput(run, slo)
    if good.refusal:
        return good
    if (sums := run.arm.sums) is not None:
        return _rate(run, sums.rates.good, good.n, good.n)
    shares = window(run.arm.run, run.flow).shares
    return _rate(run, float(shares[met(run.arm, slo)].sum()), good.n, good.n)


def _tokens(run: RunView, *sides: Tokens) -> Figure:
    tokens = sum(sides, Tokens())
    # A rate of those that were counted would be too low, and by how much nobody knows.
    if tokens.uncounted:
        why = f"{tokens.uncounted:,} of a run's {tokens.n:,} successes have no token count by the server"
        least = run.throughput.tokens_per_s(*sides)
        return Figure(
            value=math.nan, n=tokens.n, refusal=why, uncounted=tokens.uncounted, least=least
        )
    return _rate(run, tokens.total, tokens.n)


def _cost(name: str, run: RunView) -> Figure:
    ratio = spending(run.arm, run.places, shared=True).ratios.get(name)
    n = len(run.places)
    if ratio is None:
        return Figure(value=math.nan, n=n, refusal="a run has requests of no known session")
    if ratio.value is None:
        return Figure(value=math.nan, n=n, refusal=ratio.refusal)
    return Figure(value=ratio.value, n=n)


def _per_s(
    name: str,
    title: str,
    definition: str,
    figure: Callable[[RunView, Slo], Figure],
    **more: str | bool,
) -> RunMetric:
    """A row of what a run does per second: more is better, and an open loop's arrivals set it."""
    row: dict[str, Any] = {"unit": "/s", "form": f"{name}:5%, or '{name}>=20'"} | more
    return RunMetric(
        name=name,
        title=title,
        definition=f"{definition}, per second of the run",
        figure=figure,
        better="higher",
        scale="ratio",
        paced=True,
        **row,
    )


_ROWS = (
    RunMetric(
        name=ERRORS,
        unit="share",
        better="lower",
        scale="points",
        form="errors:0.5pp, or 'errors<=1%'",
        definition="the share of requests that failed, timeouts included",
        figure=lambda run, _: share(run.counted(run.arm.failed)),
    ),
    _per_s("requests_per_s", "requests/s", "requests that succeeded", _requests),
    _per_s(
        "output_tokens_per_s",
        "output tokens/s",
        "output tokens of all successes by the server's usage",
        lambda run, _: _tokens(run, run.throughput.output),
        unit="tok/s",
        form="output_tokens_per_s:5% (the run's total), or output_tokens_per_s:p50:5% (a request's)",
    ),
    _per_s(
        "input_tokens_per_s",
        "input tokens/s",
        "prompt tokens of all successes by the server's usage",
        lambda run, _: _tokens(run, run.throughput.input),
        unit="tok/s",
    ),
    _per_s(
        "total_tokens_per_s",
        "total tokens/s",
        "prompt and output tokens of all successes by the server's usage",
        lambda run, _: _tokens(run, run.throughput.input, run.throughput.output),
        unit="tok/s",
    ),
    RunMetric(
        name=GOODPUT,
        title="goodput",
        unit="share",
        better="higher",
        scale="points",
        form="goodput:1pp, or 'goodput>=99%'",
        definition="the share of requests that met every objective of --slo; failures and timeouts do not",
        figure=_goodput,
        needs_slo=True,
    ),
    _per_s(
        "goodput_per_s",
        "good requests/s",
        "requests that met every objective of --slo",
        _good_requests,
        needs_slo=True,
    ),
    *(
        RunMetric(
            name=name,
            unit="USD",
            better="lower",
            scale="ratio",
            form=f"{name}:5%, or '{name}<=0.002'",
            definition=f"what all requests cost by the run's prices, over the {units}, US dollars",
            figure=lambda run, _, name=name: _cost(name, run),  # type: ignore[misc]
        )
        for name, units in ((PER_SUCCESS, "successes"), (PER_SESSION, "sessions"))
    ),
)

RUN_LEVEL: Final[Mapping[str, RunMetric]] = {row.name: row for row in _ROWS}
"""What is one number of a run and has no quantile. Gates hold all, reports show those with a title."""

# Rates: the figures of a run that reports show beside its quantiles.
#
# They have no interval: a run gives one figure of each. In an open loop the arrivals set them for as long
# as the server keeps up, unless turns wait for its answers: these come later where it is slow.

OPEN_LOOP: Final = "open loop: the trace sets the load, so that equal rates say nothing of speed"
TURNS_WAIT: Final = (
    "open loop, turns waited: a slow target is asked later, so the rates are partly its own"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A row's figure of one run, None where there is none; at least that where `uncounted` name no tokens."""

    row: RunMetric
    value: float | None
    uncounted: int

    @property
    def text(self) -> str:
        """With its doubt; the unit stands in the title."""
        if self.value is None:
            return "unknown" if self.uncounted else "-"
        figure = f"{self.value:.2%}" if self.row.unit == "share" else three(self.value)
        return f"≥ {figure}" if self.uncounted else figure


Pair = tuple[Rate, Rate]


def rates(arm: Arm, places: Places | None = None, slo: Slo = ()) -> tuple[Rate, ...]:
    """Those of the requests at these places; of all outside the warm-up without any.

    In a comparison only shares are of the requests at these places: half of what a run did, over all of its
    time, is not its rate.
    """
    nowhere = np.empty(0, np.int64)
    if places is None:
        places = nowhere if arm.sums else np.flatnonzero(arm.measured)
    rated = places if arm.rated is None else np.flatnonzero(arm.rated)
    run, flow = (RunView(arm=arm, places=at, at=0) for at in (places, rated))
    shown = [row for row in RUN_LEVEL.values() if row.title and (slo or not row.needs_slo)]
    figures = [row.figure(run if row.unit == "share" else flow, slo) for row in shown]
    return tuple(
        Rate(
            row=row,
            value=figure.least if figure.refusal else figure.value,
            uncounted=figure.uncounted,
        )
        for row, figure in zip(shown, figures, strict=True)
    )


def ratio(pair: Pair) -> float | None:
    """Candidate / baseline of rates; None of shares, and where either is unknown or only a bound."""
    first, second = pair
    # A ratio of bounds is no bound: both may be too low by different amounts.
    if first.row.unit == "share" or first.uncounted or second.uncounted or not first.value:
        return None
    return None if second.value is None else second.value / first.value


def footnote(pairs: tuple[Pair, ...]) -> str | None:
    """How many successes name no tokens, where some do not."""
    missing = [
        f"{first.row.title} {first.uncounted:,} and {second.uncounted:,}"
        for first, second in pairs
        if first.uncounted or second.uncounted
    ]
    return f"successes without token counts: {'; '.join(missing)}" if missing else None
