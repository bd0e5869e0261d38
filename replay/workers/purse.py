"""The purse: the worker's side of the budget (replay.budget has the other)."""

import math

from tbench.replay.workers.pulse import Pulse


class Purse:
    """US dollars that may be spent. `allows` reserves one more call's, or says that it would not fit."""

    def __init__(self, limit: float, pulse: Pulse) -> None:
        self._limit = limit
        self._pulse = pulse
        self._reserved = 0.0

    def allows(self, most: float) -> bool:
        spent, freed = self._pulse.settled
        if math.fsum((spent, self._reserved, -freed, most)) > self._limit:
            return False
        self._reserved += most
        return True
