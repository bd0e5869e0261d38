"""The salt: a word before a request's first word, so that no cache of an earlier run holds its prefix.

One salt serves a whole run: what the requests of a run share among themselves they still share. Without
it the second of two replays finds the prompts of the first in the server's prefix cache.
"""

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

from tbench.capture.providers import GENERATIVE

SALTED: Final = GENERATIVE
"""The endpoints whose servers keep prefixes. Embeddings and rerank have no prefix to reuse."""
DIGITS: Final = 8


def new_salt() -> str:
    """A salt that no run had; all are equally long, so that they cost about the same number of tokens."""
    return "".join(secrets.choice("0123456789") for _ in range(DIGITS))


def salted(payload: Mapping[str, Any], salt: str) -> dict[str, Any] | None:
    """The body with the salt before its first text; None where it has no text to put it before."""
    for name, place in _PLACES.items():
        found = place(payload.get(name), f"{salt}\n")
        if found is not None:
            return {**payload, name: found}
    return None


def _messages(messages: object, salt: str) -> list[Any] | None:
    """The first message that can carry it, which is mostly the system's."""
    if not isinstance(messages, list):
        return None
    for place, message in enumerate(messages):
        if isinstance(message, dict):
            content = _content(message.get("content"), salt)
            if content is not None:
                changed = {**message, "content": content}
                return [*messages[:place], changed, *messages[place + 1 :]]
    return None


def _content(content: object, salt: str) -> str | list[Any] | None:
    if isinstance(content, str):
        return salt + content
    if isinstance(content, list):
        return [{"type": "text", "text": salt}, *content]
    return None


def _prompt(prompt: object, salt: str) -> str | list[str] | None:
    """A text or a list of texts; a prompt of token ids cannot be salted without its tokenizer."""
    if isinstance(prompt, str):
        return salt + prompt
    if isinstance(prompt, list) and prompt and all(isinstance(one, str) for one in prompt):
        return [salt + one for one in prompt]
    return None


_PLACES: Final[Mapping[str, Callable[[object, str], Any]]] = {
    "messages": _messages,
    "prompt": _prompt,
}
