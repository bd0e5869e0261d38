"""`serve --strict`: a gateway that takes what it knows, and refuses what others have issued.

What each API documents as common to all who serve it is known; any other member, kind of item or part gets a
400 in the words of the API's maker. So does what only its issuer could read: signatures that are not the
simulator's, encrypted reasoning, ids of what another server keeps. A model with a name of OpenAI's takes what
that takes.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tbench.simulator.order import Refusal

Known = Mapping[str, frozenset[str]]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TURN: Final = _words("role content name tool_calls tool_call_id refusal")
_CALL: Final = _words("id type function index")
_SAMPLING: Final = "model stream temperature top_p tools tool_choice"


@dataclass(frozen=True, kw_only=True)
class Strictness:
    """What an API takes.

    `members` are names by place, `messages[]` for each item of a list; a place that is not among them takes
    all. `kinds` are values of `type` by place, "" for an item without. `unknown` words the refusal of a
    member by its path (`messages`, 0, `content`). `foreign` yields refusals of what others issued.
    """

    members: Known
    kinds: Known
    unknown: Callable[[list[str | int]], Refusal]
    foreign: Callable[[Mapping[str, Any]], Iterator[Refusal]]


def check_strict(endpoint: str, body: Mapping[str, Any]) -> None:
    """Raises Refusal for a body that holds what this endpoint does not know, or cannot read."""
    if rule := STRICT.get(endpoint):
        for refused in rule.foreign(body):
            raise refused
        _walk(rule, body, "", [])


def _walk(rule: Strictness, value: object, place: str, path: list[str | int]) -> None:
    if isinstance(value, list):
        for number, item in enumerate(value):
            _walk(rule, item, f"{place}[]", [*path, number])
    elif isinstance(value, dict):
        kinds = rule.kinds.get(place)
        if kinds is not None and str(value.get("type") or "") not in kinds:
            raise rule.unknown([*path, "type"])
        names = rule.members.get(place)
        for name, member in value.items():
            if names is not None and name not in names:
                raise rule.unknown([*path, name])
            _walk(rule, member, f"{place}.{name}" if place else name, [*path, name])


def _items(value: object) -> list[Any]:
    """A list; an empty one in place of anything else, which is not for the strict to refuse."""
    return value if isinstance(value, list) else []


def _dotted(path: list[str | int]) -> str:
    """`messages.0.content`, as Anthropic says where."""
    return ".".join(map(str, path))


def _indexed(path: list[str | int]) -> str:
    """`input[0].content`, as OpenAI says where."""
    words = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(words).removeprefix(".")


def _signed(body: Mapping[str, Any]) -> Iterator[Refusal]:
    """Blocks of Messages that another has signed or redacted."""
    for number, turn in enumerate(_items(body.get("messages"))):
        content = turn.get("content") if isinstance(turn, dict) else None
        for place, block in enumerate(_items(content)):
            kind = block.get("type") if isinstance(block, dict) else None
            where = f"messages.{number}.content.{place}"
            # The simulator's own begin so: whoever is asked again with what it issued takes it.
            if kind == "thinking" and not str(block.get("signature")).startswith("sim"):
                yield Refusal(400, f"{where}: Invalid `signature` in `thinking` block")
            if kind == "redacted_thinking":
                yield Refusal(400, f"{where}: Invalid `data` in `redacted_thinking` block")


def _kept(body: Mapping[str, Any]) -> Iterator[Refusal]:
    """What a body builds on that another keeps or has encrypted, or asks to be kept."""
    if previous := body.get("previous_response_id"):
        message = f"Previous response with id '{previous}' not found."
        yield Refusal(400, message, code="previous_response_not_found")
    if body.get("store") is True:
        yield Refusal(400, "Unsupported value: 'store' must be false.", code="unsupported_value")
    if "reasoning.encrypted_content" in _items(body.get("include")):
        yield Refusal(400, "Encrypted content is not supported with this model.")
    for item in _items(body.get("input")):
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "reasoning" and item.get("encrypted_content"):
            shown = f"{str(item['encrypted_content'])[:8]}..."
            yield Refusal(
                400,
                f"The encrypted content {shown} could not be verified. Reason: Encrypted content could "
                "not be decrypted or parsed.",
                code="invalid_encrypted_content",
            )
        elif kind == "item_reference" or (kind == "reasoning" and not item.get("content")):
            yield Refusal(
                400,
                f"Item with id '{item.get('id')}' not found. Items are not persisted when `store` is "
                "set to false.",
            )


def _of_openai(body: Mapping[str, Any]) -> Iterator[Refusal]:
    """What OpenAI's own models do not take, in its words."""
    model = str(body.get("model")).removeprefix("openai/")
    if not _OPENAI.match(model):
        return
    if "top_k" in body:
        yield Refusal(400, "Unrecognized request argument supplied: top_k")
    yield from _ill_formed(body)
    reasoning = body.get("reasoning")
    place = "reasoning.effort" if isinstance(reasoning, dict) else "reasoning_effort"
    effort = (
        reasoning.get("effort") if isinstance(reasoning, dict) else body.get("reasoning_effort")
    )
    if not _REASONING.match(model):
        if effort is not None and place in body:
            yield Refusal(400, f"Unrecognized request argument supplied: {place}")
        elif effort is not None:
            yield Refusal(
                400,
                f"Unsupported parameter: '{place}' is not supported with this model.",
                code="unsupported_parameter",
            )
        return
    if effort == "none" and not _QUIET.match(model):
        yield Refusal(
            400,
            f"Unsupported value: '{place}' does not support 'none' with this model.",
            code="unsupported_value",
        )
    yield from _calls(body, model, effort)
    if body.get("max_tokens") is not None:
        yield Refusal(
            400,
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
            code="unsupported_parameter",
        )
    version = model.startswith("gpt-5") and _QUIET.match(model)
    calm = version and (effort or _DEFAULTS.get(model[:7])) == "none"
    names = ["stop", "presence_penalty", "frequency_penalty", "logit_bias"]
    for name in names if calm else [*names, "logprobs", "top_logprobs"]:
        if body.get(name) is not None:
            message = f"Unsupported parameter: '{name}' is not supported with this model."
            yield Refusal(400, message, code="unsupported_parameter")
    for name in ("temperature", "top_p"):
        if body.get(name) not in (None, 1) and not calm:
            yield Refusal(
                400,
                f"Unsupported value: '{name}' does not support {body[name]} with this model. Only the "
                "default (1) value is supported.",
                code="unsupported_value",
            )


def _calls(body: Mapping[str, Any], model: str, effort: object) -> Iterator[Refusal]:
    """Functions of a chat, which some call only where they do not reason."""
    if "input" in body or effort == "none" or not _SILENT.match(model):
        return
    tools = [tool for tool in _items(body.get("tools")) if isinstance(tool, dict)]
    if any(tool.get("type") == "function" for tool in tools):
        yield Refusal(
            400,
            f"Function tools with reasoning_effort are not supported for {model} in /v1/chat/completions. To "
            "use function tools, use /v1/responses or set reasoning_effort to 'none'.",
        )


def _ill_formed(body: Mapping[str, Any]) -> Iterator[Refusal]:
    """What has another form at OpenAI, whatever its model is."""
    if None not in (body.get("max_tokens"), body.get("max_completion_tokens")):
        yield Refusal(
            400,
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
            code="invalid_parameter_combination",
        )
    logprobs, shape = body.get("logprobs"), body.get("response_format")
    if not isinstance(logprobs, bool | None):
        kinds = {int: "an integer", float: "a decimal number", str: "a string"}
        kind = kinds.get(type(logprobs), "an object")
        message = f"Invalid type for 'logprobs': expected a boolean, but got {kind} instead."
        yield Refusal(400, message, code="invalid_type")
    if not isinstance(shape, dict):
        return
    if (form := shape.get("type")) not in ("json_object", "json_schema", "text"):
        yield Refusal(
            400,
            f"Invalid value: '{form}'. Supported values are: 'json_object', 'json_schema', and 'text'.",
            code="invalid_value",
        )
    for name in shape.keys() - {"type", *(["json_schema"] if form == "json_schema" else [])}:
        message = f"Unknown parameter: 'response_format.{name}'."
        yield Refusal(400, message, code="unknown_parameter")
    if form == "json_schema":
        named, place = shape.get("json_schema"), "response_format.json_schema"
        if not isinstance(named, dict) or "name" not in named:
            place += ".name" if isinstance(named, dict) else ""
            message = f"Missing required parameter: '{place}'."
            yield Refusal(400, message, code="missing_required_parameter")


def _by_openai(body: Mapping[str, Any]) -> Iterator[Refusal]:
    yield from _kept(body)
    yield from _of_openai(body)


_OPENAI: Final = re.compile(r"gpt-\d|o\d|chatgpt")
_REASONING: Final = re.compile(r"o\d|gpt-[5-9](?!-chat)")
_QUIET: Final = re.compile(r"gpt-5\.\d(?!.*-(?:pro|codex|chat))|gpt-6(?!.*-astra)")
"""Those of them that can be asked not to reason."""
_SILENT: Final = re.compile(r"gpt-5\.[4-9](?!.*-(?:pro|codex|chat))|gpt-6(?!.*-astra)")
"""Those that call functions in a chat only where they are."""
_DEFAULTS: Final = {"gpt-5.1": "none", "gpt-5.2": "none"}
"""The effort of a model that is not asked for any."""


STRICT: Final[Mapping[str, Strictness]] = {
    "chat/completions": Strictness(
        members={
            "": _words(
                f"{_SAMPLING} messages max_tokens max_completion_tokens top_k n stop stream_options "
                "parallel_tool_calls response_format seed presence_penalty frequency_penalty "
                "logit_bias logprobs top_logprobs reasoning_effort store"
            ),
            "messages[]": _TURN,
            "messages[].tool_calls[]": _CALL,
            "messages[].tool_calls[].function": _words("name arguments"),
            "messages[].content[]": _words("type text image_url input_audio"),
            "tools[]": _words("type function custom"),
            "stream_options": _words("include_usage"),
        },
        kinds={
            "messages[].content[]": _words("text image_url input_audio"),
            "tools[]": _words("function custom"),
        },
        unknown=lambda path: Refusal(
            400, f"Unrecognized request argument supplied: {_dotted(path)}"
        ),
        foreign=_by_openai,
    ),
    "messages": Strictness(
        members={
            "": _words(
                f"{_SAMPLING} messages max_tokens system stop_sequences top_k thinking output_config"
            ),
            "messages[]": _words("role content"),
            "messages[].content[]": _words(
                "type text source id name input tool_use_id content is_error thinking signature data"
            ),
            "messages[].content[].source": _words("type media_type data url"),
            "messages[].content[].content[]": _words("type text source"),
            "system[]": _words("type text"),
            "tools[]": _words("type name description input_schema strict"),
        },
        kinds={
            "messages[].content[]": _words(
                "text image document tool_use tool_result thinking redacted_thinking"
            ),
            "tools[]": frozenset({"", "custom"}),
        },
        unknown=lambda path: Refusal(400, f"{_dotted(path)}: Extra inputs are not permitted"),
        foreign=_signed,
    ),
    "responses": Strictness(
        members={
            "": _words(
                f"{_SAMPLING} input instructions max_output_tokens parallel_tool_calls reasoning text "
                "include store truncation stream_options"
            ),
            "input[].content[]": _words("type text image_url detail annotations logprobs refusal"),
        },
        kinds={
            "input[]": frozenset(
                {"", "message", "reasoning", "function_call", "function_call_output"}
                | {"custom_tool_call", "custom_tool_call_output", "item_reference"}
            ),
            "tools[]": _words("function custom"),
        },
        unknown=lambda path: Refusal(
            400, f"Unknown parameter: '{_indexed(path)}'.", code="unknown_parameter"
        ),
        foreign=_by_openai,
    ),
}
"""By the path of an endpoint below /v1."""
