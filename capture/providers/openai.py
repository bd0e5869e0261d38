"""The shapes that OpenAI's API gave to the field: chat, completions, embeddings, rerank and their streams.

It bears the differences between servers that speak them: where usage sits, repeated finish chunks, reasoning
under two names, tools, errors inside a stream. tests/test_providers.py has an example of each.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tbench.capture.providers.provider import (
    SYSTEM_ROLES,
    UNCOUNTED,
    Endpoint,
    Json,
    ParsedResponse,
    ParserBase,
    Provider,
    Usage,
    counted,
    items_of,
    objects_of,
    prefixed_messages,
    prefixed_tools,
    word_of,
)

_USAGE: Final[dict[str, tuple[tuple[str | None, str], ...]]] = {
    "prompt": ((None, "prompt_tokens"), (None, "input_tokens")),
    "output": ((None, "completion_tokens"), (None, "output_tokens")),
    "cached": (
        (None, "cached_tokens"),
        ("prompt_tokens_details", "cached_tokens"),
        ("input_tokens_details", "cached_tokens"),
        (None, "prompt_cache_hit_tokens"),
    ),
    "created": (("input_tokens_details", "cache_write_tokens"),),
    "reasoning": (
        ("completion_tokens_details", "reasoning_tokens"),
        ("output_tokens_details", "reasoning_tokens"),
        (None, "reasoning_tokens"),
    ),
}
"""A count -> where it may be: the map within `usage` (None: itself), and the name there."""
_SHORT: Final = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
"""A usage of nothing else is read at once."""
_ANSWER = ("refusal", "function_call", "audio")
_THOUGHT = ("reasoning", "reasoning_content", "thinking")
"""Where a delta holds reasoning as text."""
_THOUGHTS = ("reasoning_details", "thinking_blocks", "content")
"""Where it may hold reasoning as a list of parts, some of them without text (encrypted, redacted)."""
_GIVEN_UP = frozenset({"abort", "error", "network_error", "insufficient_system_resource"})
"""Finish reasons of a server that gave up (vLLM, OpenRouter, Zhipu, DeepSeek): none is whole with one."""


def usage_of(payload: Json) -> Usage | None:
    """The usage of a response or a chunk, None where it has none. Groq's `x_groq.usage` counts once."""
    usage = payload.get("usage")
    if not isinstance(usage, dict):
        other = payload.get("x_groq")
        usage = other.get("usage") if isinstance(other, dict) else None
    if not isinstance(usage, dict):
        return None
    if usage.keys() <= _SHORT:
        get = usage.get
        return Usage(prompt=counted(get("prompt_tokens")), output=counted(get("completion_tokens")))
    return Usage(**{name: _first_of(usage, places) for name, places in _USAGE.items()})


class Parser(ParserBase):
    """The ResponseParser of these shapes."""

    def __init__(self) -> None:
        super().__init__()
        self._tools: set[tuple[int, int]] = set()

    def event(self, at: float, payload: Json, name: str) -> None:
        """One event of a stream.

        Most add text to the first choice and say nothing else, and one says no more than how it ended:
        these are told by a few look-ups. Whatever else a delta holds does not matter once there is text,
        but tool calls.
        """
        get = payload.get
        if (
            get("usage")
            or name == "error"
            or get("error")
            or get("object") == "error"
            or "x_groq" in payload
        ):
            self._any_event(at, payload, name)
            return
        try:
            (choice,) = payload["choices"]
            delta = choice["delta"] if choice["index"] == 0 else None
        except (KeyError, TypeError, ValueError):
            delta = None
        if type(delta) is not dict or delta.get("tool_calls"):
            self._any_event(at, payload, name)
            return
        text, reason = delta.get("content"), choice.get("finish_reason")
        if text and type(text) is str and not reason:
            if 0 not in self._finish:
                self._finish[0] = None
            self._text.append(text)
            self._times.append(at)
            if self._first_answer is None:
                self._first_answer = at
        elif not delta and reason and type(reason) is str and not choice.get("text"):
            self._finish[0] = reason
        else:
            self._any_event(at, payload, name)

    def _any_event(self, at: float, payload: Json, name: str) -> None:
        if name == "error":
            self._failed(payload)
        self._check(payload)
        self._count(payload)
        spoke = answered = False
        for choice in items_of(payload.get("choices")):
            index, delta = self._choice(choice, "delta")
            spoken = self._said(index, choice, delta)
            answered = answered or spoken
            spoke = spoke or spoken or _thinks(delta)
        if spoke:
            self._spoke(at, answers=answered)

    def body(self, payload: Json) -> None:
        """The one JSON body of an answer that was not streamed."""
        self._check(payload)
        self._count(payload)
        for choice in items_of(payload.get("choices")):
            index, message = self._choice(choice, "message")
            self._said(index, choice, message)

    def parsed(self, *, events: int, ended: bool, streamed: bool) -> ParsedResponse:
        """All that was read. It is whole with a finish of every choice, too, or with `[DONE]` and a count."""
        self._calls = len(self._tools)
        answer = super().parsed(events=events, ended=ended, streamed=streamed)
        finishes = answer.finish_reasons
        answer.done = (
            answer.done
            or (ended and self._usage != UNCOUNTED)
            or (bool(finishes) and len(finishes) == len(self._finish))
        )
        answer.foreign = streamed and events > 0 and not self._finish
        if answer.error is None and not _GIVEN_UP.isdisjoint(finishes):
            answer.error = f"the server gave up: finish_reason {', '.join(finishes)}"
        return answer

    def _check(self, payload: Json) -> None:
        if payload.get("error") or payload.get("object") == "error":
            self._failed(payload)

    def _count(self, payload: Json) -> None:
        """The larger counts: they repeat or grow and never add up; some servers end with zeros."""
        new = usage_of(payload)
        if new is None:
            return
        old = self._usage
        if old is UNCOUNTED:
            self._usage = new
            return
        self._usage = Usage(
            prompt=_larger(old.prompt, new.prompt),
            output=_larger(old.output, new.output),
            cached=_larger(old.cached, new.cached),
            reasoning=_larger(old.reasoning, new.reasoning),
            created=_larger(old.created, new.created),
        )

    def _choice(self, choice: Json, key: str) -> tuple[int, Json]:
        """A choice's index and its delta or message; notes its finish reason."""
        index = choice.get("index")
        index = index if isinstance(index, int) else 0
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self._finish[index] = reason
        else:
            # A choice that has spoken and has no end yet: only with the ends of all is an answer whole.
            self._finish.setdefault(index, None)
        message = choice.get(key)
        return index, message if isinstance(message, dict) else {}

    def _said(self, index: int, choice: Json, delta: Json) -> bool:
        """Whether a delta or message holds any answer (text, tool call); keeps its text and tools."""
        text = _written(delta.get("content"))
        if text is None and not _thinks(delta):
            text = choice.get("text")  # completions; Together repeats a chat's content here
        if index == 0 and isinstance(text, str):
            self._text.append(text)
        calls = delta.get("tool_calls")
        for place, call in enumerate(calls if isinstance(calls, list) else ()):
            number = call.get("index") if isinstance(call, dict) else None
            self._tools.add((index, number if isinstance(number, int) else place))
        return bool(text or calls or (delta and any(delta.get(key) for key in _ANSWER)))


def _larger(old: int | None, new: int | None) -> int | None:
    return old if new is None or (old is not None and old > new) else new


def _written(content: object) -> object:
    """A content without its thinking: of one in parts, as Mistral streams it, the texts together."""
    if not isinstance(content, list):
        return content
    return "".join(word_of(part, "text") for part in items_of(content))


def _thinks(delta: Json) -> bool:
    """Whether a delta holds reasoning, as a text or as parts with one."""
    if any(delta.get(name) for name in _THOUGHT):
        return True
    lists = (parts for name in _THOUGHTS if isinstance(parts := delta.get(name), list))
    return any(
        isinstance(part, dict) and any(part.get(name) for name in ("text", "summary", "thinking"))
        for parts in lists
        for part in parts
    )


def _first_of(usage: Json, places: tuple[tuple[str | None, str], ...]) -> int | None:
    for within, name in places:
        counts = usage if within is None else usage.get(within)
        value = counts.get(name) if isinstance(counts, dict) else None
        if value is not None and (count := counted(value)) is not None:
            return count
    return None


def messages(payload: Json) -> list[dict[str, Any]]:
    """The messages of a chat; none where they are not a list of objects."""
    return objects_of(payload.get("messages"))


def turn(payloads: Sequence[Json]) -> list[dict[str, Any]]:
    """The assistant's message: the text and the calls of the first choice, put together from its deltas."""
    texts: list[str] = []
    calls: dict[int, dict[str, Any]] = {}
    for payload in payloads:
        for choice in items_of(payload.get("choices"))[:1]:
            delta = choice.get("delta") or choice.get("message")
            if choice.get("index") or not isinstance(delta, dict):
                continue
            written = _written(delta.get("content"))
            texts.append(written if isinstance(written, str) else "")
            for place, part in enumerate(items_of(delta.get("tool_calls"))):
                number, function = part.get("index"), part.get("function")
                call = calls.setdefault(
                    number if isinstance(number, int) else place,
                    {"id": "", "type": "function", "function": {"name": "", "arguments": ""}},
                )
                call["id"] = call["id"] or word_of(part, "id")
                if isinstance(function, dict):
                    for name in ("name", "arguments"):
                        call["function"][name] += word_of(function, name)
    text = "".join(texts)
    if not text and not calls:
        return []
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    return [message | ({"tool_calls": [calls[place] for place in sorted(calls)]} if calls else {})]


def with_prefix(payload: Json, prefix: str) -> dict[str, Any] | None:
    """The body with a text before its first and its tools; None where it has no text to put it before."""
    for name, prefixed in _PREFIXED.items():
        changed = prefixed(payload.get(name), prefix)
        if changed is not None:
            return {**payload, name: changed, **prefixed_tools(payload, prefix)}
    return None


def before_turns(payload: Json, prefix: str) -> dict[str, Any] | None:
    """The body with a text before its first that is not the system's; None where there is no such message."""
    turns = prefixed_messages(payload.get("messages"), prefix, without=SYSTEM_ROLES)
    return None if turns is None else {**payload, "messages": turns}


def _prefixed_prompt(prompt: object, prefix: str) -> str | list[str] | None:
    """A text or a list of texts; a prompt of token ids would need its tokenizer."""
    if isinstance(prompt, str):
        return prefix + prompt
    if isinstance(prompt, list) and prompt and all(isinstance(text, str) for text in prompt):
        return [prefix + text for text in prompt]
    return None


_PREFIXED: Final[Mapping[str, Callable[[object, str], Any]]] = {
    "messages": prefixed_messages,
    "prompt": _prefixed_prompt,
}

_TEXT = {"replayable": True, "takes_text": True, "gives_text": True}
OPENAI: Final = Provider(
    hosts={
        r"api(-inference)?\.together\.(xyz|ai)": "TOGETHER_API_KEY",
        r"api\.openai\.com": "OPENAI_API_KEY",
        r".*\.openai\.azure\.com": "AZURE_OPENAI_API_KEY",
        r"api\.groq\.com": "GROQ_API_KEY",
        r"api\.mistral\.ai": "MISTRAL_API_KEY",
        r"api\.fireworks\.ai": "FIREWORKS_API_KEY",
        r"api\.deepinfra\.com": "DEEPINFRA_API_KEY",
        r"openrouter\.ai": "OPENROUTER_API_KEY",
    },
    # Also behind other prefixes than /v1: `/v1/v1` (Together's SDK of version 3 with a base that ends in
    # /v1), `/api/v1`, `/openai/deployments/NAME`. Pictures and audio are repeatable but dear and no text.
    endpoints={
        ("POST", "/chat/completions"): Endpoint(
            "chat", **_TEXT, inputs="messages", limits=("max_completion_tokens", "max_tokens")
        ),
        ("POST", "/completions"): Endpoint(
            "completions", **_TEXT, inputs="prompt", limits=("max_tokens",)
        ),
        ("POST", "/embeddings"): Endpoint(
            "embeddings", replayable=True, takes_text=True, inputs="input"
        ),
        ("POST", "/rerank"): Endpoint(
            "rerank", replayable=True, takes_text=True, inputs="documents"
        ),
        ("POST", "/images/generations"): Endpoint("images"),
        ("POST", "/audio/speech"): Endpoint("audio"),
        ("POST", "/audio/transcriptions"): Endpoint("audio"),
        ("POST", "/audio/translations"): Endpoint("audio"),
        ("GET", "/models"): Endpoint("models"),
        # A websocket, of which the trace holds the upgrade only: recognised, so that it can be said.
        ("GET", "/realtime"): Endpoint("realtime"),
    },
    also_recorded=(
        ("POST", "*/audio/*"),
        ("POST", "*/moderations"),
        ("POST", "/inference"),
        ("GET", "*/models/*"),
        ("GET", "*/audio/speech/websocket"),
    ),
    sent_headers=frozenset({"openai-beta", "x-together-debug"}),
    matches=lambda _payload, _event: True,  # the last row: the shapes that nobody else claims
    parser=Parser,
    messages=messages,
    turn=turn,
    spoken_in="messages",
    with_prefix=with_prefix,
    before_turns=before_turns,
    salt_fields=frozenset({"cache_salt"}),
)
