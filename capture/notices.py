"""What mitmproxy warns of, as single lines without credentials."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tbench.capture.redact import mask_lookalikes


class _Warnings(logging.Handler):
    """Mitmproxy's warnings as one masked line each; a kind that repeats is said once a minute."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._warn = warn
        self._said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, asyncio.CancelledError):
            return
        text = " ".join(record.getMessage().split())
        text = f"{text} ({type(error).__name__})" if error else text
        if record.created - self._said.get(text, -60.0) >= 60.0:
            self._said[text] = record.created
            self._warn(mask_lookalikes(text))


@contextmanager
def notices(warn: Callable[[str], None]) -> Iterator[None]:
    """Log records from WARNING up go to `warn`; what is below is never even formatted."""
    root = logging.getLogger()
    before, handler = root.level, _Warnings(warn)
    root.setLevel(logging.WARNING)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
