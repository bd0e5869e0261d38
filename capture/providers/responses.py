"""OpenAI's Responses API, which Together, llama.cpp, vLLM and many gateways speak as well.

Shapes: the API's public description and the types of the `openai` SDK. A stream is over with
`response.completed`, `.incomplete` or `.failed`, or with an `error` event. Only the last
event has counts, whose `input_tokens` include what a cache gave.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final

from tbench.capture.providers.openai import usage_of
from tbench.capture.providers.provider import (
    SYSTEM_ROLES,
    Endpoint,
    Json,
    ParserBase,
    Provider,
    bare_text,
    error_text,
    items_of,
    objects_of,
    prefixed_messages,
    prefixed_tools,
    word_of,
)

_LAST: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
_TEXT: Final = "response.output_text"
_THOUGHT: Final = "response.reasoning"
"""How the events of reasoning begin: its text, and its summary."""
_SPOKEN_BY_TOOLS: Final = "response.shell_call_output"
"""How the events begin whose deltas a tool wrote and no model."""


class Parser(ParserBase):
    """The ResponseParser of Responses."""

    def event(self, at: float, payload: Json, name: str) -> None:
        """One event of a stream.

        Its many kinds of deltas are all text that the model wrote, but for what a tool printed; a call's
        start brings the tool's name. One of a type that is not known says nothing.
        """
        kind = word_of(payload, "type") or name
        if kind.endswith(".delta"):
            delta = payload.get("delta")
            if delta and not kind.startswith(_SPOKEN_BY_TOOLS):
                self._spoke(at, answers=not kind.startswith(_THOUGHT))
                if kind.startswith(_TEXT) and isinstance(delta, str):
                    self._text.append(delta)
        elif kind == "response.output_item.added":
            item = payload.get("item")
            if isinstance(item, dict) and _is_call(item):
                self._calls += 1
                self._spoke(at, answers=True)
        elif kind in _LAST:
            self._over = True
            response = payload.get("response")
            self._take(response if isinstance(response, dict) else {}, failed="failed" in kind)
        elif kind == "error" or (payload.get("error") and not kind.startswith("response.")):
            self._over = True
            self._failed(payload)

    def body(self, payload: Json) -> None:
        """The one JSON body of an answer that was not streamed."""
        self._take(payload, failed=payload.get("status") == "failed")
        self._calls = sum(map(_is_call, items_of(payload.get("output"))))
        parts = _parts(payload)
        self._text = [word_of(part, "text") for part in parts if part.get("type") == "output_text"]
        if payload.get("type") == "error":
            self._failed(payload)

    def _take(self, response: Json, *, failed: bool) -> None:
        """What a whole response says of itself: counts, and how it ended."""
        self._usage = usage_of(response) or self._usage
        details = response.get("incomplete_details")
        reason = word_of(details, "reason") if isinstance(details, dict) else ""
        if any(part.get("type") == "refusal" for part in _parts(response)):
            reason = reason or "refusal"
        self._finish[0] = reason or word_of(response, "status") or None
        if failed or response.get("error"):
            complaint = error_text({"error": response.get("error")})
            self._error = complaint or "the response failed without a message"


def _parts(response: Json) -> list[dict[str, Any]]:
    """What the messages of a response hold."""
    output = items_of(response.get("output"))
    return [part for item in output for part in items_of(item.get("content"))]


def _is_call(item: Json) -> bool:
    """Whether an item of the output is a call of a tool, the application's or the server's."""
    return word_of(item, "type").endswith("_call")


def messages(payload: Json) -> Sequence[Json]:
    """The conversation: the instructions first, and all that the assistant does in a turn as one message."""
    given = payload.get("input")
    turns: list[dict[str, Any]] = []
    if instructions := payload.get("instructions"):
        turns.append({"role": "system", "content": instructions})
    if isinstance(given, str):
        return [*turns, {"role": "user", "content": given}]
    if not (items := objects_of(given)):
        return []
    for item in items:
        role, content = item.get("role"), item.get("content")
        if role is None:  # reasoning, a call, or what came of one
            role = "assistant" if _is_call(item) or item.get("type") == "reasoning" else "tool"
            content = [item]
        if role != "assistant":
            turns.append({"role": role, "content": bare_text(content)})
            continue
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += parts
        else:
            turns.append({"role": role, "content": [*parts]})
    return turns


def turn(payloads: Sequence[Json]) -> list[dict[str, Any]]:
    """The items of the output: those of the last event, which has all of them, else each as it was done."""
    done: list[dict[str, Any]] = []
    for payload in payloads:
        response = payload.get("response")
        if output := items_of((response if isinstance(response, dict) else payload).get("output")):
            return output
        if payload.get("type") == "response.output_item.done":
            done += items_of([payload.get("item")])
    return done


def with_prefix(payload: Json, prefix: str) -> dict[str, Any] | None:
    """The body with a text before its tools, and its instructions or first input; None without either."""
    tools = prefixed_tools(payload, prefix)
    if text := word_of(payload, "instructions"):
        return {**payload, "instructions": prefix + text, **tools}
    given = _prefixed_input(payload, prefix)
    return None if given is None else {**payload, "input": given, **tools}


def before_turns(payload: Json, prefix: str) -> dict[str, Any] | None:
    """The body with a text before its first input that is not the system's; None where there is none."""
    given = _prefixed_input(payload, prefix, SYSTEM_ROLES)
    return None if given is None else {**payload, "input": given}


def _prefixed_input(
    payload: Json, prefix: str, without: Collection[object] = ()
) -> str | list[Any] | None:
    if text := word_of(payload, "input"):
        return prefix + text
    closed = (None, "assistant")
    return prefixed_messages(payload.get("input"), prefix, "input_text", closed, without)


def _matches(payload: Json, event: str) -> bool:
    kind = word_of(payload, "type") or event
    if kind == "error":
        return "message" in payload
    return kind.startswith("response.") or payload.get("object") == "response"


RESPONSES: Final = Provider(
    hosts={},  # those of the `openai` row
    endpoints={
        ("POST", "/responses"): Endpoint(
            "responses",
            replayable=True,
            takes_text=True,
            gives_text=True,
            inputs="input",
            limits=("max_output_tokens",),
        ),
        # A websocket, whose turns the trace does not hold: recognised, so that it can be said.
        ("GET", "/responses"): Endpoint("responses_websocket"),
    },
    sent_headers=frozenset({"openai-beta"}),
    matches=_matches,
    parser=Parser,
    messages=messages,
    turn=turn,
    spoken_in="input",
    with_prefix=with_prefix,
    before_turns=before_turns,
    salt_fields=frozenset({"cache_salt"}),
)
