"""A copy of the same shape: what it must keep, by others' counts; and that it keeps nothing else."""

import json
import time
from collections.abc import Iterable
from pathlib import Path

import httpx
import orjson
import pytest

from tbench import CaptureTransport
from tbench.capture.container_reader import open_container
from tbench.capture.exchange import Exchange, Request
from tbench.capture.frames import BLOCK
from tbench.capture.privacy.redaction import redact
from tbench.capture.privacy.traffic import shape
from tbench.capture.providers import parse_recorded, parse_request
from tbench.capture.sessions import Sessions
from tbench.capture.trace_reader import read_trace
from tbench.simulator.chat import CHAT
from tbench.simulator.messages import MESSAGES
from tbench.simulator.prompt import PrefixCache
from tbench.simulator.responses import RESPONSES
from tests.answering import EVENTS, Given, answering
from tests.private_traffic import exchanges, fingerprints, write

DIALECTS = {"chat": CHAT, "messages": MESSAGES, "responses": RESPONSES}


@pytest.fixture(scope="module")
def traffic() -> tuple[list[Exchange], list[str]]:
    return exchanges(7, 15)


@pytest.fixture(scope="module")
def copy(
    traffic: tuple[list[Exchange], list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("privacy")
    source = write(folder / "source.msgpack", traffic[0])
    out = folder / "copy.msgpack"
    copied = redact(read_trace(source), out, shape(), "shape")
    assert copied.requests == len(traffic[0])
    return out


def served(requests: Iterable[Request]) -> tuple[list[int], int]:
    """The prompt tokens of each request, and all cached ones, where the simulator serves them in order."""
    cache, tokens, cached = PrefixCache(100_000), [], 0
    for request in requests:
        endpoint = parse_request("POST", request.path, request.body).info.endpoint
        order = DIALECTS[endpoint].order(orjson.loads(request.body or b""), 10**6)
        (prompt,) = order.prompts
        cached += cache.cached_tokens(prompt.blocks, prompt.tokens)
        cache.insert(prompt.blocks)
        tokens.append(prompt.tokens)
    return tokens, cached


def test_a_server_counts_the_same_tokens_and_hits(
    traffic: tuple[list[Exchange], list[str]], copy: Path
) -> None:
    """Prompts within 1 %, each of them, and the hit rate within 2 points."""
    (were, cached_then), (are, cached_now) = (
        served(exchange.request for exchange in trace) for trace in (traffic[0], read_trace(copy))
    )

    assert are == pytest.approx(were, rel=0.01)
    assert cached_now / sum(are) == pytest.approx(cached_then / sum(were), abs=0.02)
    assert cached_then / sum(were) > 0.3  # there is something to lose


def test_nothing_that_anybody_wrote_is_in_the_file(
    traffic: tuple[list[Exchange], list[str]], copy: Path
) -> None:
    """No 12 bytes of any text, name, id, picture or address, in any decompressed byte."""
    data = contents(copy)

    assert sorted(pieces_of(data) & fingerprints(traffic[1])) == []
    assert b"halvorsen" not in data.lower()
    assert b"acme-70b" in data  # a model's name is the protocol's


def test_a_capture_of_the_shape_writes_no_content(
    traffic: tuple[list[Exchange], list[str]], tmp_path: Path
) -> None:
    """Not in the file under way, nor in the whole one: requests, answers, refusals that quote, dead hosts."""
    bodies = [exchange.request.body or b"" for exchange in traffic[0][:12]]
    answers = [exchange.response.body or b"" for exchange in traffic[0][:12] if exchange.response]
    quoted = json.dumps({"error": {"message": traffic[1][-1], "type": "halvorsen_error"}}).encode()
    given = iter([*(Given([answer], headers=EVENTS) for answer in answers), Given([quoted], 400)])
    path = tmp_path / "trace.msgpack"
    with answering(lambda _received: next(given)) as server:
        transport = CaptureTransport(path, privacy="shape", paths="*")
        with httpx.Client(transport=transport) as client:
            for body in [*bodies, bodies[0]]:
                client.post(f"{server.url}/tenant-halvorsen/v1/chat/completions", content=body)
            with pytest.raises(httpx.ConnectError):
                client.post("http://halvorsen.invalid/v1/chat/completions", content=bodies[0])
            while transport.counts.responses < len(bodies) + 2:
                time.sleep(0.01)
            before = path.with_name("trace.msgpack.part")
            data = contents(before)
    data += contents(path)

    assert sorted(pieces_of(data) & fingerprints(traffic[1])) == []
    assert b"halvorsen" not in data.lower()
    trace = read_trace(path)
    assert trace.header.privacy == "shape"
    assert [exchange.outcome for exchange in trace] == ["ok"] * 12 + ["http_error", "connect_error"]


def contents(path: Path) -> bytes:
    """Every byte of a container, decompressed."""
    container = open_container(path)
    raw = b"".join(frame.raw for frame in container.walk() if frame.code == BLOCK)
    return raw + repr(container.header).encode() + repr(container.index).encode()


def pieces_of(data: bytes) -> set[bytes]:
    return {data[at : at + 12] for at in range(len(data) - 11)}


def test_the_conversations_are_the_same(
    traffic: tuple[list[Exchange], list[str]], copy: Path
) -> None:
    """The same requests are of one session, in the same order, each continuing the same one."""

    def edges(trace: Iterable[Exchange]) -> list[tuple[int, int | None]]:
        sessions, order, places = Sessions(), dict[str, int](), []
        for number, exchange in enumerate(trace):
            order[exchange.request.id] = number
            answer = parse_recorded(exchange.response).text if exchange.response else None
            place = sessions.assign(exchange.request, answer=answer)
            places.append((place.number, None if place.parent is None else order[place.parent]))
        return places

    assert edges(read_trace(copy)) == edges(traffic[0])


def test_answers_keep_their_times_tokens_and_ends(
    traffic: tuple[list[Exchange], list[str]], copy: Path
) -> None:
    for source, made in zip(traffic[0], read_trace(copy), strict=True):
        assert source.response and made.response
        assert [chunk.at_ns for chunk in made.response.chunks] == [
            chunk.at_ns for chunk in source.response.chunks
        ]
        was, is_ = (parse_recorded(exchange.response) for exchange in (source, made))  # type: ignore[arg-type]
        assert (is_.usage, is_.finish_reasons, is_.tool_calls, is_.done, is_.events) == (
            was.usage, was.finish_reasons, was.tool_calls, was.done, was.events,
        )  # fmt: skip
        assert len(is_.text) == len(was.text.encode())
