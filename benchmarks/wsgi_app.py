"""A streaming chat server for any WSGI server: the first token after FIRST_S, the others GAP_S apart."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

FIRST_S, GAP_S, TOKENS = 0.03, 0.005, 8


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    """Answers every POST by a stream, however it asks; any other request by a word."""
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    if environ["REQUEST_METHOD"] != "POST":
        start_response("200 OK", [("content-type", "text/plain")])
        return iter([b"well\n"])
    start_response("200 OK", [("content-type", "text/event-stream")])
    return _events()


def _events() -> Iterator[bytes]:
    for number in range(TOKENS):
        time.sleep(GAP_S if number else FIRST_S)
        yield _event({"delta": {"content": f"t{number} "}, "finish_reason": None})
    usage = {"prompt_tokens": 1, "completion_tokens": TOKENS}
    yield _event({"delta": {}, "finish_reason": "stop"}, usage)
    yield b"data: [DONE]\n\n"


def _event(choice: dict[str, Any], usage: dict[str, int] | None = None) -> bytes:
    payload = {"choices": [{"index": 0, **choice}], "usage": usage}
    return b"data: %s\n\n" % json.dumps(payload).encode()
