"""What is kept of an answer's head: what leads into the server's logs, and never a credential."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tbench.capture.exchange import Exchange, Response
from tbench.capture.records import TraceHeader
from tbench.capture.redact import Secrets
from tbench.capture.trace_writer import TraceWriter
from tbench.replay import columns as blocks
from tbench.replay.runfile import RunWriter, read_run
from tbench.replay.runform import IDENTITY
from tbench.replay.sample import (
    LONGEST_VALUE,
    MOST_HEADERS,
    SERVER_HEADERS,
    Sample,
    header_lines,
    headers_of,
    server_headers,
)
from tests.recorded import chat_request

NOTHING = Secrets()


def test_only_what_is_allowed_is_kept() -> None:
    """Names in any case; cookies, keys and whatever nobody thought of are left."""
    fields = [
        (b"Set-Cookie", b"session=abc"),
        (b"CF-Ray", b"9f391a08f8af75e1-FRA"),
        (b"Authorization", b"Bearer k"),
        (b"X-Together-TraceId", b"t-1"),
        (b"x-api-key", b"k"),
        (b"content-type", b"text/html"),
    ]

    assert server_headers(fields, NOTHING) == (
        ("cf-ray", "9f391a08f8af75e1-FRA"),
        ("x-together-traceid", "t-1"),
    )


def test_no_name_that_could_hold_a_credential_is_on_the_list() -> None:
    """A guard for whoever adds one."""
    doubtful = re.compile("auth|cookie|key|secret|session|user|org|(?<!first-)token")

    assert not [name for name in SERVER_HEADERS if doubtful.search(name)]


def test_a_secret_that_a_server_echoes_is_masked_before_the_value_is_cut() -> None:
    """Also where the cut would go through it."""
    secret = "correct-horse-battery"
    for room in range(LONGEST_VALUE - 25, LONGEST_VALUE + 5):
        ((_, value),) = server_headers(
            [(b"cf-ray", b"x" * room + secret.encode())], Secrets.of([secret])
        )

        assert "corr" not in value
        assert len(value) <= LONGEST_VALUE


def test_no_header_breaks_the_line_format() -> None:
    """Control characters become blanks; too many fields are cut off."""
    fields = [(b"cf-ray", b"a\tb\nc\x00d")] * (MOST_HEADERS + 5)
    found = server_headers(fields, NOTHING)

    assert found == (("cf-ray", "a b c d"),) * MOST_HEADERS
    assert headers_of(header_lines([found, (), found])) == [found, (), found]


def sample(index: int, **fields: Any) -> Sample:
    return Sample(
        id=f"id-{index}", index=index, endpoint="chat", model="m", stream=True, due=0.0, sent=0.0, **fields
    )  # fmt: skip


def test_headers_come_back_from_a_run_by_index(tmp_path: Path) -> None:
    """Over several blocks, only those that were asked for, and only where there were any."""
    writer = RunWriter(tmp_path / "a.run", {}, clock=lambda: 0.0)
    for k in range(2500):
        writer.add(sample(k, headers=(("cf-ray", f"ray {k}: é"),) if k % 2 else ()))
    run = read_run(writer.close({**dict.fromkeys(IDENTITY, 0), "planned": 2500, "warmup_s": 0.0}))

    assert run.answer_headers([1, 2, 2499]) == {
        1: (("cf-ray", "ray 1: é"),),
        2499: (("cf-ray", "ray 2499: é"),),
    }
    assert blocks.pack_headers([sample(0)]) is None


@pytest.mark.parametrize("sender", ["engine", "httpx"])
def test_both_senders_bring_them_to_the_run(
    simulator: Any, tbench: Callable[..., Any], tmp_path: Path, sender: str
) -> None:
    """End to end: the simulator says when it received a call, as Together does."""
    body = (
        b'{"model":"meta-llama/Llama-3.3-70B-Instruct-Turbo","stream":true,"max_tokens":2,'
        b'"messages":[{"role":"user","content":"Hi"}]}'
    )
    request = chat_request(0, 0, body)
    with TraceWriter(tmp_path / "t.msgpack", TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        writer.exchange(
            Exchange(request=request, response=Response(head_ns=0, end_ns=9, status=200))
        )
    where = ("--base-url", simulator.url, "--sender", sender)
    done = tbench("replay", "t.msgpack", *where, "--warmup", "none", "-o", "a.run")
    run = read_run(tmp_path / "a.run")
    headers = dict(run.answer_headers([0])[0])

    assert done.code in {0, 4}, done.err
    assert headers["x-api-received"].startswith("20")
    assert run.columns["request_id"].tolist() == ["0" * 32]
