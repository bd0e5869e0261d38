"""Dialects of requests for text: the same conversation as each API has it (`replay --to`)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, NamedTuple

from tbench.capture.exchange import Headers
from tbench.replay.dialects import chat, messages, responses
from tbench.replay.dialects.conversation import ANY_TOOL, NO_TOOL, Conversation, Json, Mute

__all__ = ["CHANGES", "DIALECTS", "Dialect", "Mute", "translated"]


class Dialect(NamedTuple):
    """One API: where it is asked, the headers that it needs, and how its bodies are read and written.

    Both note what they cannot take over in a set of names, and raise Mute for what would be lost with its
    meaning.
    """

    path: str
    headers: Headers
    read: Callable[[Json, set[str]], Conversation]
    write: Callable[[Conversation, set[str]], dict[str, Any]]


DIALECTS: Final[dict[str, Dialect]] = {
    "chat": Dialect("/v1/chat/completions", (), chat.read, chat.write),
    "messages": Dialect(
        "/v1/messages", (("anthropic-version", "2023-06-01"),), messages.read, messages.write
    ),
    "responses": Dialect("/v1/responses", (), responses.read, responses.write),
}
"""By the name of the endpoint."""


CHANGES: Final[dict[str, str]] = {
    "max_tokens": f"Messages needs a limit: {messages.LIMIT:,} where there is none",
    "temperature": f"Messages takes {messages.HOTTEST:g} at most",
    "max_output_tokens": f"Responses takes a limit of {responses.LEAST} at least",
    "call_id": "Messages takes letters, digits, _ and - in one, Responses 64 characters",
    "system_turn": "a later word of the system's is the user's in Messages",
    "order": "chat has an assistant's text before its calls",
    "empty_message": "Messages has none",
    "json_schema.name": "the schema of an answer has no name in Messages",
    "json_schema.strict": "Messages holds every answer to its schema",
}
"""What a translation may name that it did not drop but change -> how."""


def translated(body: Json, source: str, to: str) -> tuple[dict[str, Any], list[str]]:
    """A body in another dialect, and the names of what had no place there. Raises Mute."""
    lost: set[str] = set()
    try:
        conversation = DIALECTS[source].read(body, lost)
        named = {tool.name for tool in conversation.tools}
        known = {None, ANY_TOOL, NO_TOOL, *named} if named else {None}
        if conversation.choice not in known:  # of a tool that is not taken along, or of none
            lost.add("tool_choice")
            conversation = replace(conversation, choice=None)
        if conversation.serial and not named:
            lost.add("parallel_tool_calls")
            conversation = replace(conversation, serial=False)
        written = DIALECTS[to].write(conversation, lost)
    except RecursionError:  # results in results, 300 deep
        raise Mute("nesting") from None
    return written, sorted(lost)
