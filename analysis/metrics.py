"""METRICS: what can be measured of a request, in which unit, and which way is better. One row each.

A value is NaN where the metric does not apply, or where the request failed (failures are an endpoint of
their own). A timeout has taken longer than anyone waited: +inf in every latency that it belongs to.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tbench.analysis.arms import Arm, Truths
from tbench.analysis.summary import Floats, rank
from tbench.replay import measures

Direction = Literal["lower", "higher", "neutral"]

_GAPS_AT_ONCE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A row of the table. `raw` gives one number per sample, whatever became of the request.

    `latency` metrics are +inf for a timeout; of those, `streamed` ones only where a stream was asked for.
    `spaced` ones are of the time between tokens: no sample has one where something buffers the streams.
    `from_due` ones count from when the request was due, so that the client's own lag is part of them.
    """

    name: str
    unit: str
    better: Direction
    definition: str
    raw: Callable[[Arm], Floats]
    latency: bool = False
    streamed: bool = False
    spaced: bool = False
    from_due: bool = False


def values(arm: Arm, metric: Metric) -> Floats:
    """One number per sample of the arm, successes only: failed is NaN, timed out is +inf."""
    if metric.spaced and arm.buffered:
        return np.full(len(arm), np.nan)
    measured = np.where(arm.ok, metric.raw(arm), np.nan)
    if metric.latency:
        measured[arm.timed_out & applies(arm, metric)] = np.inf
    return measured


def composite(arm: Arm, metric: Metric) -> Floats:
    """The same with every failure as bad as a timeout, so that failing fast cannot look fast."""
    if metric.spaced and arm.buffered:
        return np.full(len(arm), np.nan)
    measured = np.where(arm.ok, metric.raw(arm), np.nan)
    measured[arm.failed & applies(arm, metric)] = np.inf
    return measured


def applies(arm: Arm, metric: Metric) -> Truths:
    """The requests that have such a latency unless they fail: of streamed metrics, the streams."""
    stream: Truths = arm.columns["stream"]
    return stream if metric.streamed else np.ones_like(stream)


def _count(name: str) -> Callable[[Arm], Floats]:
    def read(arm: Arm) -> Floats:
        column = arm.columns[name]
        return np.where(column < 0, np.nan, column)

    return read


def _itl_p95(arm: Arm) -> Floats:
    """The least gap with 95 % of the request's gaps at or below it; requests of one size at a time."""
    offsets, gaps = arm.token_gaps()
    sizes = np.diff(offsets)
    tails = np.full(len(sizes), np.nan)
    for size in np.unique(sizes[sizes > 0]).tolist():
        rows, place = np.flatnonzero(sizes == size), rank(size, 0.95) - 1
        for few in np.array_split(rows, 1 + len(rows) * size // _GAPS_AT_ONCE):
            table = gaps[offsets[few][:, None] + np.arange(size)]
            tails[few] = np.partition(table, place, axis=1)[:, place]
    return np.where(np.isnan(measures.itl(arm.columns)), np.nan, tails)


def _speed(arm: Arm) -> Floats:
    span = measures.e2e_from_sent(arm.columns)
    absent = np.full(len(arm), np.nan)
    return np.asarray(np.divide(_count("output_tokens")(arm), span, out=absent, where=span > 0))


def _per_token(arm: Arm) -> Floats:
    tokens, absent = _count("output_tokens")(arm), np.full(len(arm), np.nan)
    return np.asarray(np.divide(measures.e2e(arm.columns), tokens, out=absent, where=tokens >= 1))


_ROWS = (
    Metric(
        name="ttft",
        unit="s",
        better="lower",
        definition="time to first token: from when the request was due (closed pacing: sent) to the "
        "first content, reasoning or tool-call token",
        raw=lambda arm: measures.ttft(arm.columns),
        latency=True,
        from_due=True,
        streamed=True,
    ),
    Metric(
        name="ttft_sent",
        unit="s",
        better="lower",
        definition="time to first token, from when the request was sent",
        raw=lambda arm: measures.ttft_from_sent(arm.columns),
        latency=True,
        streamed=True,
    ),
    Metric(
        name="ttft_answer",
        unit="s",
        better="lower",
        definition="as ttft, to the first token that is not reasoning",
        raw=lambda arm: measures.ttft_answer(arm.columns),
        latency=True,
        from_due=True,
        streamed=True,
    ),
    Metric(
        name="e2e",
        unit="s",
        better="lower",
        definition="end to end: from when the request was due (closed pacing: sent) to the last token; "
        "without a stream to the last byte",
        raw=lambda arm: measures.e2e(arm.columns),
        latency=True,
        from_due=True,
    ),
    Metric(
        name="e2e_per_token",
        unit="s",
        better="lower",
        definition="end to end / output tokens, by the server's usage: for answers of different length",
        raw=_per_token,
        latency=True,
        from_due=True,
    ),
    Metric(
        name="tpot",
        unit="s",
        better="lower",
        definition="time per output token: (last token - first token) / (output tokens - 1), by the "
        "server's usage; none where all came at once",
        raw=lambda arm: measures.tpot(arm.columns),
        latency=True,
        streamed=True,
        spaced=True,
    ),
    Metric(
        name="itl",
        unit="s",
        better="lower",
        definition="inter-token latency: the mean gap between one request's content events (an event may "
        "carry several tokens)",
        raw=lambda arm: measures.itl(arm.columns),
        latency=True,
        streamed=True,
        spaced=True,
    ),
    Metric(
        name="itl_p95",
        unit="s",
        better="lower",
        definition="the 95th percentile of the gaps between one request's content events",
        raw=_itl_p95,
        latency=True,
        streamed=True,
        spaced=True,
    ),
    Metric(
        name="output_tokens_per_s",
        unit="tok/s",
        better="higher",
        definition="one request's output tokens / (sent to last token)",
        raw=_speed,
    ),
    Metric(
        name="prompt_tokens",
        unit="tok",
        better="neutral",
        definition="prompt tokens by the server's usage",
        raw=_count("prompt_tokens"),
    ),
    Metric(
        name="output_tokens",
        unit="tok",
        better="neutral",
        definition="output tokens by the server's usage, reasoning included",
        raw=_count("output_tokens"),
    ),
    Metric(
        name="cached_tokens",
        unit="tok",
        better="neutral",
        definition="prompt tokens that the server took from its cache, by its usage",
        raw=_count("cached_tokens"),
    ),
    Metric(
        name="cache_creation_tokens",
        unit="tok",
        better="neutral",
        definition="prompt tokens that the server wrote to its cache, by its usage",
        raw=_count("cache_creation_tokens"),
    ),
    Metric(
        name="reasoning_tokens",
        unit="tok",
        better="neutral",
        definition="reasoning tokens by the server's usage",
        raw=_count("reasoning_tokens"),
    ),
    Metric(
        name="lag",
        unit="s",
        better="lower",
        definition="how much later than due a request was sent: the client's own delay (open pacing)",
        raw=lambda arm: measures.lag(arm.columns),
    ),
)

METRICS: Mapping[str, Metric] = {row.name: row for row in _ROWS}
