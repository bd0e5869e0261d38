"""The endpoints and what stands behind them: who may ask, what goes wrong, the engine, sending."""

import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import count
from random import Random
from string import ascii_letters, digits
from typing import Any

import orjson

from tbench.replay.cost import Price
from tbench.replay.price_table import prices_at
from tbench.simulator.answer import (
    JSON_TYPE,
    STREAM_TYPE,
    Branch,
    Dialect,
    Encode,
    Head,
    compose,
    encoder,
)
from tbench.simulator.call import (
    Call,
    ClientGoneError,
    Fault,
    HungUpError,
    Ledger,
    RateLimit,
    Receive,
    Send,
    asked_fault,
    drawn_fault,
)
from tbench.simulator.chat import CHAT, COMPLETIONS, embedding, relevance
from tbench.simulator.chat import embeddings as embeddings_answer
from tbench.simulator.chat import rerank as rerank_answer
from tbench.simulator.driver import Driver, Outlet
from tbench.simulator.engine import Engine, Profile, QueueFullError
from tbench.simulator.messages import MESSAGES
from tbench.simulator.order import Order, Refusal, invalid, parse_body, refusal, strings
from tbench.simulator.prompt import TOKEN_BYTES, Prompt, text_prompt
from tbench.simulator.responses import RESPONSES
from tbench.simulator.strict import check_strict


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Who may ask for what. Without `keys` every key is good that does not begin with "bad".

    `strict` refuses what the API does not know, and what others have issued.
    """

    seed: int = 0
    keys: tuple[str, ...] = ()
    any_model: bool = False
    strict: bool = False

    def admits(self, authorization: str) -> bool:
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            return False
        if not self.keys:
            return not key.startswith("bad")
        # In constant time, as a service that takes keys should:
        # how long a refusal takes tells nothing of a key.
        wire = key.encode("latin-1")  # its bytes, as ASGI hands them on
        return any(
            hmac.compare_digest(wire, good.encode("utf-8", "surrogateescape")) for good in self.keys
        )


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
        words = ["".join(rng.choices(ascii_letters + digits, k=length)) for length in (7, 6)]
        ident = f"{words[0]}-{words[1]}-{rng.getrandbits(64):016x}"
        request_id = headers.get("x-request-id", ident)
        return Call(
            headers=headers,
            receive=receive,
            send=send,
            line=scope["tbench.line"],
            record=self.ledger.open(id=ident, request_id=request_id, endpoint=endpoint),
            rng=rng,
        )

    def check_key(self, call: Call) -> None:
        """Raises Refusal for a request without a good key."""
        bare = call.headers.get("x-api-key") or call.headers.get("api-key")  # Anthropic's, Azure's
        if not self.rules.admits(call.headers.get("authorization") or f"Bearer {bare or ''}"):
            raise refusal(401)

    async def fields(self, call: Call) -> dict[str, Any]:
        """The JSON body of a request that is admitted: key, faults in place of an answer, rate limit, model.

        Raises Refusal, HungUpError, ClientGoneError.
        """
        body = await call.body()
        self.check_key(call)
        asked = asked_fault(call.headers.get("x-sim-fault", ""))
        fault = call.fault = asked or drawn_fault(self.profile.faults, call.rng)
        if fault:
            call.record.fault = fault.kind
        if fault and fault.before:
            if fault.status is not None:
                waits = {429: self._limit.headers(1.0), 503: {"retry-after": "1"}}
                raise refusal(fault.status, waits.get(fault.status))
            if fault.kind == "html":
                raise Refusal(520, _GATEWAY, page=_GATEWAY_PAGE)
            raise HungUpError
        # Behind the faults and the key: what is refused for those counts for no limit.
        wait = self._limit.take(time.monotonic())
        call.extra |= self._limit.headers(wait)
        if wait:
            raise refusal(429)
        fields = parse_body(body)
        model = call.record.model = fields["model"]
        if not (self.rules.any_model or model in SERVED):
            message = f"Unable to access model {model}. Please see the list of supported models."
            raise Refusal(404, message, code="model_not_available")
        return fields

    def submit(self, prompts: tuple[Prompt, ...], lengths: list[int]) -> Outlet:
        """Give work to the engine. Raises Refusal while its queue is full."""
        try:
            return self.driver.submit(prompts, lengths)
        except QueueFullError:
            raise refusal(503, {"retry-after": "1"}) from None


_GATEWAY = "520: Web server is returning an unknown error"
"""What a gateway in front of the service answers in its stead."""
_GATEWAY_PAGE = (
    f"<!DOCTYPE html><html><head><title>{_GATEWAY}</title></head><body>{_GATEWAY}</body></html>"
).encode()

GARBAGE = b'data: {"id": "oops", "choi\n\n'


@dataclass(slots=True, kw_only=True)
class Speech:
    """One answer on its way out: its tokens as they fall due, with the fault that befalls it."""

    call: Call
    dialect: Dialect
    order: Order
    branches: list[Branch]
    outlet: Outlet

    @property
    def tokens(self) -> int:
        return sum(len(branch.pieces) for branch in self.branches)

    @property
    def head(self) -> Head:
        return Head(id=self.call.record.id, created=int(time.time()), model=self.order.model)

    async def stream(self, *, early_head: bool) -> None:
        """Send the events of a stream. Raises Refusal, ClientGoneError, HungUpError."""
        call, fault = self.call, self.call.fault
        headers = {"content-type": STREAM_TYPE}
        encode: Encode = lambda data, _last: data  # noqa: E731
        if name := call.headers.get("x-sim-encoding"):
            headers["content-encoding"] = name
            try:
                encode = encoder(name)
            except KeyError:
                raise invalid(f"x-sim-encoding: {name} is not available") from None
        strikes_at = fault.place(self.tokens, call.rng) if fault else -1
        # Behind the encoding, whose refusal needs a head of its own.
        if early_head:
            await call.head(200, headers)
        stream = self.dialect.stream(self.order, self.head, self.branches)
        tokens = self.tokens
        for number in range(tokens):
            index = await self.next_token()
            if number == 0:
                await self.begin()
                if not early_head:
                    await call.head(200, headers)
            if number in (0, tokens - 1):
                # At the end again: of several prompts the later ones are looked up after the first token.
                stream.cached_tokens = call.record.cached_tokens = self.outlet.cached_tokens
            if fault and number == strikes_at and await self._strike(fault, encode):
                return
            if data := stream.token(index):
                last = stream.complete
                packed = encode(data + self.dialect.done if last else data, last)
                # Behind the packing, right before the write: the
                # truth is when bytes leave, not when they are made.
                call.record.wrote()
                await call.write(packed, last=last)

    async def whole(self) -> None:
        """Send the answer at its end as one JSON body. Raises as `stream` does."""
        for _ in range(self.tokens):
            await self.next_token()
        await self.begin()
        self.call.record.cached_tokens = cached_tokens = self.outlet.cached_tokens
        body = self.dialect.body(self.order, self.head, self.branches, cached_tokens)
        await send_json(self.call, body)

    async def next_token(self) -> int:
        """The branch whose next token is due. Raises ClientGoneError."""
        index = await self.outlet.get()
        if index is None:
            raise ClientGoneError
        return index

    async def begin(self) -> None:
        """Keep what the engine knows of this request, before its head."""
        record, fault, work = self.call.record, self.call.fault, self.outlet.work
        record.prompt_tokens = self.order.prompt_tokens
        record.output_tokens = self.tokens
        if work and work[0].admitted is not None and work[0].prefill_ended is not None:
            record.queue_s = work[0].admitted - work[0].arrived
            record.prefill_s = work[0].prefill_ended - work[0].admitted
        if fault and fault.kind == "slow":
            await self.outlet.pause(fault.seconds)

    async def _strike(self, fault: Fault, encode: Encode) -> bool:
        """Let the fault happen in mid-stream; returns whether the answer is over."""
        call = self.call
        match fault.kind:
            case "stall":
                await self.outlet.pause(fault.seconds)
            case "garbage":
                await call.write(encode(GARBAGE, False))
            case "cut":
                raise HungUpError
            case "eof":
                call.record.outcome = "cut"
                await call.write(encode(b"", True), last=True)
                return True
            case "error":
                call.record.outcome = "stream_error"
                await call.write(encode(self.dialect.failure, True), last=True)
                return True
        return False


async def send_json(call: Call, content: object) -> None:
    """Send a 200 with this JSON, unless a fault spoils it. Raises HungUpError, Refusal."""
    body = orjson.dumps(content)
    kind = call.fault.kind if call.fault else ""
    if kind == "error":
        raise refusal(500)
    if kind == "cut":
        call.record.outcome = "cut"
        await call.head(200, {"content-type": JSON_TYPE, "content-length": str(len(body))})
        await call.write(body[: len(body) // 2])
        raise HungUpError
    spoilt = {"eof": body[: len(body) // 2], "garbage": b"<oops>"}
    await call.reply(200, spoilt.get(kind, body), JSON_TYPE)


# The endpoints: from a request to an answer. Each raises Refusal, HungUpError, ClientGoneError.

Handle = Callable[[Service, Call], Awaitable[None]]


async def speak(service: Service, call: Call) -> None:
    """POST to an API for text: the dialect of the path."""
    dialect, profile = DIALECTS[call.record.endpoint], service.profile
    fields = await service.fields(call)
    if service.rules.strict:
        check_strict(call.record.endpoint, fields)
    order = dialect.order(fields, profile.limits.context_tokens)
    call.record.stream = order.stream
    tokens, most = call.number("x-sim-tokens"), profile.limits.context_tokens
    if tokens is not None and not 1 <= tokens <= most:
        raise invalid(f"x-sim-tokens must be from 1 to {most}")
    wanted = None if tokens is None else int(tokens)
    branches = compose(order, profile.lengths, service.rules.seed, wanted)
    lengths = [len(branch.pieces) for branch in branches]
    ttft, itl = call.number("x-sim-ttft-ms"), call.number("x-sim-itl-ms")
    if ttft is None and itl is None:
        outlet = service.submit(order.prompts, lengths)
    else:  # the request's headers set the times of its tokens
        step = profile.engine.step_s * 1e3
        first, gap = (step if value is None else value for value in (ttft, itl))
        outlet = service.driver.script(lengths, first / 1e3, gap / 1e3)
    speech = Speech(call=call, dialect=dialect, order=order, branches=branches, outlet=outlet)
    with service.driver.attached(outlet, call.line):
        if order.stream:
            await speech.stream(early_head=profile.early_head)
        else:
            await speech.whole()


async def embeddings(service: Service, call: Call) -> None:
    """POST /embeddings. Input beyond the model's length is cut off without a word."""
    fields = await service.fields(call)
    for refused in ("user", "dimensions"):
        if refused in fields:
            raise Refusal(400, f"Unrecognized request arguments supplied: {refused}")
    limits, model = service.profile.limits, fields["model"]
    longest = TOKEN_BYTES * limits.embedding_tokens
    texts = [text.encode()[:longest] for text in strings(fields, "input")]
    await _compute(service, call, tuple(text_prompt(text, model) for text in texts))
    dims = DIMS.get(model, limits.embedding_dims)
    vectors = (embedding(text, dims) for text in texts)
    base64 = fields.get("encoding_format") == "base64"
    await send_json(call, embeddings_answer(model, vectors, base64=base64))


async def rerank(service: Service, call: Call) -> None:
    """POST /rerank."""
    fields = await service.fields(call)
    query, documents, top = fields.get("query"), fields.get("documents"), fields.get("top_n")
    if top is not None and (type(top) is not int or top < 1):
        raise invalid("'top_n' must be a positive integer")
    if not isinstance(query, str) or not isinstance(documents, list) or not documents:
        raise invalid("'query' must be a string and 'documents' a non-empty array")
    keys = strings(fields, "rank_fields") if fields.get("rank_fields") else None
    texts = []
    for document in documents:
        if not isinstance(document, str | dict):
            raise invalid("'documents' must hold strings or objects")
        texts.append(
            " ".join(str(document.get(key, "")) for key in keys or document)
            if isinstance(document, dict)
            else document
        )
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
        for index in best[:top]
    ]
    tokens = call.record.prompt_tokens or 0
    await send_json(call, rerank_answer(call.record.id, fields["model"], results, tokens))


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


async def models(service: Service, call: Call) -> None:
    """GET /models: a bare array. Prices are US dollars per million tokens."""
    service.check_key(call)
    kinds = {name: ("chat", price) for name, price in PRICES.items()} | OTHERS
    listing = []
    for name, (kind, price) in sorted(kinds.items()):
        organization, _, display = name.partition("/")
        pricing = {
            "hourly": 0,
            "input": price.prompt,
            "output": price.output,
            "base": 0,
            "finetune": 0,
        }
        if price.cached is not None:
            pricing["cached_input"] = price.cached
        entry = {
            "id": name,
            "object": "model",
            "created": 0,
            "type": kind,
            "running": False,
            "display_name": display,
            "organization": organization,
            "link": "",
            "license": "",
            "context_length": service.profile.limits.context_tokens,
            "pricing": pricing,
        }
        listing.append(entry)
    await call.reply(200, orjson.dumps(listing), JSON_TYPE)


async def nothing(_service: Service, _call: Call) -> None:
    """Any other path."""
    raise refusal(404)


DIALECTS: dict[str, Dialect] = {
    "chat/completions": CHAT,
    "completions": COMPLETIONS,
    "messages": MESSAGES,
    "responses": RESPONSES,
}
"""The APIs for text, by their paths below /v1."""

POSTS: dict[str, Handle] = {
    **dict.fromkeys(DIALECTS, speak),
    "embeddings": embeddings,
    "rerank": rerank,
}

# The models that the simulator serves, with the list prices of its host.

PRICES = prices_at("localhost")

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
