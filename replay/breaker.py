"""The brake: stops a replay of which every attempt fails alike, in a way that repeating does not cure."""

from typing import Final

from tbench.capture.exchange import Outcome
from tbench.replay.sender import Reply

ENOUGH: Final = 20
"""After so many attempts that all failed alike, nothing else is to be expected."""
UNAUTHORIZED: Final = 5
"""After so many with 401: the key is wrong. A key may be for some endpoints only, so one is not enough."""
PASSING: Final = frozenset({408, 409, 425, 429})
"""Statuses of the 4xx kind that may be gone the next time."""


class Brake:
    """Watches replies as they end; `on` when nothing else is to be expected.

    Any other reply takes it out of service for good. `keyless` says that no key is sent: then one 401 is
    enough.
    """

    def __init__(self, *, keyless: bool = False) -> None:
        self._enough = {"http_401": 1 if keyless else UNAUTHORIZED}
        self._alike = 0
        self._kind: str | None = None
        self._watching = True

    @property
    def on(self) -> bool:
        return bool(self._kind) and self._alike >= self._enough.get(self._kind or "", ENOUGH)

    def see(self, reply: Reply) -> None:
        """Count an ended attempt."""
        if not self._watching:
            return
        kind = lasting(reply)
        self._watching = kind is not None and kind == (self._kind or kind)
        self._kind = kind
        self._alike = self._alike + 1 if self._watching else 0


def lasting(reply: Reply) -> str | None:
    """The kind of a failure that stays (nobody listens, a wrong key, an unknown model); else None."""
    if reply.failure:
        return reply.failure[0] if reply.failure[0] is Outcome.CONNECT_ERROR else None
    status = reply.status or 0
    return f"http_{status}" if 400 <= status < 500 and status not in PASSING else None
