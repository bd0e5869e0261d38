"""A request's prompt as the engine sees it: bytes, four to a token, with the blocks of its prefixes.

A turn is a header of 16 bytes and its content, padded to whole tokens, so that a conversation's next
prompt begins with the one before. An image stands as as many tokens as Together bills for it.
"""

import struct
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any
from zlib import crc32

import orjson

# The prefix cache of the modelled engine: prompt blocks, named by everything up to their end.

BLOCK_TOKENS = 16


class PrefixCache:
    """Keeps the most recently used `capacity` blocks. A block is its chained hash (`prompt.blocks`)."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._blocks: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def cached_tokens(self, blocks: Sequence[bytes], prompt_tokens: int) -> int:
        """Tokens of the longest cached prefix; one token at least is left to compute."""
        held = next((i for i, b in enumerate(blocks) if b not in self._blocks), len(blocks))
        self._touch(blocks[:held])
        # As vLLM: to sample the first token there must be a pass over at least one.
        return max(0, min(held * BLOCK_TOKENS, prompt_tokens - 1))

    def insert(self, blocks: Iterable[bytes]) -> None:
        """Keep these blocks; the least recently used go. Of one prompt, its tail goes first."""
        blocks = list(blocks)
        for block in blocks:
            self._blocks[block] = None
        self._touch(blocks)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)

    def _touch(self, blocks: Sequence[bytes]) -> None:
        # The head of a prompt last, so that it is the most recent:
        # others share it, and the tail is no use without it.
        for block in reversed(blocks):
            self._blocks.move_to_end(block)


# The simulator's language: one token is four bytes of UTF-8, the last one of a text may be shorter.
#
# The words are ours and made to fit (a space and three, or seven, letters), so that what is generated as
# N tokens counts as N tokens when it comes back as history: usage is exact on both sides.

TOKEN_BYTES = 4
END_OF_TURN = 128009
"""The token id that ends a turn."""


def _words(text: str) -> list[str]:
    return text.split()


OPENERS = ("Here", "This", "When", "Most", "Some", "Each", "Once", "Well")
STARTS = (" The", " Our", " One", " Any", " All", " Now", " Yet", " But")
ENDS = (" it.", " us.", " so.", " up.", " on.", " me.", " go.", " by.")
SHORT = _words(
    " old new big red sun sea oak sky day way map key sum set row log bit arc air art bay box bus cap "
    "car cup dot ear egg end eye far few fig fir fog for gap gas has hat hen hue ice ink ivy jar joy kit "
    "lab law leg lid lot low may mix net nut oil one own pan pen pin pot raw ray rim rye sap see six tea "
    "ten tie tin toy two urn use van vat via web wet win yes zip"
)
LONG = _words(
    "morning evening harvest journey compass lantern harbour village balance measure passage pattern "
    "present private process produce project promise quality quarter reading reasons science section "
    "segment silence station storage stretch subject surface texture thunder trouble variety venture "
    "version walking weather welcome western whether whisper without writing printer archive channel"
)
ASIDES = (" —", " to,", " at,", " in,", " is,")


def count(text: str) -> int:
    """How many tokens a text has."""
    return -(-len(text.encode()) // TOKEN_BYTES)


def token_id(piece: str) -> int:
    """A stable number for a token's text, below the special ones."""
    return crc32(piece.encode()) % 128_000


def prose(rng: Random, tokens: int) -> list[str]:
    """Exactly so many tokens of running text, each a string of four bytes."""
    pieces = [rng.choice(OPENERS)]
    while len(pieces) < tokens:  # a sentence
        for _ in range(rng.randint(2, 6)):
            if rng.random() < 0.3:
                word = " " + rng.choice(LONG)
                pieces += [word[:TOKEN_BYTES], word[TOKEN_BYTES:]]
            pieces.append(" " + rng.choice(SHORT) if rng.random() < 0.9 else rng.choice(ASIDES))
        pieces += [rng.choice(ENDS), rng.choice(STARTS)]
    return pieces[:tokens] if tokens > 0 else []


def split(text: str) -> list[str]:
    """A given text, cut into its tokens; no character is torn, so a piece may pass four bytes."""
    pieces: list[str] = []
    held = ""
    for character in text:
        held += character
        if len(held.encode()) >= TOKEN_BYTES:
            pieces.append(held)
            held = ""
    return [*pieces, held] if held else pieces


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
    for message in messages:
        parts.append(_header(str(message.get("role"))))
        content = message.get("content")
        if isinstance(content, list):
            parts += [_part(part) for part in content if isinstance(part, Mapping)]
        elif isinstance(content, str):
            parts.append(_padded(content.encode()))
        names = ("name", "tool_calls", "tool_call_id")
        if rest := {name: message[name] for name in names if message.get(name)}:
            parts.append(_padded(orjson.dumps(rest)))
    return text_prompt(b"".join(parts) + _header("assistant"), model)


def text_prompt(rendered: bytes, model: str) -> Prompt:
    """The prompt of rendered bytes. Models share no cache, but the same text has the same digest."""
    # Chained from the model's name: a block's name stands for all text before
    # it, so that equal words at another place, or of another model, are no hit.
    name, blocks = blake2b(model.encode(), digest_size=8).digest(), []
    for at in range(0, len(rendered) - _BLOCK_BYTES + 1, _BLOCK_BYTES):
        name = blake2b(name + rendered[at : at + _BLOCK_BYTES], digest_size=8).digest()
        blocks.append(name)
    return Prompt(
        tokens=max(1, -(-len(rendered) // TOKEN_BYTES)),
        blocks=tuple(blocks),
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
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while (
        at + 9 <= len(data) and data[at] == 0xFF
    ):  # the segments of a JPEG, until a frame's header
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        # SOF0 to SOF15 hold the size; DHT, JPG and DAC lie in their range and hold none (ITU T.81, B.1).
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + length
    return None


def _part(part: Mapping[str, Any]) -> bytes:
    if part.get("type") == "text":
        return _padded(str(part.get("text", "")).encode())
    if part.get("type") != "image_url":
        return _padded(orjson.dumps(part))
    image = part.get("image_url")
    url = str(image.get("url", "") if isinstance(image, Mapping) else image)
    size = None
    if url.startswith("data:"):
        with suppress(ValueError):  # not in base64, or not even in ASCII
            size = image_size(b64decode(url.partition(",")[2]))
    # One that is elsewhere, or no image, counts as the largest.
    tokens = image_tokens(*size) if size else 4 * TILE_TOKENS
    # The same picture gives the same bytes, and so is found in the cache.
    return blake2b(url.encode(), digest_size=TOKEN_BYTES).digest() * tokens


def _header(role: str) -> bytes:
    return f"<|{role}|>".encode()[:HEADER_BYTES].ljust(HEADER_BYTES)


def _padded(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // TOKEN_BYTES) * TOKEN_BYTES, b"\0")
