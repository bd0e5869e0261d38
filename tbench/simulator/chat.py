"""Together's own answers as the simulator writes them, their shapes as recorded in public.

Chat and completions, streamed and whole, and the answers of embeddings and rerank, which have no dialect.
"""

import math
import struct
from array import array
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import shake_256
from typing import Any

import orjson

from tbench.simulator.answer import Branch, Dialect, Events, Head, Kind, Piece
from tbench.simulator.order import Order, chat_order, completion_order, error
from tbench.simulator.prompt import END_OF_TURN, token_id

DONE = b"data: [DONE]\n\n"


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


class Stream(Events):
    """Together's events. The one that ends the last branch carries the usage."""

    __slots__ = ()

    def show(self, index: int, piece: Piece) -> bytes | None:
        branch = self.branches[index]
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


# Embeddings and relevance without a model: stable numbers from the text alone.


def embedding(text: bytes, dims: int) -> list[float]:
    """A unit vector of so many dimensions that follows from the text."""
    raw = array("h", shake_256(text).digest(2 * dims))
    norm = math.sqrt(math.sumprod(raw, raw)) or 1.0
    return [value / norm for value in raw]


def relevance(query: str, document: str) -> float:
    """The share of the query's words that the document has, from 0 to 1, ties broken by the text."""
    wanted, held = set(query.lower().split()), set(document.lower().split())
    share = len(wanted & held) / len(wanted) if wanted else 0.0
    return round(0.9 * share + 0.1 * shake_256(document.encode()).digest(1)[0] / 256, 6)
