"""Which sender a replay uses: the engine where it runs, plain httpx elsewhere."""

import ssl
import sys
from typing import Final, Literal, Protocol, Self

from capture.errors import InputError
from replay.sender import Deadlines, Sender

Choice = Literal["auto", "engine", "httpx"]
Kind = Literal["engine", "httpx"]
CLOCKS: Final[dict[Kind, str]] = {"engine": "kernel", "httpx": "user"}
"""What stamps the answers: the kernel when data arrives, or this process when it gets to read it."""


class OpenSender(Sender, Protocol):
    """A sender as a replay uses it: `async with`, then `rehearse` once, then `send`.

    `clock` is what stamped the answers so far, `kernel` or `user`.
    """

    @property
    def clock(self) -> str: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *_: object) -> None: ...
    async def rehearse(self) -> None: ...


def chosen(choice: Choice) -> Kind:
    """The sender that is meant. Raises InputError for one that does not run here."""
    linux = sys.platform == "linux"
    if choice == "engine" and not linux:
        raise InputError("--sender engine: runs on Linux only; use --sender httpx")
    if choice == "auto":
        return "engine" if linux else "httpx"
    return choice


def make_sender(kind: Kind, deadlines: Deadlines, context: ssl.SSLContext) -> OpenSender:
    """A sender of that kind."""
    if kind == "engine":
        from replay.engine.sender import EngineSender  # noqa: PLC0415 (does not import elsewhere)

        return EngineSender(deadlines, context)
    from replay.httpx_sender import HttpxSender  # noqa: PLC0415 (and this one not needlessly)

    return HttpxSender(deadlines, context)
