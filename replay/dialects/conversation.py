"""A conversation without a dialect: what a request for text says, whoever is asked.

A dialect is a reader (body -> Conversation) and a writer (Conversation -> body); none knows another. What one
of them cannot take over goes into the set `lost`, by its name in the body. What would make it another
conversation is a Mute: such a request is left out.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Literal, NamedTuple

import orjson

Json = Mapping[str, Any]
Role = Literal["system", "user", "assistant", "tool"]

OPENAI_ROLES: Final[Mapping[str, Role]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
"""Who speaks, by the role's name in a chat and in Responses."""


_WORD = re.compile(r"[\w. -]{1,48}", re.ASCII)


def word(name: object) -> str:
    """What something in a body is called, as it may be written down; `other` for what is no API's word."""
    return name if isinstance(name, str) and _WORD.fullmatch(name) else "other"


class Mute(Exception):  # noqa: N818 (a fact about a request, not a defect)
    """A request holds what has no words in another dialect; the argument names it."""

    def __init__(self, name: str) -> None:
        super().__init__(word(name))


class Text(NamedTuple):
    """Words."""

    text: str


class Image(NamedTuple):
    """A picture: an address, or a data URL with base64. `detail` is how closely to look, where it is said."""

    url: str
    detail: str | None = None


class Call(NamedTuple):
    """The assistant calls a tool; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


class Result(NamedTuple):
    """What the call `id` gave: texts and images. `failed` says that it was an error."""

    id: str
    parts: tuple["Text | Image", ...]
    failed: bool = False


Part = Text | Image | Call | Result


class Turn(NamedTuple):
    """What one side says. A tool's turn is one Result."""

    role: Role
    parts: tuple[Part, ...]


class Tool(NamedTuple):
    """A function that may be called; `parameters` is a JSON schema, `strict` holds calls to it."""

    name: str
    description: str | None
    parameters: Json
    strict: bool = False


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A request. None is what it does not say.

    `limit` is the most output tokens. `choice` is NO_TOOL, ANY_TOOL or the name of the one to call; `serial`
    allows one call at a time. `shape` is the JSON that an answer must be: `{}` for any object, else `name`,
    `schema` and `strict`. `effort` is how hard to reason.
    """

    turns: tuple[Turn, ...]
    model: str | None = None
    stream: bool | None = None
    limit: int | None = None
    stop: tuple[str, ...] = ()
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    tools: tuple[Tool, ...] = ()
    choice: str | None = None
    serial: bool = False
    shape: Json | None = None
    effort: str | None = None


EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""How hard OpenAI's models can be told to reason, in chat and Responses."""
NO_TOOL, ANY_TOOL = "/none", "/required"
"""Choices; no tool has such a name."""
NO_PARAMETERS: Final[Json] = {"type": "object", "properties": {}}


def beyond(holder: Json, known: Iterable[str], lost: set[str], prefix: str = "") -> None:
    """Note the members of an object that are not known and say something."""
    for name in holder.keys() - set(known):
        if holder[name] is not None:
            lost.add(prefix + word(name))


def objects(value: object, name: str) -> list[Json]:
    """A list of objects; none where it is absent. Mute where it holds anything else."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Mute(name)
    return value


def object_of(value: object, name: str) -> Json:
    """An object; an empty one where it is absent. Mute where it is anything else."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Mute(name)
    return value


def text_of(value: object, name: str) -> str:
    """A text, Mute where it is none."""
    if not isinstance(value, str):
        raise Mute(name)
    return value


def json_of(value: object) -> str:
    """JSON text; Mute for what is nested deeper than it is written."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        raise Mute("nesting") from None


def stop_of(value: object) -> tuple[str, ...]:
    """Where an answer stops: a text, or a list of them."""
    texts = [value] if isinstance(value, str) else value or ()
    if not isinstance(texts, list | tuple):
        raise Mute("stop")
    return tuple(text_of(text, "stop") for text in texts)


def joined(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    """The turns without those of an assistant that said nothing; what it says in a row is one turn."""
    together: list[Turn] = []
    for turn in turns:
        if turn.role == "assistant" and together and together[-1].role == "assistant":
            # Responses has text and calls as items of their own, where the others have one message:
            # joined, so that a call and its result stand next to each other, as Messages demands.
            together[-1] = Turn("assistant", together[-1].parts + turn.parts)
        elif turn.parts or turn.role != "assistant":
            together.append(turn)
    return tuple(together)


# What chat and Responses say alike, or all three nearly so.


def tool_of(function: Json, lost: set[str], *, parameters: str = "parameters") -> Tool:
    """A function as every dialect describes it; `parameters` is what its schema is called."""
    beyond(function, ("type", "name", "description", parameters, "strict"), lost, "tools.")
    return Tool(
        text_of(function.get("name"), "tools"),
        function.get("description"),
        function.get(parameters) or NO_PARAMETERS,
        function.get("strict") is True,
    )


def function_of(tool: Tool, *, parameters: str = "parameters") -> dict[str, Any]:
    """A tool as every dialect describes it."""
    described = {} if tool.description is None else {"description": tool.description}
    return {"name": tool.name, **described, parameters: tool.parameters}


def choice_of(choice: object, lost: set[str]) -> str | None:
    """Which tool is to be called, as chat and Responses say it."""
    match choice:
        case None | "auto":
            return None
        case "none":
            return NO_TOOL
        case "required":
            return ANY_TOOL
        case {"type": "function", "name": str(name)} | {"function": {"name": str(name)}}:
            return name
    lost.add("tool_choice")
    return None


def effort_of(effort: object, known: Sequence[str], lost: set[str]) -> str | None:
    """How hard to reason, where a dialect knows the word."""
    if effort is None or effort in known:
        return str(effort) if effort else None
    lost.add("reasoning_effort")
    return None


def call_id(ident: str, known: re.Pattern[str], lost: set[str]) -> str:
    """The id of a call and of its result, as a dialect takes it."""
    if known.fullmatch(ident):
        return ident
    lost.add("call_id")
    # By its content: a call and its result, turns apart, get the same id without a table.
    return f"call_{blake2b(ident.encode('utf-8', 'replace'), digest_size=12).hexdigest()}"


def filled(body: Json) -> dict[str, Any]:
    """A body without the members that say nothing."""
    return {name: value for name, value in body.items() if value is not None}
