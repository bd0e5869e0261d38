"""What a generation request orders: the body checked and made sense of, or a Refusal."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from tbench.simulator.prompt import Prompt, chat_prompt, text_prompt

# The error answers of the service: status, body and headers as Together's public documents have them.


@dataclass
class Refusal(Exception):  # noqa: N818 (a refusal is an answer, not a defect)
    """An error answer, with a JSON body unless it has a page."""

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    page: bytes | None = None

    def content(self, request_id: str) -> tuple[bytes, str]:
        """The body and its content type."""
        if self.page is not None:
            return self.page, "text/html; charset=UTF-8"
        content = {"id": request_id, **error(self.message, self.type, self.code)}
        return orjson.dumps(content), "application/json; charset=utf-8"


def error(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """The error object, in a body or in a stream."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


_KNOWN: dict[int, tuple[str, str, str | None]] = {
    400: ("Input validation error", "invalid_request_error", None),
    401: (
        "Invalid API key provided. You can find your API key in the settings of your account.",
        "invalid_request_error",
        "invalid_api_key",
    ),
    402: ("Credit limit exceeded. Please add credits.", "credit_limit", "credit_limit"),
    404: ("Not found", "invalid_request_error", None),
    429: (
        "You have reached the rate limit of this model. Please slow down.",
        "dynamic_request_limited",
        "rate_limit_exceeded",
    ),
    500: ("Internal server error", "server_error", None),
    503: ("The server is overloaded or not ready yet.", "service_unavailable", None),
    504: ("The request timed out.", "timeout", None),
}


def refusal(status: int, headers: Mapping[str, str] | None = None) -> Refusal:
    """The usual error answer of a status."""
    fallback = ("Server error", "server_error", None)
    return Refusal(status, *_KNOWN.get(status, fallback), headers=headers or {})


def invalid(message: str) -> Refusal:
    """400: the body is not what the endpoint takes."""
    return Refusal(400, f"Input validation error: {message}")


def no_such_model(model: str) -> Refusal:
    """404: the model is not served here."""
    message = f"Unable to access model {model}. Please see the list of supported models."
    return Refusal(404, message, code="model_not_available")


def gateway_page() -> Refusal:
    """520: what a gateway in front of the service answers in its stead."""
    title = "520: Web server is returning an unknown error"
    page = f"<!DOCTYPE html><html><head><title>{title}</title></head><body>{title}</body></html>"
    return Refusal(520, title, page=page.encode())


THINKERS = ("gpt-oss", "-R1", "QwQ", "Thinking")
"""Models with one of these in the name reason unless told not to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One request for text. `max_tokens` is None where the body sets none; lengths are tokens.

    `ignore_eos`: the answer does not end by itself before `max_tokens`.

    `tool` is the function to call, `schema` the shape of the JSON to write ({} for any object).
    """

    chat: bool
    model: str
    stream: bool
    prompts: tuple[Prompt, ...]
    prompt_texts: tuple[str, ...] = ()
    n: int = 1
    max_tokens: int | None = None
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    tool: Mapping[str, Any] | None = None
    schema: Mapping[str, Any] | None = None
    reasoning: bool = False
    logprobs: bool = False
    echo: bool = False
    seed: int | None = None

    @property
    def branches(self) -> int:
        return self.n * len(self.prompts)

    @property
    def prompt_tokens(self) -> int:
        return sum(prompt.tokens for prompt in self.prompts)


def parse_body(body: bytes) -> dict[str, Any]:
    """The JSON object of a body, with a model in it. Raises Refusal."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"Invalid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise invalid("the body must be a JSON object")
    if not isinstance(fields.get("model"), str) or not fields["model"]:
        raise invalid("'model' is required")
    return fields


def chat_order(fields: Mapping[str, Any], context_tokens: int) -> Order:
    """A chat completion's body. Raises Refusal."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid("'messages' must be a non-empty array")
    if not all(
        isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages
    ):
        raise invalid("each of 'messages' must be an object with a 'role'")
    _check(fields)
    tools = fields.get("tools") or []
    prompt = chat_prompt(messages, tools, fields["model"])
    return Order(
        chat=True,
        prompts=(prompt,),
        tool=_tool(tools, fields.get("tool_choice"), messages[-1]["role"]),
        schema=_schema(fields.get("response_format")),
        reasoning=_reasoning(fields),
        **_common(fields, prompt.tokens, context_tokens),
    )


def completion_order(fields: Mapping[str, Any], context_tokens: int) -> Order:
    """A completion's body. Raises Refusal."""
    texts = strings(fields, "prompt")
    _check(fields)
    prompts = tuple(text_prompt(text.encode(), fields["model"]) for text in texts)
    return Order(
        chat=False,
        prompts=prompts,
        prompt_texts=tuple(texts),
        **_common(fields, max(prompt.tokens for prompt in prompts), context_tokens),
    )


def strings(fields: Mapping[str, Any], key: str) -> list[str]:
    """A field that holds one string or several. Raises Refusal."""
    given = fields.get(key)
    several = given if isinstance(given, list) else [given]
    texts = [text for text in several if isinstance(text, str)]
    if not texts or len(texts) < len(several):
        raise invalid(f"'{key}' must be a string or an array of strings")
    return texts


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high


def _number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int | float) and not isinstance(v, bool) and low <= v <= high


def _stop(value: object) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(text, str) for text in value)
    )


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_tokens": (_whole(1, 1 << 31), "a positive integer"),
    "max_completion_tokens": (_whole(1, 1 << 31), "a positive integer"),
    "n": (_whole(1, 128), "an integer from 1 to 128"),
    "temperature": (_number(0, 2), "a number from 0 to 2"),
    "top_p": (_number(0, 1), "a number from 0 to 1"),
    "presence_penalty": (_number(-2, 2), "a number from -2 to 2"),
    "frequency_penalty": (_number(-2, 2), "a number from -2 to 2"),
    "stream": (lambda v: isinstance(v, bool), "a boolean"),
    "ignore_eos": (lambda v: isinstance(v, bool), "a boolean"),
    "stop": (_stop, "a string or an array of strings"),
    "tools": (lambda v: isinstance(v, list), "an array"),
    "seed": (lambda v: isinstance(v, int), "an integer"),
    "chat_template_kwargs": (lambda v: isinstance(v, dict), "an object"),
}


def _check(fields: Mapping[str, Any]) -> None:
    for key, (sound, wanted) in _CHECKS.items():
        value = fields.get(key)
        if value is not None and not sound(value):
            raise invalid(f"'{key}' must be {wanted}")


def _common(fields: Mapping[str, Any], prompt_tokens: int, context_tokens: int) -> dict[str, Any]:
    stop = fields.get("stop") or ()
    return {
        "model": fields["model"],
        "stream": bool(fields.get("stream")),
        "n": fields.get("n") or 1,
        "max_tokens": _room(fields, prompt_tokens, context_tokens),
        "ignore_eos": bool(fields.get("ignore_eos")),
        "stop": (stop,) if isinstance(stop, str) else tuple(value for value in stop if value),
        "logprobs": bool(fields.get("logprobs")),
        "echo": bool(fields.get("echo")),
        "seed": fields.get("seed"),
    }


def _room(fields: Mapping[str, Any], prompt_tokens: int, context_tokens: int) -> int:
    """The most tokens that may come out; a prompt that leaves too little room is refused."""
    wanted = fields.get("max_tokens") or fields.get("max_completion_tokens")
    truncate = fields.get("context_length_exceeded_behavior") == "truncate"
    room = context_tokens - prompt_tokens
    if room < 1 or (wanted and wanted > room and not truncate):
        raise Refusal(
            400,
            f"Input validation error: `inputs` tokens + `max_new_tokens` must be <= {context_tokens}."
            f" Given: {prompt_tokens} `inputs` tokens and {wanted or 1} `max_new_tokens`",
        )
    return min(wanted or room, room)


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _tool(tools: list[Any], choice: object, last_role: str) -> Mapping[str, Any] | None:
    """The function to call: the one asked for, else the first unless a tool has just answered."""
    offered = [tool.get("function") for tool in tools if isinstance(tool, dict)]
    functions = [entry for entry in offered if isinstance(entry, dict) and entry.get("name")]
    if isinstance(choice, dict):
        name = _object(choice.get("function")).get("name")
        function = next((entry for entry in functions if entry["name"] == name), None)
        if not function:
            raise invalid(f"'tool_choice' names no tool: {name}")
        return function
    if not functions or choice == "none" or (choice != "required" and last_role == "tool"):
        return None
    return functions[0]


def _schema(wanted: object) -> Mapping[str, Any] | None:
    if not isinstance(wanted, dict) or wanted.get("type") in (None, "text", "regex"):
        return None
    schema = _object(wanted.get("json_schema")).get("schema")
    return schema if isinstance(schema, dict) else {}


def _reasoning(fields: Mapping[str, Any]) -> bool:
    """Whether reasoning comes first: as the body says, else by the model's name."""
    asked = fields.get("reasoning")
    if isinstance(asked, dict) and isinstance(asked.get("enabled"), bool):
        return bool(asked["enabled"])
    template = fields.get("chat_template_kwargs") or {}
    switches = [template.get("thinking"), template.get("enable_thinking")]
    for switch in switches:
        if isinstance(switch, bool):
            return switch
    return bool(fields.get("reasoning_effort")) or any(t in fields["model"] for t in THINKERS)
