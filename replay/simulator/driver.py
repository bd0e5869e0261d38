"""Runs the engine on the clock: one task, one wake-up per step, on the engine's absolute schedule."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from replay.simulator.engine import Engine
from replay.simulator.engine import Sequence as Work
from replay.simulator.prompt import Prompt


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


class Driver:
    """Feeds arrivals to the engine and hands its tokens out when they are due."""

    def __init__(self, engine: Engine, late: Callable[[float], None]) -> None:
        self._engine = engine
        self._late = late
        self._outlets: dict[int, tuple[Outlet, int]] = {}
        self._scripted: set[Outlet] = set()
        self._arrived = asyncio.Event()

    async def run(self) -> None:
        """Step for ever; cancel it to end."""
        now = asyncio.get_running_loop().time
        while True:
            step = self._engine.begin()
            if step is None:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            await asyncio.sleep(max(0.0, step.end - now()))
            self._late(max(0.0, now() - step.end))
            for work in self._engine.finish(step):
                self._deliver(work)

    def submit(self, prompts: Sequence[Prompt], lengths: Sequence[int]) -> Outlet:
        """Queue one sequence per length. Branches of one prompt share its prefill. Raises QueueFullError."""
        outlet = Outlet()
        now = asyncio.get_running_loop().time()
        per_prompt = len(lengths) // len(prompts)
        for index, length in enumerate(lengths):
            prompt = prompts[index // per_prompt]
            tokens, blocks = (prompt.tokens, prompt.blocks) if index % per_prompt == 0 else (1, ())
            work = self._engine.submit(now, tokens, length, blocks)
            outlet.work.append(work)
            self._outlets[work.id] = (outlet, index)
        self._arrived.set()
        return outlet

    def script(self, tokens: Sequence[int], ttft_s: float, itl_s: float) -> Outlet:
        """Tokens at set times from now: past the engine, on an absolute schedule, branches in step."""
        outlet = Outlet()
        self._scripted.add(outlet)
        start = asyncio.get_running_loop().time() + ttft_s
        self._at(outlet, list(tokens), start, itl_s, 0)
        return outlet

    def _at(
        self, outlet: Outlet, tokens: list[int], start: float, itl_s: float, number: int
    ) -> None:
        loop = asyncio.get_running_loop()
        due = start + number * itl_s

        def deliver() -> None:
            self._late(max(0.0, loop.time() - due))
            for branch, length in enumerate(tokens):
                if number < length:
                    outlet.put(branch)
            if number + 1 < max(tokens) and not outlet.closed:
                self._at(outlet, tokens, start, itl_s, number + 1)

        loop.call_at(due, deliver)

    def release(self, outlet: Outlet) -> None:
        """The request is over: whatever of it still runs is cancelled."""
        outlet.close()
        self._scripted.discard(outlet)
        for work in outlet.work:
            self._outlets.pop(work.id, None)
            if not work.finished:
                self._engine.cancel(work)

    def close_all(self) -> None:
        """The server ends: nobody gets another token."""
        for outlet, _ in list(self._outlets.values()):
            outlet.close()
        for outlet in list(self._scripted):
            outlet.close()

    def _deliver(self, work: Work) -> None:
        if found := self._outlets.get(work.id):
            outlet, branch = found
            outlet.put(branch)
