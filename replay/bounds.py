"""Bounds: the most tokens that a target can count for a request, so that a budget holds whatever it answers.

Nothing here is an estimate. A token is a byte of the text at least, in the vocabularies of today's models; a
picture and what a template writes by itself have their own bounds; the output is bounded by the request's
limit. What has no bound (no limit, a tool that the server runs, a file whose pages nobody counted) is bounded
by the model's context where the price table names it, and otherwise by nothing.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

import orjson

from tbench.capture.providers import GENERATIVE, LIMITS, TEXTLESS, Usage
from tbench.capture.providers.provider import counted, items_of, word_of
from tbench.replay.cost import Price, cost_at_most
from tbench.replay.plan import Planned
from tbench.replay.target import Outgoing

TEMPLATE_TOKENS: Final = 128
"""What a chat template says of itself (a date, how to reason): gpt-oss's and Llama's stay below 100."""
TOOLS_TOKENS: Final = 1024
"""What it says of how to call tools (Claude: 313 to 530, Qwen: 130), and of one whose schema its maker has
(computer, bash, text editor: 245 to 735)."""
PICTURE_TOKENS: Final = 6404
"""Together bills no picture higher: four tiles of 1,601."""

_PICTURES: Final = frozenset({"image_url", "input_image", "image"})
_FILES: Final = (
    *("file", "input_file", "document", "video*", "audio_url", "container_upload"),
    "item_reference",
)
"""Parts whose tokens no byte of the request bounds."""
_OURS: Final = ("function", "custom")
_CALLED_HERE: Final = (
    *(*_OURS, "bash_*", "text_editor_*", "computer*", "memory_*"),
    *("local_shell", "apply_patch"),
)
"""Tools that the client runs, though their maker wrote the schema; any other type runs at the server."""
_BATCHES: Final = ("completions", "embeddings", "rerank")
"""Endpoints whose requests bring several prompts."""
_ELSEWHERE: Final = frozenset(
    {"web_search_options", "plugins", "mcp_servers", "container", "conversation"}
    | {"previous_response_id"}
)
"""Members by which a prompt grows at the server."""

NOTHING_READ: Final = Usage(prompt=0, output=0)

REASONS: Final[Mapping[str, str]] = {
    "no_limit": "name no limit of their output: give --match-length cap or --set max_tokens=N",
    "files": "bring files whose tokens nobody can bound",
    "server_tools": "have tools or a history at the server, whose tokens nobody can bound",
    "not_json": "have a body that is no plain JSON",
    "no_tokens": "are not billed by tokens",
    "no_price": "are for models without a known price: give --price",
}
"""Why a request has no bound."""


def most_tokens(planned: Planned, sent: Outgoing, context: int | None = None) -> Usage | str:
    """The most prompt and output tokens that a request as sent can be billed for; else one of REASONS.

    `context` is the most that a prompt and its output hold together, where that is known.
    """
    endpoint = sent.info.endpoint
    if endpoint in TEXTLESS or endpoint not in LIMITS:
        return "no_tokens" if sent.body else NOTHING_READ
    payload = planned.payload
    if payload is None:
        return "not_json"
    if sent.body is not planned.exchange.request.body:
        payload = orjson.loads(sent.body)
    stored = not _ELSEWHERE.isdisjoint(payload) or isinstance(payload.get("prompt"), dict)
    if stored or any(map(_runs_there, items_of(payload.get("tools")))):
        return "server_tools"  # which may ask the model many times: no context bounds these
    prompts = max(1, sent.info.inputs) if endpoint in _BATCHES else 1
    most = context and context * prompts  # a context holds each prompt of a batch by itself
    prompt = _most_prompt(payload)
    if prompt is None and context is None:
        return "files"
    if endpoint == "rerank" and prompt is not None:  # the query is read with each of the documents
        prompt += (prompts - 1) * (len(orjson.dumps(payload.get("query"))) + TEMPLATE_TOKENS)
    if endpoint not in GENERATIVE:
        return Usage(prompt=_least(prompt, most), output=0)
    limits = [counted(payload[name]) for name in LIMITS[endpoint] if payload.get(name) is not None]
    stated = [count for count in limits if count is not None]
    if len(stated) < len(limits):  # a target may read what is no count to us
        stated = []
    limit = _least(max(stated, default=None), context)
    if limit is None:
        return "no_limit"
    answers = max(sent.info.n, counted(payload.get("best_of")) or 1) * prompts
    if "prediction" in payload:  # what of it is not used is billed as output
        limit += len(orjson.dumps(payload["prediction"]))
    return Usage(prompt=_least(prompt, most), output=limit * answers)


def most_cost(planned: Planned, sent: Outgoing, prices: Mapping[str, Price]) -> float | str:
    """What a request as sent costs at most, US dollars; else why that is not bounded, one of REASONS."""
    price = prices.get(sent.info.model or "")
    usage = most_tokens(planned, sent, price and price.context)
    if isinstance(usage, str):
        return usage
    if price is None:
        return 0.0 if usage == NOTHING_READ else "no_price"
    return cost_at_most(price, usage)


def _least(*counts: int | None) -> int | None:
    return min((count for count in counts if count is not None), default=None)


def _most_prompt(payload: Mapping[str, Any]) -> int | None:
    """The bytes of all that a model reads, pictures aside; None where it brings a file."""
    kinds = Counter[str]()
    picture_bytes = 0
    for part in _parts(payload):
        kind = word_of(part, "type")
        if kind in _PICTURES:
            kinds["picture"] += 1
            picture_bytes += len(orjson.dumps(part))
        elif any(fnmatchcase(kind, shape) for shape in _FILES) and not _is_text(part):
            return None
    count = len(orjson.dumps(payload)) - picture_bytes + kinds["picture"] * PICTURE_TOKENS
    tools = items_of(payload.get("tools")) + items_of(payload.get("functions"))
    made = sum(word_of(tool, "type") not in ("", *_OURS) for tool in tools)
    return count + TEMPLATE_TOKENS + TOOLS_TOKENS * (made + bool(tools))


def _parts(payload: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every object in a conversation that has a type; not what is in a picture or was given to a tool."""
    left = [payload.get(name) for name in ("messages", "input", "system", "documents")]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            kind = word_of(value, "type")
            if kind:
                yield value
            if kind not in _PICTURES:
                left += (member for name, member in value.items() if name != "input")


def _is_text(part: Mapping[str, Any]) -> bool:
    """Whether a document is a text as it stands."""
    source = part.get("source")
    return isinstance(source, dict) and source.get("type") in {"text", "content"}


def _runs_there(tool: Mapping[str, Any]) -> bool:
    kind = word_of(tool, "type")
    return bool(kind) and not any(fnmatchcase(kind, shape) for shape in _CALLED_HERE)
