"""The seam of a provider: what one API has to tell, and the records that the rest of tbench reads.

A provider is one file that makes a Provider, and one row in PROVIDERS (capture/providers/__init__.py).
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

Json = Mapping[str, Any]

CREDENTIAL_HEADERS: Final = ("authorization", "x-api-key", "api-key")
"""Headers in which a request may carry its key; of several, servers heed the first."""


class Endpoint(NamedTuple):
    """One of an API's endpoints; `name` is what samples, filters and reports call it.

    `replayable` is stateless inference: sending it again costs tokens and changes nothing. `takes_text` and
    `gives_text` say whether requests have input tokens and answers output tokens; what gives text is made
    token by token, behind a cache of prefixes. `inputs` is the member of a body that holds what is asked,
    `limits` are those that bound its output, first the one that is heeded first.
    """

    name: str
    replayable: bool = False
    takes_text: bool = False
    gives_text: bool = False
    inputs: str = ""
    limits: tuple[str, ...] = ()

    def limit(self, body: Json) -> int | None:
        """The most output tokens that a body asks for."""
        for name in self.limits:
            if (count := counted(body.get(name))) is not None:
                return count
        return None


OTHER: Final = Endpoint("other")
"""What no provider knows."""


class RequestInfo(NamedTuple):
    """One request in the words of its API. What it does not say is None, or the API's default.

    `endpoint` is an Endpoint's name. `n` is how many answers are wanted. `inputs` counts messages, prompts,
    embedding inputs or rerank documents, `images` the pictures among them.
    """

    endpoint: str = OTHER.name
    model: str | None = None
    stream: bool = False
    max_tokens: int | None = None
    n: int = 1
    inputs: int = 0
    images: int = 0


class Usage(NamedTuple):
    """Token counts as the server states them; None where it says nothing.

    `cached` (read from a cache) and `created` (written to one) are parts of `prompt`, `reasoning` is a part
    of `output`, whatever the maker's own names include: Anthropic's `input_tokens` is `prompt` less both.
    """

    prompt: int | None = None
    output: int | None = None
    cached: int | None = None
    reasoning: int | None = None
    created: int | None = None


UNCOUNTED: Final = Usage()


@dataclass(slots=True, kw_only=True)
class ParsedResponse:
    """One response body, read. Nobody changes it; it is not frozen, since a million are made.

    Times are on the caller's clock, each that of the chunk that carried the event's last byte; all are
    absent where nothing was streamed. `first_token` is the first content, reasoning or tool-call delta,
    `first_answer` the first that is not reasoning. `finish_reasons` holds the last one of each choice,
    free strings. `done` means that nothing is missing: `[DONE]`, a finish reason for every choice, or a
    whole body. `readable` is False for a body that is not what was promised. `error` is one line, with
    secrets masked. `text` is the first choice's answer without its reasoning. `streamed` is whether it came
    as events. `foreign` marks what no API that is read here answers with: nothing, a page, lines, audio,
    events of another shape; whether it is whole, only its transport can tell. `ended` is whether a stream
    is settled (`[DONE]`, its API's last event, an error, a broken event): who hangs up then has all of it.
    """

    usage: Usage = UNCOUNTED
    finish_reasons: tuple[str, ...] = ()
    first_token: float | None = None
    first_answer: float | None = None
    last_token: float | None = None
    token_times: tuple[float, ...] = ()
    events: int = 0
    tool_calls: int = 0
    done: bool = False
    ended: bool = False
    streamed: bool = False
    foreign: bool = False
    readable: bool = True
    error: str | None = None
    text: str = ""


class ResponseParser(Protocol):
    """Reads one response: the events of a stream in order, or one JSON body; then `parsed`. Never raises."""

    def event(self, at: float, payload: Json, name: str) -> None:
        """An event that holds a JSON object; `name` is its `event:` field, "message" where it has none."""
        ...

    def body(self, payload: Json) -> None:
        """The JSON object of an answer that was not streamed."""
        ...

    def parsed(self, *, events: int, ended: bool, streamed: bool) -> ParsedResponse:
        """All that was read; `ended` says that `[DONE]` or a whole body was seen."""
        ...


class ParserBase:
    """What any parser notes of a response; that of a dialect finds it in the dialect's events.

    `_finish` is the last finish reason of each choice by its index, None before it has one; `_over` whether
    the dialect's last event came.
    """

    def __init__(self) -> None:
        self._usage = UNCOUNTED
        self._finish: dict[int, str | None] = {}
        self._times: list[float] = []
        self._first_answer: float | None = None
        self._calls = 0
        self._text: list[str] = []
        self._error: str | None = None
        self._over = False

    def _spoke(self, at: float, *, answers: bool) -> None:
        """Generated text has come: answer, or reasoning."""
        self._times.append(at)
        if answers and self._first_answer is None:
            self._first_answer = at

    def _failed(self, payload: Json) -> None:
        """The payload says that the answer failed; the first that does so tells why."""
        self._error = self._error or error_text(payload) or "an error without a message"

    def parsed(self, *, events: int, ended: bool, streamed: bool) -> ParsedResponse:
        """All that was read. `[DONE]`, with which some gateways end any dialect's stream, is no answer."""
        finish, times = self._finish, self._times
        finishes = [reason for place in sorted(finish) if (reason := finish[place]) is not None]
        came = not streamed or bool(times or finishes)
        return ParsedResponse(
            usage=self._usage,
            finish_reasons=tuple(finishes),
            first_token=times[0] if times else None,
            first_answer=self._first_answer,
            last_token=times[-1] if times else None,
            token_times=tuple(times),
            events=events,
            tool_calls=self._calls,
            done=self._over or (ended and came),
            ended=streamed and (ended or self._over),
            streamed=streamed,
            error=self._error,
            text="".join(self._text),
        )


def request_info(body: Json, endpoint: Endpoint) -> RequestInfo:
    """The request of a JSON body; a field of the wrong type counts as absent."""
    given = body.get(endpoint.inputs)
    if isinstance(given, list):  # of texts, messages or lists of tokens, or it is one such list
        inputs = 1 if given and isinstance(given[0], int) else len(given)
    else:
        inputs = int(isinstance(given, str))
    return RequestInfo(  # by place: by name it takes twice as long
        endpoint.name,
        word_of(body, "model") or None,
        body.get("stream") is True,
        endpoint.limit(body),
        counted(body.get("n")) or 1,
        inputs,
        count_images(given) if endpoint.gives_text else 0,
    )


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One API. Its functions are pure, take whatever JSON comes, and never raise.

    Args:
        hosts: regular expressions of the hosts that `--mode proxy` looks into, each with the variable that
            holds a key of theirs.
        endpoints: by method and the end of a path, one or two segments, whatever prefix is before it.
        also_recorded: globs over method and path of what else is recorded unless `--path` says otherwise.
        sent_headers: request headers, lower case, that are recorded and go to a replay's target as they are.
        credential_header: where a key goes when the recording does not say.
        request_info: what a request asks for, of its payload (empty: no JSON object) and endpoint; unless
            given by the members that most APIs have.
        matches: whether the payload of an answer, with its event's name, is of this API.
        parser: a new parser for one response.
        messages: the conversation in a payload, oldest first, the system's before all; each has a `role`,
            and a `content` that is a text or parts with a `text`. Empty where it is none.
        turn: what the payloads of an answer (its events, or its one body) add to the conversation when its
            client goes on: members of the list that a payload has it in. Empty where that is nothing.
        spoken_in: the member of a payload that holds the conversation, as a list.
        with_prefix: the payload with a text before all that a prompt begins with, tools and the system's
            words; None where it has no place for it.
        before_turns: the payload with a text before the first words that are not the system's; None without
            any.
        salt_fields: members of a payload by which some servers of this API keep caches apart.
    """

    hosts: Mapping[str, str]
    endpoints: Mapping[tuple[str, str], Endpoint]
    also_recorded: Sequence[tuple[str, str]] = ()
    sent_headers: frozenset[str] = frozenset()
    credential_header: str = CREDENTIAL_HEADERS[0]
    request_info: Callable[[Json, Endpoint], RequestInfo] = request_info
    matches: Callable[[Json, str], bool]
    parser: Callable[[], ResponseParser]
    messages: Callable[[Json], Sequence[Json]]
    turn: Callable[[Sequence[Json]], list[dict[str, Any]]] = lambda _payloads: []
    spoken_in: str = "messages"
    with_prefix: Callable[[Json, str], dict[str, Any] | None]
    before_turns: Callable[[Json, str], dict[str, Any] | None] = lambda _payload, _prefix: None
    salt_fields: frozenset[str] = frozenset()

    def endpoint_of(self, method: str, path: str) -> Endpoint:
        """The endpoint of a request by the longest end of its path that fits; OTHER where none does."""
        segments = path.partition("?")[0].rstrip("/").rsplit("/", 2)
        for count in (2, 1):
            tail = "/" + "/".join(segments[-count:]).lstrip("/")
            if endpoint := self.endpoints.get((method.upper(), tail)):
                return endpoint
        return OTHER


# What JSON may hold where an API expects something: nothing here trusts a type.

_IMAGES: Final = frozenset({"image_url", "input_image", "image"})


def counted(value: object) -> int | None:
    """A count as an int that fits 31 bits, as run files have it; anything else was not a count."""
    if value is None:  # mostly
        return None
    if type(value) is int:
        return value if 0 <= value < 2**31 else None
    if not isinstance(value, float):
        return None
    return int(value) if 0 <= value < 2**31 and value == int(value) else None


def word_of(payload: Json, name: str) -> str:
    """A member that is a text; empty where it is not."""
    value = payload.get(name)
    return value if isinstance(value, str) else ""


def items_of(value: object) -> list[dict[str, Any]]:
    """The objects in a list; none where it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def objects_of(value: object) -> list[dict[str, Any]]:
    """A list of objects and of nothing else; empty where it is no such list."""
    return value if isinstance(value, list) and {*map(type, value)} <= {dict} else []


def bare_text(content: object) -> object:
    """A message's content, which as one part that is only a text says the same as the text."""
    (part, *rest) = items_of(content) or ({},)
    return part["text"] if part.keys() == {"type", "text"} and not rest else content


def count_images(messages: object) -> int:
    """The pictures among the parts of messages, and among what tools gave back in them."""
    parts = [
        part
        for message in (messages if isinstance(messages, list) else ())
        if isinstance(message, dict) and type(content := message.get("content")) is list
        for part in items_of(content)
    ]
    if not parts:  # mostly
        return 0
    inner = [item for part in parts for item in items_of(part.get("content"))]
    return sum(word_of(part, "type") in _IMAGES for part in [*parts, *inner])


SYSTEM_ROLES: Final = ("system", "developer")
"""Whose messages are the application's own, the same in all of its conversations."""


def prefixed_messages(
    listed: object,
    prefix: str,
    part: str = "text",
    closed: Collection[object] = (),
    without: Collection[object] = (),
) -> list[Any] | None:
    """The messages with a text before the first that can carry it, mostly the system's; None where none can.

    Before parts it stands as a part of its own, of the type `part`; parts of the roles in `closed` take none,
    and no message of those in `without`.
    """
    if not isinstance(listed, list):
        return None
    for place, message in enumerate(listed):
        content = message.get("content") if isinstance(message, dict) else None
        if content is None or message.get("role") in without:
            continue
        if isinstance(content, str):
            content = prefix + content
        elif isinstance(content, list) and message.get("role") not in closed:
            content = [{"type": part, "text": prefix}, *content]
        else:
            continue
        return [*listed[:place], {**message, "content": content}, *listed[place + 1 :]]
    return None


def prefixed_tools(payload: Json, prefix: str) -> dict[str, Any]:
    """The members of a payload that list tools, with a text before what the first of these does.

    Most templates write the tools first, so that they are read from a cache whatever the system's words are.
    A server's own tools (a search, a shell) have no description to put it before.
    """
    changed: dict[str, Any] = {}
    for name in ("tools", "functions"):
        listed = payload.get(name)
        if not isinstance(listed, list):
            continue
        for place, tool in enumerate(listed):
            if not isinstance(tool, dict):
                continue
            nested = items_of([tool.get("function")])
            if not nested and _SCHEMAS.isdisjoint(tool):
                continue
            (described,) = nested or [tool]
            described = {**described, "description": prefix + word_of(described, "description")}
            first = {**tool, "function": described} if nested else described
            changed[name] = [*listed[:place], first, *listed[place + 1 :]]
            break
    return changed


_SCHEMAS: Final = frozenset({"description", "parameters", "input_schema"})
"""Of these an application's own tool has one, where it is no `function` in another map."""


# What a server complains about: one line out of any error body, short and without secrets.

LONGEST = 200

_MARKUP = re.compile(
    r"<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[^>]{0,2000}>", re.DOTALL | re.IGNORECASE
)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.DOTALL | re.IGNORECASE)
_HIDDEN = (
    (re.compile(r"\b(bearer|basic)\s+[^\s\"',;]+", re.IGNORECASE), r"\1 ***"),
    (
        re.compile(
            r"(\b(?:(?:api|secret|access|auth)[ _-]?(?:key|token)|secret|password)"
            r"(?: provided)?[\"']?\s*[:=]\s*)[\"']?[^\s\"',;]+",
            re.IGNORECASE,
        ),
        r"\1***",
    ),
    (re.compile(r"://[^/\s@]+@"), "://***@"),
    (re.compile(r"\b(?:sk|pk|rk|gsk|tgp|fw|hf|r8|xai|key|AIza|eyJ)[-_A-Za-z0-9.*]{10,}"), "***"),
)
_TOKEN = re.compile(r"[A-Za-z0-9_\-+/=]{20,}")
_WORD = re.compile(r"[a-z]{7}")
_RUN = re.compile(r"[A-Za-z0-9]{20,}")


def error_text(payload: object) -> str | None:
    """The message in an error body, or None where it holds no error.

    Args:
        payload: decoded JSON: `{"error": {"message"}}`, `{"error": "text"}`, `{"message"}`,
            `{"detail"}`, `{"errors": [...]}`; or a string.
    """
    return one_line(text) if (text := _message(payload)) else None


def one_line(text: str) -> str:
    """A text for people: markup dropped, white space joined, secrets masked, at most 200 characters."""
    if title := _TITLE.search(text):
        text = title[1]
    text = " ".join(_MARKUP.sub(" ", text[:20_000]).split())
    text = masked(text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def masked(text: str) -> str:
    """The text with everything that looks like a credential replaced by `***`."""
    for pattern, mask in _HIDDEN:
        text = pattern.sub(mask, text)
    return _TOKEN.sub(lambda match: "***" if _random(match[0]) else match[0], text)


def _random(token: str) -> bool:
    """Whether a long token looks drawn rather than named: model names hold words, keys do not."""
    if not any(char.isdigit() for char in token):
        return False
    if any(any(c.isdigit() for c in run) for run in _RUN.findall(token)):
        return True
    return len(token) >= 32 and not _WORD.search(token)


def _message(payload: object) -> str | None:
    if isinstance(payload, str):
        return payload
    if isinstance(payload, list):
        return next((text for item in payload if (text := _message(item))), None)
    if not isinstance(payload, dict):
        return None
    keys = ("error", "message", "detail", "errors", "msg", "error_type", "type", "code")
    return next((text for key in keys if (text := _message(payload.get(key)))), None)
