"""Turns: which call waits for the answer that it continues, and when it is due.

An application sends the next turn of a conversation once it has the answer to the last one. Sent before that
the load is one that no application makes, and a server's prefix cache does not hold what it would hold. So a
turn is due when its predecessor has ended here and the recorded think time has passed, or later: at its
scheduled time. Nothing here waits, sends or knows what a call holds.
"""

import heapq
from collections.abc import Sequence
from itertools import count
from typing import Final

from tbench.capture.recent import Recent
from tbench.replay.pacing import Causal
from tbench.replay.sender import Call

REMEMBERED: Final = 30_000
"""So many ended calls are remembered, as many requests as a plan looks back."""
LOOKS_AHEAD: Final = 1024
"""So many calls are taken beyond the next one, where one that is due later may be due sooner."""

FATES: Final = ("continued", "waited", "early", "skipped")

Key = tuple[int, int]
"""A call: its arm and its place in the plan."""


class Turns:
    """Calls between supply and sender. Times are seconds from the run's start.

    `continued` counts the turns that continue an earlier answer: of these `waited` left later than
    scheduled, as that had not ended, `early` before it had (strict), and `skipped` were not sent, as it
    never came. `held` calls were taken from the supply and have not left. Of calls that are due together the
    one that was taken first is the first to leave: in a duet their order is drawn.
    """

    def __init__(self, causal: Causal) -> None:
        self.causal = causal
        self.continued = self.waited = self.early = self.skipped = 0
        self.held = 0
        self._numbers = count()
        self._under_way: dict[Key, int] = {}
        self._ended: Recent[Key, float | None] = Recent(REMEMBERED)
        self._parked: dict[Key, list[Call]] = {}
        self._due: list[tuple[float, int, Call]] = []
        self._ready: list[tuple[int, Call]] = []

    @property
    def next_due(self) -> float | None:
        """When the first of those is due that wait for their time alone."""
        return self._due[0][0] if self._due else None

    @property
    def counts(self) -> dict[str, int]:
        """`continued`, and what became of those."""
        return {name: getattr(self, name) for name in FATES}

    def take(self, call: Call) -> None:
        """Take a call from the supply: it goes by its due time, or waits for its predecessor."""
        key = call.arm, call.index
        self._under_way[key] = next(self._numbers)
        self.held += 1
        before = None if call.after is None else (call.arm, call.after)
        self.continued += before is not None
        if before is None or self.causal == "strict":
            self._time(call, call.due)
        elif before in self._under_way:
            self._parked.setdefault(before, []).append(call)
        elif before not in self._ended:  # long ago
            self._time(call, call.due)
        elif (ended := self._ended[before]) is None:
            self._skip([call])
        else:
            self._follow(call, ended)

    def leave(self) -> Call:
        """The call that is due first, which leaves now. There must be one."""
        return self._left(heapq.heappop(self._due)[-1])

    def leave_in_order(self, now: float) -> Call | None:
        """The first call in the supply's order of those whose time has come; for closed loops."""
        while self._due and self._due[0][0] <= now:
            heapq.heappush(self._ready, heapq.heappop(self._due)[1:])
        return self._left(heapq.heappop(self._ready)[-1]) if self._ready else None

    def end(self, call: Call, at: float | None) -> bool:
        """A call has ended `at`, or has failed (None). Whether that let another go on."""
        followers = self._close(call, at)
        if at is None:
            self._skip(followers)
        else:
            for follower in followers:
                self._follow(follower, at)
        return bool(followers)

    def _close(self, call: Call, at: float | None) -> list[Call]:
        """Remember how a call ended. Those that waited for it."""
        key = call.arm, call.index
        self._under_way.pop(key, None)
        self._ended.keep(key, at)
        return self._parked.pop(key, [])

    def _left(self, call: Call) -> Call:
        self.held -= 1
        if call.after is not None and (call.arm, call.after) in self._under_way:
            self.early += 1
        return call

    def _follow(self, call: Call, ended: float) -> None:
        """Have a call follow the one before it, which ended then."""
        due = ended + call.think
        scheduled = call.due
        if scheduled is not None:
            if self.causal == "max":
                due = max(due, scheduled)
            self.waited += due > scheduled
            call.due = due
        self._time(call, due)

    def _time(self, call: Call, due: float | None) -> None:
        number = self._under_way[call.arm, call.index]
        heapq.heappush(self._due, (due or 0.0, number, call))

    def _skip(self, calls: Sequence[Call]) -> None:
        """Do not send calls, nor what follows them, however long that conversation is."""
        unsent = list(calls)
        while unsent:
            self.skipped += 1
            self.held -= 1
            unsent += self._close(unsent.pop(), None)
