"""The metrics of `replay.metrics` over an arm: which of its requests have one, and what a failure counts as.

A value is NaN where the metric does not apply, or where the request failed (failures are an endpoint of
their own). A timeout has taken longer than anyone waited: +inf in every latency that it belongs to.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from tbench.analysis.arms import Arm, Truths
from tbench.analysis.summary import Floats, rank
from tbench.analysis.sums import CachedTokens
from tbench.capture.providers import GENERATIVE
from tbench.replay.metrics import METRICS, Direction, Metric
from tbench.replay.table import where

__all__ = [
    "METRICS",
    "Direction",
    "Metric",
    "applies",
    "cached_tokens",
    "composite",
    "stamped",
    "values",
]

GAPS_AT_ONCE: Final = 1_000_000


def values(arm: Arm, metric: Metric) -> Floats:
    """One number per sample of the arm, successes only: failed is NaN, timed out is +inf."""
    if metric.spaced and arm.buffered:
        return np.full(len(arm), np.nan)
    return stamped(arm, metric)


def stamped(arm: Arm, metric: Metric) -> Floats:
    """The same whether or not something buffers the streams."""
    measured = _of_successes(arm, metric)
    if metric.latency:
        measured[arm.timed_out & applies(arm, metric)] = np.inf
    return measured


def composite(arm: Arm, metric: Metric) -> Floats:
    """The same with every failure as bad as a timeout, so that failing fast cannot look fast."""
    if metric.spaced and arm.buffered:
        return np.full(len(arm), np.nan)
    measured = _of_successes(arm, metric)
    measured[arm.failed & applies(arm, metric)] = np.inf
    return measured


def cached_tokens(arm: Arm, places: npt.NDArray[np.int64] | slice) -> CachedTokens:
    """Of the requests at these places that succeeded and give text, as hit rates count them."""
    columns, rows = arm.columns, (arm.ok & where(arm.columns, "endpoint", *GENERATIVE))[places]
    prompt, cached = (columns[f"{name}_tokens"][places][rows] for name in ("prompt", "cached"))
    prompt, cached = prompt[prompt > 0], cached[prompt > 0]
    return CachedTokens(
        cached=float(cached.sum(where=cached > 0)),
        prompt=float(prompt.sum()),
        named=int((cached >= 0).sum()),
    )


def applies(arm: Arm, metric: Metric) -> Truths:
    """The requests that have such a latency unless they fail: of streamed metrics, the streams."""
    stream: Truths = arm.columns["stream"]
    return stream if metric.streamed else np.ones_like(stream)


def _of_successes(arm: Arm, metric: Metric) -> Floats:
    measured = np.where(arm.ok, metric.of(arm.columns), np.nan)
    if metric.gap_quantile is None:
        return measured
    # The least gap with that share of the request's gaps at or below it; requests of one size at a time.
    offsets, gaps = arm.token_gaps()
    sizes = np.diff(offsets)
    tails = np.full(len(sizes), np.nan)
    for size in np.unique(sizes[sizes > 0]).tolist():
        rows, place = np.flatnonzero(sizes == size), rank(size, metric.gap_quantile) - 1
        for few in np.array_split(rows, 1 + len(rows) * size // GAPS_AT_ONCE):
            table = gaps[offsets[few][:, None] + np.arange(size)]
            tails[few] = np.partition(table, place, axis=1)[:, place]
    return np.where(np.isnan(measured), np.nan, tails)
