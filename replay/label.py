"""The label of a call: what its sample will say of it, packed small, and carried along unread."""

from typing import Final, NamedTuple, Self

import msgpack

_packer: Final = msgpack.Packer(unicode_errors="surrogatepass")


class Label(NamedTuple):
    """`id` is the exchange's id in the trace, `cycle` the round, `request_bytes` the body's length.

    `session` numbers the conversation.
    """

    id: str
    cycle: int = 0
    endpoint: str = "other"
    model: str | None = None
    stream: bool = False
    request_bytes: int = 0
    session: int | None = None

    def pack(self) -> bytes:
        """As bytes. Half a character in a recorded word survives."""
        packed: bytes = _packer.pack(self)
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """From its bytes."""
        return cls._make(msgpack.unpackb(packed, unicode_errors="surrogatepass"))
