"""Turns: which call waits for the answer that it continues, and when it is due.

An application sends the next turn of a conversation once it has the answer to the last one. Sent before that
the load is one that no application makes, and a server's prefix cache does not hold what it would hold. So a
turn is due when its predecessors have ended here (of a join of several sub-agents: all of them) and the
recorded think time has passed, or later: at its scheduled time. Nothing here waits, sends or knows what a
call holds.
"""

import heapq
import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Final

from tbench.replay.pacing import Causal
from tbench.replay.sender import Call

REMEMBERED: Final = 100_000
"""So many requests a plan looks back, and so many ended calls are remembered of each copy: what bounds the
memory. A conversation whose last turn is older starts anew."""
LOOKS_AHEAD: Final = 1024
"""So many calls are taken beyond the next one, where one that is due later may be due sooner."""

FATES: Final = ("continued", "waited", "early", "skipped", "forgotten")

Key = tuple[int, int]
"""A call: its arm and its place in the plan."""


@dataclass(slots=True)
class _Waiting:
    """A call that waits for so many `missing` predecessors; the others ended by `ended`, or one failed."""

    call: Call
    missing: int
    ended: float
    failed: bool = False


class Turns:
    """Calls between supply and sender. Times are seconds from the run's start.

    `held` calls were taken from the supply and have not left; `sessions` count, by their first call, those
    that have not ended. Of calls that are due together the one that was taken first is the first to leave: in
    a duet their order is drawn. The trace is sent as so many `copies` at once (clones, for each arm).
    `unsent` is called with each call that is not to leave.
    """

    def __init__(
        self, causal: Causal, copies: int = 1, unsent: Callable[[Call], object] = id
    ) -> None:
        self.causal = causal
        self._unsent = unsent
        self.held = 0
        self._counts: dict[int, Counter[str]] = defaultdict(Counter)
        self._numbers = count()
        self._under_way: dict[Key, int] = {}
        self._ended: dict[Key, float | None] = {}
        self._endings: deque[Key] = deque()
        self._remembered = REMEMBERED * copies
        self._parked: dict[Key, list[_Waiting]] = {}
        self._late: set[Key] = set()
        self.sessions: Counter[int] = Counter()
        self._due: list[tuple[float, int, Call]] = []
        self._ready: list[tuple[int, Call]] = []

    @property
    def next_due(self) -> float | None:
        """When the first of those is due that wait for their time alone."""
        return self._due[0][0] if self._due else None

    def counts(self, arm: int = 0) -> dict[str, int]:
        """What became of an arm's turns.

        `continued` of those that left or were skipped continue an earlier answer: `waited` left later than
        scheduled, as one that they continue had not ended, `early` before it had (strict), and `skipped`
        were not sent, as it never came, or was of no use. Of those that were taken `forgotten` continue a
        call that ended, or failed, too long ago to be remembered: they waited for nothing more of it.
        """
        return {name: self._counts[arm][name] for name in FATES}

    def passes(self, call: Call) -> bool:
        """Whether a call of a closed loop waits for nothing: it leaves now, before it is taken.

        Where no conversation has a second turn that is every call. None that was taken may go.
        """
        if call.after or call.opening is not None:
            return False
        self._under_way[call.arm, call.index] = next(self._numbers)
        return True

    def take(self, call: Call) -> None:
        """Take a call from the supply: it goes by its due time, or waits for its predecessors."""
        self._under_way[call.arm, call.index] = next(self._numbers)
        self.held += 1
        if call.opening is not None:
            self.sessions[call.opening] += 1
        if not call.after or self.causal == "strict":
            self._time(call, call.due)
            return
        before = [(call.arm, index) for index in call.after]
        waiting, forgotten = _Waiting(call, 0, -math.inf), False
        for key in before:
            if key in self._under_way:
                waiting.missing += 1
                self._parked.setdefault(key, []).append(waiting)
            elif key in self._ended:
                self._heard(waiting, self._ended[key])
            else:
                forgotten = True
        self._counts[call.arm]["forgotten"] += forgotten
        self._go_on(waiting)

    def leave(self) -> Call:
        """The call that is due first, which leaves now. There must be one."""
        return self._left(heapq.heappop(self._due)[-1])

    def leave_in_order(self, now: float) -> Call | None:
        """The first call in the supply's order of those whose time has come; for closed loops."""
        while self._due and self._due[0][0] <= now:
            heapq.heappush(self._ready, heapq.heappop(self._due)[1:])
        return self._left(heapq.heappop(self._ready)[-1]) if self._ready else None

    def drop(self, call: Call) -> None:
        """Do not send a call that has just left, nor what follows it."""
        self.held += 1
        self._counts[call.arm]["continued"] -= 1
        self._skip(call)

    def end(self, call: Call, at: float | None) -> bool:
        """A call has ended `at`, or has failed (None). Whether others had waited for it."""
        parked = self._close(call, at)
        if not parked:
            return False
        followers = [waiting for waiting in parked if not waiting.failed]
        for waiting in followers:
            waiting.missing -= 1
            self._heard(waiting, at)
            self._go_on(waiting)
        return bool(followers)

    def _close(self, call: Call, at: float | None) -> list[_Waiting]:
        """Remember how a call ended. Those that waited for it."""
        key = call.arm, call.index
        self._under_way.pop(key, None)
        if call.opening is not None:
            self.sessions[call.opening] -= 1
            if not self.sessions[call.opening]:
                del self.sessions[call.opening]
        self._ended[key] = at
        self._endings.append(key)
        if len(self._endings) > self._remembered:
            self._ended.pop(self._endings.popleft(), None)
        return self._parked.pop(key, []) if self._parked else []

    @staticmethod
    def _heard(waiting: _Waiting, ended: float | None) -> None:
        """Note how a predecessor ended."""
        if ended is None:
            waiting.failed = True
        else:
            waiting.ended = max(waiting.ended, ended)

    def _go_on(self, waiting: _Waiting) -> None:
        """Skip a call of which a predecessor failed; have it follow once all have ended."""
        if waiting.failed:
            self._skip(waiting.call)
        elif not waiting.missing:
            self._follow(waiting)

    def _left(self, call: Call) -> Call:
        self.held -= 1
        if call.after:
            counts, key = self._counts[call.arm], (call.arm, call.index)
            counts["continued"] += 1
            counts["waited"] += key in self._late
            counts["early"] += any((call.arm, index) in self._under_way for index in call.after)
            self._late.discard(key)
        return call

    def _follow(self, waiting: _Waiting) -> None:
        """Have a call follow those before it, which have all ended."""
        call, scheduled = waiting.call, waiting.call.due
        due = waiting.ended + call.think
        if due == -math.inf:  # all of them are forgotten
            self._time(call, scheduled)
            return
        if scheduled is not None:
            if self.causal == "max":
                due = max(due, scheduled)
            if due > scheduled:
                self._late.add((call.arm, call.index))
            call.due = due
        self._time(call, due)

    def _time(self, call: Call, due: float | None) -> None:
        number = self._under_way[call.arm, call.index]
        if due is None:  # in a closed loop, that of none that it continues
            heapq.heappush(self._ready, (number, call))
        else:
            heapq.heappush(self._due, (due, number, call))

    def _skip(self, call: Call) -> None:
        """Do not send a call, nor what follows it, however long that conversation is."""
        unsent = [call]
        while unsent:
            call = unsent.pop()
            self.held -= 1
            self._unsent(call)
            self._counts[call.arm].update(("continued", "skipped"))
            for waiting in self._close(call, None):
                if not waiting.failed:
                    waiting.failed = True
                    unsent.append(waiting.call)
