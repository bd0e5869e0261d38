"""The budget: US dollars that may be spent. What is in flight counts with the most that it may cost.

The worker reserves (replay.workers.purse), the parent settles when it has read the answer (`Till`); the two
meet in the pulse.
"""

from tbench.capture.exchange import Outcome
from tbench.replay.cost import cost, price_of
from tbench.replay.sample import Sample
from tbench.replay.workers.pulse import Pulse


class Till:
    """The parent's side: `settle` replaces a reservation by what the attempt cost."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse

    def settle(self, sample: Sample, most: float) -> None:
        spent, freed = self._pulse.settled
        self._pulse.settled = spent + actual_cost(sample, most), freed + most


def actual_cost(sample: Sample, most: float) -> float:
    """What an attempt cost, US dollars; `most` where the server did not count. An HTTP error is free.

    What was sent twice may have been worked on twice: `most` for the first try.
    """
    again = most if sample.reconnected else 0.0
    if sample.outcome in {Outcome.HTTP_ERROR, Outcome.CONNECT_ERROR, Outcome.CLIENT_LIMIT}:
        return again
    price = price_of(sample.model)
    if price is None or sample.prompt_tokens is None:
        return again + most
    return again + cost(
        price,
        prompt=sample.prompt_tokens,
        output=sample.output_tokens or 0,
        cached=sample.cached_tokens or 0,
    )
