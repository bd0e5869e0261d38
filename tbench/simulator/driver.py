"""Runs the engine on the clock: one task, one wake-up per step, on an absolute schedule."""

import asyncio
import contextlib
import math
import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Final

from tbench.replay.system import arm, timer_fd
from tbench.simulator.call import Line
from tbench.simulator.engine import Engine, QueueFullError, Step, Work
from tbench.simulator.prompt import Prompt

# An alarm clock for one task: by timerfd where there is one, since asyncio's timers are up to 1 ms late.


FAR_S: Final = 1e9
"""Later than anybody waits: a timer's nanoseconds end at 292 years."""


class Alarm:
    """Wakes whoever waits at an absolute time of the running loop. Close it in the end."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()
        self._at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._fd = timer_fd()
        if self._fd is not None:
            self._loop.add_reader(self._fd, self._ring)

    def at(self, when: float) -> None:
        """Ring at this time, or earlier if that was asked for before; at once if it is past."""
        if when >= self._at:
            return
        self._at = when
        if self._fd is not None:
            arm(self._fd, int(min(when, FAR_S) * 1e9))
            return
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._ring)

    async def wait(self) -> None:
        """Until it rings. Afterwards it is silent until `at` is called again."""
        await self._rung.wait()
        self._rung.clear()

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)

    def _ring(self) -> None:
        if self._fd is not None:
            os.read(self._fd, 8)
        self._at = math.inf
        self._rung.set()


@dataclass(slots=True, eq=False)
class Outlet:
    """Where the tokens of one request come out: the indices of the branches that got one, in order.

    `work` are the engine's sequences, none where the times were set by headers. `closed` says that the
    client has gone or the server ends.
    """

    work: list[Work] = field(default_factory=list)
    closed: bool = False
    _due: deque[int] = field(default_factory=deque)
    _waiter: asyncio.Future[None] | None = None
    _gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def cached_tokens(self) -> int:
        return sum(sequence.cached_tokens for sequence in self.work)

    def put(self, branch: int) -> None:
        self._due.append(branch)
        self._wake()

    def close(self) -> None:
        self.closed = True
        self._gone.set()
        self._wake()

    async def get(self) -> int | None:
        """The branch whose next token is due; None once closed."""
        while not self._due and not self.closed:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return None if self.closed else self._due.popleft()

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._gone.wait()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


@dataclass(order=True, slots=True)
class Tick:
    """The next token of a request whose times were set by headers; branches advance in step."""

    due: float
    number: int
    outlet: Outlet = field(compare=False)
    tokens: Sequence[int] = field(compare=False)
    itl_s: float = field(compare=False)


class Driver:
    """Feeds arrivals to the engine and hands its tokens out when they are due.

    Create it in a running event loop. `late` is told how long after its due time each wake-up came.
    """

    def __init__(self, engine: Engine, late: Callable[[float], None]) -> None:
        self._engine = engine
        self._late = late
        self._outlets: dict[int, tuple[Outlet, int]] = {}
        self._ticks: list[Tick] = []
        self._step: Step | None = None
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm()

    async def run(self) -> None:
        """Step for ever; cancel it to end."""
        try:
            while True:
                await self._alarm.wait()
                self._advance(self._loop.time())
        finally:
            self._alarm.close()

    def submit(self, prompts: Sequence[Prompt], lengths: Sequence[int]) -> Outlet:
        """Queue one sequence per length. Branches of one prompt share its prefill. Raises QueueFullError."""
        outlet = Outlet()
        now = self._loop.time()
        per_prompt = len(lengths) // len(prompts)
        for index, length in enumerate(lengths):
            prompt = prompts[index // per_prompt]
            tokens, blocks = (prompt.tokens, prompt.blocks) if index % per_prompt == 0 else (1, ())
            try:
                work = self._engine.submit(now, tokens, length, blocks)
            except QueueFullError:
                # All or nothing: the branches before this one would be computed for nobody.
                self._drop(outlet)
                raise
            outlet.work.append(work)
            self._outlets[work.id] = (outlet, index)
        # Only an idle engine: a step that runs takes newcomers
        # in when it ends, as continuous batching does.
        if self._step is None:
            self._begin()
        return outlet

    def script(self, tokens: Sequence[int], ttft_s: float, itl_s: float) -> Outlet:
        """Tokens at set times from now: past the engine, on an absolute schedule."""
        outlet = Outlet()
        tick = Tick(self._loop.time() + ttft_s, 0, outlet, tuple(tokens), itl_s)
        heappush(self._ticks, tick)
        self._alarm.at(tick.due)
        return outlet

    @contextlib.contextmanager
    def attached(self, outlet: Outlet, line: Line) -> Generator[None]:
        """While inside, a lost connection closes the outlet; afterwards what still runs is cancelled."""
        line.on_lost = outlet.close
        try:
            yield
        finally:
            line.on_lost = None
            outlet.close()
            self._drop(outlet)

    def _drop(self, outlet: Outlet) -> None:
        for work in outlet.work:
            self._outlets.pop(work.id, None)
            if not work.finished:
                self._engine.cancel(work)

    def close_all(self) -> None:
        """The server ends: nobody gets another token."""
        waiting = [outlet for outlet, _ in self._outlets.values()]
        for outlet in (*waiting, *(tick.outlet for tick in self._ticks)):
            outlet.close()

    def _advance(self, now: float) -> None:
        """Hand out what is due. One step at a time, so that a late engine does not shut the door."""
        if self._step and self._step.end <= now:
            self._late(now - self._step.end)
            for work in self._engine.finish(self._step):
                if work.id in self._outlets:
                    outlet, branch = self._outlets[work.id]
                    outlet.put(branch)
            self._begin()
        elif self._step:  # a tick rang
            self._alarm.at(self._step.end)
        while self._ticks and self._ticks[0].due <= now:
            tick = heappop(self._ticks)
            if tick.outlet.closed:
                continue
            self._late(now - tick.due)
            for branch, length in enumerate(tick.tokens):
                if tick.number < length:
                    tick.outlet.put(branch)
            if tick.number + 1 < max(tick.tokens):
                later = replace(tick, due=tick.due + tick.itl_s, number=tick.number + 1)
                # From when this one was due, not from when it rang: lateness does not add up over a stream.
                heappush(self._ticks, later)
        if self._ticks:
            self._alarm.at(self._ticks[0].due)

    def _begin(self) -> None:
        self._step = self._engine.begin()
        if self._step:
            self._alarm.at(self._step.end)
