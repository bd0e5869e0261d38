"""Editor: the final outcome, masked bodies, linked retries."""

import gzip
import itertools
import json
import zlib
from dataclasses import replace

import brotli
import pytest
import zstandard

from tbench.capture.exchange import Headers, Outcome, Request, Response
from tbench.capture.redact import Redactor, Secrets
from tbench.capture.sanitize import Sanitizer
from tbench.capture.tee import Budget, Tee
from tests.recorded import chat_request

KEY = "sk-editor-0123456789"
SECRETS = Secrets.of([KEY])
SSE: Headers = (("content-type", "text/event-stream"),)
JSON: Headers = (("content-type", "application/json"),)
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
FINISH = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"engine died","type":"server_error"}}\n\n'
CODINGS = {
    "gzip": gzip.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def request(**fields: object) -> Request:
    return chat_request(0, 0, **{"id": "a", "end_ns": 1, **fields})


def response(status: int = 200, headers: Headers = SSE, outcome: Outcome = Outcome.OK) -> Response:
    return Response(head_ns=2, end_ns=9, status=status, headers=headers, outcome=outcome)


def tee_of(*pieces: bytes) -> Tee:
    tee = Tee(Budget(1 << 20), itertools.count(5).__next__)
    for piece in pieces:
        tee.pass_on(piece)
    return tee


def edited(
    head: Response,
    *pieces: bytes,
    secrets: Secrets = Secrets(),  # noqa: B008
    path: str = "/v1/chat/completions",
) -> Response:
    sanitizer = Sanitizer(Redactor())
    sanitizer.request(request(path=path), secrets)
    return sanitizer.response("a", head, tee_of(*pieces), secrets)


@pytest.mark.parametrize(
    ("pieces", "outcome"),
    [
        ([TOKEN, FINISH, DONE], Outcome.OK),
        ([TOKEN, FINISH], Outcome.OK),
        ([TOKEN, ERROR], Outcome.STREAM_ERROR),
        ([TOKEN, ERROR, DONE], Outcome.STREAM_ERROR),
        ([TOKEN, b"event: error\ndata: overloaded\n\n"], Outcome.STREAM_ERROR),
        ([TOKEN, TOKEN], Outcome.CUT),
        ([TOKEN.replace(b"hi", b"an error occurred"), FINISH, DONE], Outcome.OK),
        ([b'data: {"type":"ping"}\n\n'], Outcome.CUT),
        ([], Outcome.CUT),
    ],
)
@pytest.mark.parametrize("coding", ["", *CODINGS])
def test_a_stream_is_judged_by_what_it_says(
    pieces: list[bytes], outcome: Outcome, coding: str
) -> None:
    """An error event or a missing finish shows only in the content, encoded or not."""
    head = response(headers=(*SSE, ("content-encoding", coding)) if coding else SSE)
    whole = CODINGS[coding](b"".join(pieces)) if coding and pieces else b"".join(pieces)

    assert edited(head, whole[:20], whole[20:]).outcome is outcome


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 429, 500, 503])
def test_a_redirect_and_a_status_from_400_are_http_errors(status: int) -> None:
    """Whatever the body is; a replay judges in the same way."""
    assert edited(response(status, JSON), b"{}").outcome is Outcome.HTTP_ERROR


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (101, Outcome.OK),
        (103, Outcome.PROTOCOL_ERROR),
        (204, Outcome.OK),
        (304, Outcome.OK),
    ],
)
def test_an_answer_without_a_body_is_judged_by_its_status(status: int, outcome: Outcome) -> None:
    """Where no inference was asked for. Early hints are not an answer."""
    assert edited(response(status, ()), path="/v1/models").outcome is outcome


def test_events_of_another_api_are_whole_unless_they_say_otherwise() -> None:
    """A text that speaks of errors is none, an error event is one."""
    said = b'event: delta\ndata: {"type":"delta","text":"error","error":null}\n\n'
    failed = b'event: error\ndata: {"type":"error","error":{"message":"overloaded"}}\n\n'

    assert edited(response(), said, path="/inference").outcome is Outcome.OK
    assert edited(response(), said, failed, path="/inference").outcome is Outcome.STREAM_ERROR


@pytest.mark.parametrize(
    ("last", "outcome"),
    [
        (b'event: message_stop\ndata: {"type":"message_stop"}\n\n', Outcome.OK),
        (
            b'event: error\ndata: {"type":"error","error":{"message":"no"}}\n\n',
            Outcome.STREAM_ERROR,
        ),
        (b'event: ping\ndata: {"type":"ping"}\n\n', Outcome.CLIENT_ABORT),
    ],
)
def test_a_client_that_leaves_after_the_last_event_missed_nothing(
    last: bytes, outcome: Outcome
) -> None:
    """SDKs close the connection there, before the end of the chunked body."""
    left = response(outcome=Outcome.CLIENT_ABORT)
    begun = b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n'

    assert edited(left, begun, last, path="/v1/messages").outcome is outcome


def test_an_error_in_a_whole_answer_of_status_200_is_seen() -> None:
    """Some gateways answer 200 with an error in it."""
    assert (
        edited(response(200, JSON), b'{"error":{"message":"no"}}').outcome is Outcome.STREAM_ERROR
    )
    assert edited(response(200, JSON), b'{"choices":[],"error":null}').outcome is Outcome.OK


@pytest.mark.parametrize(
    ("status", "headers", "body", "outcome"),
    [
        (200, SSE, TOKEN + FINISH + DONE, Outcome.OK),
        (200, SSE, TOKEN + FINISH, Outcome.CLIENT_ABORT),
        (200, SSE, TOKEN + ERROR, Outcome.STREAM_ERROR),
        (200, SSE, TOKEN + b"event: error\ndata: no\n\n", Outcome.STREAM_ERROR),
        (200, SSE, TOKEN + FINISH.replace(b"stop", b"abort"), Outcome.STREAM_ERROR),
        (200, SSE, TOKEN + b"data: {'choices': []}\n\n", Outcome.PROTOCOL_ERROR),
        (200, SSE, TOKEN + b"data: {'choices': []}\n", Outcome.CLIENT_ABORT),
        (200, SSE, TOKEN + ERROR[:-9], Outcome.CLIENT_ABORT),
        (200, SSE, b"", Outcome.CLIENT_ABORT),
        (200, JSON, b'{"choices":[{"mess', Outcome.CLIENT_ABORT),
        (429, JSON, b'{"error":{"mess', Outcome.HTTP_ERROR),
    ],
)
@pytest.mark.parametrize("coding", ["", "gzip"])
def test_a_client_that_leaves_once_it_is_settled_has_its_answer(
    status: int, headers: Headers, body: bytes, outcome: Outcome, coding: str
) -> None:
    """SDKs close the connection at [DONE], at an error, at what they cannot read: a replay reads the same.

    An event without its blank line, or half of a body, settles nothing. Encoded bodies lack their end.
    """
    if coding:
        headers = (*headers, ("content-encoding", coding))
        press = zlib.compressobj(wbits=31)
        body = press.compress(body) + press.flush(zlib.Z_SYNC_FLUSH)
    left = replace(response(status, headers, Outcome.CLIENT_ABORT), error="the client left")
    record = edited(left, body)

    assert record.outcome is outcome
    assert record.error == ("the client left" if outcome is Outcome.CLIENT_ABORT else None)


def test_a_text_that_says_done_is_not_the_end() -> None:
    """An abort after it left the rest behind: `data: [DONE]` has a line of its own."""
    left = response(outcome=Outcome.CLIENT_ABORT)
    said = TOKEN.replace(b"hi", b"\\ndata: [DONE]\\n")

    assert edited(left, TOKEN, said).outcome is Outcome.CLIENT_ABORT
    assert edited(left, TOKEN, b"data:[DONE]\n\n").outcome is Outcome.OK


def test_chunks_carry_the_time_and_size_of_every_piece() -> None:
    """They stay whole when the body was not kept."""
    tee = tee_of(b"ab", b"cde")
    tee.forget()

    out = Sanitizer(Redactor()).response("a", response(), tee, Secrets())

    assert [(chunk.at_ns, chunk.size) for chunk in out.chunks] == [(5, 2), (6, 3)]
    assert (out.body, out.body_bytes) == (None, 5)


def test_an_echoed_key_is_masked_and_no_offset_moves() -> None:
    """Body, error text and half-masked hints."""
    head = Response(head_ns=1, end_ns=2, status=401, headers=JSON, error=f"bad key {KEY}")
    body = json.dumps({"error": {"message": f"Incorrect key {KEY}, sk-ed****6789"}}).encode()

    out = edited(head, body, secrets=SECRETS)

    assert out.body is not None
    assert out.error is not None
    assert len(out.body) == len(body)
    assert json.loads(out.body)
    assert KEY.encode() not in out.body
    assert b"6789" not in out.body
    assert "0123456789" not in out.error


def test_a_key_split_over_pieces_is_masked() -> None:
    """The network cuts where it likes."""
    out = edited(response(401, JSON), b'{"error":"sk-edit', b'or-0123456789"}', secrets=SECRETS)

    assert out.body == b'{"error":"' + b"*" * len(KEY) + b'"}'


@pytest.mark.parametrize("coding", ["", "gzip"])
@pytest.mark.parametrize("where", ["body", "error"])
def test_a_user_that_a_server_repeats_is_the_pseudonym(where: str, coding: str) -> None:
    """In its answer or its error, at any status; as long as it was, and the one that the request has."""
    who, sanitizer = "joe@example.com", Sanitizer(Redactor())
    asked = json.dumps({"user": who, "messages": []}).encode()
    told = f"{who} is over quota"
    body = json.dumps({"error": {"message": told if where == "body" else "no"}}).encode()
    headers = (*JSON, ("content-encoding", coding)) if coding else JSON
    head = replace(response(429, headers), error=told if where == "error" else None)

    sent = sanitizer.request(request(body=asked), Secrets())
    out = sanitizer.response(
        "a", head, tee_of(CODINGS[coding](body) if coding else body), Secrets()
    )
    assert sent.body
    name = json.loads(sent.body)["user"]

    if where == "error":
        assert out.error == f"{name} is over quota"
    elif coding:
        assert (out.body, out.extra) == (None, {"body_withheld": "credential"})
    else:
        assert out.body == body.replace(who.encode(), name.encode())


@pytest.mark.parametrize("coding", CODINGS)
def test_an_encoded_body_is_kept_as_sent(coding: str) -> None:
    """The bytes of the wire, not a decoded copy."""
    wire = CODINGS[coding](TOKEN + FINISH + DONE)

    out = edited(response(headers=(*SSE, ("content-encoding", coding))), wire, secrets=SECRETS)

    assert out.body == wire


@pytest.mark.parametrize("coding", CODINGS)
def test_an_encoded_body_with_the_key_in_it_is_not_kept(coding: str) -> None:
    """It cannot be masked in place; times, sizes and the outcome stay."""
    wire = CODINGS[coding](json.dumps({"error": f"bad key {KEY}"}).encode())
    head = response(401, (*JSON, ("content-encoding", coding)))

    out = edited(head, wire, secrets=SECRETS)

    assert out.body is None
    assert out.body_bytes == len(wire)
    assert out.extra == {"body_withheld": "credential"}
    assert out.outcome is Outcome.HTTP_ERROR


def test_an_encoded_body_that_cannot_be_looked_into_is_not_kept() -> None:
    """What might hold a key is treated as if it did."""
    out = edited(response(headers=(*SSE, ("content-encoding", "gzip"))), b"not gzip at all")

    assert out.body is None
    assert out.extra == {"body_withheld": "unreadable"}


def test_a_request_loses_its_secrets_and_identities_only() -> None:
    """A key pasted into a prompt goes too; sizes are those of the wire."""
    body = json.dumps(
        {"user": "joe", "messages": [{"role": "user", "content": f"my key is {KEY}"}]}
    )

    out = Sanitizer(Redactor()).request(request(body=body.encode(), body_bytes=len(body)), SECRETS)

    assert out.body is not None
    assert json.loads(out.body)["messages"][0]["content"] == "my key is " + "*" * len(KEY)
    assert b"joe" not in out.body
    assert out.body_bytes == len(body)


def test_a_repeat_after_a_429_is_linked() -> None:
    """Same caller, same bytes, after a failure."""
    sanitizer = Sanitizer(Redactor())
    sanitizer.request(request(id="a", client="c", body=b"{}"), SECRETS)
    sanitizer.response("a", response(429, JSON), tee_of(b"{}"), SECRETS)

    again = replace(request(id="b", client="c", body=b"{}"), arrive_ns=3)
    other = replace(request(id="c", client="d", body=b"{}"), arrive_ns=3)
    assert sanitizer.request(again, SECRETS).retry_of == "a"
    assert sanitizer.request(other, SECRETS).retry_of is None


@pytest.mark.parametrize("count", ["9" * 5_000, "-1", "one", "²"])
def test_a_retry_count_that_is_none_loses_no_record(count: str) -> None:
    """What a client puts there is a stranger's: the bytes decide, as without a count."""
    sanitizer = Sanitizer(Redactor())
    headers = (("x-stainless-retry-count", count),)
    sanitizer.request(request(id="a", client="c", body=b"{}", headers=headers), SECRETS)
    sanitizer.response("a", response(429, JSON), tee_of(b"{}"), SECRETS)
    again = replace(request(id="b", client="c", body=b"{}", headers=headers), arrive_ns=3)
    repeat = sanitizer.request(again, SECRETS)

    assert repeat.retry_of == "a"


def test_without_their_bytes_no_two_requests_are_the_same() -> None:
    """A body that was dropped, or an upload that was refused: there is nothing to compare."""
    sanitizer = Sanitizer(Redactor())
    sanitizer.request(request(id="a", client="c", body=None, body_bytes=9), SECRETS)
    sanitizer.response("a", response(429, JSON), tee_of(b"{}"), SECRETS)

    assert sanitizer.request(request(id="b", client="c", body_bytes=7), SECRETS).retry_of is None
