"""A provider is one file and one row: added to a copy of tbench, its API is captured and replayed."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.answering import EVENTS, Answering, Given, Received, answering
from tests.conftest import PATIENCE_S, until

ROOT = Path(__file__).parent.parent
ROW = '    "openai": OPENAI,'
ACME = '''
"""An API of other shapes: a text apart from the turns, events with names, an end without [DONE]."""

from tbench.capture.providers.provider import (
    Endpoint, ParsedResponse, Provider, RequestInfo, Usage, error_text,
)


class Parser:
    def __init__(self):
        self.times, self.words, self.usage, self.done, self.error = [], [], Usage(), False, None

    def event(self, at, payload, name):
        if name == "word":
            self.times.append(at)
            self.words.append(payload["word"])
        elif name == "stop":
            self.usage, self.done = Usage(prompt=payload["in"], output=payload["out"]), True
        elif name == "error":
            self.error = error_text(payload)

    def body(self, payload):
        self.error = error_text(payload)

    def parsed(self, *, events, ended, streamed):
        times = self.times
        return ParsedResponse(
            usage=self.usage, first_token=times[0] if times else None,
            first_answer=times[0] if times else None, last_token=times[-1] if times else None,
            token_times=tuple(times), events=events, done=self.done, streamed=streamed,
            error=self.error, text="".join(self.words),
        )


def request_info(payload, endpoint):
    return RequestInfo(
        endpoint=endpoint.name, model=payload.get("engine"), stream=True,
        inputs=len(payload.get("turns", ())),
    )


ACME = Provider(
    hosts={r"api\\.acme\\.example": "ACME_API_KEY"},
    endpoints={
        ("POST", "/speak"): Endpoint("speak", replayable=True, takes_text=True, gives_text=True),
    },
    sent_headers=frozenset({"acme-version"}),
    request_info=request_info,
    matches=lambda payload, event: event in {"hello", "word", "stop"},
    parser=Parser,
    messages=lambda payload: payload.get("turns", ()),
    with_prefix=lambda payload, prefix: {**payload, "rules": prefix + payload["rules"]},
)
'''


def acme(_request: Received) -> Given:
    """Two words by Acme's API, and how many there were."""
    words = [("hello", {}), ("word", {"word": "a"}), ("word", {"word": "b"})]
    events = [*words, ("stop", {"in": 7, "out": 2})]
    text = "".join(f"event: {name}\ndata: {json.dumps(told)}\n\n" for name, told in events)
    return Given([text.encode()], headers=EVENTS)


@pytest.fixture
def server() -> Iterator[Answering]:
    with answering(acme) as server:
        yield server


@pytest.fixture
def extended(tmp_path: Path) -> Path:
    """A copy of tbench with Acme's file and its row."""
    copy = tmp_path / "copy" / "tbench"
    shutil.copytree(ROOT / "tbench", copy)
    (copy / "capture" / "providers" / "acme.py").write_text(ACME.lstrip())
    table = copy / "capture" / "providers" / "__init__.py"
    text = table.read_text()
    assert text.count(ROW) == 1
    text = text.replace(ROW, f'    "acme": ACME,\n{ROW}')
    start = "from tbench.capture.providers.openai import OPENAI\n"
    table.write_text(
        text.replace(start, f"from tbench.capture.providers.acme import ACME\n{start}")
    )
    return copy.parent


def post(port: int, turns: list[dict[str, str]]) -> None:
    """One request, answered whole; waits until the port listens."""
    body = json.dumps({"engine": "acme-1", "rules": "Be brief.", "turns": turns}).encode()
    head = (
        f"POST /v9/speak HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nacme-version: 3\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )

    def connect() -> socket.socket | None:
        with suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        return None

    with until(connect) as connection:
        connection.sendall(head.encode() + body)
        while connection.recv(4096):
            pass


def test_a_provider_is_one_file_and_one_row(
    server: Answering, extended: Path, tmp_path: Path, free_port: int
) -> None:
    """Captured unasked, listed, joined to a conversation, replayed with its header and a salt, measured."""
    environment = {**os.environ, "PYTHONPATH": str(extended)}

    def start(*words: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tbench", *map(str, words)]
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, text=True, stdout=-1, stderr=-1
        )

    def run(*words: object) -> str:
        process = start(*words)
        out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, err
        return out

    capture = start("capture", "--upstream", server.url, "--port", free_port, "--requests", 2)
    post(free_port, [{"role": "user", "content": "x"}])
    answered = {"role": "assistant", "content": [{"kind": "text", "text": "ab"}]}
    post(free_port, [{"role": "user", "content": "x"}, answered, {"role": "user", "content": "y"}])
    assert capture.communicate(timeout=PATIENCE_S)[0]
    assert capture.returncode == 0
    info = json.loads(run("trace", "info", "trace.msgpack", "--json"))
    run("replay", "trace.msgpack", "--base-url", server.url, "--api-key-env", "", "--cache", "cold",
        "--probe", "off", "--speed", 100, "-o", "x.run", "--json")  # fmt: skip
    report = json.loads(run("report", "x.run", "--json", "--samples"))

    probe = "from tbench.capture.intake import API_HOSTS; print(*API_HOSTS)"
    hosts = subprocess.check_output(
        [sys.executable, "-c", probe], cwd=tmp_path, env=environment, text=True
    )

    assert r"api\.acme\.example" in hosts.split()
    assert (info["endpoints"], info["models"], info["sessions"]) == ({"speak": 2}, {"acme-1": 2}, 1)
    assert (info["outcomes"], info["prompt_tokens"], info["output_tokens"]) == ({"ok": 2}, 14, 4)
    asked = [(one.headers.get("acme-version"), one.json) for one in server.received]
    recorded, replayed = asked[:2], sorted(asked[2:], key=lambda each: len(str(each)))
    assert [version for version, _ in replayed] == ["3", "3"]
    (salt,) = {str(body["rules"]).removesuffix("Be brief.") for _, body in replayed}
    assert salt.strip().isdigit()
    assert [body | {"rules": "Be brief."} for _, body in replayed] == [body for _, body in recorded]
    assert report["samples"]["outcome"] == ["ok", "ok"]
    assert report["samples"]["output_tokens"] == [2, 2]
    assert None not in report["samples"]["ttft_s"]
