"""Bounds: the most tokens that a target can count for a request, so that a budget holds whatever it answers.

Nothing here is an estimate. A token is a byte of the text at least, in the vocabularies of today's models; a
picture and what a template writes by itself have their own bounds; the output is bounded by the request's
limit. What has no bound (no limit, a tool that the server runs, a file whose pages nobody counted) is bounded
by the model's context where the price table names it, and otherwise by nothing.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

import orjson

from tbench.capture.providers import GENERATIVE, LIMITS, TEXTLESS, Usage
from tbench.capture.providers.provider import counted, items_of, word_of
from tbench.replay.cost import Price, cost_at_most
from tbench.replay.plan import Planned
from tbench.replay.request import Outgoing

TEMPLATE_TOKENS: Final = 128
"""What a chat template says of itself (a date, how to reason): gpt-oss's and Llama's stay below 100."""
TOOLS_TOKENS: Final = 1024
"""What it says of how to call tools (Claude: 313 to 530, Qwen: 130), and of one whose schema its maker has
(computer, bash, text editor: 245 to 735)."""
PICTURE_TOKENS: Final = 48_169
"""No picture is known to be billed higher (gpt-4o-mini: 2,833 and eight tiles of 5,667; Qwen2.5-VL: 16,384).
A price table may say less of its models."""
LINE_TOKENS: Final = 2
"""A template may break a tool's schema into lines: a break and its indent."""

_PICTURES: Final = frozenset({"image_url", "input_image", "image"})
_FILES: Final = (
    *("file", "input_file", "document", "video*", "audio*", "input_audio", "container_upload"),
    "item_reference",
)
"""Parts whose tokens no byte of the request bounds."""
_PICTURE_KEYS: Final = frozenset({"image_url", "image", "image_embeds"})
_FILE_KEYS: Final = frozenset(
    {
        "file",
        "file_url",
        "file_data",
        "input_audio",
        "audio_url",
        "audio_embeds",
        "video_url",
        "video",
    }
)
"""The same by the members of a part: some servers read one without a type by these."""
_DATA: Final = ("url", "image_url", "image", "data")
"""Members that hold a picture itself; every other text of its part may be read."""
_GIVEN: Final = frozenset({"input", "arguments"})
"""Members of a part that hold what a tool was given: text, whatever it looks like."""
_OURS: Final = ("function", "custom")
_CALLED_HERE: Final = (
    *(*_OURS, "bash_*", "text_editor_*", "computer*", "memory_*"),
    *("local_shell", "apply_patch"),
)
"""Tools that the client runs, though their maker wrote the schema; any other type runs at the server."""
_BATCHES: Final = ("completions", "embeddings", "rerank")
"""Endpoints whose requests bring several prompts."""
_ELSEWHERE: Final = (
    *("web_search_options", "plugins", "mcp_servers", "container", "conversation"),
    *("previous_response_id", "context_management", "chat_template", "mm_processor_kwargs"),
)
"""Members by which a prompt grows at the server."""
_OTHERS: Final = ("models", "fallbacks")
"""Members by which another model may answer."""
_DEARER: Final = (("service_tier", "priority"), ("speed", "fast"))
"""What is asked for at prices that no table has."""

NOTHING_READ: Final = Usage(prompt=0, output=0)

REASONS: Final[Mapping[str, str]] = {
    "no_limit": "name no limit of their output: give --match-length cap or --set max_tokens=N",
    "odd_count": "have an n or a best_of that is no number",
    "files": "bring files or sound whose tokens nobody can bound",
    "spoken": "ask for answers in sound or pictures, which have prices of their own",
    "dearer": "ask for a tier of service that has prices of its own",
    "server_tools": "have tools, a history or a template at the server, whose tokens nobody can bound",
    "other_models": "name other models that may answer",
    "not_json": "have a body that is no plain JSON",
    "no_tokens": "are not billed by tokens",
    "no_price": "are for models without a known price: give --price",
}
"""Why a request has no bound."""


def most_tokens(
    planned: Planned, sent: Outgoing, context: int | None = None, picture: int | None = None
) -> Usage | str:
    """The most prompt and output tokens that a request as sent can be billed for; else one of REASONS.

    `context` is the most that a prompt and its output hold together, `picture` the most that one has, where
    that is known.
    """
    endpoint = sent.info.endpoint
    if endpoint in TEXTLESS or endpoint not in LIMITS:
        return "no_tokens" if sent.body else NOTHING_READ
    payload = planned.payload
    if payload is None:
        return "not_json"
    if sent.body is not planned.exchange.request.body:
        payload = orjson.loads(sent.body)
    if reason := _unbounded(payload):
        return reason
    prompts = max(1, sent.info.inputs) if endpoint in _BATCHES else 1
    most = context and context * prompts  # a context holds each prompt of a batch by itself
    written = max(
        len(sent.body), len(orjson.dumps(payload))
    )  # the one may be packed, the other terse
    prompt = _most_prompt(payload, written, PICTURE_TOKENS if picture is None else picture)
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
    # The larger of two: which of them a server heeds is not known.
    limit = _least(max(stated, default=None), context)
    if limit is None:
        return "no_limit"
    answers = max(1, *(counted(payload.get(name)) or 1 for name in _ANSWERS)) * prompts
    if "prediction" in payload:  # what of it is not used is billed as output
        limit += len(orjson.dumps(payload["prediction"]))
    if payload.get("echo"):
        limit += _least(prompt, context) or 0
    return Usage(prompt=_least(prompt, most), output=limit * answers)


_ANSWERS: Final = ("n", "best_of")


def _unbounded(payload: Mapping[str, Any]) -> str | None:
    """Why nothing that the body says bounds it."""

    def given(names: Iterable[str]) -> bool:
        return any(payload.get(name) not in (None, []) for name in names)

    if given(_ELSEWHERE) or isinstance(payload.get("prompt"), dict):
        return "server_tools"  # which may ask the model many times: no context bounds these
    kinds = [word_of(tool, "type") for tool in items_of(payload.get("tools"))]
    if any(kind and not any(fnmatchcase(kind, shape) for shape in _CALLED_HERE) for kind in kinds):
        return "server_tools"
    if given(_OTHERS):
        return "other_models"
    if any(payload.get(name) == value for name, value in _DEARER):
        return "dearer"
    if payload.get("audio") or payload.get("modalities") not in (None, [], ["text"]):
        return "spoken"
    odd = (
        payload.get(name) is not None and counted(payload[name]) is None for name in _ANSWERS
    )  # a target may read "3" as 3
    return "odd_count" if any(odd) else None


def most_cost(planned: Planned, sent: Outgoing, prices: Mapping[str, Price]) -> float | str:
    """What a request as sent costs at most, US dollars; else why that is not bounded, one of REASONS."""
    price = prices.get(sent.info.model or "")
    usage = most_tokens(planned, sent, price and price.context, price and price.picture)
    if isinstance(usage, str):
        return usage
    if price is None:
        return 0.0 if usage == NOTHING_READ else "no_price"
    return cost_at_most(price, usage)


def _least(*counts: int | None) -> int | None:
    return min((count for count in counts if count is not None), default=None)


def _most_prompt(payload: Mapping[str, Any], size: int, picture: int) -> int | None:
    """The bytes of all that a model reads, pictures aside; None where it brings a file.

    The body had `size` bytes, which may be more than JSON needs; each picture has so many tokens.
    """
    pictures = 0
    for part in _parts(payload):
        kind = word_of(part, "type")
        if kind in _PICTURES or not _PICTURE_KEYS.isdisjoint(part):
            pictures += 1
            size -= sum(map(_data_bytes, (part, part.get("image_url"), part.get("source"))))
        elif not _FILE_KEYS.isdisjoint(part) or (
            any(fnmatchcase(kind, shape) for shape in _FILES) and not _is_text(part)
        ):
            return None
    tools = items_of(payload.get("tools")) + items_of(payload.get("functions"))
    if tools:
        # Indented, as some templates write them out: each line costs a token or more.
        schemas = orjson.dumps(tools, option=orjson.OPT_INDENT_2)
        size += TOOLS_TOKENS + LINE_TOKENS * schemas.count(b"\n")
        size += TOOLS_TOKENS * sum(word_of(tool, "type") not in ("", *_OURS) for tool in tools)
        size += _escapes(payload)
    return size + pictures * picture + TEMPLATE_TOKENS


def _data_bytes(part: object) -> int:
    """The bytes of the pictures themselves that a part holds as they are sent: base64."""
    if not isinstance(part, dict):
        return 0
    inline = part.get("type") == "base64"
    values = (part.get(name) for name in _DATA)
    return sum(
        len(value)
        for value in values
        if isinstance(value, str) and (inline or value.startswith("data:"))
    )


def _escapes(payload: Mapping[str, Any]) -> int:
    """What it adds to write out all that some templates escape in calls, schemas and results of tools."""
    text = orjson.dumps(payload)
    more = 5 * sum(map(text.count, (b"<", b">", b"&", b"'")))
    return more if text.isascii() else more + len(json.dumps(payload)) - len(text)


def _parts(payload: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every object in a conversation; not what is in a picture or was given to a tool."""
    left = [payload.get(name) for name in ("messages", "input", "system", "documents")]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            yield value
            if word_of(value, "type") not in _PICTURES and _PICTURE_KEYS.isdisjoint(value):
                left += (member for name, member in value.items() if name not in _GIVEN)


def _is_text(part: Mapping[str, Any]) -> bool:
    """Whether a document is a text as it stands."""
    source = part.get("source")
    return isinstance(source, dict) and source.get("type") in ("text", "content")
