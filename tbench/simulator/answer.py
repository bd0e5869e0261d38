"""What the simulator answers: one piece per token, from the seed and the prompt alone, and its JSON.

An API for text is a `Dialect`; Together's two stand here, their shapes as recorded in public.
"""

import math
import struct
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from random import Random
from typing import Any, Protocol

import orjson

from tbench.simulator.engine import Lengths
from tbench.simulator.order import Order, Refusal, chat_order, completion_order, error, invalid
from tbench.simulator.prompt import END_OF_TURN, LONG, prose, split, token_id


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
    # As recorded: beyond the range of signed 64 bits, with zeros at the end.
    seed = (
        rng.randint(1 << 63, (1 << 64) - 1) // 10**4 * 10**4 if order.seed is None else order.seed
    )
    finish = "stop"
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
        places = [place for stop in order.stop if (place := text.find(stop)) >= 0]
        if places:
            words = split(text[: min(places)])
        pieces = [Piece(Kind.REASONING, word) for word in thoughts]
        pieces += [*(Piece(Kind.TEXT, word) for word in words), Piece(Kind.END)]
    call_id = "call_" + "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=24))
    if order.max_tokens is not None and len(pieces) > order.max_tokens:
        pieces, finish = pieces[: order.max_tokens], "length"
    return Branch(pieces=tuple(pieces), finish=finish, seed=seed, call_id=call_id)


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


def instance(schema: Mapping[str, Any], rng: Random, depth: int = 0) -> object:
    """A value that a JSON schema allows, for the common keywords; required properties only."""
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
                key: instance(properties.get(key) or {"type": "string"}, rng, depth + 1)
                for key in schema.get("required") or list(properties)
            }
        case "array":
            items = schema.get("items")
            item = items if isinstance(items, dict) else {"type": "string"}
            length = min(64, max(1, schema.get("minItems", 1)))
            return [instance(item, rng, depth + 1) for _ in range(length)]
        case "integer":
            return rng.randint(math.ceil(low), max(math.ceil(low), math.floor(high)))
        case "number":
            return round(rng.uniform(low, high), 2)
        case "boolean":
            return rng.random() < 0.5
        case "null":
            return None
    return rng.choice(LONG)


# How answers are written. Pure functions.

DONE = b"data: [DONE]\n\n"
STREAM_TYPE = "text/event-stream;charset=utf-8"
JSON_TYPE = "application/json; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What every chunk of an answer repeats. `created` is in Unix seconds."""

    id: str
    created: int
    model: str


class Events(Protocol):
    """The events of a streamed answer, token by token. `cached_tokens` are known before the first."""

    cached_tokens: int

    @property
    def complete(self) -> bool:
        """Whether every branch has got its last token."""
        ...

    def token(self, index: int) -> bytes | None:
        """This branch got its next token: the bytes to write, None for one that shows nothing.

        What opens a stream comes with the first token, what ends it with the last.
        """
        ...


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
    """Together's events. The one that ends the last branch carries the usage."""

    order: Order
    head: Head
    branches: Sequence[Branch]
    cached_tokens: int = 0
    _written: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._written = [0] * len(self.branches)

    @property
    def complete(self) -> bool:
        return all(n == len(b.pieces) for n, b in zip(self._written, self.branches, strict=True))

    def token(self, index: int) -> bytes | None:
        branch = self.branches[index]
        piece = branch.pieces[self._written[index]]
        self._written[index] += 1
        last = self._written[index] == len(branch.pieces)
        if not last and piece.kind is Kind.SILENT:
            return None
        choice = _choice(index, piece, branch, branch.finish if last else None)
        if self.order.logprobs and piece.text:
            choice["logprobs"] = logprob(piece.text)
        chunk: dict[str, Any] = {
            "id": self.head.id,
            "object": "chat.completion.chunk" if self.order.chat else "completion.chunk",
            "created": self.head.created,
            "choices": [choice],
            "model": self.head.model,
        }
        if piece.kind is not Kind.CALL_OPEN:  # which has no usage
            counts = usage(self.order, self.branches, self.cached_tokens) if self.complete else None
            chunk["usage"] = counts
        return event(chunk)


def _choice(index: int, piece: Piece, branch: Branch, finish: str | None) -> dict[str, Any]:
    """The choice of a chunk, keys in the order of the recorded ones."""
    if piece.kind is Kind.CALL_OPEN:
        return {
            "index": index,
            "role": "assistant",
            "text": "",
            "logprobs": None,
            "finish_reason": finish,
            "delta": {"role": "assistant", "content": ""},
        }
    seed = branch.seed if finish else None
    text = piece.text if piece.kind in {Kind.TEXT, Kind.END, Kind.SILENT} else ""
    number = END_OF_TURN if piece.kind is Kind.END else token_id(piece.text)
    delta: dict[str, Any] = {"token_id": number, "role": "assistant", "content": text}
    if piece.kind is Kind.REASONING:
        delta["reasoning"] = piece.text
    elif piece.kind is Kind.CALL_NAME:
        function = {"name": piece.text, "arguments": ""}
        call = {"index": 0, "id": branch.call_id, "type": "function", "function": function}
        delta |= {"token_id": None, "tool_calls": [call]}
    elif piece.kind is Kind.CALL_ARGUMENTS:
        call = {"index": 0, "function": {"arguments": piece.text}}
        delta |= {"token_id": None, "tool_calls": [call]}
        # Together says so here already, and once more in the chunk that ends the turn.
        finish = finish or "tool_calls"
    return {
        "index": index,
        "text": text,
        "logprobs": None,
        "finish_reason": finish,
        "seed": seed,
        "delta": delta,
    }


def logprob(text: str) -> float:
    """A stable log-probability for a token, between -2 and 0."""
    return -(token_id(text) % 2000) / 1000


def completion(
    order: Order, head: Head, branches: Sequence[Branch], cached_tokens: int
) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    texts = order.prompt_texts or ("",)
    choices: list[dict[str, Any]] = []
    for index, branch in enumerate(branches):
        ended: dict[str, Any] = {
            "finish_reason": branch.finish,
            "seed": branch.seed,
            "logprobs": None,
        }
        if order.logprobs:
            words = [piece.text for piece in branch.pieces if piece.kind is Kind.TEXT]
            ended["logprobs"] = {
                "tokens": words,
                "token_ids": [token_id(word) for word in words],
                "token_logprobs": [logprob(word) for word in words],
                "top_logprobs": None,
            }
        if order.chat:
            choices.append({**ended, "index": index, "message": _message(branch)})
        else:
            choices.append({"index": index, "text": branch.text(Kind.TEXT), **ended})
    return {
        "id": head.id,
        "object": "chat.completion" if order.chat else "text.completion",
        "created": head.created,
        "model": head.model,
        "prompt": [{"text": text, "logprobs": None} for text in texts] if order.echo else [],
        "choices": choices,
        "usage": usage(order, branches, cached_tokens),
    }


def _message(branch: Branch) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": []}
    if name := branch.text(Kind.CALL_NAME):
        function = {"name": name, "arguments": branch.text(Kind.CALL_ARGUMENTS)}
        call = {"index": 0, "id": branch.call_id, "type": "function", "function": function}
        message["tool_calls"] = [call]
    else:
        message["content"] = branch.text(Kind.TEXT)
    if thoughts := branch.text(Kind.REASONING):
        message["reasoning"] = thoughts
    return message


CHAT = Dialect(
    order=chat_order,
    stream=Stream,
    body=completion,
    failure=event(error("The model failed while answering.", "server_error")) + DONE,
    done=DONE,
    refusal=lambda refused, request_id: {
        "id": request_id,
        **error(refused.message, refused.type, refused.code),
    },
)
COMPLETIONS = replace(CHAT, order=completion_order)


def embeddings(model: str, vectors: Iterable[Sequence[float]], *, base64: bool) -> dict[str, Any]:
    """The answer of /embeddings, which has no usage. base64 holds little-endian float32."""
    data = [
        {
            "object": "embedding",
            "embedding": b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            if base64
            else list(vector),
            "index": index,
        }
        for index, vector in enumerate(vectors)
    ]
    return {"object": "list", "model": model, "data": data}


def rerank(
    ident: str, model: str, results: list[dict[str, Any]], prompt_tokens: int
) -> dict[str, Any]:
    """The answer of /rerank."""
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": 0}
    counts["total_tokens"] = prompt_tokens
    return {"object": "rerank", "id": ident, "model": model, "results": results, "usage": counts}
