"""Synthesise: a workload as requests that nobody has sent yet, and as a trace file of them.

The same workload and arrivals make the same file, byte for byte (with the same versions of tbench, zstd and
the tokenizer).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from math import isfinite
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

import orjson

from tbench.capture.errors import InputError
from tbench.capture.exchange import Exchange, Request
from tbench.capture.frames import MARKER_BYTES, MAX_PAYLOAD
from tbench.capture.providers import LIMITS
from tbench.capture.records import TraceHeader
from tbench.capture.remote import as_path
from tbench.capture.synthesis.content import RequestContent, materials
from tbench.capture.synthesis.options import Api
from tbench.capture.synthesis.scenario import Task
from tbench.capture.synthesis.workload import Workload
from tbench.capture.trace_reader import Trace, read_trace
from tbench.capture.trace_writer import TraceWriter

# Bodies: the JSON that each task sends (docs/synthesis.md), a chat's as genai-bench's Together backend does.

Json = dict[str, Any]


class Endpoint(NamedTuple):
    """Where a task's requests go, and how their bodies are made of a model and material."""

    path: str
    body: Callable[[str, RequestContent], Json]
    headers: tuple[tuple[str, str], ...] = ()
    """Those that its API demands beside the key."""


def endpoint_of(task: Task, api: Api) -> Endpoint:
    """Where requests go: the task's own endpoint, else the API's."""
    return ENDPOINTS.get(task) or APIS[api]


def body(
    task: Task,
    model: str,
    material: RequestContent,
    extra: Mapping[str, Any],
    api: Api = "chat",
) -> bytes:
    """The body as bytes; `extra` is merged last, so that it can replace anything."""
    return orjson.dumps({**endpoint_of(task, api).body(model, material), **extra})


def _turn(material: RequestContent, kind: str, image: Callable[[str], Json]) -> list[Json]:
    """The user's one message: a text or, with images, parts; `kind` is the type of a part of text."""
    (text,) = material.texts
    content: str | list[Json] = text
    if material.images:
        content = [{"type": kind, "text": text}, *map(image, material.images)]
    return [{"role": "user", "content": content}]


def _chat(model: str, material: RequestContent) -> Json:
    wanted: Json = {} if material.output is None else {"max_tokens": material.output}
    turn = _turn(material, "text", lambda url: {"type": "image_url", "image_url": {"url": url}})
    return {
        "model": model,
        "messages": turn,
        **wanted,
        "temperature": 0.0,
        "ignore_eos": bool(wanted),
        "stream": True,
        "stream_options": {"include_usage": True},
    }


MESSAGES_LIMIT: Final = 1024
"""Messages demands a limit: that of requests whose scenario sets none."""


def _messages(model: str, material: RequestContent) -> Json:
    return {
        "model": model,
        "messages": _turn(material, "text", _image_block),
        "max_tokens": MESSAGES_LIMIT if material.output is None else material.output,
        "temperature": 0.0,
        "stream": True,
    }


def _image_block(url: str) -> Json:
    """An image of Messages, whose data stand beside their type."""
    kind, mark, data = url.removeprefix("data:").partition(";base64,")
    source = {"type": "base64", "media_type": kind, "data": data}
    return {"type": "image", "source": source if mark else {"type": "url", "url": url}}


def _responses(model: str, material: RequestContent) -> Json:
    wanted: Json = {} if material.output is None else {"max_output_tokens": material.output}
    return {
        "model": model,
        "input": _turn(
            material, "input_text", lambda url: {"type": "input_image", "image_url": url}
        ),
        **wanted,
        "temperature": 0.0,
        "stream": True,
        "store": False,  # OpenAI would keep every answer
    }


APIS: Final[Mapping[Api, Endpoint]] = {
    "chat": Endpoint("/v1/chat/completions", _chat),
    "messages": Endpoint("/v1/messages", _messages, (("anthropic-version", "2023-06-01"),)),
    "responses": Endpoint("/v1/responses", _responses),
}
"""Those of the tasks whose answers are text."""
ENDPOINTS: Final[Mapping[Task, Endpoint]] = {
    "text-to-embeddings": Endpoint(
        "/v1/embeddings",
        lambda model, c: {"model": model, "input": [*c.texts], "encoding_format": "float"},
    ),
    "text-to-rerank": Endpoint(
        "/v1/rerank", lambda model, c: {"model": model, "query": c.query, "documents": [*c.texts]}
    ),
}


# Arrivals: when synthesised requests come. A replay may pace them otherwise.


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests per second: evenly spaced or, with `poisson`, with exponential gaps of that mean."""

    rate: float = 1.0
    poisson: bool = False

    def __post_init__(self) -> None:
        """Raise InputError for a rate that is none."""
        if not (isfinite(self.rate) and 1e-6 <= self.rate <= 1e6):
            raise InputError(
                f"arrivals: {self.rate:g} requests per second; give a rate from 1e-6 to 1e6"
            )

    def times(self, seed: int) -> Iterator[int]:
        """Arrival times without end: ns since the first, which comes at 0."""
        if not self.poisson:
            # Each from the start: gaps that are rounded one by one add up to another rate.
            yield from (round(number * 1e9 / self.rate) for number in count())
        rng, at = Random(f"{seed} arrivals"), 0.0
        while True:
            yield round(at * 1e9)
            at += rng.expovariate(self.rate)


NOWHERE: Final = "synthesised.invalid"
"""The host of requests that were never sent: a name that no resolver knows."""
ONE_A_SECOND: Final = Arrivals()
MOST_BYTES: Final = MAX_PAYLOAD - 2**21
"""Of a body: a larger one would not fit into a block of a trace."""


def exchanges(workload: Workload, arrivals: Arrivals = ONE_A_SECOND) -> Iterator[Exchange]:
    """The requests of a workload by arrival, without responses.

    `extra` of a request holds `prompt_tokens` (as `workload.tokens` counts its texts) and `output_tokens`
    (what the body asks for), None where the dataset decides, or the server.
    """
    name = _identity(workload, arrivals)
    times = arrivals.times(workload.seed)
    endpoint = endpoint_of(workload.task, workload.api)
    params = workload.additional_request_params
    limits = sorted(LIMITS[workload.api] & params.keys())
    limit = params[limits[0]] if limits else None
    for number, (material, at_ns) in enumerate(zip(materials(workload), times, strict=False)):
        data = body(workload.task, workload.model, material, params, workload.api)
        if len(data) > MOST_BYTES:
            raise InputError(
                f"request {number} has {len(data):,} bytes; a trace holds at most {MOST_BYTES:,}"
            )
        request = Request(
            id=_digest(name, str(number), 16).hex(),
            seq=number,
            arrive_ns=at_ns,
            end_ns=at_ns,
            method="POST",
            scheme="https",
            host=NOWHERE,
            path=endpoint.path,
            headers=(("content-type", "application/json"), *endpoint.headers),
            body=data,
            body_bytes=len(data),
            extra={
                "prompt_tokens": material.input,
                # A limit among the parameters goes before the scenario's, as it does in the body.
                "output_tokens": (limit if type(limit) is int else None)
                if limits
                else material.output,
            },
        )
        yield Exchange(request=request, response=None)


def write(workload: Workload, path: str | Path, *, arrivals: Arrivals = ONE_A_SECOND) -> Trace:
    """Write the trace of a workload (mode 0600; nothing is replaced) and open it.

    Raises InputError where the workload or the path will not do; then no file is left.
    """
    name = _identity(workload, arrivals)
    header = TraceHeader(
        capture_id=name,
        wall_ns=0,
        mono_ns=0,
        tokens_source=workload.tokens.source,
        extra={"synthesis": _described(workload, arrivals)},
    )
    # Not random: two writings of one workload are the same bytes.
    marker = _digest(name, "marker", MARKER_BYTES)
    writer = TraceWriter(as_path(path), header, clock=lambda: 0.0, marker=marker)
    try:
        for exchange in exchanges(workload, arrivals):
            writer.exchange(exchange)
        return read_trace(writer.close())
    except BaseException:
        writer.discard()
        raise


def _described(workload: Workload, arrivals: Arrivals) -> dict[str, Any]:
    timing = {"rate": arrivals.rate, "poisson": arrivals.poisson}
    return {**workload.description(), "arrivals": timing}


def _identity(workload: Workload, arrivals: Arrivals) -> str:
    """The capture's id: the same for the same trace, and for no other."""
    described = orjson.dumps(_described(workload, arrivals), option=orjson.OPT_SORT_KEYS)
    return blake2b(described, digest_size=16).hexdigest()


def _digest(name: str, part: str, size: int) -> bytes:
    return blake2b(f"{name} {part}".encode(), digest_size=size).digest()
