"""`import tbench`: the names are there, and the example in the docs runs as it stands."""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tbench
from tbench.capture.exchange import Chunk, Exchange, Response
from tbench.capture.option import rows
from tbench.replay.options import ReplayOptions
from tests.conftest import PATIENCE_S
from tests.recorded import chat_request

ROOT = Path(__file__).parent.parent
ASK = (
    b'{"model":"meta-llama/Llama-3.3-70B-Instruct-Turbo","stream":true,"max_tokens":4,'
    b'"messages":[{"role":"user","content":"%d"}]}'
)
ANSWER = (
    b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)


def test_every_public_name_is_importable() -> None:
    """`__all__` is complete and each name leads to something."""
    for name in tbench.__all__:
        assert getattr(tbench, name) is not None
    assert dir(tbench) == tbench.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    """Lazy names must not turn typing errors into something stranger."""
    with pytest.raises(AttributeError, match="nonsense"):
        _ = tbench.nonsense


def test_replay_shows_the_options_that_it_takes() -> None:
    """Names, types and defaults of `tbench replay`, for help() and whoever completes them."""
    shown = inspect.signature(tbench.replay)
    defaults = {name: row.default for name, row in rows(ReplayOptions).items()}

    assert list(shown.parameters) == [*defaults, "watch", "sources"]
    assert shown.parameters["timeout"].annotation is float
    assert shown.parameters["timeout"].default == defaults["timeout"]
    assert shown.return_annotation is tbench.Run


def chat(number: int) -> Exchange:
    """One small streaming exchange, 50 ms after the one before."""
    arrive = number * 50_000_000
    body, answer = ASK % number, ANSWER
    request = chat_request(
        number, arrive, body, end_ns=arrive + 1000, scheme="http", host="127.0.0.1:1"
    )
    response = Response(
        head_ns=arrive + 2_000_000,
        end_ns=arrive + 9_000_000,
        status=200,
        headers=(("content-type", "text/event-stream"),),
        body=answer,
        body_bytes=len(answer),
        chunks=(Chunk(at_ns=arrive + 9_000_000, size=len(answer)),),
    )
    return Exchange(request=request, response=response)


def test_the_example_in_the_docs_runs(serve: Callable[..., Any], tmp_path: Path) -> None:
    """A stranger's first program: read, replay twice, compare, with nothing but the public names."""
    header = tbench.TraceHeader(
        capture_id="0" * 32,
        wall_ns=1_800_000_000_000_000_000,
        mono_ns=0,
        upstream="http://127.0.0.1:1",
    )
    with tbench.TraceWriter(tmp_path / "t.msgpack", header) as writer:
        for number in range(60):
            writer.exchange(chat(number))
    fast, slow = (serve("serve", "--port", 0, "--profile", name) for name in ("fast", "slow"))
    command = [sys.executable, str(ROOT / "docs" / "example.py"), "t.msgpack", fast.url, slow.url]
    env = {**os.environ, "TOGETHER_API_KEY": "test-key-0123456789"}
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "captured: ok 60" in done.stdout
    assert "ttft p50: candidate/baseline" in done.stdout
