"""The examination: a few probes within twenty seconds, and what follows from them."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tbench.capture.errors import InvalidRunError
from tbench.doctor.probes import Found, Load, machine_facts, probe
from tbench.doctor.verdict import held, limit
from tbench.replay.limits import headroom

FLAT_OUT: Final = Load(requests=8000, concurrency=64, most_s=3.0)
PACED: Final = Load(requests=2000, rate=1000.0)
RAMP: Final = (100, 200, 500, 1000, 2000)
ENOUGH_S: Final = 17.0
"""After so long no further step of the ramp is begun."""

Probe = Callable[[Load, Path, int], Found]


def streams(number: int) -> Load:
    """A step of the ramp: `number` streams at 50 tokens/s, three rounds of half a second."""
    return Load(requests=3 * number, tokens=21, ttft_ms=100, itl_ms=20, concurrency=number)


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What was found. `steps` are the streams that were tried, with what became of them.

    `untried` says why the next step was not tried, where the system would not have allowed it.
    """

    facts: Mapping[str, Any]
    flat_out: Found
    paced: Found
    steps: Sequence[tuple[int, Found]]
    took_s: float
    untried: str | None = None

    @property
    def holds(self) -> int:
        """The most streams at 50 tokens/s that were held; 0 where not even the first step was."""
        return max((number for number, found in self.steps if held(found)), default=0)

    def as_json(self) -> dict[str, Any]:
        """What `tbench doctor --json` prints."""
        return {
            "machine": dict(self.facts),
            "flat_out": _judged(self.flat_out, free=True),
            "paced": _judged(self.paced),
            "streams": [{"streams": number, **_judged(found)} for number, found in self.steps],
            "holds_streams": self.holds,
            "untried": self.untried,
            "took_s": self.took_s,
        }


def _judged(found: Found, *, free: bool = False) -> dict[str, Any]:
    """A probe with its limit: None where it was held, unless it was `free` to go as fast as it could."""
    said = asdict(limit(found)) if free or not held(found) else None
    return {"limited_by": said, **asdict(found)}


def examine(workers: int, say: Callable[[str], None], probe: Probe = probe) -> Examination:
    """Probe this machine; `say` is told what is being done.

    Raises InvalidRunError when nothing came back from our own server: then there is nothing to say.
    """
    began = time.monotonic()
    facts = machine_facts()
    with tempfile.TemporaryDirectory() as name:

        def tried(load: Load, words: str) -> Found:
            say(words)
            return _answered(probe(load, Path(name), workers))

        flat_out = tried(FLAT_OUT, "flat out: 64 in flight, one token")
        paced = tried(PACED, "paced: 1,000 requests/s")
        steps: list[tuple[int, Found]] = []
        untried = None
        for number in RAMP:
            untried = headroom().objection(number, workers)
            if untried or time.monotonic() - began > ENOUGH_S:
                break
            steps.append((number, tried(streams(number), f"streams: {number:,} at 50 tokens/s")))
            if not held(steps[-1][1]):
                break
    return Examination(
        facts=facts,
        flat_out=flat_out,
        paced=paced,
        steps=steps,
        took_s=time.monotonic() - began,
        untried=untried,
    )


def _answered(found: Found) -> Found:
    """What was found, if anything came back at all."""
    if found.completed == 0:
        raise InvalidRunError(f"doctor: nothing came back from our own server; {limit(found)}")
    return found
