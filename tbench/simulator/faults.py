"""What goes wrong, and to whom: seeded draws by the order of arrival, or asked for by a header."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

FAULTS: dict[str, str] = {
    "reset": "the connection is reset before any answer",
    "close": "the connection is closed before any answer",
    "slow": "the head comes `s` seconds late",
    "stall": "the stream pauses for `s` seconds",
    "cut": "the connection closes in the middle of the body",
    "eof": "the stream ends in the middle as if it were complete: no finish, no [DONE]",
    "error": "an error event in the middle of the stream, then [DONE]",
    "garbage": "an event that is no JSON in the middle of the stream",
    "html": "status 520 with a page in HTML, as from a gateway",
}
"""What a fault does to a request that it befalls; a status code from 400 to 599 is a fault too."""

BEFORE = frozenset({"reset", "close", "html"})
"""The faults that come instead of an answer; so do all status codes."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What befalls one request: after token number `at` (0: before the first), for `seconds`."""

    kind: str
    at: int | None = None
    seconds: float = 1.0

    @property
    def status(self) -> int | None:
        return int(self.kind) if self.kind.isdigit() else None

    @property
    def before(self) -> bool:
        return self.status is not None or self.kind in BEFORE

    def place(self, tokens: int, rng: Random) -> int:
        """After which token it strikes a stream of so many: as asked, else anywhere before the last."""
        if self.at is not None:
            return min(self.at, max(tokens - 1, 0))
        return rng.randint(min(1, tokens - 1), max(1, tokens - 1))


def known_fault(kind: str) -> bool:
    """Whether there is a fault of this name."""
    return kind in FAULTS or (kind.isdigit() and 400 <= int(kind) <= 599)


def asked_fault(text: str) -> Fault | None:
    """A fault from the header x-sim-fault: `cut`, `stall;at=3;s=0.5`, `503`. None where it means nothing."""
    kind, *rest = (word.strip() for word in text.split(";"))
    options = dict(word.partition("=")[::2] for word in rest)
    if not known_fault(kind):
        return None
    try:
        at = int(options["at"]) if "at" in options else None
        return Fault(kind, at, float(options.get("s", 1.0)))
    except ValueError:
        return None


def drawn_fault(rates: Mapping[str, float], rng: Random) -> Fault | None:
    """At most one of the faults, each with its own probability."""
    point = rng.random()
    for kind, rate in rates.items():
        if point < rate:
            return Fault(kind)
        point -= rate
    return None


class RateLimit:
    """A token bucket of requests: `per_s` flow in, `burst` fit. No limit where `per_s` is 0."""

    def __init__(self, per_s: float, burst: float) -> None:
        self.per_s = per_s
        self._burst = max(1.0, burst)
        self._left = self._burst
        self._at = 0.0

    def take(self, now: float) -> float:
        """Take one request's worth: 0 when it was there, else the seconds until it will be."""
        if not self.per_s:
            return 0.0
        self._left = min(self._burst, self._left + (now - self._at) * self.per_s)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / self.per_s
        self._left -= 1
        return 0.0

    def headers(self, wait: float = 0.0) -> dict[str, str]:
        """What the service says of its limit; nothing where it has none and nobody must wait."""
        if not self.per_s and not wait:
            return {}
        return {
            "x-ratelimit-limit": f"{self.per_s:g}",
            "x-ratelimit-remaining": f"{int(self._left) if not wait else 0}",
            "x-ratelimit-reset": f"{wait:.3f}",
        }
