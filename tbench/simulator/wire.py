"""The exact JSON and event shapes of Together's API, as recorded in public. Pure functions."""

import struct
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from tbench.simulator.answer import Branch, Kind, Piece
from tbench.simulator.order import Order
from tbench.simulator.prompt import END_OF_TURN, token_id

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
    said = [piece.text for piece in branch.pieces if piece.kind is Kind.TEXT]
    return {
        "tokens": said,
        "token_ids": [token_id(text) for text in said],
        "token_logprobs": [logprob(text) for text in said],
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
