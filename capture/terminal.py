"""Terminal: nothing that came from a file or a server may steer it, and a closed one ends nothing badly.

`guarded` puts a Guard around stdout and stderr, so that no `print` can forget it. Whoever draws with rich
does it on a `capture.console.Console`, which escapes its words before it styles them.
"""

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import fill
from typing import Final, TextIO, cast

_STEERING: Final = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
"""Control characters but newline (C0, DEL, C1), marks that turn the direction of writing (Unicode Standard
Annex 9, section 2), separators of lines and paragraphs, lone surrogates, and what no XML may hold."""
LONGEST_NAME: Final = 120
LONGEST_LINE: Final = 2000


def escaped(text: str) -> str:
    r"""`text` with all that steers a terminal made visible, as in Python and JSON: `\x1b`, `\u202e`.

    JSON text stays JSON of the same value: it holds no bare control character below 0x20 but newline.
    """

    def visible(hit: re.Match[str]) -> str:
        code = ord(hit[0])
        return f"\\x{code:02x}" if code < 0x20 else f"\\u{code:04x}"

    return text if text.isprintable() else _STEERING.sub(visible, text)


def shortened(text: str, most: int = LONGEST_NAME) -> str:
    """`text`, or its first `most` characters and how many more there are."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most:,} more characters)"


def one_line(text: str) -> str:
    """The same with its line ends made visible."""
    return escaped(text).replace("\n", "\\n")


def plural(n: int, noun: str, many: str | None = None) -> str:
    """A count and what is counted: 1 request, 2,000 requests; `many` where it is not `noun` and an s."""
    return f"{n:,} {noun if n == 1 else many or noun + 's'}"


def named(text: str) -> str:
    """A name that came from outside, as it is shown: on one line, and cut where it is very long."""
    return shortened(one_line(text))


def folded(line: str, width: int) -> str:
    """A line folded at words; what follows stands under the text after a label, or two further in.

    JSON and lines for a shell stay as they are, and so does a word longer than a line: a path, an address.
    """
    if len(line) <= width or line.lstrip().startswith(_WHOLE):
        return line
    label = _LABEL.match(line)
    indent = label.end() if label and label.end() <= width // 3 else 0
    return fill(
        line,
        width,
        subsequent_indent=" " * (indent or 2),
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )


_WHOLE: Final = ("{", "[", '"', "export ", "curl ")
_LABEL: Final = re.compile(r" *(?:\S+ {2,}|! )?")


class Guard(io.TextIOBase):
    """A stream that escapes what is written to it; what is our own styling goes to `styled`, beneath it.

    On a terminal lines are folded at words; a table that is drawn to its width is not touched.

    It has no `buffer`: click would write to that, past the guard, where the locale is plain ASCII.
    """

    encoding = ""
    errors: str | None = None

    def __init__(self, stream: TextIO) -> None:
        self.styled = stream
        self.encoding, self.errors = stream.encoding, stream.errors

    def write(self, text: str) -> int:
        try:
            # Asked for each time, as windows change. 0: a terminal that does not know (in some containers).
            columns = os.get_terminal_size(self.fileno()).columns or sys.maxsize
        except (OSError, ValueError):  # a file or a pipe
            columns = sys.maxsize
        with naming(self.styled):
            lines = escaped(text).split("\n")
            self.styled.write("\n".join(folded(line, columns) for line in lines))
        return len(text)

    def flush(self) -> None:
        with naming(self.styled):
            self.styled.flush()

    def isatty(self) -> bool:
        return self.styled.isatty()

    def fileno(self) -> int:
        return self.styled.fileno()

    def writable(self) -> bool:
        return True


@contextmanager
def naming(stream: TextIO) -> Iterator[None]:
    """Name the stream in the OSError of a full disk behind it."""
    try:
        yield
    except OSError as error:
        name = getattr(stream, "name", "the output")
        raise OSError(error.errno, error.strerror, name) from None


def guard(stream: TextIO) -> TextIO:
    """The stream under guard; one that is already stays as it is."""
    return stream if isinstance(stream, Guard) else cast("TextIO", Guard(stream))


def styled(stream: TextIO) -> TextIO:
    """The stream beneath all guards, for text whose words are escaped and whose styling is our own."""
    inner = getattr(stream, "styled", None) or getattr(stream, "rich_proxied_file", None)
    return stream if inner is None else styled(inner)


@contextmanager
def guarded() -> Iterator[None]:
    """Put stdout and stderr under guard; a character that their encoding lacks is escaped, too."""
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = map(guard, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


@contextmanager
def heard(stream: TextIO) -> Iterator[None]:
    """Go on when the reader of `stream` has gone, as with a closed terminal: send the rest to /dev/null."""
    try:
        yield
    except OSError:
        # By its descriptor: Python flushes the stream once
        # more at exit, and would complain with exit code 120.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
