"""What a generation request orders: the body checked and made sense of, or a Refusal."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from tbench.simulator.prompt import Prompt, chat_prompt, text_prompt


@dataclass
class Refusal(Exception):  # noqa: N818 (a refusal is an answer, not a defect)
    """An error answer: status, body and headers as Together's public documents have them.

    `page` stands in place of a JSON body.
    """

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    page: bytes | None = None


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
    529: ("Overloaded", "overloaded_error", None),
}


def refusal(status: int, headers: Mapping[str, str] | None = None) -> Refusal:
    """The usual error answer of a status."""
    fallback = ("Server error", "server_error", None)
    return Refusal(status, *_KNOWN.get(status, fallback), headers=headers or {})


def invalid(message: str) -> Refusal:
    """400: the body is not what the endpoint takes."""
    return Refusal(400, f"Input validation error: {message}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One request for text. `max_tokens` is None where the body sets none; lengths are tokens.

    `ignore_eos`: the answer does not end by itself before `max_tokens`. `tool` is the function to call,
    `schema` the shape of the JSON to write ({} for any object). `keeps_prefix`: the body marks what a cache
    is to keep, which Messages counts.
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
    keeps_prefix: bool = False

    @property
    def branches(self) -> int:
        return self.n * len(self.prompts)

    @property
    def prompt_tokens(self) -> int:
        return sum(prompt.tokens for prompt in self.prompts)


DEEPEST: Final = 254
"""So deep is the JSON that orjson writes; it reads 1,024."""


def parse_body(body: bytes) -> dict[str, Any]:
    """The JSON object of a body, with a model in it. Raises Refusal.

    No deeper than orjson writes it, since much of it is written into a prompt again.
    """
    try:
        fields = orjson.loads(body)
        # Cheap, and never too low: what is nested deeper closes more
        # brackets than this. Only then it is written for a trial.
        if body.count(b"}") + body.count(b"]") > DEEPEST:
            orjson.dumps(fields)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"Invalid JSON: {error}") from None
    except TypeError:
        raise invalid(f"the body is nested more than {DEEPEST} deep") from None
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
    check(fields)
    tools = tools_of(fields)
    shape = fields.get("response_format")
    schema = None
    if isinstance(shape, dict) and shape.get("type") not in (None, "text", "regex"):
        schema = _object(_object(shape.get("json_schema")).get("schema"))
    prompt = chat_prompt(messages, tools, fields["model"])
    return Order(
        chat=True,
        prompts=(prompt,),
        tool=_tool(tools, fields.get("tool_choice"), messages[-1]["role"]),
        schema=schema,
        reasoning=_reasoning(fields),
        **common(fields, prompt.tokens, context_tokens),
    )


def completion_order(fields: Mapping[str, Any], context_tokens: int) -> Order:
    """A completion's body. Raises Refusal."""
    texts = strings(fields, "prompt")
    check(fields)
    prompts = tuple(text_prompt(text.encode(), fields["model"]) for text in texts)
    return Order(
        chat=False,
        prompts=prompts,
        prompt_texts=tuple(texts),
        **common(fields, max(prompt.tokens for prompt in prompts), context_tokens),
    )


def strings(fields: Mapping[str, Any], key: str) -> list[str]:
    """A field that holds one string or several. Raises Refusal."""
    given = fields.get(key)
    several = given if isinstance(given, list) else [given]
    texts = [text for text in several if isinstance(text, str)]
    if not texts or len(texts) < len(several):
        raise invalid(f"'{key}' must be a string or an array of strings")
    return texts


def tools_of(fields: Mapping[str, Any]) -> list[Any]:
    """The tools of a body, none where it names none. Raises Refusal."""
    tools = fields.get("tools")
    if not isinstance(tools, list | None):
        raise invalid("'tools' must be an array")
    return tools or []


def _number(low: float, high: float, kind: Any = int | float) -> Callable[[Any], bool]:  # noqa: ANN401 (a type)
    # `True` is an int in Python, and no number in JSON.
    return lambda v: isinstance(v, kind) and not isinstance(v, bool) and low <= v <= high


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_tokens": (_number(1, 1 << 31, int), "a positive integer"),
    "max_completion_tokens": (_number(1, 1 << 31, int), "a positive integer"),
    "n": (_number(1, 128, int), "an integer from 1 to 128"),
    "temperature": (_number(0, 2), "a number from 0 to 2"),
    "top_p": (_number(0, 1), "a number from 0 to 1"),
    "presence_penalty": (_number(-2, 2), "a number from -2 to 2"),
    "frequency_penalty": (_number(-2, 2), "a number from -2 to 2"),
    "stream": (_is(bool), "a boolean"),
    "ignore_eos": (_is(bool), "a boolean"),
    "stop": (
        lambda v: all(isinstance(text, str) for text in (v if isinstance(v, list) else [v])),
        "a string or an array of strings",
    ),
    "seed": (_is(int), "an integer"),
    "chat_template_kwargs": (_is(dict), "an object"),
}


def check(fields: Mapping[str, Any]) -> None:
    """Raises Refusal where a common field holds what it must not."""
    for key, (sound, wanted) in _CHECKS.items():
        value = fields.get(key)
        if value is not None and not sound(value):
            raise invalid(f"'{key}' must be {wanted}")


def common(fields: Mapping[str, Any], prompt_tokens: int, context_tokens: int) -> dict[str, Any]:
    """The fields of an Order that all bodies share. Raises Refusal where the prompt leaves no room."""
    stop = fields.get("stop") or ()
    wanted = fields.get("max_tokens") or fields.get("max_completion_tokens")
    truncate = fields.get("context_length_exceeded_behavior") == "truncate"
    room = context_tokens - prompt_tokens
    if room < 1 or (wanted and wanted > room and not truncate):
        raise invalid(
            f"`inputs` tokens + `max_new_tokens` must be <= {context_tokens}."
            f" Given: {prompt_tokens} `inputs` tokens and {wanted or 1} `max_new_tokens`"
        )
    return {
        "model": fields["model"],
        "stream": bool(fields.get("stream")),
        "n": fields.get("n") or 1,
        "max_tokens": min(wanted or room, room),
        "ignore_eos": bool(fields.get("ignore_eos")),
        "stop": (stop,) if isinstance(stop, str) else tuple(value for value in stop if value),
        "logprobs": bool(fields.get("logprobs")),
        "echo": bool(fields.get("echo")),
        "seed": fields.get("seed"),
    }


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _tool(tools: list[Any], choice: object, last_role: str) -> Mapping[str, Any] | None:
    """The function to call: the one asked for, else the first unless a tool has just answered."""
    functions = [
        function
        for tool in tools
        if (function := _object(_object(tool).get("function"))).get("name")
    ]
    if isinstance(choice, dict):
        name = _object(choice.get("function")).get("name")
        for function in functions:
            if function["name"] == name:
                return function
        raise invalid(f"'tool_choice' names no tool: {name}")
    if not functions or choice == "none" or (choice != "required" and last_role == "tool"):
        return None
    return functions[0]


THINKERS = ("gpt-oss", "-R1", "QwQ", "Thinking")
"""Models with one of these in the name reason unless told not to."""


def _reasoning(fields: Mapping[str, Any]) -> bool:
    """Whether reasoning comes first: as the body says, else by the model's name."""
    template = fields.get("chat_template_kwargs") or {}
    asked = _object(fields.get("reasoning")).get("enabled")
    for switch in (asked, template.get("thinking"), template.get("enable_thinking")):
        if isinstance(switch, bool):
            return switch
    return bool(fields.get("reasoning_effort")) or any(t in fields["model"] for t in THINKERS)
