"""What stands behind every endpoint: who may ask, what goes wrong, the engine and the ledger."""

import hmac
import math
import time
from array import array
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from hashlib import shake_256
from itertools import count
from random import Random
from typing import Any

import orjson

from tbench.replay.cost import PRICES, Price
from tbench.simulator import answer
from tbench.simulator.answer import compose
from tbench.simulator.call import (
    Call,
    ClientGoneError,
    HungUpError,
    Ledger,
    RateLimit,
    Receive,
    Send,
    asked_fault,
    drawn_fault,
)
from tbench.simulator.driver import Driver, Outlet
from tbench.simulator.engine import Engine, Profile, QueueFullError
from tbench.simulator.order import (
    Order,
    Refusal,
    chat_order,
    completion_order,
    gateway_page,
    invalid,
    no_such_model,
    refusal,
    strings,
)
from tbench.simulator.prompt import TOKEN_BYTES, Prompt, text_prompt
from tbench.simulator.speech import Speech, send_json

_ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Who may ask for what. Without `keys` every key is good that does not begin with "bad"."""

    seed: int = 0
    keys: tuple[str, ...] = ()
    any_model: bool = False

    def admits(self, authorization: str) -> bool:
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            return False
        if not self.keys:
            return not key.startswith("bad")
        return any(hmac.compare_digest(key.encode(), good.encode()) for good in self.keys)

    def serves(self, model: str) -> bool:
        return self.any_model or model in SERVED


class Service:
    """Create it inside a running event loop, and run `driver.run` as a task."""

    def __init__(self, profile: Profile, rules: Rules, ledger: Ledger) -> None:
        self.profile = profile
        self.rules = rules
        self.ledger = ledger
        self.driver = Driver(Engine(profile.engine, rules.seed), ledger.late)
        self.ending = False
        self._limit = RateLimit(profile.limits.requests_per_s, profile.limits.burst)
        self._serials = count()

    def hang_up(self) -> None:
        """Cut what is still in flight: the server ends."""
        self.ending = True
        self.driver.close_all()

    def open(self, scope: Mapping[str, Any], receive: Receive, send: Send, endpoint: str) -> Call:
        """A request has come; its fate follows from the seed and its place in the order of arrival."""
        rng = Random(b"%d/%d" % (self.rules.seed, next(self._serials)))
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        # As the service's own: two random groups, then what looks like a ray id.
        ident = f"{_word(rng, 7)}-{_word(rng, 6)}-{rng.getrandbits(64):016x}"
        request_id = headers.get("x-request-id", ident)
        return Call(
            headers=headers,
            receive=receive,
            send=send,
            line=scope["tbench.line"],
            record=self.ledger.open(id=ident, request_id=request_id, endpoint=endpoint),
            rng=rng,
        )

    def admit(self, call: Call, *, free: bool) -> None:
        """Check the key; unless it is free, let faults come in the answer's stead, keep the rate limit.

        Raises Refusal, HungUpError.
        """
        if not self.rules.admits(call.headers.get("authorization", "")):
            raise refusal(401)
        if free:
            return
        asked = asked_fault(call.headers.get("x-sim-fault", ""))
        call.fault = asked or drawn_fault(self.profile.faults, call.rng)
        if call.fault:
            call.record.fault = call.fault.kind
        if call.fault and call.fault.before:
            self._fail(call.fault.kind, call.fault.status)
        wait = self._limit.take(time.monotonic())
        call.extra |= self._limit.headers(wait)
        if wait:
            raise refusal(429, {"retry-after": str(max(1, round(wait)))})

    def _fail(self, kind: str, status: int | None) -> None:
        if status is not None:
            waits = {"retry-after": "1"} if status in {429, 503} else {}
            limits = self._limit.headers(1.0) if status == 429 else {}
            raise refusal(status, {**waits, **limits})
        if kind == "html":
            raise gateway_page()
        raise HungUpError

    def check_model(self, model: str) -> None:
        """Raises Refusal for a model that is not served."""
        if not self.rules.serves(model):
            raise no_such_model(model)

    def submit(self, prompts: tuple[Prompt, ...], lengths: list[int]) -> Outlet:
        """Give work to the engine. Raises Refusal while its queue is full."""
        try:
            return self.driver.submit(prompts, lengths)
        except QueueFullError:
            raise refusal(503, {"retry-after": "1"}) from None

    def schedule(self, call: Call, prompts: tuple[Prompt, ...], lengths: list[int]) -> Outlet:
        """As `submit`, unless the request's headers set the times of its tokens."""
        ttft, itl = asked_number(call, "x-sim-ttft-ms"), asked_number(call, "x-sim-itl-ms")
        if ttft is None and itl is None:
            return self.submit(prompts, lengths)
        step = self.profile.engine.step_s * 1e3
        first, gap = (step if value is None else value for value in (ttft, itl))
        return self.driver.script(lengths, first / 1e3, gap / 1e3)


def asked_number(call: Call, header: str) -> float | None:
    """A number from a header of the request, None without one. Raises Refusal."""
    try:
        return call.number(header)
    except ValueError:
        raise invalid(f"{header} must be a number not below 0") from None


def _word(rng: Random, length: int) -> str:
    return "".join(rng.choices(_ALPHABET, k=length))


# The endpoints: from a JSON body to an answer.

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
    dims = DIMS.get(model, limits.embedding_dims)
    vectors = (embedding(text, dims) for text in texts)
    base64 = fields.get("encoding_format") == "base64"
    await send_json(call, orjson.dumps(answer.embeddings(model, vectors, base64=base64)))


async def rerank(service: Service, call: Call, fields: dict[str, Any]) -> None:
    """POST /rerank."""
    query, documents, top = fields.get("query"), fields.get("documents"), fields.get("top_n")
    if not isinstance(query, str) or not isinstance(documents, list) or not documents:
        raise invalid("'query' must be a string and 'documents' a non-empty array")
    keys = strings(fields, "rank_fields") if fields.get("rank_fields") else None
    texts = [_document(document, keys) for document in documents]
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
        call, orjson.dumps(answer.rerank(call.record.id, fields["model"], results, tokens))
    )


async def models(service: Service, call: Call) -> None:
    """GET /models."""
    known = listing(service.profile.limits.context_tokens)
    await call.reply(200, orjson.dumps(known), answer.JSON_TYPE)


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


# The models that the simulator serves, with the list prices of replay.cost.

OTHERS: dict[str, tuple[str, Price]] = {
    "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo": ("chat", Price(0.18, 0.18)),
    "Qwen/Qwen2.5-VL-72B-Instruct": ("chat", Price(1.95, 8.00)),
    "deepseek-ai/DeepSeek-R1": ("chat", Price(3.00, 7.00)),
    "intfloat/multilingual-e5-large-instruct": ("embedding", Price(0.02, 0.0)),
    "BAAI/bge-base-en-v1.5": ("embedding", Price(0.008, 0.0)),
    "Salesforce/Llama-Rank-V1": ("rerank", Price(0.10, 0.0)),
    "mixedbread-ai/Mxbai-Rerank-Large-V2": ("rerank", Price(0.10, 0.0)),
}
"""Served, though their prices are no part of the list that a replay bills by."""

DIMS = {"BAAI/bge-base-en-v1.5": 768}
"""Embedding dimensions other than the profile's."""

SERVED = frozenset({*PRICES, *OTHERS})


def listing(context_tokens: int) -> list[dict[str, Any]]:
    """The answer of GET /models: a bare array. Prices are US dollars per million tokens."""
    kinds = {name: ("chat", price) for name, price in PRICES.items()} | OTHERS
    return [_entry(name, *kinds[name], context_tokens) for name in sorted(kinds)]


def _entry(name: str, kind: str, price: Price, context_tokens: int) -> dict[str, Any]:
    organization, _, display = name.partition("/")
    pricing = {"hourly": 0, "input": price.prompt, "output": price.output, "base": 0, "finetune": 0}
    if price.cached is not None:
        pricing["cached_input"] = price.cached
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "type": kind,
        "running": False,
        "display_name": display,
        "organization": organization,
        "link": "",
        "license": "",
        "context_length": context_tokens,
        "pricing": pricing,
    }
