"""A copy of the same shape: what it must keep, by others' counts; and that it keeps nothing else."""

import json
import re
import struct
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import batched, combinations, islice, takewhile
from pathlib import Path
from random import Random
from typing import Any

import httpx
import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tbench import CaptureTransport, demo
from tbench.capture.container_reader import open_container
from tbench.capture.exchange import Chunk, Exchange, Request, Response
from tbench.capture.frames import BLOCK
from tbench.capture.mixes import prompt_bytes
from tbench.capture.privacy.bodies import MEMBERS, Bodies
from tbench.capture.privacy.masks import Masks
from tbench.capture.privacy.redaction import Content, redact
from tbench.capture.privacy.standins import ASCII_PIECE, PIECE, StandIns
from tbench.capture.privacy.traffic import Traffic, blanks, shape
from tbench.capture.providers import parse_recorded, parse_request, recorded_outcome
from tbench.capture.sessions import Sessions
from tbench.capture.trace_info import Facts, trace_info
from tbench.capture.trace_reader import read_trace
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.api import replay
from tbench.simulator.chat import CHAT
from tbench.simulator.messages import MESSAGES
from tbench.simulator.odd import ODD
from tbench.simulator.odd_chat import joined, stream
from tbench.simulator.prompt import PrefixCache
from tbench.simulator.responses import RESPONSES
from tests import private_places
from tests.answering import Given, Received, answering, chat
from tests.conftest import PATIENCE_S, Server, run_tbench, until
from tests.private_places import Planted, inflated
from tests.private_traffic import PROSE, exchanges, fingerprints, strings, write

DIALECTS = {"chat": CHAT, "messages": MESSAGES, "responses": RESPONSES}


@pytest.fixture(scope="module")
def traffic() -> tuple[list[Exchange], list[str]]:
    return exchanges(7, 9)


@pytest.fixture(scope="module")
def pieces(traffic: tuple[list[Exchange], list[str]]) -> set[bytes]:
    """Every 12 bytes that somebody wrote."""
    return fingerprints(traffic[1])


@pytest.fixture(scope="module")
def copy(
    traffic: tuple[list[Exchange], list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("privacy")
    source = write(folder / "source.msgpack", traffic[0])
    out = folder / "copy.msgpack"
    copied = redact(read_trace(source), out, "shape", shape())
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


@given(st.text(max_size=400), st.text(max_size=300), st.text(max_size=300))
def test_texts_are_as_long_and_alike_as_far_as_they_were(head: str, one: str, other: str) -> None:
    """Whatever the script; and where blocks differ, so does what stands for them."""
    stand_ins = StandIns(b"key")
    first, second = stand_ins.text(head + one), stand_ins.text(head + other)
    common = len(head.encode()) // 64 * 64

    assert [len(first), len(second)] == [len((head + end).encode()) for end in (one, other)]
    assert first.isascii()
    if min(len(first), len(second)) >= common + 20 and max(len(first), len(second)) >= common + 64:
        assert first[:common] == second[:common]
    if len(one) > 20 and len(other) > 20 and one[:20] != other[:20]:
        assert first != second
    assert stand_ins.text(head + one) == first
    assert StandIns(b"other key").text("x" * 64) != stand_ins.text("x" * 64)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("Summary of item, no. {:05d}", id="where the last stems of a block tell"),
        pytest.param(
            "Write a summary, as short as may be, of this document: no. ".rjust(68) + "{:05d}",
            id="73 bytes",
        ),
    ],
)
def test_texts_that_differ_only_in_their_last_bytes_stay_unequal(text: str) -> None:
    stand_ins, texts = StandIns(b"key"), {text.format(number) for number in range(8_000)}

    assert len({stand_ins.text(text) for text in texts}) == len(texts) == 8_000


@given(st.text('aBz09 _.(\n\r\t\x0b\x1f"', max_size=60))
def test_a_text_of_ascii_is_cut_as_any_other(text: str) -> None:
    assert ASCII_PIECE.findall(text) == PIECE.findall(text)


@given(st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=50, unique=True))
def test_names_stay_apart(names: list[str]) -> None:
    """A property that takes another's name would be lost from its schema."""
    stand_ins = StandIns()
    made_up = [stand_ins.name(name) for name in names]

    assert len(set(made_up)) == len(names) or min(map(len, names)) == 1
    assert [len(name) for name in made_up] == [len(name.encode()) for name in names]


@pytest.fixture(scope="module")
def places() -> tuple[Planted, list[Exchange]]:
    """A text of its own in every place that may have one."""
    marks = Planted({"authorization": KEY})
    return marks, private_places.exchanges(marks)


KEY = "sk-proj-Quokka0123456789Zanzibar"


@pytest.fixture(scope="module")
def hidden(pieces: set[bytes], places: tuple[Planted, list[Exchange]]) -> set[bytes]:
    """What nobody may read of the agents' traffic, nor of any place."""
    return pieces | places[0].pieces


@pytest.fixture(scope="module")
def original(
    traffic: tuple[list[Exchange], list[str]],
    places: tuple[Planted, list[Exchange]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """All of it, with a header that has texts, too."""
    path = tmp_path_factory.mktemp("original") / "source.msgpack"
    with TraceWriter(path, private_places.header(places[0]), clock=lambda: 0.0) as writer:
        for exchange in (*traffic[0], *places[1]):
            writer.exchange(exchange)
    return path


@dataclass(frozen=True)
class Shaped:
    """A trace without content, all that was written while it was made, and what a terminal showed."""

    trace: Path
    bytes: bytes
    shown: str = ""


@pytest.fixture(scope="module", params=["copy", "transport", "proxy"])
def shaped(
    request: pytest.FixtureRequest,
    original: Path,
    traffic: tuple[list[Exchange], list[str]],
    places: tuple[Planted, list[Exchange]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Shaped:
    """Each way to take the content out; a capture has the same exchanges of a server and a client."""
    path = tmp_path_factory.mktemp("shaped") / "trace.msgpack"
    if request.param == "copy":
        done = run_tbench(path.parent, "trace", "redact", original, "-o", path)
        assert done.code == 0, done
        return Shaped(path, contents(path), done.out + done.err)
    made = [*traffic[0], *places[1]]
    answers = iter(exchange.response for exchange in made)

    def answer(_received: Received) -> Given:
        response = next(answers)
        assert response
        return Given([response.body or b""], response.status or 200, response.headers)

    with answering(answer) as server, ExitStack() as stack:
        transport, url, shown = None, server.url, ""
        if request.param == "transport":
            transport = CaptureTransport(path, privacy="shape", paths="*")
        else:
            told_to = ("--upstream", url, "--port", 0, "--path", "*", "--privacy", "shape")
            proxy = Server("capture", *told_to, "-o", path)
            url = proxy.url
            stack.callback(proxy.stop)
        client = stack.enter_context(httpx.Client(transport=transport, timeout=PATIENCE_S))
        for sent in (exchange.request for exchange in made):
            headers = dict(sent.headers) | {"authorization": f"Bearer {KEY}"}
            client.post(f"{url}{sent.path}", content=sent.body, headers=headers)
        if transport:
            with pytest.raises(httpx.ConnectError):
                client.post(
                    "http://halvorsen.invalid/v1/chat/completions", content=made[0].request.body
                )
        part = path.with_name("trace.msgpack.part")
        until(lambda: trace_info(read_trace(part))["responses"] >= len(made))
        under_way = contents(part)
    if request.param == "proxy":
        shown = proxy.said
    return Shaped(path, under_way + contents(path), shown)


def test_no_12_bytes_of_anything_are_in_a_shape(
    shaped: Shaped, original: Path, hidden: set[bytes], places: tuple[Planted, list[Exchange]]
) -> None:
    """Texts, names, ids, pictures, headers, addresses, models, errors, logs: in no decompressed byte.

    Nor in the file while it was under way, nor in what a terminal showed.
    """
    assert len(places[0].marks) > 600
    assert len(told(contents(original), hidden)) > 8000, "they are in the original"
    assert told(shaped.bytes, hidden) == []
    assert told(shaped.shown.encode(), places[0].pieces) == []
    assert b"halvorsen" not in shaped.bytes.lower() + shaped.shown.lower().encode()
    assert b"acme-70b" in shaped.bytes  # a model's name is the protocol's
    assert read_trace(shaped.trace).header.privacy == "shape"


def test_no_12_bytes_of_anything_go_out_in_its_replay(
    shaped: Shaped, traffic: tuple[list[Exchange], list[str]], hidden: set[bytes], tmp_path: Path
) -> None:
    """What a server receives (paths, headers, bodies), and what the run keeps."""
    with answering(lambda _received: chat()) as server:
        options: dict[str, Any] = {"base_url": server.url, "api_key_env": "", "concurrency": 4.0}
        run = replay(shaped.trace, **options, allow_unsafe=True, out=tmp_path / "a.run")
        sent = b"".join(
            repr((each.path, sorted(each.headers.items()))).encode() + each.body
            for each in server.received
        )

    assert told(sent + contents(run.path), hidden) == []
    assert b"halvorsen" not in (sent + contents(run.path)).lower()
    assert run.totals["completed"] == len(server.received) >= len(traffic[0]) + 7


def test_a_server_counts_the_same_tokens_and_hits(
    traffic: tuple[list[Exchange], list[str]], shaped: Shaped
) -> None:
    """Prompts within 1 %, each of them, and the hit rate within 2 points."""
    agents = islice(read_trace(shaped.trace), len(traffic[0]))
    (were, cached_then), (are, cached_now) = (
        served(exchange.request for exchange in trace) for trace in (traffic[0], agents)
    )

    assert are == pytest.approx(were, rel=0.01)
    assert cached_now / sum(are) == pytest.approx(cached_then / sum(were), abs=0.02)
    assert cached_then / sum(were) > 0.3  # there is something to lose


def demo_questions() -> Iterator[str]:
    """The first of each conversation: some 20 bytes are those of another."""
    load = demo.Workload(model="m", rate=1.0, duration=400.0)
    return (plan.questions[0] for plan in demo.conversations(load))


def templates_filled_in(source: str) -> Iterator[str]:
    """Texts that part anywhere in their first 300 bytes."""
    rng = Random(5)

    def stretch(size: int) -> str:
        start = rng.randrange(len(source) - size)
        return source[start : start + size]

    templates = [stretch(rng.randint(20, 300)) for _ in range(40)]
    return (rng.choice(templates) + stretch(rng.randint(10, 300)) for _ in range(1_000))


WORDS = PROSE.split()
ROWS = [{"name": one, "of": other, "size": len(one)} for one, other in batched(WORDS[:-1], 2)]


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param([*demo_questions()], id="demo"),
        pytest.param([*templates_filled_in(" ".join(WORDS))], id="prose"),
        pytest.param([*templates_filled_in(PROSE)], id="short lines"),
        pytest.param([*templates_filled_in(json.dumps(ROWS))], id="JSON"),
    ],
)
def test_short_prompts_that_begin_alike_keep_their_hits(
    texts: list[str], traffic: tuple[list[Exchange], list[str]]
) -> None:
    """Within 2 points, where the block in which two part is much of them; and none become equal."""
    agent, system = traffic[0][0].request, {"role": "system", "content": demo.SYSTEM}
    chats = (
        {"model": "m", "messages": [system, {"role": "user", "content": text}]} for text in texts
    )
    requests = [
        replace(agent, path="/v1/chat/completions", body=orjson.dumps(chat)) for chat in chats
    ]
    disguise = shape()
    made = [disguise.request(request) for request in requests]
    (were, cached_then), (are, cached_now) = served(requests), served(made)

    assert are == were
    assert cached_now / sum(are) == pytest.approx(cached_then / sum(were), abs=0.02)
    assert cached_then / sum(were) > 0.3
    assert len({request.body for request in made}) == len({request.body for request in requests})


@pytest.mark.parametrize("content", ["hash", "drop"])
def test_no_12_bytes_of_anything_are_in_a_copy_without_texts(
    original: Path, content: Content, hidden: set[bytes], tmp_path: Path
) -> None:
    out = tmp_path / "copy.msgpack"
    redact(read_trace(original), out, content, blanks())

    assert told(contents(out), hidden) == []
    assert read_trace(out).totals["requests"] == read_trace(original).totals["requests"]


def contents(path: Path) -> bytes:
    """Every byte of a container, decompressed."""
    container = open_container(path)
    raw = b"".join(frame.raw for frame in container.walk() if frame.code == BLOCK)
    return inflated(raw) + repr(container.header).encode() + repr(container.index).encode()


def told(data: bytes, pieces: set[bytes]) -> list[bytes]:
    """The pieces that occur in the data."""
    windows = (data[at : at + 12] for at in range(len(data) - 11))
    return sorted({window for window in windows if window in pieces})


def test_the_conversations_are_the_same(
    traffic: tuple[list[Exchange], list[str]], copy: Path
) -> None:
    """The same requests are of one session, in the same order, each continuing the same one."""

    def edges(trace: Iterable[Exchange]) -> list[tuple[int, int | None]]:
        sessions, order, places = Sessions(), dict[str, int](), []
        for number, exchange in enumerate(trace):
            order[exchange.request.id] = number
            place = sessions.assign(exchange.request, response=exchange.response)
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


def test_hashed_blocks_are_those_of_the_texts(
    traffic: tuple[list[Exchange], list[str]], pieces: set[bytes], tbench: Any, tmp_path: Path
) -> None:
    """Two prompts share the ids of as many blocks as they share bytes; the copy is one for Mooncake alone."""
    source = write(tmp_path / "source.msgpack", traffic[0])
    out, rows, again = (tmp_path / name for name in ("hash.msgpack", "rows.jsonl", "again.msgpack"))
    redact(read_trace(source), out, "hash", blanks())
    copied = list(read_trace(out))
    size = read_trace(out).header.extra["hashes"]["block_bytes"]
    prompts = [
        prompt_bytes(Facts(exchange).parsed, exchange.request.body) for exchange in traffic[0]
    ]

    blocks = [[text[at : at + size] for at in range(0, len(text), size)] for text in prompts]
    ids = [exchange.request.extra["hash_ids"] for exchange in copied]
    for first, second in combinations(range(len(prompts)), 2):
        texts, numbers = (
            sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*pair, strict=False)))
            for pair in ((blocks[first], blocks[second]), (ids[first], ids[second]))
        )
        assert texts == numbers
    assert told(contents(out), pieces) == []
    assert {exchange.request.header("x-session-id") for exchange in copied} == {
        f"s{number}" for number in range(1, 10)
    }
    assert tbench("replay", out, "--dry-run", "--base-url", "http://127.0.0.1:9").code == 2
    assert tbench("trace", "export", out, "--format", "mooncake", "-o", rows).code == 0
    assert tbench("trace", "import", rows, "-o", again).code == 0
    counted = [json.loads(line) for line in rows.read_text().splitlines()]
    assert len(list(read_trace(again))) == len(counted) > 0
    assert {row["hash_ids"][0] for row in counted} <= {numbers[0] for numbers in ids}


BRIEF = "Please look into the amber harbour"
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "call_1", "type": "function",
         "function": {"name": "task", "arguments": json.dumps({"prompt": BRIEF})}},
    ],
}  # fmt: skip


@pytest.mark.parametrize("content", ["hash", "drop"])
def test_what_a_tool_began_stays_of_its_conversation(
    content: Content, tbench: Any, tmp_path: Path
) -> None:
    """A copy without texts says which conversation a request is of: none of them tells it any more."""
    asked = [{"role": "user", "content": "start"}], [{"role": "user", "content": BRIEF}]
    rows = [
        {"at": 1_700_000_000 + 2 * turn, "took": 1,
         "body": {"model": "m", "messages": messages, "tools": [{"type": "function"}]},
         "answer": {"choices": [{"index": 0, "finish_reason": "stop", "message": said}]}}
        for turn, (messages, said) in enumerate(
            zip(asked, (CALLED, {"role": "assistant", "content": "quiet"}), strict=True)
        )
    ]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fields = ("arrival=at:s", "duration=took:s", "body=body", "answer=answer")
    mapped = [word for field in fields for word in ("--map", field)]
    assert tbench("trace", "import", "log.jsonl", *mapped, "-o", "t.msgpack").code == 0
    redact(read_trace(tmp_path / "t.msgpack"), tmp_path / "out.msgpack", content, blanks())

    assert trace_info(read_trace(tmp_path / "t.msgpack"))["sessions"] == 1
    assert trace_info(read_trace(tmp_path / "out.msgpack"))["sessions"] == 1


def test_a_prompt_that_its_server_has_by_an_id_is_a_block_of_bytes(tmp_path: Path) -> None:
    """Its tokens are a thousand for each byte that was sent: a block has one byte at least."""
    request = Request(
        id="r", seq=0, arrive_ns=0, end_ns=0, method="POST", scheme="https", host="h",
        path="/v1/responses", headers=(), extra={"prompt_tokens": 10**6},
        body=b'{"input":"go on","previous_response_id":"resp_1"}', body_bytes=49,
    )  # fmt: skip
    source = write(tmp_path / "source.msgpack", [Exchange(request=request, response=None)])
    redact(read_trace(source), tmp_path / "out.msgpack", "hash", blanks())

    (copied,) = read_trace(tmp_path / "out.msgpack")
    assert len(copied.request.extra["hash_ids"]) == len(b'{"role":"user","content":"go on"}')


def test_what_is_dropped_leaves_counts_and_times(
    traffic: tuple[list[Exchange], list[str]], pieces: set[bytes], tmp_path: Path
) -> None:
    source = write(tmp_path / "source.msgpack", traffic[0])
    out = tmp_path / "drop.msgpack"
    redact(read_trace(source), out, "drop", blanks())

    before, after = (trace_info(read_trace(path)) for path in (source, out))
    same = ("requests", "responses", "sessions", "outcomes", "endpoints", "duration_s", "models")
    assert {name: after[name] for name in (*same, "prompt_tokens", "output_tokens")} == {
        name: before[name] for name in (*same, "prompt_tokens", "output_tokens")
    }
    assert told(contents(out), pieces) == []
    for was, exchange in zip(traffic[0], read_trace(out), strict=True):
        body = orjson.loads(exchange.request.body or b"")
        assert body.get("system", body.get("instructions", "*")) == "*"
        assert was.response and exchange.response
        ends = [parse_recorded(known).events for known in (was.response, exchange.response)]
        assert ends[0] == ends[1]


@pytest.mark.parametrize("disguise", [shape, blanks])
def test_an_odd_answer_is_read_as_its_original(disguise: Callable[[], Traffic]) -> None:
    """Its events, counts, ending and outcome, from chunks of its size; what is no JSON is left out."""
    withheld = set()
    null = replace(ODD["plain"], body=stream(first=[b"data: null\n\n"]))
    for name, odd in {**ODD, "null": null}.items():
        body = joined(odd.body)[:100_000]
        fields = [line.lower().split(": ") for line in odd.fields]
        headers = tuple((name, value) for name, value in fields if name.startswith("content-"))
        sizes = [len(part) for part in batched(body, 40)]
        response = Response(
            head_ns=0,
            end_ns=10**9,
            status=200,
            headers=headers,
            body=body,
            body_bytes=len(body),
            chunks=tuple(Chunk(at, size) for at, size in enumerate(sizes)),
        )
        made = disguise().response(response)
        if made.body is None:
            withheld.add(name)
            continue
        was, now = parse_recorded(response), parse_recorded(made)
        assert (now.events, now.usage, now.done) == (was.events, was.usage, was.done), name
        ends = [
            recorded_outcome(known, read, endpoint=odd.api)
            for known, read in ((response, was), (made, now))
        ]
        assert ends[0] == ends[1], name
        assert sum(chunk.size for chunk in made.chunks) == len(made.body), name
    no_json = {"html-200", "ndjson-200", "not-json-200", "bad-utf8-200", "status-503"}
    assert withheld == no_json | {"wrong-encoding"}


def test_what_is_ranked_keeps_its_fields_under_other_names() -> None:
    """As many, as long, and chosen by the same names; nothing is left out."""
    fields = {"headline": "of the north", "text": "a story", "tags": ["sea", "ice"]}
    asked = {"model": "m", "query": "ice", "documents": [fields, "plain"]}
    asked["rank_fields"] = ["headline", "text"]
    bodies = Bodies(StandIns())
    made = bodies.made_up(asked)
    first = dict(zip(fields, made["documents"][0].items(), strict=True))

    assert made["rank_fields"] == [first["headline"][0], "text"]
    assert bodies.left_out == 0
    assert len(orjson.dumps(made)) == len(orjson.dumps(asked))
    assert {*strings(fields)} & {*strings(made)} == {"text"}


def test_what_is_kept_has_no_secrets(tbench: Any, tmp_path: Path) -> None:
    """A log's headers and bodies may hold keys; texts stay to the byte."""
    key = "sk-live-0123456789abcdefghij"
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "api_key": key}
    (made,) = exchanges(1, 1)[0][:1]
    headers = (("authorization", f"Bearer {key}"), ("content-type", "application/json"))
    request = replace(made.request, headers=headers, body=orjson.dumps(body))
    source = write(tmp_path / "s.msgpack", [Exchange(request=request, response=made.response)])
    out = tmp_path / "keep.msgpack"
    done = tbench("trace", "redact", source, "--content", "keep", "-o", out)

    assert done.code == 0
    assert "1 credentials" in done.out
    assert key.encode() not in contents(out)
    (copied,) = read_trace(out)
    assert orjson.loads(copied.request.body or b"") == {**body, "api_key": "*" * len(key)}
    assert copied.response and made.response and copied.response.body == made.response.body
    assert read_trace(out).header.privacy == "redacted"


TOLD = {
    "write to anna.b+work@mail.example-1.org now": "write to " + "*" * 30 + " now",
    "a line\nanna@example.org": "a line\n" + "*" * 16,
    "card 4111 1111 1111 1111, order 4111 1111 1111 1112": "card "
    + "*" * 19
    + ", order 4111 1111 1111 1112",
    "call +49 (0)30 1234 5678 or (555) 010-4477": "call " + "*" * 19 + " or " + "*" * 14,
    "key sk-proj-a1b2c3d4e5f6g7h8 works": "key " + "*" * 24 + " works",
    "version 10.11.12, 2026-01-31, 1.234.567,89, 1732000000, p@ss": None,
    "data:image/png;base64,+4915112345678": None,
    "data: name,mail\nanna@example.org": "data: name,mail\n" + "*" * 16,
    "=" * 200 + " anna@example.org": "=" * 200 + " " + "*" * 16,
    "Qk0/" * 50 + "/sk-a1b2c3d4e5f6": None,
}


@pytest.mark.parametrize("text", TOLD)
def test_what_has_a_form_is_masked_and_nothing_else(text: str) -> None:
    masks = Masks()
    body = json.dumps({"messages": [{"content": text}], "seed": 4111111111111111}).encode()
    masked = masks.mask(body)

    assert json.loads(masked)["messages"][0]["content"] == (TOLD[text] or text)
    assert json.loads(masked)["seed"] == 4111111111111111
    assert bool(masks.counts) == (TOLD[text] is not None)


ADDRESS = "anna.b@example.org"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"ask %s now", "text/plain"),
        (b'{"choices":[{"message":{"content":"ask %s no', "application/json"),
        (b'{"id":"\xc3\xa9","text":"ask %s n\xc3', "application/json"),
        (b"--x\r\nA: b\r\n\r\nask %s\r\n--x\r\n\r\n\xff\xfe@a.b\r\n--x--", "multipart/form-data"),
        (b"data: ask %s now\n\n", "text/event-stream"),
        (b'data: {"choices":[{"delta":{"content":"ask %s n', "text/event-stream"),
    ],
)
def test_what_is_no_json_is_masked_as_the_text_that_it_is(body: bytes, content_type: str) -> None:
    """Also where it was cut off: in a literal, or in a character; bytes that are no text stay."""
    address = ADDRESS.encode()

    assert Masks().mask(body % address, content_type) == body % (b"*" * len(address))


@pytest.mark.parametrize(
    "body",
    [
        rb'{"details":{"tokens":[{"id":7,"text":"%s","logprob":-12.53},{"id":8,"logprob":-1.5e-12}]}}',
        rb'{"content":"half \ud83d %s","serial":4111111111111111}',
    ],
)
def test_what_was_json_is_json_when_it_is_masked(body: bytes) -> None:
    """Decimals beside tokens, as text-generation-inference has them, and half a character of an emoji."""
    for lines in (body, body + b"\n" + body):  # the second as Ollama streams
        masked = Masks().mask(lines % ((b"jo@example.com",) * lines.count(b"%s")))
        assert b"example" not in masked
        for line in masked.splitlines():
            assert json.loads(line).get("serial") == json.loads(body).get("serial")


def test_what_is_masked_is_not_told_by_its_tokens() -> None:
    """Ids, pieces and bytes beside the text, in place; where nothing is masked they stay."""
    words = ["ask ", "anna.b@", "example.org"]
    told = [{"token": word, "bytes": [*word.encode()], "logprob": -0.5} for word in words]
    chunks = [
        {
            "choices": [
                {"delta": {"content": word, "token_id": 5471}, "logprobs": {"content": [row]}}
            ]
        }
        for word, row in zip(words, told, strict=True)
    ]
    legacy = {
        "choices": [{"text": "".join(words), "logprobs": {"tokens": words, "token_ids": [1]}}],
        "usage": {"tokens": 30, "bytes": 20},
    }
    stream = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    for body, content_type in (stream, "text/event-stream"), (json.dumps(legacy).encode(), ""):
        masked = Masks().mask(body, content_type)
        for payload in re.findall(rb"\{.*\}", masked):
            json.loads(payload)

        assert len(masked) == len(body)
        assert not re.search(rb"anna|example|5471|97|\[1\]", masked)
        assert masked.partition(b"usage")[2] == body.partition(b"usage")[2]  # counts
        plain = body.replace(b"@", b" ")
        assert Masks().mask(plain, content_type) == plain


@pytest.mark.parametrize(
    "written",
    [
        rb"anna.b\u0040example.org",
        rb"\u0061nna.b@example\u002eorg",
        rb"anna.b\\u0040example.org",
        rb"{\"to\": \"anna.b\\u0040example.org\"}",
        rb"\"anna.b@example.org\"",
        rb"line\nanna.b@example.org\ttab",
    ],
)
def test_what_is_escaped_is_masked_as_it_reads(written: bytes) -> None:
    """In JSON, and in JSON within JSON; what is left is JSON, as long as it was."""
    masks = Masks()
    body = b'{"content":"write to ' + written + b' now","n":1}'
    masked = masks.mask(body)
    text = json.loads(masked)["content"]

    assert ADDRESS in json.loads(body)["content"].replace("\\u0040", "@")
    assert "anna" not in text
    assert "example" not in text
    assert text.startswith("write to ")
    assert text.endswith(" now")
    assert len(masked) == len(body)
    assert masks.counts == {"e-mail addresses": 1}


@pytest.mark.parametrize(
    "written",
    [
        "anna.b%40example.org",
        "anna.b%2540example%2Eorg",
        "anna.b&#64;example.org",
        "anna.b&#x40;example&#46;org",
        "anna.b&commat;example&period;org",
        r"anna.b\x40example.org",
        r'{"to": "anna.b\u0040example.org"}',
        "anna.b\u200b@exam\u00adple.org",
        "\uff41nna.b\uff20example\uff0eorg",
        "+49\u00a0(0)30\u202f1234\u20115678",
        "(555)\u00a0010\u20104477",
        "+\uff14\uff19\uff13\uff10\uff11\uff12\uff13\uff14\uff15",
        "%2B49%2030%2012345678",
        "4111\u00a01111\u00a01111\u00a01111",
        "4111&nbsp;1111&nbsp;1111&nbsp;1111",
        "+\u0664\u0669 \u0663\u0660 \u0661\u0662\u0663\u0664\u0665",
    ],
)
@pytest.mark.parametrize("escaped", [True, False])
def test_what_is_spelled_otherwise_is_masked_as_it_reads(written: str, escaped: bool) -> None:
    """In an address, HTML or code, with blanks that do not break, of full or of no width, other digits."""
    masks = Masks()
    body = json.dumps({"content": f"ask {written} now"}, ensure_ascii=escaped).encode()
    masked = masks.mask(body)
    text = json.loads(masked)["content"]
    inner = text.removeprefix('ask {"to": "').removeprefix("ask ")
    inner = inner.removesuffix(" now").removesuffix('"}')

    assert (text[:4], text[-4:]) == ("ask ", " now")
    assert set(inner) == {"*"}
    assert len(masked) == len(body)
    assert sum(masks.counts.values()) == 1


@given(st.lists(st.tuples(st.sampled_from('a@é\n"\\ .😀5'), st.booleans()), max_size=40))
def test_masking_keeps_every_other_character(characters: list[tuple[str, bool]]) -> None:
    """However each character is written, all that is not masked reads as before."""
    written = "".join(
        json.dumps(char)[1:-1] if not escaped else "".join(f"\\u{unit:04x}" for unit in utf16(char))
        for char, escaped in characters
    )
    body = f'{{"content":"{written}"}}'.encode()
    masked = Masks().mask(body)

    assert len(masked) == len(body)
    before, after = (json.loads(text)["content"] for text in (body, masked))
    assert before.translate(NO_ADDRESS) == after.replace("*", "").translate(NO_ADDRESS)


NO_ADDRESS = {ord(char): None for char in "a@.5"}
"""What an address is made of here."""


def utf16(char: str) -> list[int]:
    data = char.encode("utf-16-be")
    return [int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2)]


def test_what_streams_in_pieces_is_masked_as_a_whole() -> None:
    """Of two answers at once, each by itself; as long as before, so that chunks still fit."""
    pieces = zip("ask anna@example.org.", "or call +15550104477.", strict=True)
    events = [
        {"choices": [{"index": place, "delta": {"content": char}}]}
        for pair in pieces
        for place, char in enumerate(pair)
    ]
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    masks = Masks()
    masked = masks.mask(body, "text/event-stream")
    texts = ["", ""]
    for line in masked.split(b"\n\n")[:-1]:
        (choice,) = json.loads(line[6:])["choices"]
        texts[choice["index"]] += choice["delta"]["content"]

    assert texts == ["ask " + "*" * 16 + ".", "or call " + "*" * 12 + "."]
    assert len(masked) == len(body)
    assert masks.counts == {"e-mail addresses": 1, "phone numbers": 1}


CASSETTES = sorted((Path(__file__).parents[1] / "fixtures" / "cassettes").glob("*.yaml"))


@pytest.mark.parametrize("path", CASSETTES, ids=lambda path: path.stem)
def test_answers_of_real_sdks_say_the_same_of_themselves(path: Path) -> None:
    """Refusals, cut streams, tools, reasoning, several choices: all but the words, in reads of any size."""
    for interaction in yaml.safe_load(path.read_text())["interactions"]:
        recorded = interaction["response"]
        body = recorded["body"]["string"]
        body = body.encode() if isinstance(body, str) else body
        sizes = [len(body[at : at + 50]) for at in range(0, len(body), 50)]
        response = Response(
            head_ns=0,
            end_ns=10**9,
            status=recorded["status"]["code"],
            headers=tuple(
                (name.lower(), value)
                for name, values in recorded["headers"].items()
                for value in values
            ),
            body=body,
            body_bytes=len(body),
            chunks=tuple(Chunk(1000 * number, size) for number, size in enumerate(sizes)),
        )
        made = shape().response(response)
        was, is_ = parse_recorded(response), parse_recorded(made)
        assert made.body is None or sum(chunk.size for chunk in made.chunks) == len(made.body)
        names = ("usage", "finish_reasons", "done", "events", "tool_calls", "streamed")
        assert {name: getattr(is_, name) for name in names} == {
            name: getattr(was, name) for name in names
        }
        assert len(is_.token_times) == len(was.token_times)
        assert bool(is_.error) == bool(was.error)
        if len(was.text) > 11:
            assert was.text[:12] not in is_.text


HIDDEN = st.text("QXZJKVWY", min_size=12, max_size=20)
JSON = st.recursive(
    HIDDEN | st.integers(10**12, 10**15),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(sorted(MEMBERS.keys() - {"model"})) | HIDDEN, inner)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(MEMBERS.keys() - {"model"})), JSON, min_size=1))
def test_no_member_lets_a_text_through(payload: dict[str, Any]) -> None:
    """Whatever stands wherever: a text where a count belongs, an object where a word does."""
    data = orjson.dumps(Bodies(StandIns()).made_up(payload))
    hidden = [text for text in strings(payload) if text.isupper()]

    assert not [text for text in hidden if text[:12].encode() in data]


PLANTED = "halvorsen-sons"
BACKDOORS: dict[str, dict[str, Any]] = {
    "beta": {"headers": (("anthropic-beta", f"{PLANTED}-2025-01-01"),)},
    "name of a limit": {"headers": ((f"x-ratelimit-remaining-{PLANTED}", "5"),)},
    "amount": {"headers": (("retry-after", "4915112345678901"),)},
    "Azure's customer": {"host": f"{PLANTED}.openai.azure.com"},
    "port": {"host": "127.0.0.1:4915112345678901"},
    "version in the path": {"path": "/v4915112345678901/chat/completions"},
    "numbers as a date": {"body": {"messages": [{"status": "49151123-45678901"}]}},
    "a text for a model": {"body": {"model": f"{PLANTED} of Oslo"}},
    "a list for a model": {"body": {"model": ["acme", PLANTED]}},
    "a sentence of words": {"body": {"messages": [{"status": "user deleted message"}]}},
    "arguments as an object": {
        "body": {"messages": [{"tool_calls": [{"function": {"arguments": {"index": 4915112}}}]}]}
    },
    "time of a stream": {"answer": b"retry: 4915112345678901\n\n"},
}


@pytest.mark.parametrize("place", BACKDOORS)
def test_what_only_looks_like_the_protocols_own_does_not_come_through(
    traffic: tuple[list[Exchange], list[str]], place: str
) -> None:
    planted = dict(BACKDOORS[place])
    answer = planted.pop("answer", b"")
    if "body" in planted:
        planted["body"] = orjson.dumps(planted["body"])
    request, response = traffic[0][0].request, traffic[0][0].response
    assert response
    disguise = shape()
    made = repr((
        disguise.request(replace(request, **planted)),
        disguise.response(replace(response, body=answer, headers=planted.get("headers", ()))),
    ))  # fmt: skip

    for original in (PLANTED, "4915112", "45678901", "user deleted"):
        assert original not in made


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        ("meta-llama/Llama-3.3-70B-Instruct-Turbo", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
        ("accounts/fireworks/models/qwen3", "accounts/fireworks/models/qwen3"),
        (
            "ft:gpt-4o-mini-2024-07-18:halvorsen::x91Zq",
            "ft:gpt-4o-mini-2024-07-18:#########::#####",
        ),
        ("accounts/halvorsen/models/ledger", "accounts/#########/models/######"),
        ("/mnt/halvorsen/ledger", "/###/#########/######"),
        ("arn:aws:bedrock:x/halvorsen", "arn:###:#######:#/#########"),
    ],
)
def test_a_models_name_stays_but_for_what_is_a_customers(model: str, kept: str) -> None:
    """Equal in request and answer, and as long; a name that is mapped is what it is mapped to."""
    bodies = Bodies(StandIns())
    made_up = bodies.made_up({"model": model})["model"]

    assert made_up == bodies.made_up({"model": model, "choices": []})["model"]
    assert len(made_up) == len(kept)
    assert [char for char in zip(kept, made_up, strict=True) if char[0] not in {"#", char[1]}] == []
    assert (made_up == model) == (kept == model)
    assert Bodies(StandIns(), {model: "m"}).made_up({"model": model}) == {"model": "m"}


def test_the_protocols_own_comes_through(traffic: tuple[list[Exchange], list[str]]) -> None:
    """What a server or a client does otherwise without it: features, waits, limits, hosts."""
    headers = (
        ("anthropic-beta", "prompt-caching-2024-07-31,context-1m-2025-08-07"),
        ("openai-beta", "assistants=v2"),
        ("retry-after", "0.5"),
        ("x-ratelimit-reset-requests", "6m0s"),
        ("anthropic-ratelimit-input-tokens-reset", "2026-01-27T12:00:30Z"),
    )
    extra = {"credential_header": "x-api-key", "known_times": "first_token"}
    request = replace(
        traffic[0][0].request, headers=headers, extra=extra, host="api.together.xyz",
        path="/openai/v1/chat/completions",
    )  # fmt: skip
    made = shape().request(request)

    assert made.headers == headers
    assert made.extra == extra
    assert (made.host, made.path) == (request.host, request.path)


def png(width: int, height: int) -> str:
    """The head of a picture, in base64."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + head + zlib.crc32(head).to_bytes(4)
    return b64encode(data + b"\0\0\0\0IEND\xae\x42\x60\x82").decode()


DEEP = b'{"messages":%s1%s}' % (b'[{"content":' * 400, b"}]" * 400)
ODD_BODIES = {
    "numbers at the edge": b'{"metadata":{"a":1.7e308,"b":5e-324,"c":-0.0,"d":18446744073709551615}}',
    "a picture in no base64": '{"messages":[{"content":[{"image_url":"data:image/png;base64,ø"}]}]}'.encode(),
    "a picture as a band": json.dumps(
        {"input": [{"image_url": "data:image/png;base64," + png(70_000, 5)}]}
    ).encode(),
    "a type that is a list": b'data: {"type":["halvorsen"],"content":"halvorsen"}\n\n',
    "deep in a stream": b'data: {"type":"x","content":' + b"[" * 990 + b"]" * 990 + b"}\n\n",
}


@pytest.mark.parametrize("case", ODD_BODIES)
def test_odd_bodies_are_made_up_as_any(
    traffic: tuple[list[Exchange], list[str]], case: str
) -> None:
    """None of them ends a copy, nor costs a capture the record."""
    body = ODD_BODIES[case]
    request, response = traffic[0][0].request, traffic[0][0].response
    assert response
    disguise = shape()
    made = disguise.response(replace(response, body=body, chunks=(Chunk(1, len(body)),)))
    asked = disguise.request(replace(request, body=body)) if body[:1] == b"{" else made

    assert made.body
    assert made.chunks == (Chunk(1, len(made.body)),)
    assert asked.body
    assert b"halvorsen" not in made.body + asked.body


def test_what_is_nested_too_deeply_is_withheld(
    traffic: tuple[list[Exchange], list[str]],
) -> None:
    disguise = shape()
    made = disguise.request(replace(traffic[0][0].request, body=DEEP))

    assert (made.body, made.extra["body_withheld"]) == (None, "privacy")
    assert disguise.removed["bodies"] == 1


def test_half_a_character_is_made_up_as_a_character(
    traffic: tuple[list[Exchange], list[str]],
) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"\\ud800 halvorsen"}]}'
    made = shape().request(replace(traffic[0][0].request, body=body))

    (message,) = orjson.loads(made.body or b"")["messages"]
    assert len(message["content"]) == len("? halvorsen")
    assert "halvorsen" not in message["content"]
