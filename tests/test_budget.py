"""A budget holds whatever the target bills: bounds of single requests, the ledger, and whole replays."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tbench.capture.errors import InputError
from tbench.capture.exchange import Exchange, Request
from tbench.capture.providers import Usage, describe, parse_request
from tbench.replay.api import replay
from tbench.replay.bounds import PICTURE_TOKENS, TEMPLATE_TOKENS, most_tokens
from tbench.replay.cost import Price
from tbench.replay.plan import Planned
from tbench.replay.target import Target
from tbench.replay.workers.counters import Budget, SharedCounters
from tests.answering import Given, Received, answering
from tests.answering import chat as answer
from tests.test_replay_end_to_end import CHAT, chat, write_trace

PRICE = {CHAT: Price(1000, 2000)}
PATHS = {"messages": "/v1/messages", "input": "/v1/responses", "prompt": "/v1/completions"}


def bound(body: dict[str, Any], path: str | None = None, context: int | None = None) -> Usage | str:
    """The most tokens of a body, sent as recorded."""
    raw = orjson.dumps(body)
    path = path or "/v1/chat/completions"
    parsed = parse_request("POST", path, raw, None)
    request = Request(
        id="a", seq=0, arrive_ns=0, end_ns=0, method="POST", scheme="https", host="h", path=path, body=raw,
        body_bytes=len(raw),
    )  # fmt: skip
    planned = Planned(
        index=0,
        cycle=0,
        session=0,
        offset=0.0,
        exchange=Exchange(request=request, response=None),
        info=describe("POST", path, body),
        payload=parsed.payload,
    )
    return most_tokens(planned, Target(base_url="http://h").outgoing(planned), context)


HELLO = [{"role": "user", "content": "hello"}]
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}


def picture(size: int) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * size}}


@pytest.mark.parametrize(
    ("path", "body", "output"),
    [
        (None, {"messages": HELLO, "max_tokens": 7}, 7),
        (None, {"messages": HELLO, "max_tokens": 7, "n": 3}, 21),
        (None, {"messages": HELLO, "max_tokens": 7, "max_completion_tokens": 5}, 7),
        (None, {"messages": HELLO, "max_tokens": 7, "tools": [FUNCTION]}, 7),
        ("/v1/messages", {"messages": HELLO, "max_tokens": 9}, 9),
        ("/v1/responses", {"input": "hello", "max_output_tokens": 9}, 9),
        ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 4, "n": 2, "best_of": 5}, 40),
        ("/v1/embeddings", {"input": ["a", "b"]}, 0),
    ],
)
def test_the_output_is_bounded_by_all_that_may_be_billed(
    path: str | None, body: dict[str, Any], output: int
) -> None:
    """Every answer of every prompt, at the highest limit that the body names; a byte is a token."""
    most = bound({"model": "m", **body}, path)

    assert isinstance(most, Usage)
    assert most.output == output
    assert len(orjson.dumps(body)) < (most.prompt or 0)


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        (None, {"messages": HELLO}, "no_limit"),
        (None, {"messages": HELLO, "max_tokens": -1}, "no_limit"),
        (None, {"messages": HELLO, "max_tokens": 5, "max_completion_tokens": "9"}, "no_limit"),
        ("/v1/responses", {"input": "hello", "max_tokens": 9}, "no_limit"),
        ("/v1/messages", {"messages": HELLO, "max_tokens": 9, "tools": [SEARCH]}, "server_tools"),
        (
            "/v1/responses",
            {"input": "x", "max_output_tokens": 9, "prompt": {"id": "p"}},
            "server_tools",
        ),
        (None, {"messages": HELLO, "max_tokens": 9, "web_search_options": {}}, "server_tools"),
        (
            "/v1/messages",
            {
                "max_tokens": 9,
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "tool_result",
                                "content": [{"type": "document", "source": {"type": "base64"}}],
                            }
                        ],
                    }
                ],
            },
            "files",
        ),
        ("/v1/images/generations", {"prompt": "a cat"}, "no_tokens"),
    ],
)
def test_what_nothing_bounds_says_why(path: str | None, body: dict[str, Any], reason: str) -> None:
    assert bound({"model": "m", **body}, path) == reason


def test_a_context_bounds_what_nothing_else_does() -> None:
    assert bound({"model": "m", "messages": HELLO}, context=100) == Usage(prompt=100, output=100)


@pytest.mark.parametrize(
    ("path", "body", "context", "least"),
    [
        ("/v1/rerank", {"query": "q" * 1000, "documents": ["d"] * 50}, None, 50_000),
        ("/v1/embeddings", {"input": ["a" * 400] * 50}, 512, 20_000),
        ("/v1/completions", {"prompt": ["a" * 400] * 50, "max_tokens": 4}, 512, 20_000),
    ],
)
def test_each_prompt_of_a_batch_counts(
    path: str, body: dict[str, Any], context: int | None, least: int
) -> None:
    """A query is read with each of its documents, and a context holds each prompt by itself."""
    most = bound({"model": "m", **body}, path, context)

    assert isinstance(most, Usage)
    assert least <= (most.prompt or 0) < 2 * least


def test_what_a_tool_was_given_is_text_whatever_it_looks_like() -> None:
    given = {
        "type": "tool_use",
        "id": "t",
        "name": "f",
        "input": {"type": "file", "text": "x" * 90},
    }
    messages = [{"role": "assistant", "content": [given]}]

    most = bound({"model": "m", "messages": messages, "max_tokens": 5}, "/v1/messages")

    assert isinstance(most, Usage)


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_a_picture_is_billed_by_its_tiles(size: int) -> None:
    """Its bytes say nothing: a small file may be a large picture, a large file is no million tokens."""
    most = bound(
        {
            "model": "m",
            "max_tokens": 1,
            "messages": [{"role": "user", "content": [picture(size), picture(size)]}],
        }
    )

    assert isinstance(most, Usage)
    assert 2 * PICTURE_TOKENS < (most.prompt or 0) < 2 * PICTURE_TOKENS + TEMPLATE_TOKENS + 200


@pytest.fixture
def ledger() -> Iterator[SharedCounters]:
    with SharedCounters.made(1) as shared:
        yield shared


def test_what_may_fit_later_waits_and_what_never_will_is_refused(ledger: SharedCounters) -> None:
    budget = Budget(1.0, ledger)

    assert budget.reserve(0.7) is True
    assert budget.reserve(0.4) is None
    assert budget.reserve(1.1) is False
    budget.settle(0.2, 0.7)
    assert budget.reserve(0.4) is True
    budget.settle(0.4, 0.4)
    assert budget.reserve(0.4000001) is False
    assert budget.reserve(0.4) is True


def test_nobody_waits_for_a_worker_that_is_gone(ledger: SharedCounters) -> None:
    budget = Budget(1.0, ledger)
    budget.reserve(0.7)
    ledger.forsake()

    assert budget.reserve(0.4) is False
    assert budget.reserved == pytest.approx(0.7)


def test_a_million_small_sums_leave_no_rest(ledger: SharedCounters) -> None:
    """A third of a cent has no exact double: money is counted in whole units."""
    budget, source = Budget(1.0, ledger), random.Random(1)
    amounts = [source.random() / 1e5 for _ in range(10_000)]
    assert all(budget.reserve(amount) for amount in amounts)
    for amount in source.sample(amounts, len(amounts)):
        budget.settle(0.0, amount)

    assert budget.reserved == 0.0
    assert budget.reserve(1.0) is True


class Billing:
    """Bills each byte of a request as a token, and all output that it allows; `spent` are US dollars."""

    def __init__(self) -> None:
        self.requests = 0
        self.spent = 0.0

    def answer(self, received: Received) -> Given:
        output = received.json["max_tokens"]
        self.requests += 1
        self.spent += (len(received.body) * 1000 + output * 2000) / 1e6
        return answer(prompt_tokens=len(received.body), tokens=output)


@pytest.mark.parametrize(
    ("pace", "most"),
    [
        ({"concurrency": 8}, 0.5),
        ({"concurrency": 8, "workers": 2}, 3.0),
        ({"constant": 500.0}, 3.0),
        ({"constant": 500.0, "workers": 2, "sender": "httpx"}, 1.0),
    ],
    ids=str,
)
def test_a_server_that_bills_all_it_may_bills_no_more_than_was_allowed(
    pace: dict[str, Any], most: float, tmp_path: Path
) -> None:
    """The server's own count: each byte a token, each answer as long as it was allowed to be."""
    billing = Billing()
    trace = write_trace(tmp_path / "t.msgpack", [chat(i, stream=False) for i in range(60)])
    with answering(billing.answer) as server:
        run = replay(
            trace, base_url=server.url, out=tmp_path / "a.run", price=PRICE, max_cost=most, **pace
        )

    assert run.totals["ended_by"] == "max_cost"
    assert run.totals["completed"] == billing.requests
    assert most / 2 <= billing.spent <= most
    assert run.totals["cost"]["most_usd"] == pytest.approx(billing.spent)


def test_what_is_in_flight_keeps_others_back_and_ends_nothing(tmp_path: Path) -> None:
    """All sixty cost less than allowed, eight at once may cost more: they go when others have ended."""
    trace = write_trace(tmp_path / "t.msgpack", [chat(i, stream=False) for i in range(60)])
    with answering(lambda _: answer(prompt_tokens=10, tokens=1)) as server:
        run = replay(
            trace,
            base_url=server.url,
            out=tmp_path / "a.run",
            price=PRICE,
            max_cost=1.5,
            concurrency=8,
        )

    assert run.totals["ended_by"] == "plan"
    assert run.totals["completed"] == 60
    assert run.totals["cost"]["waited"] > 0
    assert run.totals["cost"]["usd"] == pytest.approx(60 * 0.012)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"max_tokens": None},
            "3 of 3 requests name no limit of their output: give --match-length cap",
        ),
        ({"tools": [SEARCH]}, "3 of 3 requests have tools or a history at the server"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(
    tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    trace = write_trace(tmp_path / "t.msgpack", [chat(i, **fields) for i in range(3)])
    with answering(lambda _: answer()) as server, pytest.raises(InputError, match=says):
        replay(trace, base_url=server.url, out=tmp_path / "a.run", price=PRICE, max_cost=1.0)

    assert not server.received


def test_a_recorded_length_bounds_what_had_no_limit(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t.msgpack", [chat(i, max_tokens=None) for i in range(3)])
    with answering(lambda _: answer()) as server:
        replay(
            trace, base_url=server.url, out=tmp_path / "a.run", price=PRICE, max_cost=5.0,
            match_length="cap", speed=100.0,
        )  # fmt: skip

    assert [received.json["max_tokens"] for received in server.received] == [8, 8, 8]


def test_a_budget_below_any_request_is_refused(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t.msgpack", [chat(0)])
    with pytest.raises(InputError, match=r"every request may cost more, 0\.[23]\d? USD at least"):
        replay(
            trace, base_url="http://127.0.0.1:9", out=tmp_path / "a.run", price=PRICE, max_cost=0.1
        )
