"""Board: what a person sees while a verb works: a region of a terminal that is drawn over, or plain lines."""

import io
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from tbench.capture.terminal import heard

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from tbench.capture.console import Console, Live

REFRESH_S: Final = 0.4
PLAIN_S: Final = 10.0


class Board:
    """Shows what is under way on stderr, for any thread: `show` it every `every_s` seconds or when `due`.

    On a terminal the line stands in a region that is drawn over, and is gone at the end. `draw` makes that
    region where it is more than the line; with `screen` it takes the whole screen, and what is printed on
    stderr meanwhile goes to `lines` until the screen is given back. Elsewhere each line is printed. Where
    drawing fails plain lines are left: it must not end what is measured.
    """

    def __init__(
        self,
        draw: "Callable[[Text], RenderableType] | None" = None,
        *,
        screen: bool = False,
        console: "Console | None" = None,
    ) -> None:
        self.every_s = PLAIN_S
        self.lines: list[str] = []
        self._draw = draw or (lambda text: text)
        self._console = console
        self._heading = self._line = ""
        # Where lines are printed the first one is due after ten seconds: short work prints none.
        self._due = time.monotonic() + PLAIN_S
        self._live: Live | None = None
        self._redirected = ExitStack()
        if console is None:
            if not sys.stderr.isatty():
                return
            from tbench.capture.console import Console  # noqa: PLC0415 (a pipe needs nothing of rich)

            # The file that stderr is now: with `screen`, what is printed there later is redirected.
            self._console = console = Console(file=sys.stderr)
            # TERM=dumb (Emacs, some CI) can move no cursor: regions would be printed below each other.
            if console.is_dumb_terminal:
                return
        if console.is_terminal:
            self._begin(console, screen=screen)

    def _begin(self, console: "Console", *, screen: bool) -> None:
        from tbench.capture.console import Live  # noqa: PLC0415

        self.every_s, self._due = REFRESH_S, 0.0
        others = not screen  # whose lines rich shows above the region
        self._live = Live(
            console=console, screen=screen, auto_refresh=False, transient=not screen,
            redirect_stderr=others, redirect_stdout=others,
        )  # fmt: skip
        if screen:
            # Before the screen is taken: a warning that is printed
            # on it would tear the drawing, and be gone with it.
            self._redirected.enter_context(redirect_stderr(_Lines(self._note)))
        self._live.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines of the terminal; 80 and 24 without one."""
        return (self._console.width, self._console.height) if self._console else (80, 24)

    def due(self) -> bool:
        """Whether it is time to show something again; for work that has no clock of its own."""
        now = time.monotonic()
        if now < self._due:
            return False
        self._due = now + self.every_s
        return True

    def begin(self, heading: str) -> None:
        """Begin a part of the work: its lines stand behind the heading, or below it where it is printed."""
        self._heading, self._line = heading, ""
        if self._live:
            self.redraw()
        else:
            self.say(heading)

    def show(self, line: str) -> None:
        """Show how far it is; nothing: the part is at its end."""
        self._line = line
        if self._live:
            self.redraw()
        elif line:
            self.say(f"  {line}" if self._heading else line)

    def redraw(self) -> None:
        """Draw the region again, where there is one: what it shows has changed."""
        if self._live is None:
            return
        from rich.text import Text  # noqa: PLC0415

        line = "  ".join(filter(None, (self._heading, self._line)))
        with heard(sys.stderr):
            try:
                text = Text(line, overflow="ellipsis", no_wrap=True)
                self._live.update(self._draw(text), refresh=True)
            # The terminal is gone: `heard` deals with that, and drawing goes on to nowhere.
            except OSError:
                raise
            except Exception as error:
                self.lines.append(f"the display failed ({error!r}); the work goes on")
                self.close()

    def say(self, line: str) -> None:
        """Print a line that stays, above the region."""
        with heard(sys.stderr):
            if self._console:
                self._console.print(line, soft_wrap=True)
            else:
                print(line, file=sys.stderr, flush=True)

    def _note(self, line: str) -> None:
        self.lines.append(line)
        self.redraw()

    def close(self) -> None:
        """Give the terminal back, with what was printed meanwhile."""
        live, self._live, self.every_s = self._live, None, PLAIN_S
        if live:
            with heard(sys.stderr):
                live.stop()
        self._redirected.close()
        lines = self.lines[:]
        self.lines.clear()  # the list is the drawing's, too
        for line in lines:
            print(line, file=sys.stderr)


class _Lines(io.TextIOBase):
    """A file whose lines go to a function."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._show(line)
        return len(text)
