"""The label of a call: what its sample will say of it, packed small, and carried along unread."""

from dataclasses import dataclass
from typing import Self

import msgpack


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """`id` is the exchange's id in the trace, `cycle` the round, `request_bytes` the body's length."""

    id: str
    cycle: int = 0
    endpoint: str = "other"
    model: str | None = None
    stream: bool = False
    request_bytes: int = 0

    def pack(self) -> bytes:
        """As bytes. Half a character in a recorded word survives."""
        row = (self.id, self.cycle, self.endpoint, self.model, self.stream, self.request_bytes)
        packed: bytes = msgpack.packb(row, unicode_errors="surrogatepass")
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """From its bytes."""
        id_, cycle, endpoint, model, stream, size = msgpack.unpackb(
            packed, unicode_errors="surrogatepass"
        )
        return cls(
            id=id_, cycle=cycle, endpoint=endpoint, model=model, stream=stream, request_bytes=size
        )
