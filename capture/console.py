"""Console: rich's, with words escaped before they are styled; and its live region, under the same guard.

Beside `capture.terminal`, as only those who draw load rich.
"""

import sys
from collections.abc import Iterable
from typing import IO, Any, TextIO, cast

import rich.console
import rich.live
from rich.file_proxy import FileProxy
from rich.segment import Segment
from rich.text import Text

from tbench.capture.terminal import LONGEST_LINE, escaped, guard, shortened, styled


class Console(rich.console.Console):
    """Shows words as words: no markup, no emoji codes, no control characters."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 (rich's own)
        super().__init__(**{"markup": False, "emoji": False, "highlight": False} | options)

    @property
    def file(self) -> IO[str]:
        return styled(cast("Any", super().file))

    @file.setter
    def file(self, stream: IO[str]) -> None:
        self._file = stream

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401
        """Escape before layout, so that columns are as wide as what is shown."""
        return super().render_str(escaped(shortened(text, LONGEST_LINE)), **options)

    def render(
        self,
        renderable: rich.console.RenderableType,
        options: rich.console.ConsoleOptions | None = None,
    ) -> Iterable[Segment]:
        """Escape what was given as rich's Text, too; rich's own controls pass."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=escaped(segment.text))


class Live(rich.live.Live):
    """A region that is drawn over. What others print meanwhile is shown above it, escaped."""

    def start(self, refresh: bool = False) -> None:
        super().start(refresh)
        for name in ("stdout", "stderr"):
            if isinstance(
                stream := getattr(sys, name), FileProxy
            ):  # it would read their codes as styles
                setattr(sys, name, guard(cast("TextIO", stream)))
