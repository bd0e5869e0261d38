"""Hope: whether failures stay what they are however often one asks (nobody listens, a wrong key)."""

from collections.abc import Mapping
from typing import Any, Final

from tbench.capture.exchange import Outcome
from tbench.replay.brake import PASSING
from tbench.replay.closing import Flags, check_reached
from tbench.replay.runfile import Run

REFUSED: Final = frozenset({"http_400", "http_413", "http_422"})


def hopeless(numbers: Mapping[str, Any]) -> bool:
    """Whether a run (its `numbers`) has failures, no success, and none that could become one."""
    failed, completed = numbers["failed"], numbers["completed"]
    return bool(failed) and not completed and all(map(lasts, numbers["errors"]))


def too_much(numbers: Mapping[str, Any]) -> bool:
    """Whether it may be the request that is refused (too long, say): another point's need not be."""
    return any(kind in REFUSED for kind in numbers["errors"])


def check_hope(run: Run, numbers: Mapping[str, Any], flags: Flags) -> None:
    """Raise UnreachableError where it is hopeless, saying what to do by the options `flags`."""
    if hopeless(numbers):
        check_reached(run, numbers, flags)


def lasts(kind: str) -> bool:
    """Whether a kind of failure (`connect_error`, `http_404`) stays what it is."""
    status = kind.removeprefix("http_")
    if status == kind:
        return kind == Outcome.CONNECT_ERROR.value
    return status.startswith("4") and int(status) not in PASSING
