"""Odd server: answers each request as the oddity that its model names, byte by byte as told."""

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from typing import Final

from tbench.capture.terminal import plural, stop_signals
from tbench.simulator.oddities import ODD, REFUSED, WHOLE, Odd, joined
from tbench.simulator.server import Place, listen, say


class OddServer:
    """HTTP/1.1 on bare sockets: a request's model names its row of ODD. `served` counts requests."""

    def __init__(self) -> None:
        self.served = 0
        self._counts: dict[str, int] = {}

    async def serve(self, place: Place) -> None:
        """Listen until a signal to stop, or as long as `place` says. Raises InputError where it cannot."""
        sock = listen(place.host, place.port)
        host, port = sock.getsockname()[:2]
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        for number in stop_signals():
            loop.add_signal_handler(number, ended.set)
        server = await asyncio.start_server(self.connection, sock=sock)
        say(
            f"listening on http://{host}:{port} ({len(ODD)} odd models); base_url http://{host}:{port}/v1"
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(place.duration_s):
                while not ended.is_set() and self.served < (place.requests or self.served + 1):
                    with suppress(TimeoutError):
                        await asyncio.wait_for(ended.wait(), 0.05)
        server.close()
        say(f"served {plural(self.served, 'request')}")

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after the other until either side has enough."""
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._request(reader, writer):
                pass
        writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:-2])
        body = await reader.readexactly(int(fields.get(b"content-length", 0)))
        if head.startswith(b"GET"):
            await _write(writer, replace(WHOLE, body=(json.dumps(catalogue()).encode(),)))
            return True
        self.served += 1
        odd = self._chosen(body)
        await _write(writer, odd)
        return odd.then == "keep" and odd.frame != "close"

    def _chosen(self, body: bytes) -> Odd:
        try:
            name = str(json.loads(body)["model"])
            odd = ODD[name]
        except (KeyError, TypeError, ValueError):
            return _UNKNOWN
        self._counts[name] = self._counts.get(name, 0) + 1
        return ODD[odd.instead] if odd.every and self._counts[name] % odd.every == 0 else odd


_UNKNOWN: Final = replace(
    REFUSED,
    head="HTTP/1.1 404 Not Found",
    body=(
        json.dumps({"error": {"message": "no such odd model; GET /v1/models lists them"}}).encode(),
    ),
)


def catalogue() -> list[dict[str, str]]:
    """What GET /v1/models says: the behaviours, and what each does."""
    return [
        {"id": name, "object": "model", "type": "chat", "about": odd.about}
        for name, odd in ODD.items()
    ]


async def _write(writer: asyncio.StreamWriter, odd: Odd) -> None:
    framing = {
        "chunked": ("Transfer-Encoding: chunked",),
        "length": (f"Content-Length: {len(joined(odd.body))}",),
    }.get(odd.frame, ())
    head = "\r\n".join((odd.head, *odd.fields, *framing, "", ""))
    writer.write(odd.before + head.encode())
    for piece in odd.body:
        if isinstance(piece, float):
            await writer.drain()
            await asyncio.sleep(piece)
        elif piece:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if odd.frame == "chunked" else piece)
            await asyncio.sleep(0)  # a write of its own
    if odd.frame == "chunked":
        writer.write(b"0\r\n" + odd.trailer + b"\r\n")
    await writer.drain()
