"""The running count of a replay: what has ended so far, for the progress line, the budget and the brakes."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from capture.exchange import Outcome
from capture.providers import Usage
from replay.cost import Bill, cost, price_of
from replay.sample import Fate, Sample

STEP: Final = math.log(1.02)
"""Latencies so far are kept in buckets of two per cent."""
HOPELESS: Final = 20
"""After so many attempts that all failed alike, nothing else is to be expected."""
PASSING: Final = frozenset({408, 409, 425, 429})


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
        self.fates[sample.fate] += 1
        self.last_end = max(self.last_end, sample.end or 0.0)
        self.tokens += len(sample.token_times)
        self.coalesced += len(sample.token_times) - len(set(sample.token_times))
        if sample.fate is Fate.FAILED:
            self.errors[kind_of(sample)] += 1
            self.last_error = sample.error
        if sample.fate is not Fate.COMPLETED:
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

    @property
    def hopeless(self) -> bool:
        """Whether every attempt so far failed alike, in a way that repeating does not cure."""
        if self.ended < HOPELESS or len(self.errors) != 1 or self.errors.total() != self.ended:
            return False
        return lasting(next(iter(self.errors)))


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


def lasting(kind: str) -> bool:
    """Whether such a failure stays: nobody listens, a wrong key, an unknown model."""
    if kind.startswith("http_"):
        status = int(kind.removeprefix("http_"))
        return 400 <= status < 500 and status not in PASSING
    return kind == Outcome.CONNECT_ERROR.value


@dataclass(kw_only=True)
class Budget:
    """US dollars that may be spent. What is in flight counts with what it is expected to cost.

    `spent` is for what has ended: by the server's own counts, else as expected (an HTTP error is free).
    """

    limit: float
    spent: float = 0.0
    reserved: float = 0.0
    _expected: dict[int, float] = field(default_factory=dict)

    def allows(self, index: int, expected: float) -> bool:
        """Reserve the cost of one more request, or say that it would not fit."""
        if self.spent + self.reserved + expected > self.limit:
            return False
        self._expected[index] = expected
        self.reserved += expected
        return True

    def settle(self, sample: Sample) -> None:
        """Replace a reservation by what the attempt cost."""
        expected = self._expected.pop(sample.index, 0.0)
        self.reserved -= expected
        self.spent += actual_cost(sample, expected)


def actual_cost(sample: Sample, expected: float) -> float:
    """What an attempt cost, US dollars; `expected` where the server did not count."""
    if sample.outcome in {Outcome.HTTP_ERROR, Outcome.CONNECT_ERROR}:
        return 0.0
    price = price_of(sample.model)
    if price is None or sample.prompt_tokens is None:
        return expected
    return cost(
        price,
        prompt=sample.prompt_tokens,
        output=sample.output_tokens or 0,
        cached=sample.cached_tokens or 0,
    )
