"""Bodies: the JSON that each task sends, as genai-bench's Together backend sends it (docs/synthesis.md)."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import orjson

from tbench.capture.synthesis.material import Material
from tbench.capture.synthesis.scenario import Task

Json = dict[str, Any]


class Endpoint(NamedTuple):
    """Where a task's requests go, and how their bodies are made of a model and material."""

    path: str
    body: Callable[[str, Material], Json]


def body(task: Task, model: str, material: Material, extra: Mapping[str, Any]) -> bytes:
    """The body as bytes; `extra` is merged last, so that it can replace anything."""
    return orjson.dumps({**ENDPOINTS[task].body(model, material), **extra})


def _chat(model: str, material: Material) -> Json:
    wanted: Json = {} if material.output is None else {"max_tokens": material.output}
    return {
        "model": model,
        "messages": [{"role": "user", "content": _content(material)}],
        **wanted,
        "temperature": 0.0,
        "ignore_eos": bool(wanted),
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _content(material: Material) -> str | list[Json]:
    """A string; with images parts, the text first."""
    (text,) = material.texts
    if not material.images:
        return text
    images = [{"type": "image_url", "image_url": {"url": url}} for url in material.images]
    return [{"type": "text", "text": text}, *images]


def _embeddings(model: str, material: Material) -> Json:
    return {"model": model, "input": [*material.texts], "encoding_format": "float"}


def _rerank(model: str, material: Material) -> Json:
    return {"model": model, "query": material.query, "documents": [*material.texts]}


ENDPOINTS: Final[Mapping[Task, Endpoint]] = {
    "text-to-text": Endpoint("/v1/chat/completions", _chat),
    "image-text-to-text": Endpoint("/v1/chat/completions", _chat),
    "text-to-embeddings": Endpoint("/v1/embeddings", _embeddings),
    "text-to-rerank": Endpoint("/v1/rerank", _rerank),
}
