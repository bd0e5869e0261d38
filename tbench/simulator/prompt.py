"""A request's prompt as the engine sees it: bytes, four to a token, with the blocks of its prefixes.

A turn is a header of 16 bytes and its content, padded to whole tokens, so that a conversation's next
prompt begins with the one before. An image stands as as many tokens as Together bills for it.
"""

import struct
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

from tbench.simulator.prefixes import BLOCK_TOKENS
from tbench.simulator.words import TOKEN_BYTES

TILE_PIXELS = 560
TILE_TOKENS = 1601
HEADER_BYTES = 16
_BLOCK_BYTES = BLOCK_TOKENS * TOKEN_BYTES


@dataclass(frozen=True, slots=True)
class Prompt:
    """`tokens` long; `blocks` are chained hashes of whole blocks; `digest` names the whole text."""

    tokens: int
    blocks: tuple[bytes, ...]
    digest: bytes


def chat_prompt(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any], model: str) -> Prompt:
    """The prompt of a chat: tools first, then the turns, then the header of the answer."""
    parts = [_padded(orjson.dumps(tools))] if tools else []
    parts += [_turn(message) for message in messages]
    return text_prompt(b"".join(parts) + _header("assistant"), model)


def text_prompt(rendered: bytes, model: str) -> Prompt:
    """The prompt of rendered bytes. Models share no cache, but the same text has the same digest."""
    return Prompt(
        tokens=max(1, -(-len(rendered) // TOKEN_BYTES)),
        blocks=_blocks(rendered, blake2b(model.encode(), digest_size=8).digest()),
        digest=blake2b(rendered, digest_size=16).digest(),
    )


def image_tokens(width: int, height: int) -> int:
    """What an image costs: tiles of 560 pixels, at most two by two."""
    across, down = (min(2, max(1, -(-side // TILE_PIXELS))) for side in (width, height))
    return TILE_TOKENS * across * down


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels of a PNG, GIF or JPEG; None for anything else."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    if data[:4] == b"GIF8" and len(data) >= 10:
        width, height = struct.unpack("<HH", data[6:10])
        return width, height
    return _jpeg_size(data) if data[:2] == b"\xff\xd8" else None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + length
    return None


def _turn(message: Mapping[str, Any]) -> bytes:
    rest = {key: message[key] for key in ("name", "tool_calls", "tool_call_id") if message.get(key)}
    extra = _padded(orjson.dumps(rest)) if rest else b""
    return _header(str(message.get("role"))) + _content(message.get("content")) + extra


def _content(content: object) -> bytes:
    if isinstance(content, list):
        return b"".join(_part(part) for part in content)
    return _padded(content.encode()) if isinstance(content, str) else b""


def _part(part: object) -> bytes:
    if not isinstance(part, Mapping):
        return b""
    if part.get("type") == "text":
        return _padded(str(part.get("text", "")).encode())
    if part.get("type") != "image_url":
        return _padded(orjson.dumps(part))
    image = part.get("image_url")
    url = str(image.get("url", "") if isinstance(image, Mapping) else image)
    return _image(url)


def _image(url: str) -> bytes:
    """The bytes that stand for an image. One that is elsewhere counts as the largest."""
    size = None
    if url.startswith("data:"):
        try:
            size = image_size(b64decode(url.partition(",")[2]))
        except NotBase64:
            size = None
    tokens = image_tokens(*size) if size else 4 * TILE_TOKENS
    name = blake2b(url.encode(), digest_size=TOKEN_BYTES).digest()
    return name * tokens


def _header(role: str) -> bytes:
    return f"<|{role}|>".encode()[:HEADER_BYTES].ljust(HEADER_BYTES)


def _padded(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // TOKEN_BYTES) * TOKEN_BYTES, b"\0")


def _blocks(rendered: bytes, name: bytes) -> tuple[bytes, ...]:
    blocks = []
    for at in range(0, len(rendered) - _BLOCK_BYTES + 1, _BLOCK_BYTES):
        name = blake2b(name + rendered[at : at + _BLOCK_BYTES], digest_size=8).digest()
        blocks.append(name)
    return tuple(blocks)
