"""The running count of a replay: what has ended so far, for whoever watches it."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from tbench.capture.exchange import Outcome
from tbench.capture.providers import Usage
from tbench.replay.columns import COUNTED
from tbench.replay.cost import Bill
from tbench.replay.sample import Fate, Sample
from tbench.replay.spread import Spread


@dataclass(kw_only=True)
class Side:
    """One side of the completed requests, their input or their output; time counts from sent.

    `latency` is the time to the first token, or from there to the end (s); `speed` a request's own
    tokens/s in that time; `tokens` the sum of those that the server counted.
    """

    latency: Spread = field(default_factory=Spread)
    speed: Spread = field(default_factory=Spread)
    tokens: int = 0

    def add(self, latency: float, steps: int | None, tokens: int | None) -> None:
        """Count a request; the speed is that of `steps`."""
        self.latency.add(latency)
        self.tokens += tokens or 0
        if steps is not None and steps >= 1 and latency > 0:
            self.speed.add(steps / latency)


@dataclass(kw_only=True)
class Tally:
    """Counts of ended attempts.

    `reconnected` of them were sent twice. `errors` is by kind: an outcome, or `http_STATUS`; `limits` by
    why this machine opened no connection.
    `tokens` counts token events, `coalesced` those with the stamp of a later one. `input` and `output`
    have the definitions of a benchmark's results (tbench.benchmark.figures); what gives no text has no
    output.
    """

    ended: int = 0
    reconnected: int = 0
    fates: Counter[Fate] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    limits: Counter[str] = field(default_factory=Counter)
    last_error: str | None = None
    last_end: float = 0.0
    bill: Bill = field(default_factory=Bill)
    tokens: int = 0
    coalesced: int = 0
    input: Side = field(default_factory=Side)
    output: Side = field(default_factory=Side)
    _ttft: Spread = field(default_factory=Spread)

    def add(self, sample: Sample) -> None:
        """Count one ended attempt."""
        self.ended += 1
        self.reconnected += sample.reconnected
        fate, times = sample.fate, sample.token_times
        self.fates[fate] += 1
        self.last_end = max(self.last_end, sample.end or 0.0)
        self.tokens += len(times)
        self.coalesced += COUNTED["coalesced"](times)
        if fate is Fate.FAILED:
            self.errors[kind_of(sample)] += 1
            if sample.outcome is Outcome.CLIENT_LIMIT:
                self.limits[sample.error or "no reason"] += 1
            self.last_error = sample.error
        if fate is not Fate.COMPLETED:
            return
        self.bill.add(sample.model, usage_of(sample))
        first = sample.first_token if sample.stream else sample.end
        start = sample.sent if sample.due is None else sample.due
        if sample.stream and first is not None and start is not None:
            self._ttft.add(first - start)
        if first is not None and sample.sent is not None:
            self._add_sides(sample, first - sample.sent)

    def _add_sides(self, sample: Sample, ttft: float) -> None:
        self.input.add(ttft, sample.prompt_tokens, sample.prompt_tokens)
        if sample.endpoint in SPEAKING and sample.end is not None and sample.sent is not None:
            out = sample.output_tokens
            self.output.add(sample.end - sample.sent - ttft, None if out is None else out - 1, out)

    def ttft(self, p: float) -> float | None:
        """About that quantile of the streams' time to the first token, seconds; None without a stream."""
        return self._ttft.quantile(p)

    @property
    def coalesced_share(self) -> float | None:
        """The share of token events that were read together with a later one, and have its stamp."""
        return self.coalesced / self.tokens if self.tokens else None


SPEAKING: Final = frozenset({"chat", "completions"})
"""Endpoints that answer with text."""


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
