"""What a person sees while a replay runs: one line, on a terminal refreshed in place, else every 10 s."""

import sys
from typing import TYPE_CHECKING, Final, Protocol

import trio

from tbench.capture.terminal import heard
from tbench.replay.runner import Progress, Watch
from tbench.replay.sample import Fate
from tbench.replay.throughput import three

if TYPE_CHECKING:
    from tbench.capture.console import Console

REFRESH_S: Final = 0.4
PLAIN_S: Final = 10.0


class Screen(Protocol):
    """Shows a line every `every_s` seconds, called on a thread; `close` ends it."""

    every_s: float

    def show(self, line: str) -> None: ...
    def close(self) -> None: ...


class Terminal:
    """One line that is drawn over, and gone at the end."""

    every_s = REFRESH_S

    def __init__(self, console: "Console") -> None:
        from rich.text import Text  # noqa: PLC0415 (a pipe needs none of it)

        from tbench.capture.console import Live  # noqa: PLC0415

        self._text = Text
        self._region = Live(console=console, auto_refresh=False, transient=True)
        self._region.start()

    def show(self, line: str) -> None:
        self._region.update(self._text(line, overflow="ellipsis", no_wrap=True), refresh=True)

    def close(self) -> None:
        self._region.stop()


class Plain:
    """Lines for logs and pipes, on stderr."""

    every_s = PLAIN_S

    def show(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


def screen() -> Screen:
    """The one that suits stderr."""
    if not sys.stderr.isatty():
        return Plain()
    from tbench.capture.console import Console  # noqa: PLC0415 (slow to load)

    console = Console(stderr=True)
    return Terminal(console) if console.is_terminal else Plain()


def watching(screen: Screen) -> Watch:
    """A watch that keeps `screen` up to date; drawing happens off the sending loop."""

    def show(text: str) -> None:
        with heard(sys.stderr):
            screen.show(text)

    async def watch(live: Progress) -> None:
        try:
            while True:
                await trio.sleep(screen.every_s)
                await trio.to_thread.run_sync(show, line(live, max(0.0, live.now)))
        finally:
            with heard(sys.stderr):
                screen.close()

    return watch


def line(live: Progress, elapsed: float) -> str:
    """The figures so far in one line; `elapsed` is seconds since the start."""
    tally, expected = live.tally, live.expected()
    half, late = tally.ttft(0.5), tally.ttft(0.99)
    left = time_left(live, elapsed)
    parts = [
        clock(elapsed),
        f"{live.issued:,}{f' of {expected:,}' if expected else ''} sent",
        f"{live.issued / elapsed if elapsed else 0:.1f}/s",
        f"{live.in_flight} in flight",
        f"{tally.fates[Fate.COMPLETED]:,} done",
    ]
    if half is not None and late is not None:
        parts.append(f"TTFT p50 {three(half * 1e3)} ms, p99 {three(late * 1e3)} ms")
    for kind, _ in tally.errors.most_common(1):
        parts.append(f"{tally.errors.total():,} failed ({kind})")
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
