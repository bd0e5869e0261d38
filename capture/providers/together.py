"""What is Together's own: its endpoints, and which of them may be sent a second time.

The tails also fit other servers of the same shape, whatever their prefix: `/v1`, `/v1/v1` (the SDK of
version 3 with a base that ends in /v1), `/api/v1`, `/openai/deployments/NAME`.
"""

from typing import NamedTuple


class Endpoint(NamedTuple):
    """The name that tbench gives an endpoint, and whether it is stateless inference (class A).

    Pictures and audio are repeatable but dear and not text; reads are safe but no inference; the
    rest changes state or spends. None of those is replayed unless told to.
    """

    name: str
    replayable: bool


OTHER = Endpoint("other", replayable=False)

ENDPOINTS: dict[tuple[str, str], Endpoint] = {
    ("POST", "/chat/completions"): Endpoint("chat", replayable=True),
    ("POST", "/completions"): Endpoint("completions", replayable=True),
    ("POST", "/embeddings"): Endpoint("embeddings", replayable=True),
    ("POST", "/rerank"): Endpoint("rerank", replayable=True),
    ("POST", "/images/generations"): Endpoint("images", replayable=False),
    ("POST", "/audio/speech"): Endpoint("audio", replayable=False),
    ("POST", "/audio/transcriptions"): Endpoint("audio", replayable=False),
    ("POST", "/audio/translations"): Endpoint("audio", replayable=False),
    ("GET", "/models"): Endpoint("models", replayable=False),
}

INFERENCE = frozenset(one.name for one in ENDPOINTS.values() if one.replayable)
"""Endpoints that promise an answer in the shape that their provider reads."""


def endpoint_of(method: str, path: str) -> Endpoint:
    """The endpoint of a request by the longest tail that fits; `OTHER` where none does."""
    parts = path.partition("?")[0].rstrip("/").rsplit("/", 2)
    for words in (2, 1):
        tail = "/" + "/".join(parts[-words:]).lstrip("/")
        if found := ENDPOINTS.get((method.upper(), tail)):
            return found
    return OTHER
