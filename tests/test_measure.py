"""From a reply, or a recorded response, to a sample; what a server quotes of us is not written down."""

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.capture.exchange import Chunk, Exchange, Outcome, Request, Response
from tbench.capture.records import TraceHeader
from tbench.capture.redact import Redactor, Secrets
from tbench.capture.trace_info import Facts
from tbench.capture.trace_reader import read_trace
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.measure import recorded_samples, to_sample
from tbench.replay.sample import Sample
from tbench.replay.sender import NOWHERE, Call, Label, Reply
from tbench.replay.waiting import answered

SECRET = "correct-horse-battery"


def sample(reply: Reply) -> Sample:
    label = Label(id="x", endpoint="chat", model="m").pack()
    call = Call(0, None, NOWHERE, b"", b"", label=label)
    return to_sample(call, reply, 0.0, Secrets.of([SECRET]))


def test_a_sample_knows_its_conversation() -> None:
    """The number that the plan gave travels with the call; none is none."""
    reply = Reply(status=200)
    known = Call(0, None, NOWHERE, b"", b"", label=Label(id="x", session=7).pack())

    assert to_sample(known, reply, 0.0).session == 7
    assert sample(reply).session is None


def refusal(message: str) -> Reply:
    body = json.dumps({"error": {"message": message}}).encode()
    return Reply(
        status=401, headers=((b"X-Request-Id", f"r-{SECRET}".encode()),), chunks=[(1.0, body)]
    )


def said(*, error: object = None, index: int = 0, **choice: object) -> bytes:
    return json.dumps({"choices": [{"index": index, **choice}], "error": error}).encode()


TEXT = {"delta": {"content": 'He said "error": "finish_reason": "abort"'}}
PIECES = {
    "chat": [
        said(**TEXT),
        said(**TEXT, finish_reason="stop"),
        said(**TEXT, index=1),
        said(finish_reason="abort", message={}),
        b'{"choices" : [{"index" : 0, "finish_reason" : "abort", "message" : {}}]}',
        said(error={"message": "full"}),
        b"{}",
    ],
    "messages": [
        b'{"type": "message_start", "message": {}}',
        b'{"type": "message_stop"}',
        b'{"type":"error"}',
        b'{"type": "message", "stop_reason": "end_turn", "content": []}',
    ],
    "responses": [
        b'{"type": "response.completed", "response": {"status": "completed", "error": null}}',
        b'{"type": "response.failed", "response": {"status": "failed", "error": {"code": "x"}}}',
        b'{"object": "response", "status": "failed", "error": null, "output": []}',
    ],
}
LONG = [
    said(message={"content": "x" * 5000}, finish_reason=reason, logprobs="x" * 5000)
    for reason in ("length", "abort")
]
BODIES = [*chain.from_iterable(PIECES.values()), *LONG, b"", b"[]", b"<html>"]
NOISE = [b": ping\n\n", b"event: error\n", b"\n\n", b"data: [DONE]\n\n"]
STREAMS = st.sampled_from([*PIECES.values()]).flatmap(
    lambda pieces: st.lists(
        st.sampled_from([*(b"data: " + piece + b"\n\n" for piece in pieces), *NOISE]), max_size=6
    ).map(b"".join)
)


@given(
    st.sampled_from(BODIES) | STREAMS,
    st.sampled_from([200, 201, 302, 400, 503]),
    st.sampled_from(["chat", "messages", "responses", "embeddings"]),
    st.sampled_from([0, 99]),
)
def test_who_waits_for_an_answer_goes_on_where_its_sample_is_a_success(
    body: bytes, status: int, endpoint: str, cut: int
) -> None:
    """Whatever comes, in whatever order, but for what is no JSON: most are told without being read."""
    call = Call(0, None, NOWHERE, b"", b"", label=Label(id="x", endpoint=endpoint).pack())
    pieces = [body[:cut], body[cut:]] if cut else [body]
    reply = Reply(status=status, chunks=[(0.0, piece) for piece in pieces])

    assert answered(call, reply) is (to_sample(call, reply, 0.0).outcome is Outcome.OK)


def test_an_error_that_quotes_the_key_is_masked() -> None:
    """Exactly, as a key may look like any word."""
    found = sample(refusal(f"no such key {SECRET}"))

    assert found.outcome is Outcome.HTTP_ERROR
    assert found.error == f"no such key {'*' * len(SECRET)}"
    assert found.request_id == f"r-{'*' * len(SECRET)}"


def test_an_error_that_is_cut_within_the_key_is_masked() -> None:
    """Error lines are cut at 200 characters, wherever that is."""
    for room in range(190, 200):
        found = sample(refusal("x " * (room // 2) + SECRET))

        assert found.error
        assert "corr" not in found.error


def test_a_finish_reason_stays_a_word() -> None:
    """It is a free string of the server's, in a table of every block of the run file."""
    answer = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop" * 1_000_000}]}
    found = sample(Reply(status=200, chunks=[(1.0, json.dumps(answer).encode())]))

    assert found.outcome is Outcome.OK
    assert found.finish_reason == "stop" * 16


def test_a_failure_of_the_transport_is_masked() -> None:
    """Libraries quote what they cannot parse."""
    found = sample(Reply(failure=(Outcome.PROTOCOL_ERROR, f"illegal header {SECRET}")))

    assert found.error == f"illegal header {'*' * len(SECRET)}"


def token(word: str) -> bytes:
    event = {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


TYPE = ((b"content-type", b"text/event-stream"),)


def test_a_first_token_that_was_read_late_says_since_when_it_may_have_been_there() -> None:
    """What the sender knows of the read that holds it; of other reads it does not matter."""
    chunks = [(1.5, b": wait\n\n"), (2.0, token("a") + token("b")), (3.0, token("c"))]

    def after(unsure: dict[int, float]) -> float | None:
        reply = Reply(status=200, sent=1.0, headers=TYPE, chunks=chunks, unsure=unsure)
        return sample(reply).first_token_after

    assert after({}) is None
    assert after({1: 1.8}) == 1.8
    assert after({0: 1.2, 2: 2.5}) is None


def test_a_redirect_names_where_it_leads() -> None:
    """Without the query, which may hold whatever a server likes to sign."""
    there = (b"Location", b"https://other.example/v1/chat/completions/?signature=s3cret")
    found = sample(Reply(status=307, headers=(there,), end=1.0))

    assert found.outcome is Outcome.HTTP_ERROR
    assert (
        found.error == "a redirect to https://other.example/v1/chat/completions/, which is not "
        "followed; give that address"
    )


SECOND = 10**9
ASKED = Request(
    id="x",
    seq=0,
    arrive_ns=5 * SECOND,
    end_ns=5 * SECOND,
    method="POST",
    scheme="http",
    host="h",
    path="/v1/chat/completions",
    body=b'{"model":"m","stream":true,"messages":[]}',
    body_bytes=41,
)
ANSWER = (token("a"), token("b"), b"data: [DONE]\n\n")
FINISH = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}).encode()
ANSWERED = Response(
    head_ns=6 * SECOND,
    end_ns=9 * SECOND,
    status=200,
    headers=(("content-type", "text/event-stream"), ("x-request-id", "r-1")),
    body=ANSWER[0] + ANSWER[1] + b"data: " + FINISH + b"\n\n" + ANSWER[2],
    body_bytes=77,
    chunks=(
        Chunk(6 * SECOND, len(ANSWER[0])),
        Chunk(8 * SECOND, len(ANSWER[1])),
        Chunk(9 * SECOND, len(FINISH) + 8 + len(ANSWER[2])),
    ),
)


def recorded(folder: Path, response: Response | None) -> tuple[Sample, Exchange]:
    """What a trace of this exchange is measured as, and the exchange as it is read."""
    path = folder / f"{len(list(folder.iterdir()))}.msgpack"
    with TraceWriter(path, TraceHeader(wall_ns=100 * SECOND, mono_ns=4 * SECOND)) as writer:
        writer.exchange(Exchange(request=ASKED, response=response))
    (sample,), (exchange,) = recorded_samples(read_trace(path)), read_trace(path)
    return sample, exchange


@pytest.mark.parametrize(
    ("named", "request_id"),
    [((), None), (("request-id",), "1"), (("request-id", "x-request-id"), "2")],
)
def test_an_answer_is_named_by_its_server(
    tmp_path: Path, named: tuple[str, ...], request_id: str | None
) -> None:
    """Anthropic's header has no `x-`; a proxy's own comes before it."""
    headers = tuple((name, str(number)) for number, name in enumerate(named, 1))
    kept, withheld = Redactor().headers(headers, Secrets())

    assert withheld == 0
    assert recorded(tmp_path, replace(ANSWERED, headers=kept))[0].request_id == request_id


def test_a_recording_is_measured_as_a_reply_would_be(tmp_path: Path) -> None:
    """In seconds from the first request, which nothing was due for."""
    captured, _ = recorded(tmp_path, ANSWERED)

    assert (captured.due, captured.sent, captured.first_byte, captured.end) == (None, 0.0, 1.0, 4.0)
    assert (captured.first_token, captured.last_token) == (1.0, 3.0)
    assert captured.token_times == (1.0, 3.0)
    assert (captured.sent_wall_ns, captured.first_wall_ns) == (101 * SECOND, 102 * SECOND)
    assert (captured.outcome, captured.error) == (Outcome.OK, None)
    assert (captured.finish_reason, captured.request_id) == ("stop", "r-1")
    assert (captured.request_bytes, captured.response_bytes) == (41, 77)
    assert (captured.endpoint, captured.model, captured.stream) == ("chat", "m", True)


def test_how_a_transport_ended_outweighs_what_was_said(tmp_path: Path) -> None:
    """A body that is whole may have been cut all the same; without a response the trace is incomplete."""
    cut = replace(ANSWERED, outcome=Outcome.CUT, error="the server hung up")

    captured, _ = recorded(tmp_path, cut)

    assert (captured.outcome, captured.error) == (Outcome.CUT, "the server hung up")
    assert recorded(tmp_path, None)[0].outcome is Outcome.INCOMPLETE


def test_a_recorded_redirect_names_where_it_leads(tmp_path: Path) -> None:
    """As a replay's does, by its own judgement whatever an older version wrote."""
    moved = replace(ANSWERED, status=308, headers=(("location", "https://other.example/v1?k=s"),))
    captured, _ = recorded(tmp_path, moved)

    assert captured.outcome is Outcome.HTTP_ERROR
    assert captured.error and "https://other.example/v1," in captured.error


def test_a_body_without_times_was_there_at_its_end(tmp_path: Path) -> None:
    """Nothing of it is lost, and `trace head` says the same of it as `report`."""
    captured, exchange = recorded(tmp_path, replace(ANSWERED, chunks=()))

    assert captured.outcome is Outcome.OK
    assert Facts(exchange).outcome == Outcome.OK
    assert captured.token_times == (4.0, 4.0)
    assert captured.first_byte == 4.0
