"""Interrupting: every signal to stop as what Ctrl-C is: whoever is stopped gives back what it took."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tbench.capture.stopping import stop_signals


@contextmanager
def terminable() -> Iterator[None]:
    """Within, the other signals to stop do what SIGINT does: mostly it raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    others = [number for number in stop_signals() if number != signal.SIGINT]
    before = {number: signal.signal(number, _interrupt) for number in others}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)
