"""What a running capture tells whoever watches it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tbench.capture.lag import Lag
from tbench.capture.recorder import Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where the capture listens. `ca_bundle` holds the public roots and the throw-away CA."""

    address: str
    ca_bundle: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The state of a capture at one moment; `lag` is over its whole time, in ns.

    `left_out` counts what passed through unrecorded as asked, by the option that keeps it out: `host`
    (tunnels count once), `path`, `sample`, `limit`. `redirected` counts answers that sent clients past the
    capture, by the host they sent them to.
    """

    counts: Counts
    left_out: Mapping[str, int]
    redirected: Mapping[str, int]
    in_flight: int
    elapsed_s: float
    draining: bool
    failure: str | None
    lag: Lag


class Watch(Protocol):
    """Who is told what happens: the command line, or a test. Called on the event loop."""

    def listening(self, place: Listening) -> None: ...
    def tick(self, status: Status) -> None: ...
    def warn(self, line: str) -> None: ...
