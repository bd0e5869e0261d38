"""The figures of each request, by the definitions that genai-bench's users know (docs/genai-bench.md).

Time counts from when a request was sent. What it does not have (the pace of a single token) is NaN.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from tbench.capture.exchange import Outcome
from tbench.capture.providers import GENERATIVE
from tbench.replay.columns import Column
from tbench.replay.measures import Columns, Values, buffered, gaps

LATENCIES: Final = ("ttft", "tpot", "e2e_latency", "output_latency")
"""Those that are times; the others stay as they are when the unit is ms."""
PACE: Final = frozenset({"tpot", "output_inference_speed", "output_throughput"})
IMPLAUSIBLE_S: Final = 0.001
"""An answer that took less from its first token to its end says nothing of the pace of its tokens."""
CODES: Final[Mapping[Outcome, int]] = {
    Outcome.TIMEOUT: 408,
    Outcome.CONNECT_ERROR: 503,
    Outcome.CLIENT_LIMIT: 503,
    Outcome.RESET: 503,
}
"""What a failure without a status of its own is counted as; anything else is 500."""


def figures(columns: Columns) -> dict[str, Values]:
    """One array for each figure, a place for each sample; NaN where it failed or has none.

    What tells the pace of tokens is NaN everywhere where something buffers the streams (replay.measures).
    """
    ok = columns["outcome"] == Outcome.OK.value
    refused = PACE if buffered(*gaps(columns)) else frozenset()
    measured = {
        name: np.full(len(ok), np.nan) if name in refused else of(columns)
        for name, of in FIGURES.items()
    }
    return {name: np.where(ok, values, np.nan) for name, values in measured.items()}


def error_codes(columns: Columns) -> Column:
    """The status by which each failure is counted; 0 where there is none, and for what was cancelled."""
    codes = np.where(columns["status"] >= 300, columns["status"], 500)
    for outcome, code in CODES.items():
        codes = np.where(columns["outcome"] == outcome.value, code, codes)
    fine = [columns["outcome"] == outcome.value for outcome in (Outcome.OK, Outcome.CANCELLED)]
    return np.where(np.logical_or.reduce(fine), 0, codes)


def cancelled(columns: Columns) -> Column:
    """Which requests somebody here stopped: neither completed nor an error."""
    return np.asarray(columns["outcome"] == Outcome.CANCELLED.value)


def _ttft(columns: Columns) -> Values:
    """To the first token; an answer that is no stream is there all at once."""
    first = np.where(columns["stream"], columns["first_token"], columns["end"])
    return np.asarray(first - columns["sent"])


def _e2e(columns: Columns) -> Values:
    return np.asarray(columns["end"] - columns["sent"])


def _output_latency(columns: Columns) -> Values:
    return np.where(_speaks(columns), _e2e(columns) - _ttft(columns), 0.0)


def _tpot(columns: Columns) -> Values:
    """The output latency over all tokens but the first; none below a millisecond, or of one token."""
    latency, steps = _output_latency(columns), _count(columns, "output_tokens") - 1
    pace = _ratio(latency, steps, (steps >= 1) & (latency >= IMPLAUSIBLE_S))
    return np.where(_speaks(columns), pace, 0.0)


def _speed(columns: Columns) -> Values:
    pace = _tpot(columns)
    return np.where(_speaks(columns), _ratio(np.ones(len(pace)), pace, pace > 0), 0.0)


def _output_throughput(columns: Columns) -> Values:
    latency, steps = _output_latency(columns), _count(columns, "output_tokens") - 1
    return np.where(_speaks(columns), _ratio(steps, latency, (steps >= 1) & (latency > 0)), 0.0)


def _input_throughput(columns: Columns) -> Values:
    first = _ttft(columns)
    return _ratio(_count(columns, "prompt_tokens"), first, first > 0)


def _total(columns: Columns) -> Values:
    return _count(columns, "prompt_tokens") + np.nan_to_num(_count(columns, "output_tokens"))


def _output_tokens(columns: Columns) -> Values:
    return np.where(_speaks(columns), _count(columns, "output_tokens"), 0.0)


def _reasoning(columns: Columns) -> Values:
    return np.asarray(np.nan_to_num(_count(columns, "reasoning_tokens")))


def _speaks(columns: Columns) -> Column:
    """Which requests asked for text; of embeddings and rerank the output figures are 0."""
    return np.isin(columns["endpoint"].astype(str), sorted(GENERATIVE))


def _count(columns: Columns, name: str) -> Values:
    return np.where(columns[name] < 0, np.nan, columns[name])


def _ratio(above: Values, below: Values, where: Column) -> Values:
    absent = np.full(len(above), np.nan)
    return np.asarray(np.divide(above, below, out=absent, where=where))


FIGURES: Final[Mapping[str, Callable[[Columns], Values]]] = {
    "ttft": _ttft,
    "tpot": _tpot,
    "e2e_latency": _e2e,
    "output_latency": _output_latency,
    "output_inference_speed": _speed,
    "num_input_tokens": lambda columns: _count(columns, "prompt_tokens"),
    "num_output_tokens": _output_tokens,
    "num_reasoning_tokens": _reasoning,
    "total_tokens": _total,
    "input_throughput": _input_throughput,
    "output_throughput": _output_throughput,
}
"""Name -> how it is taken from the columns of a run. Seconds, tokens, tokens/s."""
WHOLE: Final = frozenset({name for name in FIGURES if name.startswith("num_")} | {"total_tokens"})
"""Those that are counts."""
