"""The running count of a replay: what has ended so far, for the progress line."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from capture.exchange import Outcome
from capture.providers import Usage
from replay.cost import Bill
from replay.sample import Fate, Sample

STEP: Final = math.log(1.02)
"""Latencies so far are kept in buckets of two per cent."""


@dataclass(kw_only=True)
class Tally:
    """Counts of ended attempts. `errors` is by kind: an outcome, or `http_STATUS`.

    `tokens` counts token events, `coalesced` those with the stamp of a later one.
    """

    ended: int = 0
    fates: Counter[Fate] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    last_error: str | None = None
    last_end: float = 0.0
    bill: Bill = field(default_factory=Bill)
    tokens: int = 0
    coalesced: int = 0
    _ttft: Counter[int] = field(default_factory=Counter)

    def add(self, sample: Sample) -> None:
        """Count one ended attempt."""
        self.ended += 1
        fate, times = sample.fate, sample.token_times
        self.fates[fate] += 1
        self.last_end = max(self.last_end, sample.end or 0.0)
        self.tokens += len(times)
        if len(times) > 1:
            self.coalesced += len(times) - len(set(times))
        if fate is Fate.FAILED:
            self.errors[kind_of(sample)] += 1
            self.last_error = sample.error
        if fate is not Fate.COMPLETED:
            return
        self.bill.add(sample.model, usage_of(sample))
        first = sample.first_token if sample.stream else sample.end
        start = sample.sent if sample.due is None else sample.due
        if first is not None and start is not None:
            self._ttft[round(math.log(max(first - start, 1e-6)) / STEP)] += 1

    def ttft(self, p: float) -> float | None:
        """About that quantile of the time to the first token (whole answers without a stream), seconds."""
        left = p * self._ttft.total()
        for bucket, number in sorted(self._ttft.items()):
            left -= number
            if left <= 0:
                return math.exp(bucket * STEP)
        return None

    @property
    def coalesced_share(self) -> float | None:
        """The share of token events that were read together with a later one, and have its stamp."""
        return self.coalesced / self.tokens if self.tokens else None


def usage_of(sample: Sample) -> Usage:
    """The tokens of a sample, as the server counted them."""
    return Usage(
        prompt=sample.prompt_tokens, output=sample.output_tokens, cached=sample.cached_tokens
    )


def kind_of(sample: Sample) -> str:
    """A failure in a word."""
    if sample.outcome is Outcome.HTTP_ERROR:
        return f"http_{sample.status}"
    return sample.outcome.value
