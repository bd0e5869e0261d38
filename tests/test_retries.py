"""Retries: linked by the SDK's own count, or by the same bytes after a failure."""

from dataclasses import replace

import pytest

from tbench.capture.exchange import Outcome, Response
from tbench.capture.sanitize import Retries

SECOND = 1_000_000_000


def answer(
    at_s: float, status: int | None = 429, outcome: Outcome = Outcome.HTTP_ERROR
) -> Response:
    return Response(head_ns=None, end_ns=int(at_s * SECOND), status=status, outcome=outcome)


def test_the_same_ask_after_a_429_is_a_retry() -> None:
    """An SDK that does not count its attempts is recognised by what it sends."""
    retries = Retries()
    assert retries.begin(b"ask", "a", 0) is None
    retries.end("a", answer(1))

    assert retries.begin(b"ask", "b", 2 * SECOND) == "a"


def test_each_failure_explains_one_repeat() -> None:
    """A third request with the same bytes is new traffic unless the second failed as well."""
    retries = Retries()
    retries.begin(b"ask", "a", 0)
    retries.end("a", answer(1))
    retries.begin(b"ask", "b", 2 * SECOND)
    retries.end("b", answer(3, 200, Outcome.OK))

    assert retries.begin(b"ask", "c", 4 * SECOND) is None


def test_a_failure_that_is_still_to_come_explains_none() -> None:
    """A log tells how an attempt ended before what was asked meanwhile, which waited for nothing."""
    retries = Retries()
    retries.begin(b"ask", "a", 0)
    retries.end("a", answer(10))

    assert retries.begin(b"ask", "b", 5 * SECOND) is None
    assert retries.begin(b"ask", "c", 10 * SECOND) == "a"


def test_who_has_read_a_status_may_ask_again() -> None:
    """The rest of that answer may still be under way; what came before its head waited for nothing."""
    retries = Retries()
    for name in "ab":
        retries.begin(b"ask", name, 0)
        retries.end(name, replace(answer(0.009), head_ns=int(0.004 * SECOND)))

    assert retries.begin(b"ask", "c", int(0.003 * SECOND)) is None
    assert retries.begin(b"ask", "d", int(0.005 * SECOND)) == "b"


def test_a_chain_of_retries_links_each_to_the_one_before() -> None:
    """retry_of names the previous attempt, not the first."""
    retries = Retries()
    for number, name in enumerate("abc"):
        linked = retries.begin(b"ask", name, number * SECOND, count=number)
        assert linked == (None, "a", "b")[number]
        retries.end(name, answer(number + 0.5, 503))


@pytest.mark.parametrize(
    ("status", "outcome", "linked"),
    [
        (429, Outcome.HTTP_ERROR, True),
        (500, Outcome.HTTP_ERROR, True),
        (529, Outcome.HTTP_ERROR, True),
        (408, Outcome.HTTP_ERROR, True),
        (None, Outcome.RESET, True),
        (502, Outcome.CONNECT_ERROR, True),
        (200, Outcome.OK, False),
        (400, Outcome.HTTP_ERROR, False),
        (401, Outcome.HTTP_ERROR, False),
        (200, Outcome.CLIENT_ABORT, False),
    ],
)
def test_only_failures_that_sdks_retry_invite_a_repeat(
    status: int | None, outcome: Outcome, linked: bool
) -> None:
    """The rule of the SDKs: 408, 409, 429, 5xx and lost connections."""
    retries = Retries()
    retries.begin(b"ask", "a", 0)
    retries.end("a", answer(1, status, outcome))

    assert (retries.begin(b"ask", "b", 2 * SECOND) == "a") is linked


def test_after_a_minute_it_is_new_traffic() -> None:
    """Nobody's backoff is that long."""
    retries = Retries()
    retries.begin(b"ask", "a", 0)
    retries.end("a", answer(1))

    assert retries.begin(b"ask", "b", 62 * SECOND) is None


def test_an_sdk_that_says_first_attempt_is_believed() -> None:
    """A count of 0 is a new request even right after a failure."""
    retries = Retries()
    retries.begin(b"ask", "a", 0, count=0)
    retries.end("a", answer(1))

    assert retries.begin(b"ask", "b", 2 * SECOND, count=0) is None


def test_a_counted_retry_needs_no_known_failure() -> None:
    """After a client-side timeout the first attempt may still look alive."""
    retries = Retries()
    retries.begin(b"ask", "a", 0, count=0)

    assert retries.begin(b"ask", "b", 5 * SECOND, count=1) == "a"


def test_other_asks_are_not_linked() -> None:
    """Another caller or another body is another ask."""
    retries = Retries()
    retries.begin(b"ask", "a", 0)
    retries.end("a", answer(1))

    assert retries.begin(b"other", "b", 2 * SECOND, count=1) is None


def test_memory_is_bounded() -> None:
    """The oldest asks go first."""
    retries = Retries(capacity=10)
    for number in range(100):
        retries.begin(str(number).encode(), str(number), number)
        retries.end(str(number), answer(0))

    assert len(retries._asks) == 10
    assert retries.begin(b"99", "again", 100) == "99"
    assert retries.begin(b"5", "again", 100) is None
