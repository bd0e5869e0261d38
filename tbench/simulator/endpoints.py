"""The endpoints: from a JSON body to an answer."""

import math
from array import array
from collections.abc import Awaitable, Callable
from hashlib import shake_256
from typing import Any

import orjson

from tbench.simulator import catalogue, wire
from tbench.simulator.answer import compose
from tbench.simulator.call import Call, ClientGoneError
from tbench.simulator.order import Order, chat_order, completion_order, strings
from tbench.simulator.prompt import TOKEN_BYTES, Prompt, text_prompt
from tbench.simulator.refusal import Refusal, invalid
from tbench.simulator.service import Service, asked_number
from tbench.simulator.speech import Speech, send_json

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


Handle = Callable[[Service, Call, dict[str, Any]], Awaitable[None]]


async def chat(service: Service, call: Call, fields: dict[str, Any]) -> None:
    """POST /chat/completions."""
    await _speak(service, call, chat_order(fields, service.profile.limits.context_tokens))


async def completions(service: Service, call: Call, fields: dict[str, Any]) -> None:
    """POST /completions."""
    await _speak(service, call, completion_order(fields, service.profile.limits.context_tokens))


async def _speak(service: Service, call: Call, order: Order) -> None:
    call.record.stream = order.stream
    tokens = asked_number(call, "x-sim-tokens")
    if tokens is not None and tokens < 1:
        raise invalid("x-sim-tokens must be at least 1")
    wanted = None if tokens is None else int(tokens)
    branches = compose(order, service.profile.lengths, service.rules.seed, wanted)
    outlet = service.schedule(call, order.prompts, [len(branch.pieces) for branch in branches])
    speech = Speech(call=call, order=order, branches=branches, outlet=outlet)
    with service.driver.attached(outlet, call.line):
        if order.stream:
            await speech.stream(early_head=service.profile.early_head)
        else:
            await speech.whole()


async def embeddings(service: Service, call: Call, fields: dict[str, Any]) -> None:
    """POST /embeddings. Input beyond the model's length is cut off without a word."""
    for refused in ("user", "dimensions"):
        if refused in fields:
            raise Refusal(400, f"Unrecognized request arguments supplied: {refused}")
    limits = service.profile.limits
    longest = TOKEN_BYTES * limits.embedding_tokens
    texts = [text.encode()[:longest] for text in strings(fields, "input")]
    model = fields["model"]
    await _compute(service, call, tuple(text_prompt(text, model) for text in texts))
    dims = catalogue.DIMS.get(model, limits.embedding_dims)
    vectors = (embedding(text, dims) for text in texts)
    base64 = fields.get("encoding_format") == "base64"
    await send_json(call, orjson.dumps(wire.embeddings(model, vectors, base64=base64)))


async def rerank(service: Service, call: Call, fields: dict[str, Any]) -> None:
    """POST /rerank."""
    query, documents, top = fields.get("query"), fields.get("documents"), fields.get("top_n")
    if not isinstance(query, str) or not isinstance(documents, list) or not documents:
        raise invalid("'query' must be a string and 'documents' a non-empty array")
    keys = strings(fields, "rank_fields") if fields.get("rank_fields") else None
    texts = [_document(one, keys) for one in documents]
    prompts = tuple(text_prompt((query + text).encode(), fields["model"]) for text in texts)
    await _compute(service, call, prompts)
    scores = [relevance(query, text) for text in texts]
    best = sorted(range(len(texts)), key=lambda index: -scores[index])
    shown = bool(fields.get("return_documents"))
    results = [
        {
            "index": index,
            "relevance_score": scores[index],
            "document": {"text": texts[index]} if shown else {},
        }
        for index in best[: top if isinstance(top, int) else None]
    ]
    tokens = call.record.prompt_tokens or 0
    await send_json(
        call, orjson.dumps(wire.rerank(call.record.id, fields["model"], results, tokens))
    )


async def models(service: Service, call: Call) -> None:
    """GET /models."""
    listing = catalogue.listing(service.profile.limits.context_tokens)
    await call.reply(200, orjson.dumps(listing), wire.JSON_TYPE)


POSTS: dict[str, Handle] = {
    "chat/completions": chat,
    "completions": completions,
    "embeddings": embeddings,
    "rerank": rerank,
}


async def _compute(service: Service, call: Call, prompts: tuple[Prompt, ...]) -> None:
    """Wait until the engine has read all prompts. Raises ClientGoneError."""
    outlet = service.submit(prompts, [0] * len(prompts))
    call.record.prompt_tokens = sum(prompt.tokens for prompt in prompts)
    with service.driver.attached(outlet, call.line):
        for _ in prompts:
            if await outlet.get() is None:
                raise ClientGoneError
        if call.fault and call.fault.kind in {"slow", "stall"}:
            await outlet.pause(call.fault.seconds)


def _document(document: object, rank_fields: list[str] | None) -> str:
    if isinstance(document, str):
        return document
    if not isinstance(document, dict):
        raise invalid("'documents' must hold strings or objects")
    return " ".join(str(document.get(key, "")) for key in rank_fields or document)
