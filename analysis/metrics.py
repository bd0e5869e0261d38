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


def _speed(columns: measures.Columns) -> Floats:
    span, tokens = measures.e2e_from_sent(columns), columns["output_tokens"]
    absent = np.full(len(span), np.nan)
    return np.asarray(np.divide(tokens, span, out=absent, where=(span > 0) & (tokens >= 0)))


def _per_token(columns: measures.Columns) -> Floats:
    span, tokens = measures.e2e(columns), columns["output_tokens"]
    return np.asarray(np.divide(span, tokens, out=np.full(len(span), np.nan), where=tokens >= 1))


def _latency(
    name: str, raw: Callable[[measures.Columns], Floats], definition: str, **marks: bool
) -> Metric:
    """A row in seconds, of which a timeout is longer than any."""
    return Metric(
        name=name,
        unit="s",
        better="lower",
        definition=definition,
        raw=lambda arm: raw(arm.columns),
        latency=True,
        **marks,
    )


def _count(name: str, definition: str) -> Metric:
    """A row of tokens as the server counts them: neither more nor fewer is better."""

    def raw(arm: Arm) -> Floats:
        column = arm.columns[name]
        return np.where(column < 0, np.nan, column)

    return Metric(name=name, unit="tok", better="neutral", definition=definition, raw=raw)


_ROWS = (
    _latency(
        "ttft",
        measures.ttft,
        "time to first token: from when the request was due (closed pacing: sent) to the "
        "first content, reasoning or tool-call token",
        from_due=True,
        streamed=True,
    ),
    _latency(
        "ttft_sent",
        measures.ttft_from_sent,
        "time to first token, from when the request was sent",
        streamed=True,
    ),
    _latency(
        "ttft_answer",
        measures.ttft_answer,
        "as ttft, to the first token that is not reasoning",
        from_due=True,
        streamed=True,
    ),
    _latency(
        "e2e",
        measures.e2e,
        "end to end: from when the request was due (closed pacing: sent) to the last token; "
        "without a stream to the last byte",
        from_due=True,
    ),
    _latency(
        "e2e_per_token",
        _per_token,
        "end to end / output tokens, by the server's usage: for answers of different length",
        from_due=True,
    ),
    _latency(
        "tpot",
        measures.tpot,
        "time per output token: (last token - first token) / (output tokens - 1), by the "
        "server's usage; none where all came at once",
        streamed=True,
        spaced=True,
    ),
    _latency(
        "itl",
        measures.itl,
        "inter-token latency: the mean gap between one request's content events (an event may "
        "carry several tokens)",
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
        raw=lambda arm: _speed(arm.columns),
    ),
    _count("prompt_tokens", "prompt tokens by the server's usage"),
    _count("output_tokens", "output tokens by the server's usage, reasoning included"),
    _count("cached_tokens", "prompt tokens that the server took from its cache, by its usage"),
    _count(
        "cache_creation_tokens", "prompt tokens that the server wrote to its cache, by its usage"
    ),
    _count("reasoning_tokens", "reasoning tokens by the server's usage"),
    Metric(
        name="lag",
        unit="s",
        better="lower",
        definition="how much later than due a request was sent: the client's own delay (open pacing)",
        raw=lambda arm: measures.lag(arm.columns),
    ),
)

METRICS: Mapping[str, Metric] = {row.name: row for row in _ROWS}
