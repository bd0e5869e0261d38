"""What the simulator answers: one piece per token, from the seed and the prompt alone.

An API for text is a `Dialect`, which writes them: what all dialects share stands here, each in its own file.
"""

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from random import Random
from typing import Any, override

import brotli  # type: ignore[import-untyped, unused-ignore]
import orjson
import zstandard

from tbench.simulator.engine import Lengths
from tbench.simulator.order import Order, Refusal, invalid
from tbench.simulator.prompt import LONG, prose, split


class Kind(Enum):
    """What a token shows on the wire."""

    TEXT = auto()
    REASONING = auto()
    CALL_OPEN = auto()
    CALL_NAME = auto()
    CALL_ARGUMENTS = auto()
    SILENT = auto()
    """Nothing of its own: part of a tool call that is sent at once."""
    END = auto()
    """The end of the turn, a token without text."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One token."""

    kind: Kind
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One choice of an answer: its tokens, END among them where the turn ended by itself."""

    pieces: tuple[Piece, ...]
    finish: str
    seed: int
    call_id: str = ""
    stop: str | None = None
    """The stop string that ended it."""

    def text(self, kind: Kind) -> str:
        return "".join(piece.text for piece in self.pieces if piece.kind is kind)

    @property
    def reasoning_tokens(self) -> int:
        return sum(piece.kind is Kind.REASONING for piece in self.pieces)


def compose(order: Order, lengths: Lengths, seed: int, tokens: int | None = None) -> list[Branch]:
    """The branches of an answer, prompt by prompt. `tokens` sets their length, END included."""
    if tokens is None and order.ignore_eos and order.max_tokens is not None:
        tokens = order.max_tokens + 1  # its END is cut off
    return [
        # By the prompt, not by the order of arrival: a replay that
        # asks the same gets the same, however its requests race.
        _branch(order, lengths, Random(b"%d/%d/" % (seed, index) + prompt.digest), tokens)
        for prompt in order.prompts
        for index in range(order.n)
    ]


def _branch(order: Order, lengths: Lengths, rng: Random, tokens: int | None) -> Branch:
    # As recorded: beyond the range of signed 64 bits, with zeros at the end.
    seed = (
        rng.randint(1 << 63, (1 << 64) - 1) // 10**4 * 10**4 if order.seed is None else order.seed
    )
    finish, stop = "stop", None
    if order.tool and tokens is None:
        pieces, finish = _call(order.tool, rng), "tool_calls"
    else:
        if order.schema is not None and tokens is None:
            words = split(_written(order.schema, rng))
        else:
            words = prose(rng, _length(lengths, rng) if tokens is None else tokens - 1)
        thoughts: list[str] = []
        if order.reasoning and tokens is None:
            median = replace(lengths, median=lengths.reasoning_median)
            thoughts = prose(rng, _length(median, rng))
        elif order.reasoning and tokens:  # half of a length that is set
            thoughts, words = words[: tokens // 2], words[tokens // 2 :]
        text = "".join(words)
        places = [(place, stop) for stop in order.stop if (place := text.find(stop)) >= 0]
        if places:
            place, stop = min(places)
            words = split(text[:place])
        pieces = [Piece(Kind.REASONING, word) for word in thoughts]
        pieces += [*(Piece(Kind.TEXT, word) for word in words), Piece(Kind.END)]
    call_id = "call_" + "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=24))
    if order.max_tokens is not None and len(pieces) > order.max_tokens:
        pieces, finish, stop = pieces[: order.max_tokens], "length", None
    return Branch(pieces=tuple(pieces), finish=finish, seed=seed, call_id=call_id, stop=stop)


def _length(lengths: Lengths, rng: Random) -> int:
    """Tokens of text, the END not among them."""
    drawn = lengths.median * math.exp(lengths.sigma * rng.gauss())
    return max(1, min(lengths.maximum, round(drawn)) - 1)


def _call(function: Mapping[str, Any], rng: Random) -> list[Piece]:
    arguments = _written(function.get("parameters") or {}, rng)
    name = str(function["name"])
    silent = Piece(Kind.SILENT)
    return [
        Piece(Kind.CALL_OPEN),
        # Names and arguments leave as a whole each, after as many tokens as
        # they have: a client sees a pause and a burst, as of the service.
        *[silent] * (len(split(name)) + 3),
        Piece(Kind.CALL_NAME, name),
        *[silent] * len(split(arguments)),
        Piece(Kind.CALL_ARGUMENTS, arguments),
        Piece(Kind.END),
    ]


def _written(schema: Mapping[str, Any], rng: Random) -> str:
    try:
        return orjson.dumps(instance(schema, rng)).decode()
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError):
        raise invalid("the JSON schema makes no sense") from None


MOST_VALUES = 10_000


def instance(
    schema: Mapping[str, Any], rng: Random, depth: int = 0, left: Iterator[int] | None = None
) -> object:
    """A value that a JSON schema allows, for the common keywords; required properties only.

    Raises Refusal where it takes more than MOST_VALUES; `left` counts down to that.
    """
    left = left or iter(range(MOST_VALUES))
    if next(left, None) is None:  # lists within lists
        raise invalid(f"the JSON schema asks for more than {MOST_VALUES:,} values")
    for fixed in ("const", "default"):
        if fixed in schema:
            return schema[fixed]
    if schema.get("enum"):
        return rng.choice(schema["enum"])
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    low = schema.get("minimum", 0)
    high = schema.get("maximum", low + 100)
    match kind:
        case "object":
            properties = schema.get("properties")
            if not isinstance(properties, dict) or depth > 8:
                return {} if depth else {"answer": rng.choice(LONG)}
            return {
                key: instance(properties.get(key) or {"type": "string"}, rng, depth + 1, left)
                for key in schema.get("required") or list(properties)
            }
        case "array":
            items = schema.get("items")
            item = items if isinstance(items, dict) else {"type": "string"}
            # A body must not order an answer without bounds.
            length = min(64, max(1, schema.get("minItems", 1)))
            return [instance(item, rng, depth + 1, left) for _ in range(length)]
        case "integer":
            return rng.randint(math.ceil(low), max(math.ceil(low), math.floor(high)))
        case "number":
            return round(rng.uniform(low, high), 2)
        case "boolean":
            return rng.random() < 0.5
        case "null":
            return None
    return rng.choice(LONG)


# How answers are written.

STREAM_TYPE = "text/event-stream;charset=utf-8"
JSON_TYPE = "application/json; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What every chunk of an answer repeats. `created` is in Unix seconds."""

    id: str
    created: int
    model: str


@dataclass(slots=True)
class Events(ABC):
    """The events of a streamed answer, token by token. `cached_tokens` are known before the first."""

    order: Order
    head: Head
    branches: Sequence[Branch]
    cached_tokens: int = 0
    _written: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._written = [0] * len(self.branches)

    @property
    def complete(self) -> bool:
        """Whether every branch has got its last token."""
        return all(n == len(b.pieces) for n, b in zip(self._written, self.branches, strict=True))

    def token(self, index: int) -> bytes | None:
        """This branch got its next token: the bytes to write, None for one that shows nothing.

        What opens a stream comes with the first token, what ends it with the last.
        """
        number = self._written[index]
        self._written[index] += 1
        return self.show(index, self.branches[index].pieces[number])

    @abstractmethod
    def show(self, index: int, piece: Piece) -> bytes | None:
        """What `token` writes of a piece."""


@dataclass(slots=True)
class ItemEvents(Events):
    """Events of one branch, whose text stands in items (blocks), one after the other."""

    _item: Kind | None = None
    """What the item that is open holds."""
    _index: int = -1
    """Its number; -1 before the stream is begun."""
    _events: list[bytes] = field(default_factory=list)

    @property
    def branch(self) -> Branch:
        return self.branches[0]

    @override
    def show(self, index: int, piece: Piece) -> bytes | None:
        match piece.kind:
            case Kind.TEXT | Kind.REASONING:
                self._turn_to(piece.kind)
                self.add(piece.kind, piece.text)
            case Kind.CALL_NAME:
                self._turn_to(Kind.CALL_ARGUMENTS)
            case Kind.CALL_ARGUMENTS:
                self.add(piece.kind, piece.text)
        if self.complete:
            self._turn_to(None)
            self.end()
        data, self._events = b"".join(self._events), []
        return data or None

    def _turn_to(self, kind: Kind | None) -> None:
        """Have an item of this kind open, and no other; the stream is begun before the first."""
        if self._item is kind is not None:
            return
        if self._index < 0:
            self.begin()
            self._index = 0
        if self._item is not None:
            self.close_item(self._item)
            self._index += 1
        self._item = kind
        if kind is not None:
            self.open_item(kind)

    @abstractmethod
    def begin(self) -> None:
        """Write what opens the stream."""

    @abstractmethod
    def open_item(self, kind: Kind) -> None:
        """Write how an item begins."""

    @abstractmethod
    def add(self, kind: Kind, text: str) -> None:
        """Write the next text of the open item."""

    @abstractmethod
    def close_item(self, kind: Kind) -> None:
        """Write how the open item ends."""

    @abstractmethod
    def end(self) -> None:
        """Write what ends the stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """An API for text: how it asks, and how it writes answers and errors.

    `order` reads a body, with the tokens that a context holds (raises Refusal). `stream` and `body` write an
    answer; the last argument of `body` are the cached tokens. `failure` is what breaks a stream off, `done`
    what stands behind the last event, `refusal` the JSON of an error answer to the request of this id.
    """

    order: Callable[[Mapping[str, Any], int], Order]
    stream: Callable[[Order, Head, Sequence[Branch]], Events]
    body: Callable[[Order, Head, Sequence[Branch], int], dict[str, Any]]
    failure: bytes
    done: bytes = b""
    refusal: Callable[[Refusal, str], dict[str, Any]]


def named_event(kind: str, **members: object) -> bytes:
    """One server-sent event whose type is its name, too."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps({"type": kind, **members}))


# Content encodings for a streamed body: every piece comes out at once, as a flushed block.

Encode = Callable[[bytes, bool], bytes]
"""One piece of the body, and whether it is the last, to the bytes to write."""

_CODINGS: dict[str, tuple[Callable[[], Any], int, int]] = {
    # 31: a gzip header around the deflate stream.
    "gzip": (lambda: zlib.compressobj(wbits=31), zlib.Z_SYNC_FLUSH, zlib.Z_FINISH),
    "deflate": (zlib.compressobj, zlib.Z_SYNC_FLUSH, zlib.Z_FINISH),
    "zstd": (
        lambda: zstandard.ZstdCompressor().compressobj(),
        zstandard.COMPRESSOBJ_FLUSH_BLOCK,
        zstandard.COMPRESSOBJ_FLUSH_FINISH,
    ),
}
"""The compressor, how it is flushed behind a piece, and behind the last."""


def encoder(name: str) -> Encode:
    """`gzip`, `deflate`, `br` or `zstd`. Raises KeyError for another."""
    if name == "br":
        packer = brotli.Compressor()
        return lambda data, last: (
            packer.process(data) + (packer.finish() if last else packer.flush())
        )
    make, within, end = _CODINGS[name]
    packer = make()
    return lambda data, last: packer.compress(data) + packer.flush(end if last else within)
