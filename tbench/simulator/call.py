"""One request in the making: reading it, answering it, hanging up on it."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any, Protocol

from tbench.simulator.faults import Fault
from tbench.simulator.truth import Record

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ClientGoneError(Exception):
    """The client hung up, or the server is ending: nobody reads an answer."""


class HungUpError(Exception):
    """The simulator itself closes the connection, as a fault demands."""


class Line(Protocol):
    """The connection under a request, as far as ASGI does not reach."""

    on_lost: Callable[[], None] | None

    async def hang_up(self, *, reset: bool) -> None:
        """Close in the middle, after what was written; with `reset`, abort with an RST."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """A request with what the simulator has decided about it. `said` are headers for any answer."""

    headers: Mapping[str, str]
    receive: Receive
    send: Send
    line: Line
    record: Record
    rng: Random
    fault: Fault | None = None
    said: dict[str, str] = field(default_factory=dict)

    async def body(self) -> bytes:
        """The whole body. Raises ClientGoneError."""
        parts = []
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                return b"".join(parts)

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status line and the headers."""
        self.record.status = status
        whole = {**headers, "x-request-id": self.record.request_id, **self.timing(), **self.said}
        pairs = [(name.encode(), value.encode("latin-1")) for name, value in whole.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": pairs})

    async def reply(self, status: int, body: bytes, content_type: str) -> None:
        """Send a whole answer."""
        length = {"content-type": content_type, "content-length": str(len(body))}
        await self.head(status, length)
        await self.write(body, last=True)

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Send a piece of the body."""
        await self.send({"type": "http.response.body", "body": data, "more_body": not last})

    def number(self, name: str) -> float | None:
        """A header that holds a number not below 0. Raises ValueError for anything else."""
        text = self.headers.get(name)
        if text is None:
            return None
        if not (value := float(text)) >= 0:
            raise ValueError
        return value

    def timing(self) -> dict[str, str]:
        """The true times so far, in the answer's head; docs of `tbench serve` name the fields."""
        record = self.record
        parts = [f"arrival_wall_ns={record.arrival_wall_ns}"]
        spent = {"queue_s": record.queue_s, "prefill_s": record.prefill_s}
        parts += [f"{name}={value:.6f}" for name, value in spent.items() if value is not None]
        start = record.arrival_wall_ns + int((record.queue_s or 0) * 1e9)
        return {
            "x-sim-timing": "; ".join(parts),
            "x-api-received": _iso(record.arrival_wall_ns),
            "x-api-call-start": _iso(start),
        }


def _iso(wall_ns: int) -> str:
    stamp = datetime.fromtimestamp(wall_ns / 1e9, UTC)
    return stamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")
