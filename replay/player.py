"""The player: starts every call at its time, and keeps what became of it.

Open pacing sleeps until absolute times. Closed pacing sends the next call the moment one ends, from within
that end. Lateness is kept, never hidden. Nothing here knows HTTP, files or the trace.
"""

import math
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import trio

from tbench.capture.exchange import Outcome
from tbench.replay.pacing import Closed
from tbench.replay.sender import STOPPED, Call, Reply, Sender
from tbench.replay.system import arm, timer_fd
from tbench.replay.waiting import LOOKS_AHEAD, Politeness, Turns, answered

if TYPE_CHECKING:  # a worker starts without it
    from tbench.replay.live_history import LiveHistory

# Waking up on time: trio's own timers are up to a millisecond late, a timerfd of Linux is not.

EARLY_S: Final = 0.0001
"""The alarm is set so much early; the rest is spent asking the clock, as waking up takes about as long."""

SleepUntil = Callable[[float], Awaitable[None]]


@contextmanager
def punctual() -> Iterator[SleepUntil]:
    """Yields what sleeps until a time of trio's clock, for one task at a time."""
    fd = timer_fd()
    if fd is None:
        yield trio.sleep_until
        return
    try:
        yield _Alarm(fd).sleep_until
    finally:
        os.close(fd)


class _Alarm:
    """A timerfd. trio's clock is CLOCK_MONOTONIC with an offset."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    async def sleep_until(self, at: float) -> None:
        await trio.lowlevel.checkpoint()
        left = at - trio.current_time() - EARLY_S
        if left > 0:
            arm(self._fd, time.monotonic_ns() + round(left * 1e9))
            await trio.lowlevel.wait_readable(self._fd)
            os.read(self._fd, 8)
        # Spent waiting, not sleeping: a tenth of a millisecond is what being woken takes, more or less.
        while trio.current_time() < at:
            pass


NUDGE_S: Final = 1e-6
"""Added to the time before a profile is asked, so that rounding cannot ask for a window twice."""
ASK_AGAIN_S: Final = 0.02
"""After so long a call that must not leave yet is asked for again: another process says when it may."""
BURST: Final = 8
"""Calls that can go already are sent so many at a time before answers are read again."""


class Supply(Protocol):
    """The calls to come. Nothing here waits."""

    def take(self) -> Call | None:
        """The next call; None when none is at hand."""
        ...

    @property
    def over(self) -> bool:
        """Whether none is at hand and none will come."""
        ...

    def tell(self, woken: Callable[[], None]) -> None:
        """Call `woken` whenever `take` had nothing and now there is something, or nothing ever again."""
        ...


@dataclass(kw_only=True)
class Player:
    """Plays the calls of `supply` through `sender` and hands each that has ended to `keep`, with its reply.

    `keep` is called on the trio loop and must not block. `may_send` is asked before each call; the first
    refusal ends the play (what is in flight still finishes), and None keeps it, and those behind it, back
    for now (`postponed` counts such calls). `began` is the start on trio's clock: set it
    before playing. `turns` says which calls wait for others (None: none does). With `politeness`, and
    `send_postponed` beside the play, refused calls are sent again; what waits for its target is in flight.
    `issued`, `in_flight` and `most_in_flight` may be read at any time; `cancel` stops everything at once.
    `sleep_until` waits for due times.
    """

    sender: Sender
    supply: Supply
    keep: Callable[[Call, Reply], None]
    turns: Turns | None = None
    history: "LiveHistory | None" = None
    politeness: Politeness | None = None
    max_in_flight: int | None = None
    may_send: Callable[[Call], bool | None] = lambda _call: True
    sleep_until: SleepUntil = trio.sleep_until
    began: float = 0.0
    issued: int = field(default=0, init=False)
    in_flight: int = field(default=0, init=False)
    most_in_flight: int = field(default=0, init=False)
    refused: bool = field(default=False, init=False)
    postponed: int = field(default=0, init=False)
    cancelled: bool = field(default=False, init=False)
    _refill: Callable[[], bool] | None = field(default=None, init=False)
    _more: bool = field(default=False, init=False)
    _opener: Call | None = field(default=None, init=False)
    _kept_back: Call | None = field(default=None, init=False)
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope, init=False)
    _woken: trio.Event | None = field(default=None, init=False)
    _waits: deque[tuple[float, float]] = field(default_factory=deque, init=False)
    _waited: float = field(default=0.0, init=False)
    _nap: trio.CancelScope | None = field(default=None, init=False)
    _nap_ends: float = field(default=math.inf, init=False)
    _drawn: float = field(default=-math.inf, init=False)
    _postponed: trio.Event = field(default_factory=trio.Event, init=False)

    def __post_init__(self) -> None:
        self.supply.tell(self._supplied)

    def cancel(self) -> None:
        """Stop sending and cancel what is in flight; each attempt is kept as cancelled."""
        self.cancelled = True
        self._refill = None
        self._scope.cancel()
        self.sender.abandon()
        for call, reply in self.politeness.abandon() if self.politeness else ():
            reply.failure = STOPPED
            self._conclude(call, reply)

    @property
    def now(self) -> float:
        """Seconds since the start of the run."""
        return trio.current_time() - self.began

    async def play_open(self, ends: float = math.inf) -> None:
        """Send each call at its due time, in the order given; returns when all have ended.

        The supply has none that is scheduled behind `ends`; a turn that has to wait until then is not sent.
        """
        with self._scope:
            overdue = 0
            turns = self.turns
            following = self._next if turns is None else partial(self._next_turn, turns, ends)
            while (call := await following()) is not None:
                assert call.due is not None
                at = self.began + call.due
                # Calls that are late go at once, but for a look at the
                # answers now and then: those wait in their sockets.
                if at > trio.current_time() or overdue == BURST:
                    await self.sleep_until(at)
                    overdue = 0
                overdue += 1
                held = await self._wait_for_room(call, at)
                if held is None:
                    break
                self._start(call, held)
        await self._all_ended()

    async def play_closed(self, pacing: Closed, ends: float = float("inf")) -> None:
        """Send the next call whenever fewer are in flight, or sessions under way, than allowed.

        Until `ends` at the latest.
        """
        ends = min(ends, pacing.ends)
        refill = partial(self._fill, pacing, ends)
        with self._scope:
            await trio.sleep_until(self.began)
            self._refill = refill
            while not self.cancelled and refill():
                if self._more:
                    await trio.lowlevel.checkpoint()
                    continue
                tau = trio.current_time() - self.began + NUDGE_S
                news = min(pacing.changes_after(tau), ends)
                # Where no place is free, the end that makes one sends what may go then.
                if self.turns and self._places(pacing, tau) > 0:
                    news = min(news, self.turns.next_due or math.inf)
                if self._kept_back:
                    news = min(news, self.now + ASK_AGAIN_S)
                with trio.move_on_at(self.began + news):
                    await self._something()
        self._refill = None
        await self._all_ended()

    def _fill(self, pacing: Closed, ends: float) -> bool:
        """Send while fewer are in flight than allowed. False when no more is to be sent at all."""
        tau = trio.current_time() - self.began + NUDGE_S
        if tau >= ends or self.refused:
            return False
        missing = self._places(pacing, tau)
        self._more = missing > BURST
        for _ in range(min(missing, BURST)):
            call = self._kept_back or self._take(pacing, tau)
            if call is None:
                self._more = False
                return not self._over
            if (may := self._may_send(call)) is None:
                self._more = False
                break
            if not may:
                return False
            self._start(call, 0.0)
        return True

    def _may_send(self, call: Call) -> bool | None:
        """What `may_send` says of a call; one that is kept back is remembered until it says otherwise."""
        may = not self.cancelled and self.may_send(call)
        if may:
            self._kept_back = None
            return True
        if may is None and self._kept_back is None:
            self.postponed += 1
        self._kept_back = call if may is None else None
        self.refused = self.refused or (may is False and not self.cancelled)
        return may

    def _places(self, pacing: Closed, tau: float) -> int:
        """How many calls may leave; where sessions are counted as many as they have."""
        if pacing.by_session:
            return BURST + 1
        return pacing.allowed(tau) - self.in_flight

    async def _next(self) -> Call | None:
        while (call := self.supply.take()) is None and not self.supply.over:
            await self._something()
        return call

    async def _next_turn(self, turns: Turns, ends: float) -> Call | None:
        """The call that is due next, once it is due: of the supply, or one whose predecessor has ended.

        None when no more is to be sent.
        """
        ahead = LOOKS_AHEAD if turns.causal == "think" else 0
        while True:
            starved = False
            # What is due by now has been drawn, and one more: a plan may be longer than memory.
            while not starved and (self._past(self._drawn) or turns.held < ahead):
                if (call := self.supply.take()) is None:
                    starved = True
                else:
                    assert call.due is not None
                    self._drawn = call.due
                    turns.take(call)
            due = math.inf if turns.next_due is None else turns.next_due
            if self._past(due):
                if due >= ends:
                    return None
                if self._goes(turns, call := turns.leave()):
                    return call
                continue
            if self._past(ends) or (due == math.inf and self._over):
                return None
            news = min(due, ends, math.inf if starved else self._drawn)
            if news == math.inf:
                await self._something()
            else:
                with trio.CancelScope() as self._nap:  # until then, or until another is due before
                    self._nap_ends = news
                    await self.sleep_until(self.began + news)
                self._nap = None

    def _past(self, at: float) -> bool:
        """Whether a time of the run has passed."""
        return self.began + at <= trio.current_time()

    def _take(self, pacing: Closed, tau: float) -> Call | None:
        """The next call that may go, in trace order; None when none is at hand."""
        turns = self.turns
        if turns is None:
            return self.supply.take()
        while True:
            call = turns.leave_in_order(tau)
            if call is not None:
                if self._goes(turns, call):
                    return call
                continue
            if pacing.by_session:
                taken = self._of_sessions(turns, pacing.allowed(tau))
            else:
                taken = self.supply.take() if turns.held < LOOKS_AHEAD else None
            if taken is None or turns.passes(taken):
                return taken
            turns.take(taken)

    def _goes(self, turns: Turns, call: Call) -> bool:
        """Whether a call that is to leave can be sent: the answers that it holds are of use."""
        if self.history is None or self.history.thread(call):
            return True
        turns.drop(call)
        return False

    def _of_sessions(self, turns: Turns, most: int) -> Call | None:
        """The next call of the sessions under way, or the first of another if they are fewer than `most`."""
        call = self._opener or self.supply.take()
        self._opener = None
        if call is None or call.index != call.opening or call.opening in turns.sessions:
            return call  # the first is there already where it is another arm's
        if len(turns.sessions) < most:
            return call
        self._opener = call
        return None

    @property
    def _over(self) -> bool:
        """Whether no call will leave any more."""
        waits = self._opener or self._kept_back
        return self.supply.over and not waits and not (self.turns and self.turns.held)

    async def _wait_for_room(self, call: Call, at: float) -> float | None:
        """Wait while a call may not leave yet; how long that kept back one that was due then.

        That is while as many are in flight as may be, or `may_send` keeps it back; None when it is never to
        leave. Calls leave in order: those behind one that waits are kept back by it, from when they are due,
        though they find room themselves. What this process takes between two such waits is its own lateness.
        """
        while self._waits and self._waits[0][1] <= at:
            since, until = self._waits.popleft()
            self._waited -= until - since
        since, waited = trio.current_time(), False
        while (may := self._has_room(call)) is None:
            waited = True
            with trio.move_on_after(ASK_AGAIN_S if self._kept_back else math.inf):
                await self._something()
        if not may:
            return None
        if waited:
            self._waits.append((since, trio.current_time()))
            self._waited += self._waits[-1][1] - since
        if not self._waits:
            self._waited = 0.0
            return 0.0
        return self._waited - max(0.0, at - self._waits[0][0])

    def _has_room(self, call: Call) -> bool | None:
        full = self.max_in_flight is not None and self.in_flight >= self.max_in_flight
        return None if full else self._may_send(call)

    async def _all_ended(self) -> None:
        while self.in_flight:
            await self._something()

    async def _something(self) -> None:
        """Until a call ended or the supply has news."""
        self._woken = trio.Event()
        await self._woken.wait()

    def _supplied(self) -> None:
        if self._nap is not None:
            self._nap.cancel()
        self._wake()

    def _wake(self) -> None:
        if self._woken is not None:
            self._woken.set()

    def _start(self, call: Call, held: float) -> None:
        self.issued += 1
        self.in_flight += 1
        if self.in_flight > self.most_in_flight:  # noqa: PLR1730 (a call is dearer)
            self.most_in_flight = self.in_flight
        reply = Reply(held=held)
        if self.politeness is None or self.politeness.start(call, reply, trio.current_time()):
            self._launch(call, reply)
        else:
            self._postponed.set()

    async def send_postponed(self) -> None:
        """Send what waits for its target, each in its turn, for ever."""
        assert self.politeness is not None
        while True:
            self._postponed = trio.Event()
            with trio.move_on_at(self.politeness.next_due):
                await self._postponed.wait()
            for call, reply, goes in self.politeness.leaving(trio.current_time()):
                (self._launch if goes else self._conclude)(call, reply)

    def _launch(self, call: Call, reply: Reply) -> None:
        ended = partial(self._ended if self.politeness else self._conclude, call, reply)
        try:
            self.sender.launch(call, reply, ended)
        except Exception as error:  # a sender's defect is a failed sample, not a lost run
            words = f"sender: {type(error).__name__}: {error}"
            reply.failure = (Outcome.PROTOCOL_ERROR, words)
            # Later, as a sender's contract has it: never before `launch` has returned.
            trio.lowlevel.current_trio_token().run_sync_soon(ended)

    def _ended(self, call: Call, reply: Reply) -> None:
        """Where politeness is asked for: a call that was refused is not over."""
        assert self.politeness is not None
        if reply.end is None:
            reply.end = trio.current_time()
        if not self.cancelled and self.politeness.again(call, reply, trio.current_time()):
            self._postponed.set()
        else:
            self._conclude(call, reply)

    def _conclude(self, call: Call, reply: Reply) -> None:
        """Keep what became of a call, and let what waited for it go on."""
        turns = self.turns
        if reply.end is None:
            reply.end = trio.current_time()
        self.in_flight -= 1
        if self.history is not None:
            self.history.keep(call, reply)
        # Those go on that waited for this answer, in their time; without one, for nothing.
        if turns is not None and turns.end(
            call,
            reply.end - self.began if turns.causal == "strict" or answered(call, reply) else None,
        ):
            if self._nap is not None and (turns.next_due or 0.0) < self._nap_ends:
                self._nap.cancel()
            self._wake()
        self.keep(call, reply)
        # From within the end itself: by an event the next call would leave a pass of the loop later.
        goes_on = self._refill is not None and self._refill() and not self._more
        waits = self._kept_back or (turns is not None and turns.next_due is not None)
        if not goes_on or waits:
            self._wake()


# The breaker stops a replay of which every attempt fails alike, in a way that repeating does not cure.

ENOUGH: Final = 20
"""After so many attempts that all failed alike, nothing else is to be expected."""
UNAUTHORIZED: Final = 5
"""After so many with 401: the key is wrong. A key may be for some endpoints only, so one is not enough."""
PASSING: Final = frozenset({408, 409, 425, 429})
"""Statuses of the 4xx kind that may be gone the next time."""


class Breaker:
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
        """Count one that has ended; once it is on, those that are cancelled for it change nothing."""
        if self.on or not self._watching:
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
