"""How far a replay is, in one line; and the watch that shows it, on a thread behind the sending."""

import threading
from typing import Protocol

import trio

from tbench.replay.runner import Progress, Watch
from tbench.replay.sample import Fate
from tbench.replay.system import BEHIND, on_thread
from tbench.replay.throughput import three


class Display(Protocol):
    """Shows a line every `every_s` seconds, called on a thread; an empty one at the end."""

    every_s: float

    def show(self, line: str) -> None: ...


def watching(display: Display) -> Watch:
    """A watch that keeps a display up to date."""

    async def watch(live: Progress) -> None:
        over = threading.Event()

        def follow() -> None:
            while not over.wait(display.every_s):
                display.show(line(live, live.now))
            display.show("")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(on_thread, follow, BEHIND)
            try:
                await trio.sleep_forever()
            finally:
                over.set()

    return watch


def line(live: Progress, elapsed: float) -> str:
    """The figures so far in one line; `elapsed` is seconds since the start."""
    tally, expected = live.tally, live.expected()
    about = "" if live.settled() else "about "
    half, late = tally.ttft(0.5), tally.ttft(0.99)
    left = time_left(live, elapsed)
    parts = [
        clock(elapsed),
        f"{live.issued:,}{f' of {about}{expected:,}' if expected else ''} sent",
        f"{live.issued / elapsed if elapsed else 0:.1f}/s",
        f"{live.in_flight} in flight",
        f"{tally.fates[Fate.COMPLETED]:,} done",
    ]
    if half is not None and late is not None:
        parts.append(f"TTFT p50 {three(half * 1e3)} ms, p99 {three(late * 1e3)} ms")
    for kind, _ in tally.errors.most_common(1):
        mostly = "mostly " * (len(tally.errors) > 1)
        parts.append(f"{tally.errors.total():,} failed ({mostly}{kind})")
    if left is not None:
        parts.append(f"{clock(left)} left")
    return "  ".join(parts)


def time_left(live: Progress, elapsed: float) -> float | None:
    """Seconds until the sending ends: by its duration, else by the share that was sent. None: unknown."""
    if live.duration_s is not None:
        return max(0.0, live.duration_s - elapsed)
    expected, issued = live.expected(), live.issued
    if not expected or issued < 2 or elapsed <= 0:
        return None
    return max(0.0, elapsed * (expected / issued - 1))


def clock(seconds: float) -> str:
    """Minutes and seconds, as in 2:05."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
