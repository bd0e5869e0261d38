"""Sends an answer as its tokens fall due: as a stream or whole, with the fault that befalls it."""

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
import zstandard

from tbench.simulator.answer import (
    DONE,
    JSON_TYPE,
    STREAM_TYPE,
    Branch,
    Head,
    Stream,
    completion,
    event,
)
from tbench.simulator.call import Call, ClientGoneError, Fault, HungUpError
from tbench.simulator.driver import Outlet
from tbench.simulator.order import Order, error, invalid, refusal

# Content encodings for a streamed body: every piece comes out at once, as a flushed block.

Encode = Callable[[bytes, bool], bytes]
"""One piece of the body, and whether it is the last, to the bytes to write."""


def encoder(name: str) -> Encode:
    """`gzip`, `deflate`, `br` or `zstd`. Raises KeyError for another, ImportError where br lacks brotli."""
    return _MAKERS[name]()


def _zlib(bits: int) -> Encode:
    packer = zlib.compressobj(wbits=bits)
    return lambda data, last: (
        packer.compress(data) + packer.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
    )


def _zstd() -> Encode:
    packer = zstandard.ZstdCompressor().compressobj()
    block, end = zstandard.COMPRESSOBJ_FLUSH_BLOCK, zstandard.COMPRESSOBJ_FLUSH_FINISH
    return lambda data, last: packer.compress(data) + packer.flush(end if last else block)


def _brotli() -> Encode:
    import brotli  # type: ignore[import-untyped]  # noqa: PLC0415 (a test extra)

    packer = brotli.Compressor()

    def encode(data: bytes, last: bool) -> bytes:
        packed: bytes = packer.process(data) + (packer.finish() if last else packer.flush())
        return packed

    return encode


_MAKERS: dict[str, Callable[[], Encode]] = {
    "gzip": lambda: _zlib(31),
    "deflate": lambda: _zlib(15),
    "br": _brotli,
    "zstd": _zstd,
}
GARBAGE = b'data: {"id": "oops", "choi\n\n'


@dataclass(slots=True, kw_only=True)
class Speech:
    """One answer on its way out."""

    call: Call
    order: Order
    branches: list[Branch]
    outlet: Outlet

    @property
    def tokens(self) -> int:
        return sum(len(branch.pieces) for branch in self.branches)

    async def stream(self, *, early_head: bool) -> None:
        """Send the events of a stream. Raises ClientGoneError, HungUpError."""
        encode = self._encoder()
        headers = {"content-type": STREAM_TYPE, **self._encoding_header()}
        fault = self.call.fault
        strikes_at = fault.place(self.tokens, self.call.rng) if fault else -1
        if early_head:
            await self.call.head(200, headers)
        stream = Stream(self.order, self._head(), self.branches)
        for number in range(self.tokens):
            index = await self._next()
            if number == 0:
                stream.cached_tokens = self._note_engine()
                await self._before_head()
                if not early_head:
                    await self.call.head(200, headers)
            if number == strikes_at and fault and await self._strike(fault, encode):
                return
            if data := stream.token(index):
                await self._say(data, encode, last=stream.complete)

    async def whole(self) -> None:
        """Send the answer at its end as one JSON body. Raises as `stream` does."""
        for _ in range(self.tokens):
            await self._next()
        cached = self._note_engine()
        await self._before_head()
        body = orjson.dumps(completion(self.order, self._head(), self.branches, cached))
        await send_json(self.call, body)

    def _head(self) -> Head:
        return Head(id=self.call.record.id, created=int(time.time()), model=self.order.model)

    def _encoder(self) -> Encode:
        name = self.call.headers.get("x-sim-encoding")
        try:
            return encoder(name) if name else lambda data, _last: data
        except (KeyError, ImportError):
            raise invalid(f"x-sim-encoding: {name} is not available") from None

    def _encoding_header(self) -> dict[str, str]:
        name = self.call.headers.get("x-sim-encoding")
        return {"content-encoding": name} if name else {}

    async def _next(self) -> int:
        index = await self.outlet.get()
        if index is None:
            raise ClientGoneError
        return index

    def _note_engine(self) -> int:
        """Keep what the engine knows of this request; returns its cached tokens."""
        record = self.call.record
        record.prompt_tokens = self.order.prompt_tokens
        record.output_tokens = self.tokens
        work = self.outlet.work
        record.cached_tokens = sum(sequence.cached_tokens for sequence in work)
        if work and work[0].admitted is not None and work[0].prefill_ended is not None:
            record.queue_s = work[0].admitted - work[0].arrived
            record.prefill_s = work[0].prefill_ended - work[0].admitted
        return record.cached_tokens

    async def _before_head(self) -> None:
        if self.call.fault and self.call.fault.kind == "slow":
            await self.outlet.pause(self.call.fault.seconds)

    async def _say(self, data: bytes, encode: Encode, *, last: bool) -> None:
        packed = encode(data + DONE if last else data, last)
        self.call.record.wrote()
        await self.call.write(packed, last=last)

    async def _strike(self, fault: Fault, encode: Encode) -> bool:
        """Let the fault happen in mid-stream; returns whether the answer is over."""
        record = self.call.record
        if fault.kind == "stall":
            await self.outlet.pause(fault.seconds)
        elif fault.kind == "garbage":
            await self.call.write(encode(GARBAGE, False))
        elif fault.kind == "cut":
            raise HungUpError
        elif fault.kind == "eof":
            record.outcome = "cut"
            await self.call.write(encode(b"", True), last=True)
            return True
        elif fault.kind == "error":
            record.outcome = "stream_error"
            failure = event(error("The model failed while answering.", "server_error"))
            await self.call.write(encode(failure + DONE, True), last=True)
            return True
        return False


async def send_json(call: Call, body: bytes) -> None:
    """Send a 200 with this JSON, unless a fault spoils it. Raises HungUpError, Refusal."""
    kind = call.fault.kind if call.fault else ""
    if kind == "error":
        raise refusal(500)
    if kind == "cut":
        call.record.outcome = "cut"
        await call.head(200, {"content-type": JSON_TYPE, "content-length": str(len(body))})
        await call.write(body[: len(body) // 2])
        raise HungUpError
    spoilt: dict[str, Any] = {"eof": body[: len(body) // 2], "garbage": b"<oops>"}
    await call.reply(200, spoilt.get(kind, body), JSON_TYPE)
