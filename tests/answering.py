"""A server whose answers are a function of the request; it keeps what it was sent."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Given:
    """One answer: its pieces are written one by one, with seconds of `pause` between them."""

    pieces: Sequence[bytes]
    status: int = 200
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)
    pause: float = 0.0


class _Listening(ThreadingHTTPServer):
    daemon_threads = True
    # With the 5 of socketserver a burst of connections overflows: some hang for seconds, some are reset.
    request_queue_size = 1024


class Answering:
    """`url` is its address, `received` all requests in the order of their arrival."""

    def __init__(self, answer: Callable[[Received], Given]) -> None:
        self.received: list[Received] = []
        self._answer = answer
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                outer._serve(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Listening(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        size = int(handler.headers.get("content-length") or 0)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        received = Received(handler.path, headers, handler.rfile.read(size))
        self.received.append(received)
        given = self._answer(received)
        handler.send_response(given.status)
        for name, value in given.headers:
            handler.send_header(name, value)
        handler.send_header("content-length", str(sum(map(len, given.pieces))))
        handler.end_headers()
        for place, piece in enumerate(given.pieces):
            time.sleep(given.pause if place else 0)
            handler.wfile.write(piece)
            handler.wfile.flush()


@contextmanager
def answering(answer: Callable[[Received], Given]) -> Iterator[Answering]:
    """A server while the block runs."""
    server = Answering(answer)
    thread = threading.Thread(target=server._server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server._server.shutdown()
        server._server.server_close()
        thread.join()


def chat(prompt_tokens: int = 3, text: str = "hi", tokens: int = 2) -> Given:
    """An answer in one body."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens}
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return Given([json.dumps({"choices": [choice], "usage": usage}).encode()])


def stream(prompt_tokens: int = 3, tokens: int = 4) -> list[bytes]:
    """The events of a streamed answer: a token each, the usage, the end."""
    events: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": f"t{n} "}, "finish_reason": None}]}
        for n in range(tokens)
    ]
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens}
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage})
    return [*(b"data: %s\n\n" % json.dumps(one).encode() for one in events), b"data: [DONE]\n\n"]


@contextmanager
def stalling(stalled: Callable[[], object]) -> Iterator[Answering]:
    """A server that leaves all requests without an answer while `stalled` shows something, for good.

    What is interrupted then is interrupted in the middle, however late the signal comes.
    """
    over = threading.Event()

    def answer(received: Received) -> Given:
        over.wait(None if stalled() else 0.05)  # at once, a busy client would be the limit
        size = len(received.body) // 4
        return (
            Given(stream(size), headers=EVENTS, pause=0.01)
            if received.json.get("stream")
            else chat(size)
        )

    with answering(answer) as server:
        try:
            yield server
        finally:
            over.set()


EVENTS = (("content-type", "text/event-stream"),)
