"""The pacing that was asked for: its words, and the arithmetic of replay.pacing that it becomes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from tbench.capture.errors import InputError
from tbench.replay.pacing import (
    Closed,
    Fixed,
    Profile,
    Schedule,
    constant,
    diffused,
    poisson,
    scaled,
    speed_for,
)
from tbench.replay.survey import Survey

Mode = Literal["speed", "rate", "poisson", "constant", "concurrency", "concurrency-scale"]

MEANINGS: Final[Mapping[Mode, str]] = {
    "speed": "open loop at {value:g}x recorded speed",
    "rate": "open loop: recorded times scaled to a mean of {value:g} requests/s",
    "poisson": "open loop: Poisson arrivals at {value:g} requests/s (seed {seed}) replace the recorded times",
    "constant": "open loop: one request every {gap:g} s replaces the recorded times",
    "concurrency": "closed loop: {value:g} in flight, in trace order; recorded times are not used",
    "concurrency-scale": (
        "closed loop: follows the recorded number in flight (1 s means) x {value:g}, in trace order; "
        "ends with the {until}"
    ),
}
OPEN: Final = frozenset({"speed", "rate", "poisson", "constant"})
NEEDS_SURVEY: Final = frozenset({"rate", "concurrency-scale"})


@dataclass(frozen=True, kw_only=True)
class Pacing:
    """How a trace is paced. `value` is the speed, rate, number or factor of the mode.

    `seed` is for poisson; `until` (profile or trace) for concurrency-scale; `max_in_flight` caps an open
    mode: what waits for it still counts its latency from when it was due. `spawn_rate` (per second) lets
    a concurrency grow to its value.
    """

    mode: Mode = "speed"
    value: float = 1.0
    seed: int = 0
    until: Literal["profile", "trace"] = "profile"
    max_in_flight: int | None = None
    spawn_rate: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether requests are due at times of their own: then latency counts from those."""
        return self.mode in OPEN

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        gap = 1 / self.value if self.value else 0.0
        words = MEANINGS[self.mode].format(
            value=self.value, seed=self.seed, gap=gap, until=self.until
        )
        cap = f"; at most {self.max_in_flight} in flight" if self.max_in_flight else ""
        ramp = f"; growing by {self.spawn_rate:g} a second" if self.spawn_rate else ""
        return words + cap + ramp

    def schedule(self, survey: Survey | None) -> Schedule:
        """The due times of an open mode; `rate` needs the survey."""
        match self.mode:
            case "speed":
                return scaled(self.value)
            case "poisson":
                return poisson(self.value, self.seed)
            case "constant":
                return constant(self.value)
            case "rate":
                assert survey is not None
                return scaled(speed_for(self.value, survey.requests, survey.span_s))
        raise ValueError(f"{self.mode} is a closed loop")

    def closed(self, survey: Survey | None) -> Closed:
        """The limits of a closed mode; `concurrency-scale` needs the survey."""
        if self.mode == "concurrency":
            return Fixed(limit=int(self.value), spawn_rate=self.spawn_rate or math.inf)
        assert survey is not None
        if not len(survey.in_flight):
            raise InputError(
                "--concurrency-scale: this trace has no answers (a synthesised one has none), so nothing "
                "was ever in flight; give a number with --concurrency"
            )
        limits = diffused(survey.in_flight, self.value)
        if not limits.total:
            raise InputError(
                f"--concurrency-scale {self.value:g}: the recorded number in flight times that never "
                "reaches one request; raise it"
            )
        return Profile(limits=limits, repeats=self.until == "trace")
