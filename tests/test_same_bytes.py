"""The same bytes have the same outcome in a capture, a report of its trace, and a replay by either sender."""

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE_S, run_tbench
from tests.test_capture_end_to_end import Capturing

SSE, JSON = b"text/event-stream", b"application/json"
OPENING = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
WHOLE = b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}'
EMBEDDINGS = b'{"object":"list","data":[{"embedding":[0.5],"index":0}]}'


def stopped(reason: bytes) -> bytes:
    return STOP.replace(b"stop", reason)


CASES: dict[str, tuple[int, bytes, bytes, str]] = {
    "stream": (200, SSE, TOKEN + STOP + DONE, "ok"),
    "stream without done": (200, SSE, TOKEN + STOP, "ok"),
    "no content but a finish": (200, SSE, OPENING + STOP + DONE, "ok"),
    "no content but a count": (200, SSE, b'data: {"usage":{"prompt_tokens":1}}\n\n' + DONE, "ok"),
    "json": (200, JSON, WHOLE, "ok"),
    "json of no type": (200, b"", WHOLE, "ok"),
    "json that speaks of an error": (200, JSON, WHOLE.replace(b"x", b'\\"error\\"'), "ok"),
    "embeddings": (200, JSON, EMBEDDINGS, "ok"),
    "empty body": (200, JSON, b"", "protocol_error"),
    "empty body of no type": (200, b"", b"", "protocol_error"),
    "white space": (200, JSON, b" \n", "protocol_error"),
    "no content": (204, b"", b"", "protocol_error"),
    "empty stream": (200, SSE, b"", "cut"),
    "comments only": (200, SSE, b": ping\n\n: ping\n\n", "cut"),
    "done only": (200, SSE, DONE, "cut"),
    "opening and done": (200, SSE, OPENING + DONE, "cut"),
    "no end": (200, SSE, TOKEN + TOKEN, "cut"),
    "half an event": (200, SSE, TOKEN + TOKEN[:30], "cut"),
    "page": (200, b"text/html", b"<!DOCTYPE html><title>Log in</title>", "protocol_error"),
    "page as json": (200, JSON, b"<html>nope</html>", "protocol_error"),
    "page as stream": (200, SSE, b"<html>nope</html>", "protocol_error"),
    "text": (200, b"text/plain", b"ready", "protocol_error"),
    "lines": (200, b"application/x-ndjson", WHOLE + b"\n" + WHOLE + b"\n", "protocol_error"),
    "bad utf-8": (200, JSON, WHOLE.replace(b"x", b"\xff\xfe"), "protocol_error"),
    "bad utf-8 in a stream": (200, SSE, TOKEN.replace(b"hi", b"\xff") + STOP, "protocol_error"),
    "json that is none": (200, JSON, b"{'choices': []}", "protocol_error"),
    "half of json": (200, JSON, WHOLE[:-9], "protocol_error"),
    "comment as data": (200, SSE, b"data: : ping\n\n" + TOKEN + STOP + DONE, "protocol_error"),
    "error event": (
        200,
        SSE,
        TOKEN + b'data: {"error":{"message":"no"}}\n\n' + DONE,
        "stream_error",
    ),
    "named error event": (200, SSE, TOKEN + b"event: error\ndata: no\n\n", "stream_error"),
    "error in json": (200, JSON, b'{"error":{"message":"no"}}', "stream_error"),
    "abort": (200, SSE, TOKEN + stopped(b"abort") + DONE, "stream_error"),
    "finish error": (200, SSE, TOKEN + stopped(b"error") + DONE, "stream_error"),
    "abort in json": (200, JSON, WHOLE.replace(b"stop", b"abort"), "stream_error"),
    "refused": (429, JSON, b'{"error":{"message":"slow down"}}', "http_error"),
    "refused without a word": (500, b"", b"", "http_error"),
    "redirect": (307, b"", b"", "http_error"),
    "not modified": (304, b"", b"", "http_error"),
}


class Odd(socketserver.StreamRequestHandler):
    """Answers with the bytes of the case that the request names as its model, and closes."""

    def handle(self) -> None:
        size, line = 0, b"?"
        while line.strip():
            line = self.rfile.readline()
            name, _, value = line.partition(b":")
            size = int(value) if name.lower() == b"content-length" else size
        if size:
            status, kind, body, _ = CASES[json.loads(self.rfile.read(size))["model"]]
            typed = b"content-type: " + kind + b"\r\n" if kind else b""
            length = b"" if status in (204, 304) else b"content-length: %d\r\n" % len(body)
            self.wfile.write(b"HTTP/1.1 %d X\r\nconnection: close\r\n" % status)
            self.wfile.write(typed + length + b"\r\n" + body)


class Pool(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64


@pytest.fixture(scope="module")
def odd() -> Iterator[str]:
    with Pool(("127.0.0.1", 0), Odd) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def ask(address: str, case: str, path: bytes = b"") -> None:
    """One request over a socket of its own, read to the end of the connection."""
    host, _, port = address.removeprefix("http://").partition(":")
    path = path or (b"/v1/embeddings" if case == "embeddings" else b"/v1/chat/completions")
    stream = CASES[case][1] == SSE
    body = json.dumps({"model": case, "stream": stream, "messages": []}).encode()
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as conn:
        conn.sendall(b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" % path)
        conn.sendall(b"content-length: %d\r\n\r\n%s" % (len(body), body))
        while conn.recv(65536):
            pass


@pytest.fixture(scope="module")
def outcomes(odd: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Verb -> case -> outcome: every case captured once, listed, reported, and replayed by both senders."""
    folder = tmp_path_factory.mktemp("same")
    trace = folder / "t.msgpack"
    capture = Capturing(trace, "--upstream", odd)
    for case in CASES:
        ask(capture.url, case)
    assert capture.stop()[0] == 0
    cases = {
        one.request.id: json.loads(one.request.body or b"")["model"] for one in capture.exchanges()
    }
    listed = printed("trace", "head", trace, "-n", len(CASES), "--json")["exchanges"]
    found = {"trace head": {cases[row["id"]]: row["outcome"] for row in listed}}
    runs = {"report": trace}
    for sender in ("engine", "httpx"):
        runs[sender] = folder / f"{sender}.run"
        printed("replay", trace, "--sender", sender, "--rate", 50, "-o", runs[sender], "--json")
    for verb, run in runs.items():
        samples = printed("report", run, "--json", "--samples")["samples"]
        ids, words = samples["id"], samples["outcome"]
        found[verb] = {cases[one]: word for one, word in zip(ids, words, strict=True)}
    return found


def printed(*arguments: object) -> Any:
    """What a command prints as JSON."""
    done = run_tbench(Path.cwd(), *arguments)
    assert done.out, done.err
    return json.loads(done.out)


@pytest.mark.parametrize("verb", ["trace head", "report", "engine", "httpx"])
def test_the_same_bytes_have_the_same_outcome(
    outcomes: dict[str, dict[str, str]], verb: str
) -> None:
    """Whoever looks at them."""
    assert outcomes[verb] == {case: outcome for case, (*_, outcome) in CASES.items()}


def test_a_benchmark_counts_an_aborted_answer_as_failed(
    odd: str, tbench: Callable[..., Any], tmp_path: Path
) -> None:
    """A server that gave up after the first of its tokens is no fast server."""
    load = ["--traffic-scenario", "D(20,4)", "--num-concurrency", 1, "--max-requests-per-run", 3]
    place = ["--api-backend", "together", "--api-base", odd, "--api-model-name", "abort"]
    where = ["--task", "text-to-text", "--max-time-per-run", 1, "--experiment-base-dir", tmp_path]
    done = tbench("benchmark", *place, *where, *load)

    assert done.code == 5
    assert "no request succeeded in any point: stream_error" in done.err


def test_what_is_no_inference_promises_nothing(odd: str, tmp_path: Path) -> None:
    """A page, nothing or lines are whole answers where a capture of all paths meets them."""
    capture = Capturing(tmp_path / "t.msgpack", "--upstream", odd, "--path", "*")
    whole = ["page", "lines", "text", "no content", "empty body", "not modified", "json"]
    broken = ["json that is none", "empty stream", "error event", "refused"]
    for case in whole + broken:
        ask(capture.url, case, b"/docs")
    capture.stop()

    found = [str(one.outcome) for one in capture.exchanges()]
    assert found[: len(whole)] == ["ok"] * len(whole)
    assert found[len(whole) :] == ["protocol_error", "cut", "stream_error", "http_error"]
