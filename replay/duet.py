"""The duet: the same plan for several targets at once, request by request, in an order drawn each time."""

import random
from collections.abc import Iterator, Sequence

from tbench.replay.sender import Call


def interleaved(voices: Sequence[Iterator[Call]], seed: int) -> Iterator[Call]:
    """The first call of each, in random order, then the second of each, and so on.

    The call i of voice v gets the index i * len(voices) + v. Raises ValueError when one has more than
    another: they are of the same plan.
    """
    return voices[0] if len(voices) == 1 else _drawn(voices, seed)


def _drawn(voices: Sequence[Iterator[Call]], seed: int) -> Iterator[Call]:
    source = random.Random(seed)
    for calls in zip(*voices, strict=True):
        for voice in source.sample(range(len(calls)), len(calls)):
            call = calls[voice]
            call.index = call.index * len(calls) + voice
            yield call
