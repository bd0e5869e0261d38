"""What the simulator says: one piece per token, from the seed and the prompt alone."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from random import Random
from typing import Any

import orjson

from tbench.simulator.order import Order
from tbench.simulator.profile import Lengths
from tbench.simulator.prompt import LONG, prose, split
from tbench.simulator.refusal import invalid

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


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
        _branch(order, lengths, Random(b"%d/%d/" % (seed, index) + prompt.digest), tokens)
        for prompt in order.prompts
        for index in range(order.n)
    ]


def _branch(order: Order, lengths: Lengths, rng: Random, tokens: int | None) -> Branch:
    seed = (
        order.seed
        if order.seed is not None
        else rng.randint(1 << 63, (1 << 64) - 1) // 10**4 * 10**4
    )
    pieces, finish = _turn(order, lengths, rng, tokens)
    branch = Branch(
        pieces=tuple(pieces),
        finish=finish,
        seed=seed,
        call_id="call_" + "".join(rng.choices(_ALPHABET, k=24)),
    )
    if order.max_tokens is not None and len(branch.pieces) > order.max_tokens:
        return replace(branch, pieces=branch.pieces[: order.max_tokens], finish="length")
    return branch


def _turn(
    order: Order, lengths: Lengths, rng: Random, tokens: int | None
) -> tuple[list[Piece], str]:
    if order.tool and tokens is None:
        return list(_call(order.tool, rng)), "tool_calls"
    if order.schema is not None and tokens is None:
        words = split(_written(order.schema, rng))
    else:
        words = prose(rng, _length(lengths, rng) if tokens is None else tokens - 1)
    thoughts = _thoughts(order, lengths, rng, tokens, words)
    kept = _until_stop(words[len(thoughts) if tokens else 0 :], order.stop)
    return [*thoughts, *(Piece(Kind.TEXT, word) for word in kept), Piece(Kind.END)], "stop"


def _thoughts(
    order: Order, lengths: Lengths, rng: Random, tokens: int | None, words: list[str]
) -> list[Piece]:
    """Reasoning comes first and on top; where the length is set, half of it is reasoning."""
    if not order.reasoning:
        return []
    median = replace(lengths, median=lengths.reasoning_median)
    said = prose(rng, _length(median, rng)) if tokens is None else words[: tokens // 2]
    return [Piece(Kind.REASONING, word) for word in said]


def _length(lengths: Lengths, rng: Random) -> int:
    """Tokens of text, the END not among them."""
    drawn = lengths.median * math.exp(lengths.sigma * rng.gauss())
    return max(1, min(lengths.maximum, round(drawn)) - 1)


def _until_stop(words: list[str], stops: tuple[str, ...]) -> list[str]:
    """The words before the first stop string; a word that holds its beginning is cut."""
    text = "".join(words)
    places = [at for stop in stops if (at := text.find(stop)) >= 0]
    if not places:
        return words
    return split(text[: min(places)])


def _call(function: Mapping[str, Any], rng: Random) -> Iterator[Piece]:
    arguments = _written(function.get("parameters") or {}, rng)
    name = str(function["name"])
    yield Piece(Kind.CALL_OPEN)
    yield from [Piece(Kind.SILENT)] * (len(split(name)) + 3)
    yield Piece(Kind.CALL_NAME, name)
    yield from [Piece(Kind.SILENT)] * len(split(arguments))
    yield Piece(Kind.CALL_ARGUMENTS, arguments)
    yield Piece(Kind.END)


def _written(schema: Mapping[str, Any], rng: Random) -> str:
    try:
        return orjson.dumps(instance(schema, rng)).decode()
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError):
        raise invalid("the JSON schema makes no sense") from None


def instance(schema: Mapping[str, Any], rng: Random, depth: int = 0) -> object:
    """Some value that a JSON schema allows, for the common keywords; required properties only."""
    for fixed in ("const", "default"):
        if fixed in schema:
            return schema[fixed]
    if schema.get("enum"):
        return rng.choice(schema["enum"])
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "object":
        return _object(schema, rng, depth)
    if kind == "array":
        items = schema.get("items")
        item = items if isinstance(items, dict) else {"type": "string"}
        return [
            instance(item, rng, depth + 1)
            for _ in range(min(64, max(1, schema.get("minItems", 1))))
        ]
    return _scalar(str(kind), schema, rng)


def _object(schema: Mapping[str, Any], rng: Random, depth: int) -> dict[str, Any]:
    properties = schema.get("properties")
    if not isinstance(properties, dict) or depth > 8:
        return {} if depth else {"answer": rng.choice(LONG)}
    wanted = schema.get("required") or list(properties)
    return {
        key: instance(properties.get(key) or {"type": "string"}, rng, depth + 1) for key in wanted
    }


def _scalar(kind: str, schema: Mapping[str, Any], rng: Random) -> object:
    low = schema.get("minimum", 0)
    high = schema.get("maximum", low + 100)
    values = {
        "integer": lambda: rng.randint(math.ceil(low), max(math.ceil(low), math.floor(high))),
        "number": lambda: round(rng.uniform(low, high), 2),
        "boolean": lambda: rng.random() < 0.5,
        "null": lambda: None,
    }
    return values.get(kind, lambda: rng.choice(LONG))()
