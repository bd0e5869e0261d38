"""What the simulator says: one piece per token, from the seed and the prompt alone."""

import math
import struct
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from random import Random
from typing import Any

import orjson

from tbench.simulator.engine import Lengths
from tbench.simulator.order import Order, invalid
from tbench.simulator.prompt import END_OF_TURN, LONG, prose, split, token_id

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
    answer = _until_stop(words[len(thoughts) if tokens else 0 :], order.stop)
    return [*thoughts, *(Piece(Kind.TEXT, word) for word in answer), Piece(Kind.END)], "stop"


def _thoughts(
    order: Order, lengths: Lengths, rng: Random, tokens: int | None, words: list[str]
) -> list[Piece]:
    """Reasoning comes first and on top; where the length is set, half of it is reasoning."""
    if not order.reasoning:
        return []
    median = replace(lengths, median=lengths.reasoning_median)
    thoughts = prose(rng, _length(median, rng)) if tokens is None else words[: tokens // 2]
    return [Piece(Kind.REASONING, word) for word in thoughts]


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


# The exact JSON and event shapes of Together's API, as recorded in public. Pure functions.

DONE = b"data: [DONE]\n\n"
STREAM_TYPE = "text/event-stream;charset=utf-8"
JSON_TYPE = "application/json; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What every chunk of an answer repeats. `created` is in Unix seconds."""

    id: str
    created: int
    model: str


def event(payload: object) -> bytes:
    """One server-sent event, as Together frames it: a data line and nothing else."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def usage(order: Order, branches: Sequence[Branch], cached_tokens: int) -> dict[str, Any]:
    """The tokens of an answer. END counts, as on Together; cached tokens lie flat among the rest."""
    completion = sum(len(branch.pieces) for branch in branches)
    counts: dict[str, Any] = {
        "prompt_tokens": order.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": order.prompt_tokens + completion,
        "cached_tokens": cached_tokens,
    }
    if order.reasoning:
        thoughts = sum(branch.reasoning_tokens for branch in branches)
        counts["completion_tokens_details"] = {"reasoning_tokens": thoughts}
    return counts


@dataclass(slots=True)
class Stream:
    """The events of a streamed answer, token by token.

    `token` is told which branch got its next token and answers with the bytes to write, or None for a
    token that shows nothing. The event that ends the last branch carries the usage.
    """

    order: Order
    head: Head
    branches: Sequence[Branch]
    cached_tokens: int = 0
    _said: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._said = [0] * len(self.branches)

    @property
    def complete(self) -> bool:
        return all(n == len(b.pieces) for n, b in zip(self._said, self.branches, strict=True))

    def token(self, index: int) -> bytes | None:
        branch = self.branches[index]
        piece = branch.pieces[self._said[index]]
        self._said[index] += 1
        last = self._said[index] == len(branch.pieces)
        if not last and piece.kind is Kind.SILENT:
            return None
        make = _CHOICES.get(piece.kind, _text_choice)
        choice = make(index, piece, branch, branch.finish if last else None)
        if self.order.logprobs and piece.text:
            choice["logprobs"] = logprob(piece.text)
        return event(self._chunk(choice))

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        chunk: dict[str, Any] = {
            "id": self.head.id,
            "object": "chat.completion.chunk" if self.order.chat else "completion.chunk",
            "created": self.head.created,
            "choices": [choice],
            "model": self.head.model,
        }
        if choice.get("role"):
            return chunk  # the chunk that opens a tool call has no usage
        chunk["usage"] = (
            usage(self.order, self.branches, self.cached_tokens) if self.complete else None
        )
        return chunk


def _text_choice(index: int, piece: Piece, branch: Branch, finish: str | None) -> dict[str, Any]:
    end = piece.kind is Kind.END
    return {
        "index": index,
        "text": piece.text,
        "logprobs": None,
        "finish_reason": finish,
        "seed": branch.seed if finish else None,
        "delta": {
            "token_id": END_OF_TURN if end else token_id(piece.text),
            "role": "assistant",
            "content": piece.text,
        },
    }


def _reasoning_choice(
    index: int, piece: Piece, branch: Branch, finish: str | None
) -> dict[str, Any]:
    choice = _text_choice(index, piece, branch, finish)
    choice["text"] = ""
    choice["delta"] |= {"content": "", "reasoning": piece.text}
    return choice


def _call_open(index: int, _piece: Piece, _branch: Branch, finish: str | None) -> dict[str, Any]:
    delta = {"role": "assistant", "content": ""}
    return {
        "index": index,
        "role": "assistant",
        "text": "",
        "logprobs": None,
        "finish_reason": finish,
        "delta": delta,
    }


def _call_name(index: int, piece: Piece, branch: Branch, finish: str | None) -> dict[str, Any]:
    function = {"name": piece.text, "arguments": ""}
    call = {"index": 0, "id": branch.call_id, "type": "function", "function": function}
    return _call_choice(index, call, branch, finish)


def _call_arguments(index: int, piece: Piece, branch: Branch, finish: str | None) -> dict[str, Any]:
    # Together says "tool_calls" here already, and once more in the chunk that ends the turn.
    call = {"index": 0, "function": {"arguments": piece.text}}
    return _call_choice(index, call, branch, finish or "tool_calls")


def _call_choice(
    index: int, call: dict[str, Any], branch: Branch, finish: str | None
) -> dict[str, Any]:
    return {
        "index": index,
        "text": "",
        "logprobs": None,
        "finish_reason": finish,
        "seed": branch.seed if finish == "length" else None,
        "delta": {"token_id": None, "role": "assistant", "content": "", "tool_calls": [call]},
    }


_CHOICES: dict[Kind, Callable[[int, Piece, Branch, str | None], dict[str, Any]]] = {
    Kind.REASONING: _reasoning_choice,
    Kind.CALL_OPEN: _call_open,
    Kind.CALL_NAME: _call_name,
    Kind.CALL_ARGUMENTS: _call_arguments,
}


def logprob(text: str) -> float:
    """A stable log-probability for a token, between -2 and 0."""
    return -(token_id(text) % 2000) / 1000


def completion(
    order: Order, head: Head, branches: Sequence[Branch], cached_tokens: int
) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    make = _message_choice if order.chat else _completion_choice
    texts = order.prompt_texts or ("",)
    return {
        "id": head.id,
        "object": "chat.completion" if order.chat else "text.completion",
        "created": head.created,
        "model": head.model,
        "prompt": [{"text": text, "logprobs": None} for text in texts] if order.echo else [],
        "choices": [make(index, branch, order.logprobs) for index, branch in enumerate(branches)],
        "usage": usage(order, branches, cached_tokens),
    }


def _logprobs(branch: Branch) -> dict[str, Any]:
    texts = [piece.text for piece in branch.pieces if piece.kind is Kind.TEXT]
    return {
        "tokens": texts,
        "token_ids": [token_id(text) for text in texts],
        "token_logprobs": [logprob(text) for text in texts],
        "top_logprobs": None,
    }


def _completion_choice(index: int, branch: Branch, logprobs: bool) -> dict[str, Any]:
    return {
        "index": index,
        "text": branch.text(Kind.TEXT),
        "finish_reason": branch.finish,
        "seed": branch.seed,
        "logprobs": _logprobs(branch) if logprobs else None,
    }


def _message_choice(index: int, branch: Branch, logprobs: bool) -> dict[str, Any]:
    called = branch.text(Kind.CALL_NAME)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if called else branch.text(Kind.TEXT),
        "tool_calls": [_whole_call(branch)] if called else [],
    }
    if thoughts := branch.text(Kind.REASONING):
        message["reasoning"] = thoughts
    return {
        "finish_reason": branch.finish,
        "seed": branch.seed,
        "logprobs": _logprobs(branch) if logprobs else None,
        "index": index,
        "message": message,
    }


def _whole_call(branch: Branch) -> dict[str, Any]:
    function = {
        "name": branch.text(Kind.CALL_NAME),
        "arguments": branch.text(Kind.CALL_ARGUMENTS),
    }
    return {"index": 0, "id": branch.call_id, "type": "function", "function": function}


def embeddings(model: str, vectors: Iterable[Sequence[float]], *, base64: bool) -> dict[str, Any]:
    """The answer of /embeddings, which has no usage. base64 holds little-endian float32."""
    data = [
        {
            "object": "embedding",
            "embedding": _packed(vector) if base64 else list(vector),
            "index": index,
        }
        for index, vector in enumerate(vectors)
    ]
    return {"object": "list", "model": model, "data": data}


def _packed(vector: Sequence[float]) -> str:
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def rerank(
    ident: str, model: str, results: list[dict[str, Any]], prompt_tokens: int
) -> dict[str, Any]:
    """The answer of /rerank."""
    counts = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 0,
        "total_tokens": prompt_tokens,
    }
    return {"object": "rerank", "id": ident, "model": model, "results": results, "usage": counts}
