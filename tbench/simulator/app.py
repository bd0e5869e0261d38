"""The service as an ASGI application: routes, and the one way in and out of every endpoint."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.routing import Route

from tbench.simulator import wire
from tbench.simulator.call import Call, ClientGoneError, HungUpError, Receive, Send
from tbench.simulator.endpoints import POSTS, Handle, models
from tbench.simulator.order import parse_body
from tbench.simulator.refusal import Refusal, refusal
from tbench.simulator.service import Service

Answer = Callable[[Service, Call], Awaitable[None]]
"""Answers one request. Raises Refusal, HungUpError, ClientGoneError."""


def application(service: Service) -> Starlette:
    """The routes: the API at /v1 and at /v1/v1, the truth beside it, 404 for the rest."""
    routes = []
    for base in ("/v1", "/v1/v1"):
        for name, handle in POSTS.items():
            routes.append(
                Route(f"{base}/{name}", Endpoint(service, name, _post(handle)), methods=["POST"])
            )
        routes.append(
            Route(f"{base}/models", Endpoint(service, "models", _models), methods=["GET"])
        )
    ledger = service.ledger
    told = {"/_truth": ledger.truth, "/_stats": ledger.stats, "/_reset": ledger.reset}
    routes += [Route(path, Telling(tell)) for path, tell in told.items()]
    routes.append(Route("/{rest:path}", Endpoint(service, "other", _nothing)))
    return Starlette(routes=routes)


@dataclass(frozen=True)
class Endpoint:
    """One path. Whatever happens, the request has its record, and a refusal its JSON body."""

    service: Service
    name: str
    answer: Answer

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        call = self.service.open(scope, receive, send, self.name)
        try:
            await self.answer(self.service, call)
        except Refusal as refused:
            call.record.outcome = "http_error"
            call.said |= refused.headers
            await call.reply(refused.status, *refused.content(call.record.id))
        except HungUpError:
            call.record.outcome = "reset" if call.record.status is None else "cut"
            await call.line.hang_up(reset=call.record.fault == "reset")
        except (ClientGoneError, asyncio.CancelledError):
            call.record.outcome = "shutdown" if self.service.ending else "client_abort"
            await call.line.hang_up(reset=False)
        finally:
            self.service.ledger.close(call.record)


async def _nothing(_service: Service, _call: Call) -> None:
    raise refusal(404)


async def _models(service: Service, call: Call) -> None:
    service.admit(call, free=True)
    await models(service, call)


def _post(handle: Handle) -> Answer:
    """Reads a JSON body with a model in it, and passes it on once the request is admitted."""

    async def answer(service: Service, call: Call) -> None:
        body = await call.body()
        service.admit(call, free=False)
        fields = parse_body(body)
        call.record.model = fields["model"]
        service.check_model(fields["model"])
        await handle(service, call, fields)

    return answer


@dataclass(frozen=True)
class Telling:
    """A path beside the API that tells something as JSON."""

    tell: Callable[[], object]

    async def __call__(self, _scope: Mapping[str, Any], _receive: Receive, send: Send) -> None:
        headers = [(b"content-type", wire.JSON_TYPE.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": orjson.dumps(self.tell())})
