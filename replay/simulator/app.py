"""The service as an ASGI application: who may ask, what goes wrong, which endpoint answers."""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.routing import Route

from replay.simulator import catalogue, wire
from replay.simulator.answer import compose
from replay.simulator.call import Call, ClientGoneError, Receive, Send
from replay.simulator.driver import Driver, Outlet
from replay.simulator.engine import Engine, QueueFullError
from replay.simulator.faults import RateLimit, asked_fault, drawn_fault
from replay.simulator.order import Order, chat_order, completion_order, parse_body, strings
from replay.simulator.profile import Profile
from replay.simulator.prompt import Prompt, text_prompt
from replay.simulator.refusal import GATEWAY_PAGE, Refusal, invalid, no_such_model, refusal
from replay.simulator.speech import HungUpError, Speech, send_json
from replay.simulator.truth import Ledger
from replay.simulator.vectors import embedding, relevance

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


Handle = Callable[[Call, dict[str, Any]], Awaitable[None]]


class Service:
    """Everything behind the endpoints. Create it inside a running event loop, and run `driver.run`."""

    def __init__(self, profile: Profile, rules: Rules, ledger: Ledger) -> None:
        self.profile = profile
        self.rules = rules
        self.ledger = ledger
        self.driver = Driver(Engine(profile.engine, rules.seed), ledger.late)
        self.ending = False
        self._limit = RateLimit(profile.limits.requests_per_s, profile.limits.burst)
        self._serials = count()

    def application(self) -> Starlette:
        """The routes, each at /v1 and at /v1/v1."""
        posts: dict[str, Handle] = {
            "chat/completions": self._chat,
            "completions": self._completions,
            "embeddings": self._embeddings,
            "rerank": self._rerank,
        }
        routes = [
            Route(f"{base}/{name}", Endpoint(self, name, handle), methods=["POST"])
            for base in ("/v1", "/v1/v1")
            for name, handle in posts.items()
        ]
        routes += [
            Route(f"{base}/models", Endpoint(self, "models", self._models), methods=["GET"])
            for base in ("/v1", "/v1/v1")
        ]
        for path, tell in (("/_truth", self.ledger.truth), ("/_stats", self.ledger.stats)):
            routes.append(Route(path, Answering(tell), methods=["GET"]))
        routes.append(Route("/_reset", Answering(self.ledger.reset), methods=["GET", "POST"]))
        routes.append(Route("/health", Answering(lambda: {"status": "ok"}), methods=["GET"]))
        routes.append(Route("/{rest:path}", Endpoint(self, "other", self._nothing)))
        return Starlette(routes=routes)

    def hang_up(self) -> None:
        """Cut what is still in flight: the server ends."""
        self.ending = True
        self.driver.close_all()

    def open(self, scope: Mapping[str, Any], receive: Receive, send: Send, endpoint: str) -> Call:
        """A request has come."""
        serial = next(self._serials)
        rng = Random(b"%d/%d" % (self.rules.seed, serial))
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        # As the service's own: two random groups, then what looks like a ray id.
        ident = f"{_word(rng, 7)}-{_word(rng, 6)}-{rng.getrandbits(64):016x}"
        record = self.ledger.open(
            id=ident, request_id=headers.get("x-request-id", ident), endpoint=endpoint
        )
        call = Call(
            headers=headers,
            receive=receive,
            send=send,
            line=scope["tbench.line"],
            record=record,
            rng=rng,
        )
        if endpoint not in {"models", "other"}:
            asked = asked_fault(headers.get("x-sim-fault", ""))
            call.fault = asked or drawn_fault(self.profile.faults, rng)
        record.fault = call.fault.kind if call.fault else None
        return call

    async def admit(self, call: Call) -> None:
        """Check the key, let faults come in the answer's stead, keep the rate limit."""
        if not self.rules.admits(call.headers.get("authorization", "")):
            raise refusal(401)
        fault = call.fault
        if fault and fault.before:
            await self._fail(call, fault.kind, fault.status)
        wait = self._limit.take(time.monotonic())
        call.said |= self._limit.headers(wait)
        if wait:
            raise refusal(429, {"retry-after": str(max(1, round(wait)))})

    async def _fail(self, call: Call, kind: str, status: int | None) -> None:
        if status is not None:
            waits = {"retry-after": "1"} if status in {429, 503} else {}
            limits = self._limit.headers(1.0) if status == 429 else {}
            raise refusal(status, {**waits, **limits})
        if kind == "html":
            call.record.outcome = "http_error"
            await call.reply(520, GATEWAY_PAGE, "text/html; charset=UTF-8")
            return
        raise HungUpError

    def check_model(self, fields: Mapping[str, Any]) -> None:
        if not self.rules.any_model and fields["model"] not in catalogue.SERVED:
            raise no_such_model(fields["model"])

    async def _chat(self, call: Call, fields: dict[str, Any]) -> None:
        await self._speak(call, chat_order(fields, self.profile.limits.context_tokens))

    async def _completions(self, call: Call, fields: dict[str, Any]) -> None:
        await self._speak(call, completion_order(fields, self.profile.limits.context_tokens))

    async def _speak(self, call: Call, order: Order) -> None:
        call.record.stream = order.stream
        tokens = _asked(call, "x-sim-tokens")
        if tokens is not None and tokens < 1:
            raise invalid("x-sim-tokens must be at least 1")
        branches = compose(
            order, self.profile.lengths, self.rules.seed, int(tokens) if tokens else None
        )
        outlet = self._schedule(call, order, [len(branch.pieces) for branch in branches])
        call.line.on_lost = outlet.close
        speech = Speech(call=call, order=order, branches=branches, outlet=outlet)
        try:
            if order.stream:
                await speech.stream(early_head=self.profile.early_head)
            else:
                await speech.whole()
        finally:
            call.line.on_lost = None
            self.driver.release(outlet)

    def _schedule(self, call: Call, order: Order, lengths: list[int]) -> Outlet:
        ttft, itl = _asked(call, "x-sim-ttft-ms"), _asked(call, "x-sim-itl-ms")
        if ttft is None and itl is None:
            return self._submit(order.prompts, lengths)
        step = self.profile.engine.step_s * 1e3
        return self.driver.script(
            lengths,
            (step if ttft is None else ttft) / 1e3,
            (step if itl is None else itl) / 1e3,
        )

    def _submit(self, prompts: tuple[Prompt, ...], lengths: list[int]) -> Outlet:
        try:
            return self.driver.submit(prompts, lengths)
        except QueueFullError:
            raise refusal(503, {"retry-after": "1"}) from None

    async def _embeddings(self, call: Call, fields: dict[str, Any]) -> None:
        for refused in ("user", "dimensions"):
            if refused in fields:
                raise Refusal(400, f"Unrecognized request arguments supplied: {refused}")
        texts = strings(fields, "input")
        limits = self.profile.limits
        cut = [text.encode()[: 4 * limits.embedding_tokens] for text in texts]
        await self._compute(call, tuple(text_prompt(data, fields["model"]) for data in cut))
        dims = catalogue.DIMS.get(fields["model"], limits.embedding_dims)
        vectors = (embedding(data.decode(errors="ignore"), dims) for data in cut)
        base64 = fields.get("encoding_format") == "base64"
        body = wire.embeddings(fields["model"], vectors, base64=base64)
        await send_json(call, orjson.dumps(body))

    async def _rerank(self, call: Call, fields: dict[str, Any]) -> None:
        query, documents = fields.get("query"), fields.get("documents")
        if not isinstance(query, str) or not isinstance(documents, list) or not documents:
            raise invalid("'query' must be a string and 'documents' a non-empty array")
        texts = [_document(one, fields.get("rank_fields")) for one in documents]
        prompts = tuple(text_prompt((query + text).encode(), fields["model"]) for text in texts)
        await self._compute(call, prompts)
        scores = [relevance(query, text) for text in texts]
        best = sorted(range(len(texts)), key=lambda index: -scores[index])
        results = [
            {"index": i, "relevance_score": scores[i], "document": {"text": texts[i]}}
            if fields.get("return_documents")
            else {"index": i, "relevance_score": scores[i], "document": {}}
            for i in best[: fields.get("top_n") or None]
        ]
        body = wire.rerank(call.record.id, fields["model"], results, call.record.prompt_tokens or 0)
        await send_json(call, orjson.dumps(body))

    async def _compute(self, call: Call, prompts: tuple[Prompt, ...]) -> None:
        """Wait until the engine has read all prompts."""
        outlet = self._submit(prompts, [0] * len(prompts))
        call.line.on_lost = outlet.close
        call.record.prompt_tokens = sum(prompt.tokens for prompt in prompts)
        try:
            for _ in prompts:
                if await outlet.get() is None:
                    raise ClientGoneError
            if call.fault and call.fault.kind in {"slow", "stall"}:
                await outlet.pause(call.fault.seconds)
        finally:
            call.line.on_lost = None
            self.driver.release(outlet)

    async def _models(self, call: Call, _fields: dict[str, Any]) -> None:
        listing = catalogue.listing(self.profile.limits.context_tokens)
        await call.reply(200, orjson.dumps(listing), wire.JSON_TYPE)

    async def _nothing(self, _call: Call, _fields: dict[str, Any]) -> None:
        raise refusal(404)


@dataclass(frozen=True)
class Endpoint:
    """One path of the API: the same way in and out for all."""

    service: Service
    name: str
    handle: Handle

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        call = self.service.open(scope, receive, send, self.name)
        try:
            await self._answer(call)
        except Refusal as refused:
            call.record.outcome = "http_error"
            call.said |= refused.headers
            await call.reply(refused.status, refused.body(call.record.id), wire.JSON_TYPE)
        except HungUpError:
            await self._hang_up(call)
        except (ClientGoneError, asyncio.CancelledError):
            call.record.outcome = "shutdown" if self.service.ending else "client_abort"
            await call.line.hang_up(reset=False)
        finally:
            self.service.ledger.close(call.record)

    async def _answer(self, call: Call) -> None:
        body = await call.body()
        await self.service.admit(call)
        if call.record.status is not None:
            return  # a fault has answered
        if self.name in {"models", "other"}:
            await self.handle(call, {})
            return
        fields = parse_body(body)
        call.record.model = fields["model"]
        self.service.check_model(fields)
        await self.handle(call, fields)

    async def _hang_up(self, call: Call) -> None:
        kind = call.fault.kind if call.fault else ""
        call.record.outcome = "reset" if call.record.status is None else "cut"
        await call.line.hang_up(reset=kind == "reset")


@dataclass(frozen=True)
class Answering:
    """A path beside the API that tells something as JSON."""

    tell: Callable[[], object]

    async def __call__(self, _scope: Mapping[str, Any], _receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": orjson.dumps(self.tell())})


def _word(rng: Random, length: int) -> str:
    return "".join(rng.choices(_ALPHABET, k=length))


def _asked(call: Call, header: str) -> float | None:
    try:
        return call.number(header)
    except ValueError:
        raise invalid(f"{header} must be a number not below 0") from None


def _document(document: object, rank_fields: list[str] | None) -> str:
    if isinstance(document, str):
        return document
    if not isinstance(document, dict):
        raise invalid("'documents' must hold strings or objects")
    keys = rank_fields or list(document)
    return " ".join(str(document.get(key, "")) for key in keys)
