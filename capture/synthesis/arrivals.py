"""Arrivals: when synthesised requests come. A replay may pace them otherwise."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from math import isfinite
from random import Random

from tbench.capture.errors import InputError


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests per second: evenly spaced or, with `poisson`, with exponential gaps of that mean."""

    rate: float = 1.0
    poisson: bool = False

    def __post_init__(self) -> None:
        """Raise InputError for a rate that is none."""
        if not (isfinite(self.rate) and 1e-6 <= self.rate <= 1e6):
            raise InputError(
                f"arrivals: {self.rate:g} requests per second; give a rate from 1e-6 to 1e6"
            )

    def times(self, seed: int) -> Iterator[int]:
        """Arrival times without end: ns since the first, which comes at 0."""
        return self._random(Random(f"{seed} arrivals")) if self.poisson else self._even()

    def _even(self) -> Iterator[int]:
        return (round(number * 1e9 / self.rate) for number in count())

    def _random(self, rng: Random) -> Iterator[int]:
        at = 0.0
        while True:
            yield round(at * 1e9)
            at += rng.expovariate(self.rate)
