"""From a reply to a sample: what a server quotes of us is not written down."""

import json

from tbench.capture.exchange import Outcome
from tbench.capture.redact import Secrets
from tbench.replay.answers import to_sample
from tbench.replay.request import Label
from tbench.replay.sample import Sample
from tbench.replay.sender import Attempt, Reply

SECRET = "correct-horse-battery"


def sample(reply: Reply) -> Sample:
    label = Label(id="x", endpoint="chat", model="m").pack()
    attempt = Attempt(index=0, due=None, held=0.0, label=label, reply=reply)
    return to_sample(attempt, 0.0, Secrets.of([SECRET]))


def test_a_sample_knows_its_conversation() -> None:
    """The number that the plan gave travels with the call; none is none."""
    reply = Reply(status=200)
    known = Attempt(index=0, due=None, held=0.0, label=Label(id="x", session=7).pack(), reply=reply)

    assert to_sample(known, 0.0).session == 7
    assert sample(reply).session is None


def refusal(message: str) -> Reply:
    body = json.dumps({"error": {"message": message}}).encode()
    return Reply(
        status=401, headers=((b"X-Request-Id", f"r-{SECRET}".encode()),), chunks=[(1.0, body)]
    )


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
