"""Which sender a replay uses: the engine where it runs, plain httpx elsewhere."""

import ssl
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Final, Literal, Protocol, Self

from tbench.capture.errors import InputError
from tbench.replay.sender import Call, Deadlines, Origin, Sender

Choice = Literal["auto", "engine", "httpx"]
Kind = Literal["engine", "httpx"]
CLOCKS: Final[dict[Kind, str]] = {"engine": "kernel", "httpx": "user"}
"""What stamps the answers: the kernel when data arrives, or this process when it gets to read it."""


class OpenSender(Sender, Protocol):
    """A sender as a worker uses it: `async with`, `rehearse` once, `preopen`, then `launch`.

    `clock` is what stamped the answers so far, `kernel` or `user`; `stamps` how many reads each of them.
    `may_repeat` is asked before a call is sent again, as its kept connection had ended.
    """

    may_repeat: Callable[[Call], bool]

    @property
    def clock(self) -> str: ...
    @property
    def stamps(self) -> tuple[int, int]: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *_: object) -> None: ...
    async def rehearse(self) -> None: ...
    async def preopen(self, origin: Origin, count: int) -> None: ...


def chosen(choice: Choice, *, http2: bool = False, proxy: str | None = None) -> Kind:
    """The sender that is meant. Raises InputError for one that does not run here, or cannot do that."""
    linux = sys.platform == "linux"
    general = "--http2" if http2 else "--proxy" if proxy else None
    if proxy is not None:
        from tbench.capture.redact import mask_address  # noqa: PLC0415 (a worker starts without it)

        scheme, mark, rest = proxy.partition("://")
        if scheme not in {"http", "https"} or not mark or not rest:
            raise InputError(f"--proxy {mask_address(proxy)}: write it as http://HOST:PORT")
    if http2 and find_spec("h2") is None:
        raise InputError("--http2 needs a package that is not there: pip install 'httpx[http2]'")
    if choice == "engine" and not linux:
        raise InputError("--sender engine: runs on Linux only; use --sender httpx")
    if choice == "engine" and general:
        raise InputError(
            f"--sender engine: does not do {general[2:]}; drop it, or use --sender httpx"
        )
    if choice == "auto":
        return "engine" if linux and not general else "httpx"
    return choice


def make_sender(
    kind: Kind,
    deadlines: Deadlines,
    context: ssl.SSLContext | None,
    *,
    http2: bool = False,
    proxy: str | None = None,
) -> OpenSender:
    """A sender of that kind; `http2` and `proxy` are for httpx. Without a `context` no https."""
    if kind == "engine":
        from tbench.replay.engine.sender import EngineSender  # noqa: PLC0415 (does not import elsewhere)

        return EngineSender(deadlines, context)
    from tbench.replay.httpx_sender import HttpxSender  # noqa: PLC0415 (and this one not needlessly)

    return HttpxSender(deadlines, context, http2=http2, proxy=proxy)
