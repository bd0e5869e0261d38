"""The player: one nursery that starts every request when it is due, and keeps what became of it.

Open pacing sleeps until absolute times; closed pacing waits until fewer are in flight than allowed.
Lateness is kept, never hidden. Nothing here knows HTTP, files or the trace.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import trio

from capture.exchange import Outcome
from replay.alarm import SleepUntil
from replay.pacing import Closed
from replay.sender import Call, Reply, Sender

NUDGE_S = 1e-6
"""Added to the time before a profile is asked, so that rounding cannot ask for a window twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One call and what became of it. `held` is how long it waited for `--max-in-flight`, seconds."""

    call: Call
    held: float
    reply: Reply


@dataclass(kw_only=True)
class Player:
    """Plays calls through `sender` and hands every finished attempt to `keep`.

    `keep` is called in the trio loop and must not block. `may_send` is asked before each call; the first
    refusal ends the play (what is in flight still finishes). `began`, `issued`, `in_flight` and
    `most_in_flight` may be read at any time; `cancel` stops everything at once. `sleep_until` waits for
    due times.
    """

    sender: Sender
    keep: Callable[[Attempt], None]
    max_in_flight: int | None = None
    may_send: Callable[[Call], bool] = lambda _call: True
    lead_s: float = 0.0
    sleep_until: SleepUntil = trio.sleep_until
    began: float = field(default=0.0, init=False)
    issued: int = field(default=0, init=False)
    in_flight: int = field(default=0, init=False)
    most_in_flight: int = field(default=0, init=False)
    refused: bool = field(default=False, init=False)
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope, init=False)
    _freed: trio.Event = field(default_factory=trio.Event, init=False)

    def cancel(self) -> None:
        """Stop sending and cancel what is in flight; each attempt is kept as cancelled."""
        self._scope.cancel()

    @property
    def cancelled(self) -> bool:
        return self._scope.cancel_called

    @property
    def now(self) -> float:
        """Seconds since the start of the run."""
        return trio.current_time() - self.began

    async def play_open(self, calls: AsyncIterator[Call]) -> None:
        """Send each call at its due time, in the order given; returns when all have ended."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                self.began = trio.current_time() + self.lead_s
                async for call in calls:
                    assert call.due is not None
                    await self.sleep_until(self.began + call.due)
                    if not self._start(nursery, call, await self._wait_for_the_valve()):
                        return

    async def play_closed(
        self, calls: AsyncIterator[Call], pacing: Closed, ends: float = float("inf")
    ) -> None:
        """Send the next call whenever fewer are in flight than allowed, until `ends` at the latest."""
        ends = min(ends, pacing.ends)
        with self._scope:
            async with trio.open_nursery() as nursery:
                self.began = trio.current_time() + self.lead_s
                await trio.sleep_until(self.began)
                async for call in calls:
                    if not await self._wait_for_a_slot(pacing, ends):
                        return
                    if not self._start(nursery, call, 0.0):
                        return

    async def _wait_for_the_valve(self) -> float:
        if self.max_in_flight is None or self.in_flight < self.max_in_flight:
            return 0.0
        since = trio.current_time()
        while self.in_flight >= self.max_in_flight:
            await self._next_end()
        return trio.current_time() - since

    async def _wait_for_a_slot(self, pacing: Closed, ends: float) -> bool:
        """Wait until one more may be sent; False when the time is over first."""
        while (tau := self.now + NUDGE_S) < ends:
            if self.in_flight < pacing.allowed(tau):
                return True
            with trio.move_on_at(self.began + min(pacing.changes_after(tau), ends)):
                await self._next_end()
        return False

    async def _next_end(self) -> None:
        self._freed = trio.Event()
        await self._freed.wait()

    def _start(self, nursery: trio.Nursery, call: Call, held: float) -> bool:
        if not self.may_send(call):
            self.refused = True
            return False
        self.issued += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        nursery.start_soon(self._attempt, call, held)
        return True

    async def _attempt(self, call: Call, held: float) -> None:
        reply = Reply()
        try:
            await self.sender.send(call, reply)
        except Exception as error:  # a sender's defect is a failed sample, not a lost run
            reply.failure = (Outcome.PROTOCOL_ERROR, f"sender: {type(error).__name__}: {error}")
        except BaseException:  # Cancelled; in a group of them where it was just connecting
            reply.failure = (Outcome.CANCELLED, "the replay was stopped")
            raise
        finally:
            if reply.end is None:
                reply.end = trio.current_time()
            self.in_flight -= 1
            self._freed.set()
            self.keep(Attempt(call=call, held=held, reply=reply))
