"""Stopping: what ends a long run in good order, and how it goes on when its terminal has gone."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask for an end: Ctrl-C, SIGTERM, and a terminal that closes, but under nohup."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *(() if ignored else (signal.SIGHUP,)))


@contextmanager
def heard(stream: TextIO) -> Iterator[None]:
    """Go on when nobody reads `stream` any more, a closed terminal's: from then on it leads nowhere."""
    try:
        yield
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
