"""The parsers of tbench, for benchmarks/fuzz_parsers.py: what each reads, and what must hold then.

A check raises nothing but what its row allows: an AssertionError says which property did not hold.
"""

import atexit
import gzip
import io
import os
import random
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import brotli
import zstandard
from fuzz import (
    STREAM,
    anyhow,
    odd_container,
    odd_json,
    odd_lines,
    run_file,
    trace_file,
)
from parser_seeds import (
    ANSWER_WORDS,
    ANSWERS,
    CHAT_ANSWERS,
    CHATS,
    FILTER_WORDS,
    FILTERS,
    HTTP_WORDS,
    JSON_WORDS,
    JSONS,
    KEY,
    LOG_ROWS,
    LOG_WORDS,
    MAP_WORDS,
    MAPS,
    MESSAGE_ANSWERS,
    MESSAGES,
    OPTION_WORDS,
    OPTIONS,
    PLAN,
    REDACT_WORDS,
    RESPONSE_ANSWERS,
    RESPONSES,
    SCENARIO_WORDS,
    SCENARIOS,
    SECRET_BODIES,
    SETTINGS,
    SSE_WORDS,
    STREAMS,
    TEXTS,
    TOML_WORDS,
    TURNS,
    packed,
)

from tbench.abtest.plan import experiment, parse_arm, read_plan, treatments
from tbench.analysis.gate import parse_gates
from tbench.analysis.run_metrics import parse_slo
from tbench.capture import Exchange, Request, Response, TraceHeader, TraceWriter
from tbench.capture.decode import decode, decoder
from tbench.capture.errors import InputError
from tbench.capture.exchange import Outcome
from tbench.capture.filters import bind, meant
from tbench.capture.importers import IMPORTERS
from tbench.capture.importers.conversion import _row_calls
from tbench.capture.importers.importer import LeftOut
from tbench.capture.importers.mapping import certain_units, mapped, parse_map, unread
from tbench.capture.importers.rows import LAYOUTS
from tbench.capture.jsontext import loads, rewritten
from tbench.capture.privacy.masks import Masks
from tbench.capture.privacy.traffic import shape
from tbench.capture.providers import parse_request, parse_response
from tbench.capture.redact import (
    Redactor,
    Secrets,
    mask_address,
    mask_lookalikes,
    safe_path,
    secrets_of,
    without_credentials,
)
from tbench.capture.sessions import Sessions
from tbench.capture.sse import EventStream, plain_events
from tbench.capture.synthesis.scenario import parse as parse_scenario
from tbench.capture.trace_reader import read_trace
from tbench.replay.cost import parse_prices
from tbench.replay.dialects import DIALECTS, translated
from tbench.replay.dialects.conversation import Mute
from tbench.replay.engine.http1 import Response as Http1Response
from tbench.replay.makers import levels
from tbench.replay.metrics import METRICS
from tbench.replay.portability import carried
from tbench.replay.runfile import read_run
from tbench.replay.sender import Reply
from tbench.replay.target import parse_fields, parse_headers, parse_models
from tbench.settings import settings_file

Check = Callable[[bytes, random.Random], object]
Mutate = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Parser:
    """A parser: inputs that it takes, what is done with any, and the errors that tell of bad input.

    `words` are pieces of its grammar, which mutants are given.
    """

    seeds: Sequence[bytes]
    check: Check
    allowed: tuple[type[Exception], ...] = ()
    words: Sequence[bytes] = ()
    mutate: Mutate = anyhow


def cut(data: bytes, dice: random.Random) -> list[bytes]:
    """The same bytes in pieces."""
    if len(data) < 200 and dice.random() < 0.2:
        return [data[at : at + 1] for at in range(len(data))]
    places = sorted(dice.randrange(len(data) + 1) for _ in range(dice.choice((1, 1, 2, 5))))
    return [data[begin:end] for begin, end in zip([0, *places], [*places, len(data)], strict=True)]


def result_of[**P](call: Callable[P, object], *args: P.args, **options: P.kwargs) -> object:
    """What a call gives, or the kind of its InputError."""
    try:
        return call(*args, **options)
    except InputError:
        return InputError


# Containers


@cache
def scratch() -> Path:
    """A folder in memory for those that read files."""
    folder = TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    atexit.register(folder.cleanup)
    return Path(folder.name)


def in_file(name: str, data: bytes) -> Path:
    """A file with these bytes; there is one of a name at a time."""
    path = scratch() / name
    path.write_bytes(data)
    return path


@cache
def sound(make: Callable[[Path], Path], name: str) -> bytes:
    """The bytes of a file that a maker makes."""
    data = make(scratch() / name).read_bytes()
    (scratch() / name).unlink()
    return data


@cache
def recorded() -> dict[str, Exchange]:
    """The exchanges of the sound trace, by their ids."""
    trace = read_trace(in_file("whole.msgpack", sound(trace_file, "whole.msgpack")))
    return {exchange.request.id: exchange for exchange in trace}


def container_mutant(data: bytes, dice: random.Random) -> bytes:
    """Bytes changed, which checksums tell; at times a sound container of values that cannot be."""
    if dice.random() < 0.1:
        with suppress(InputError, IndexError):  # what is no container any more
            return odd_container(data, dice)
    return anyhow(data, dice)


def trace_check(data: bytes, _: random.Random) -> None:
    """Bytes that were changed cost exchanges, and never change one: their checksums tell."""
    for exchange in read_trace(in_file("t.msgpack", data)):
        assert exchange.request == recorded()[exchange.request.id].request


def values_check(data: bytes, dice: random.Random) -> None:
    """Values that cannot be, under checksums that are right, are refused or counted."""
    list(read_trace(in_file("t.msgpack", data)))
    if dice.random() < 0.02:
        round_trip(data, dice)


def round_trip(data: bytes, dice: random.Random) -> None:
    """What is written is read, whatever it holds."""
    pieces = (cut(data, dice) * 6)[:6]
    words = [piece.decode("utf-8", "surrogateescape") for piece in pieces]
    request = Request(
        id="r", seq=1, arrive_ns=len(data), end_ns=len(data) + 5, method=words[0], scheme="http",
        host=words[1], path=words[2], headers=((words[3], words[4]),), body=data,
        body_bytes=len(data), client=words[5],
    )  # fmt: skip
    response = Response(
        head_ns=len(data) + 6, end_ns=len(data) + 7, status=200, headers=((words[1], words[2]),),
        body=pieces[0], body_bytes=len(pieces[0]), outcome=Outcome.OK,
    )  # fmt: skip
    path = scratch() / "round.msgpack"
    path.unlink(missing_ok=True)
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        writer.exchange(Exchange(request=request, response=response))
    (exchange,) = read_trace(path)
    assert (exchange.request.body, exchange.request.headers) == (data, request.headers)
    assert exchange.request == request
    assert exchange.response == response


def run_check(data: bytes, _: random.Random) -> None:
    """A run that is read has columns of one length, and figures."""
    run = read_run(in_file("a.run", data))
    n = len(run.columns["index"])
    assert all(len(run.columns[name]) == n for name in ("sent", "end", "outcome", "model"))
    for metric in METRICS.values():
        metric.of(run.columns)


# Streams, HTTP and JSON


def sse_check(data: bytes, dice: random.Random) -> None:
    """In pieces as whole; the short way as the long one."""
    stream = EventStream()
    whole = [*stream.feed(data), *stream.end()]
    pieces = cut(data, dice)
    other = EventStream()
    parts = [event for piece in pieces for event in other.feed(piece)]
    assert [*parts, *other.end()] == whole
    plain = plain_events([(float(at), piece) for at, piece in enumerate(pieces) if piece])
    if plain is not None:
        assert [text.removeprefix(b" ") for _, text in plain] == [event.data for event in whole]


def http1_check(data: bytes, dice: random.Random, bodyless: bool = False) -> None:
    """In pieces as whole, on a kept connection as on a new one: status, headers, body, end, failure."""

    def read(pieces: Iterable[bytes], *, kept: bool = False) -> tuple[object, ...]:
        reply, response = Reply(), Http1Response()
        if kept:
            response.begin(Reply())
            response.feed(0.0, ANSWERS[0])
            assert response.keep
        response.begin(reply, bodyless=bodyless)
        for piece in pieces:
            response.feed(0.0, piece)
        response.eof(0.0)
        assert response.over
        body = b"".join(piece for _, piece in reply.chunks)
        assert reply.received == len(body)
        failure = reply.failure and reply.failure[0]
        return reply.status, list(reply.headers), body, reply.end, failure

    whole = read([data])
    parts = read((piece for piece in cut(data, dice) if piece), kept=dice.random() < 0.3)
    assert parts == whole, f"{parts} == {whole}"


def json_check(data: bytes, _: random.Random) -> None:
    """What is read can be written, and is read again as it was."""
    value = loads(data)
    assert loads(rewritten(value)) == value


ENCODINGS: Final = ("gzip", "deflate", "br", "zstd", "gzip, br", "zstd,gzip", "identity", "x-gzip")
PACK: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}  # fmt: skip


def decode_check(data: bytes, dice: random.Random) -> None:
    """In pieces as whole; what was encoded comes back. The first byte says which encoding."""
    name = ENCODINGS[data[0] % len(ENCODINGS)] if data else "gzip"
    body = data[1:]
    step = decoder(name)
    pieces = cut(body, dice)
    whole = result_of(decode, body, name)
    parts = result_of(lambda: b"".join([step(piece) for piece in pieces]))
    assert parts == whole
    if dice.random() < 0.05:
        for encoding, pack in PACK.items():
            assert decode(pack(body), encoding) == body


# Dialects

PATHS: Final = {
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
}
TYPES: Final = ("text/event-stream", "application/json", "", "text/plain")
FOREIGN: Final = levels("none", foreign=True) | levels("auto", foreign=True)


def request_check(data: bytes, _: random.Random, dialect: str) -> None:
    """Never an exception; a salt leaves the request what it was; what is carried is carried again."""
    parsed = parse_request("POST", PATHS[dialect], data)
    assert len(parsed.messages) >= 0
    if (payload := parsed.payload) is None:
        return
    provider = parsed.provider
    for prefixed in (
        provider.with_prefix(payload, "salt "),
        provider.before_turns(payload, "salt "),
    ):
        if prefixed is not None:
            info = parse_request("POST", PATHS[dialect], rewritten(prefixed)).info
            assert info._replace(inputs=0) == parsed.info._replace(inputs=0)
    body, _ = carried(payload, parsed.info.endpoint, FOREIGN)
    assert carried(body, parsed.info.endpoint, FOREIGN)[1] == []
    for to in DIALECTS:
        try:
            written, _lost = translated(payload, dialect, to)
        except Mute:
            continue
        rewritten(written)
    assert parse_request("POST", PATHS[dialect], data).payload == payload, "it was changed"


def response_check(data: bytes, dice: random.Random) -> None:
    """Never an exception; in pieces as whole."""
    kind, status = dice.choice(TYPES), dice.choice((200, 200, 200, 400, 500, 302))
    whole = parse_response([(0.0, data)], content_type=kind, status=status)
    parts = parse_response(
        [(0.0, piece) for piece in cut(data, dice)], content_type=kind, status=status
    )
    assert parts == whole, f"{parts} == {whole}"


def request_of(body: bytes, number: int, **more: Any) -> Request:  # noqa: ANN401 (of any field)
    """A chat that came so many seconds after the first."""
    at = number * 10**9
    return Request(
        id=f"r{number}", seq=number, arrive_ns=at, end_ns=at, method="POST", scheme="http", host="h",
        path=PATHS["chat"], body=body, body_bytes=len(body), **more,
    )  # fmt: skip


def sessions_check(data: bytes, dice: random.Random) -> None:
    """A body a line: each has a place, the same each time, among those before it."""
    bodies = data.split(b"\n")[:12]
    clients = [dice.choice((None, "a", "b")) for _ in bodies]
    answers = [dice.random() < 0.5 for _ in bodies]

    def places() -> list[object]:
        sessions, listed = Sessions(), []
        for number, (body, client, answered) in enumerate(
            zip(bodies, clients, answers, strict=True)
        ):
            request = request_of(body, number, client=client)
            response = Response(
                head_ns=request.end_ns, end_ns=request.end_ns + 10, status=200, body=STREAM,
                body_bytes=len(STREAM), headers=(("content-type", TYPES[0]),), outcome=Outcome.OK,
            )  # fmt: skip
            place = sessions.assign(request, response=response if answered else None)
            assert 1 <= place.number <= number + 1
            assert 0 <= place.turn <= number
            listed.append(place)
        return listed

    assert places() == places()


# Logs


class Dribble(io.BytesIO):
    """A file that gives a few bytes at a time, as a pipe or a decompressor does."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size if size is None or size < 8 else 7)


def calls_of(rows: Sequence[Mapping[str, Any] | LeftOut]) -> None:
    """The calls that the rows tell of, by every importer that takes one."""
    for importer in IMPORTERS.values():
        if any(importer.matches(row) for row in rows if not isinstance(row, LeftOut)):
            for row in importer.joined(iter(rows)):
                _row_calls(importer, row)


def rows_check(data: bytes, _: random.Random, layout: str) -> None:
    """A row is told or left out, never an exception; a dribbling file is read as any."""
    read = LAYOUTS[layout]  # type: ignore[index]
    inside = ("log", "entries") if layout == "json" and data.lstrip()[:1] == b"{" else ()
    rows = list(read(io.BytesIO(data), Path("x"), inside))
    calls_of(rows)
    if layout in ("json", "goreplay"):
        assert list(read(Dribble(data), Path("x"), inside)) == rows


# Words of the command line, and files of settings


def words_of(data: bytes) -> list[str]:
    """The words of a line each."""
    return data.decode("utf-8", "replace").split("\n")


def only_check(data: bytes, _: random.Random) -> None:
    """A filter that is understood can be applied."""
    trace = read_trace(small_trace())
    wanted = bind(words_of(data), trace)
    list(meant(trace, wanted, wanted.start(), answers=True))


@cache
def small_trace() -> Path:
    """Three exchanges."""
    path = scratch() / "small.msgpack"
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for exchange in list(recorded().values())[:3]:
            writer.exchange(exchange)
    return path


ROW: Final = {
    "timestamp": 1764350000, "at": "2026-06-01T10:00:00Z", "usage": {"in": 5, "out": "7"}, "body": '{"a": 1}',
    "list": [1, {"x": "y"}], "took": 1.5, "a.b": 3,
}  # fmt: skip


def map_check(data: bytes, _: random.Random) -> None:
    """Places that are understood can be read in any row."""
    places = certain_units(parse_map(words_of(data)), [ROW])
    unread(places, [ROW])
    _row_calls(mapped(places), ROW)


def set_check(data: bytes, _: random.Random) -> None:
    """The words of --set, --header, --map-model, --price, --gate, --slo and --arm, by the first line."""
    first, *words = words_of(data)
    match first:
        case "set":
            rewritten(parse_fields(words))
        case "header":
            parse_headers(words)
        case "model":
            parse_models(words)
        case "price":
            parse_prices(words)
        case "gate":
            parse_gates(None, words)
        case "slo":
            parse_slo(" ".join(words))
        case _:
            for spec in treatments(parse_arm(word) for word in words):
                _ = spec.written


def settings_check(data: bytes, _: random.Random) -> None:
    """A settings file is taken as a whole or refused."""
    os.environ["TBENCH_SETTINGS"] = str(in_file("tbench.toml", data))
    settings_file()


def plan_check(data: bytes, _: random.Random) -> None:
    """A plan that is understood can be written again."""
    os.environ.pop("TBENCH_SETTINGS", None)
    plan = experiment(read_plan(in_file("plan.toml", data)))
    assert plan.slots
    rewritten(plan.written)


def scenario_check(data: bytes, dice: random.Random) -> None:
    """One that is understood is written as it was given, and draws what can be made."""
    scenario = parse_scenario(data.decode("utf-8", "replace"))
    assert parse_scenario(str(scenario)) == scenario
    size = scenario.size(random.Random(dice.random()))
    assert (size.input or 0) >= 0
    assert (size.output or 0) >= 0


# Secrets


def redact_check(data: bytes, dice: random.Random) -> None:
    """A key is masked wherever it stands, lengths stay, and JSON stays JSON."""
    at = dice.randrange(len(data) + 1)
    holding = data[:at] + KEY.encode() + data[at:]
    masked = Secrets.of([KEY]).mask(holding)
    assert KEY.encode() not in masked
    assert len(masked) == len(holding)
    text = data.decode("utf-8", "surrogateescape")
    secrets = secrets_of(
        [("Authorization", f"Bearer {KEY}"), ("x-odd", text), (text[:30], KEY)], f"/a?{text}"
    )
    assert KEY not in safe_path(f"/{text}?{text}={KEY}#{KEY}", secrets)
    mask_lookalikes(text)
    mask_address(text)
    bare = without_credentials(data)
    assert len(bare.body) == len(data)
    redactor = Redactor(b"k" * 32)
    assert len(redactor.identities(data, exact=True)) == len(data)
    if is_json(data):
        assert is_json(bare.body)
        assert is_json(redactor.identities(data))
        assert without_credentials(bare.body).body == bare.body


def is_json(data: bytes) -> bool:
    """Whether it can be read."""
    try:
        loads(data)
    except ValueError:
        return False
    return True


def mask_check(data: bytes, dice: random.Random) -> None:
    """Masks keep the length and JSON, and mask nothing twice; stand-ins are made of anything."""
    kind = dice.choice(TYPES)
    masked = Masks().mask(data, kind)
    assert len(masked) == len(data)
    assert is_json(masked) or not is_json(data)
    if dice.random() < 0.1:
        disguise = shape(b"k" * 32)
        request = disguise.request(request_of(data, 1))
        assert request.body is None or is_json(request.body)
        disguise.response(
            Response(head_ns=1, end_ns=2, status=200, body=data, body_bytes=len(data), outcome=Outcome.OK,
                     headers=(("content-type", kind),))
        )  # fmt: skip


ENCODED: Final = [bytes([ENCODINGS.index(name)]) + pack(STREAM) for name, pack in PACK.items()]
GZIPS: Final = b"\x00" + gzip.compress(b"a") + b"\0\0" + gzip.compress(b"b")
BARE: Final = b"\x01" + zlib.compress(STREAM)[2:-4]
NONE: Final = ()
BAD: Final = (InputError,)

PARSERS: Final[dict[str, Parser]] = {
    "sse": Parser(STREAMS, sse_check, NONE, SSE_WORDS),
    "http1": Parser(ANSWERS, http1_check, NONE, HTTP_WORDS),
    "http1-head": Parser(ANSWERS, partial(http1_check, bodyless=True), NONE, HTTP_WORDS),
    "json": Parser(JSONS, json_check, (ValueError,), JSON_WORDS),
    "decode": Parser([*ENCODED, GZIPS, BARE], decode_check, NONE),
    **{
        f"{name}-request": Parser(
            packed(bodies), partial(request_check, dialect=name), NONE, JSON_WORDS, odd_json
        )
        for name, bodies in {"chat": CHATS, "messages": MESSAGES, "responses": RESPONSES}.items()
    },
    "chat-answer": Parser(CHAT_ANSWERS, response_check, NONE, ANSWER_WORDS),
    "messages-answer": Parser(MESSAGE_ANSWERS, response_check, NONE, ANSWER_WORDS),
    "responses-answer": Parser(RESPONSE_ANSWERS, response_check, NONE, ANSWER_WORDS),
    "sessions": Parser([TURNS, b"\n".join(packed(CHATS))], sessions_check, NONE, JSON_WORDS),
    **{
        f"log-{layout}": Parser(seeds, partial(rows_check, layout=layout), BAD, LOG_WORDS[layout])
        for layout, seeds in LOG_ROWS.items()
    },
    "only": Parser(FILTERS, only_check, BAD, FILTER_WORDS),
    "map": Parser(MAPS, map_check, BAD, MAP_WORDS),
    "options": Parser(OPTIONS, set_check, BAD, OPTION_WORDS),
    "settings": Parser([SETTINGS], settings_check, BAD, TOML_WORDS, odd_lines),
    "plan": Parser([PLAN], plan_check, BAD, TOML_WORDS, odd_lines),
    "scenario": Parser(SCENARIOS, scenario_check, BAD, SCENARIO_WORDS),
    "redact": Parser(SECRET_BODIES, redact_check, NONE, REDACT_WORDS),
    "mask": Parser([*TEXTS, *SECRET_BODIES], mask_check, NONE, ANSWER_WORDS),
    "trace": Parser([sound(trace_file, "whole.msgpack")], trace_check, BAD),
    "trace-values": Parser(
        [sound(trace_file, "whole.msgpack")], values_check, BAD, NONE, container_mutant
    ),
    "run": Parser([sound(run_file, "whole.run")], run_check, BAD, NONE, container_mutant),
}
"""Name -> parser."""
