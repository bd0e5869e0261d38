"""A budget holds whatever the target bills: bounds of single requests, the ledger, and whole replays."""

import itertools
import json
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.abtest import runner
from tbench.abtest.plan import experiment
from tbench.capture.errors import InputError
from tbench.capture.exchange import Exchange, Request
from tbench.capture.providers import Usage, describe, parse_request
from tbench.replay.api import replay
from tbench.replay.bounds import PICTURE_TOKENS, TEMPLATE_TOKENS, most_tokens
from tbench.replay.cost import Price
from tbench.replay.job import resolve
from tbench.replay.options import ReplayOptions
from tbench.replay.plan import Planned
from tbench.replay.runfile import Run
from tbench.replay.runner import run_duet
from tbench.replay.target import Target
from tbench.replay.totals import numbers
from tbench.replay.workers.counters import Budget, SharedCounters
from tests.answering import Given, Received, answering
from tests.answering import chat as answer
from tests.conftest import PATIENCE_S, Done, until
from tests.forked import Command
from tests.test_replay_end_to_end import CHAT, chat, write_trace

PRICE = {CHAT: Price(1000, 2000)}
PATHS = {"messages": "/v1/messages", "input": "/v1/responses", "prompt": "/v1/completions"}


def bound(
    body: dict[str, Any],
    path: str | None = None,
    context: int | None = None,
    raw: bytes | None = None,
) -> Usage | str:
    """The most tokens of a body, sent as recorded."""
    raw = orjson.dumps(body) if raw is None else raw
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


def user(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}], "max_tokens": 1}


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
        ("/v1/completions", {"prompt": [[1, 2], [3]], "max_tokens": 4}, 8),
        ("/v1/embeddings", {"input": ["a", "b"]}, 0),
        ("/v1/embeddings", {"input": [[1, 2], [3]]}, 0),
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
        (
            None,
            user({"type": "input_audio", "input_audio": {"data": "A", "format": "wav"}}),
            "files",
        ),
        (None, user({"input_audio": {"data": "A"}}), "files"),
        (None, user({"type": "document", "source": {"type": ["text"]}}), "files"),
        (None, user({"type": "text", "text": "a"}) | {"n": "3"}, "odd_count"),
        ("/v1/responses", {"input": "a", "max_output_tokens": 9, "n": 2.5}, "odd_count"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 9, "best_of": "5"}, "odd_count"),
        (None, {"messages": HELLO, "max_tokens": 9, "chat_template": "x"}, "server_tools"),
        (None, {"messages": HELLO, "max_tokens": 9, "models": ["a", "b"]}, "other_models"),
        (None, {"messages": HELLO, "max_tokens": 9, "modalities": ["text", "audio"]}, "spoken"),
        (None, {"messages": HELLO, "max_tokens": 9, "service_tier": "priority"}, "dearer"),
        ("/v1/images/generations", {"prompt": "a cat"}, "no_tokens"),
    ],
)
def test_what_nothing_bounds_says_why(path: str | None, body: dict[str, Any], reason: str) -> None:
    assert bound({"model": "m", **body}, path) == reason


def test_an_echo_may_be_billed_as_output() -> None:
    most = bound(
        {"model": "m", "prompt": [1, 2, 3], "max_tokens": 4, "echo": True}, PATHS["prompt"]
    )

    assert isinstance(most, Usage)
    assert most.output == 4 + (most.prompt or 0)


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


URL = "data:image/png;base64," + "A" * 100_000


@pytest.mark.parametrize(
    ("path", "body", "pictures"),
    [
        (None, user({"image_url": {"url": "https://h/a.png"}}), 1),
        (None, user({"image_url": {"url": URL}}, {"type": "text", "image_url": URL}), 2),
        (None, user({"type": "image_url", "image_url": {"url": URL}, "text": "x" * 50_000}), 1),
        ("/v1/responses", {"input": user({"type": "input_image", "image_url": "https://h/a.png"})
            ["messages"], "max_output_tokens": 1}, 1),
        ("/v1/responses", {"input": user({"type": "input_image", "file_id": "f"})["messages"],
            "max_output_tokens": 1}, 1),
        ("/v1/messages", user({"type": "tool_result", "content": [
            {"type": "image", "source": {"type": "base64", "data": "A" * 100_000}}]}), 1),
        ("/v1/embeddings", {"input": [{"image": URL}, {"text": "a"}]}, 1),
    ],
)  # fmt: skip
def test_a_picture_counts_wherever_it_stands_and_a_text_beside_it_as_well(
    path: str | None, body: dict[str, Any], pictures: int
) -> None:
    """Without a type, by address, within a result: none of its own bytes, and all others."""
    most = bound({"model": "m", **body}, path)
    text = len(orjson.dumps(body).replace(b"A" * 100_000, b""))

    assert isinstance(most, Usage)
    assert pictures * PICTURE_TOKENS + text <= (most.prompt or 0)
    assert (most.prompt or 0) < pictures * PICTURE_TOKENS + text + TEMPLATE_TOKENS + 200


def test_a_body_of_more_bytes_than_its_text_needs_counts_with_all_of_them() -> None:
    """Escapes, blanks: a server may bill what it read."""
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "\u00e9" * 1000}],
        "max_tokens": 1,
    }
    raw = json.dumps(body, indent=4).encode()
    most = bound(body, raw=raw)

    assert isinstance(most, Usage)
    assert len(raw) < (most.prompt or 0)


LEAF = st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=9)
SCHEMAS = st.recursive(
    LEAF,
    lambda each: (
        st.lists(each, max_size=9) | st.dictionaries(st.text(max_size=5), each, max_size=5)
    ),
    max_leaves=60,
)


@given(schema=SCHEMAS)
def test_a_schema_counts_however_a_template_writes_it(schema: Any) -> None:
    """In lines (Llama), escaped for HTML (minijinja), in ASCII; a break with its indent is two tokens."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"x": schema}}}
    body = {"model": "m", "messages": HELLO, "max_tokens": 1, "tools": [tool]}
    most = bound(body)
    escaped = json.dumps([tool], separators=(",", ":"))
    for character in "<>&'":
        escaped = escaped.replace(character, "......")
    lines = json.dumps([tool], indent=4).count("\n")

    assert isinstance(most, Usage)
    assert len(escaped) + 2 * lines < (most.prompt or 0)


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


MOST_USD = 0.3
"""More than a request here may cost, and than its template may add."""


class Billing:
    """Bills each byte of a request as a token, and all output that it allows; `spent` are US dollars.

    The first `refused` requests are turned away unread, to come again at once.
    """

    def __init__(self, refused: int = 0, price: Price = PRICE[CHAT]) -> None:
        self.price = price
        self.requests = 0
        self.spent = 0.0
        self.refused = refused
        self._refusals = itertools.count(1)

    def answer(self, received: Received) -> Given:
        if next(self._refusals) <= self.refused:
            return Given([b"{}"], status=429, headers=(("retry-after-ms", "1"),))
        output = received.json["max_tokens"]
        self.requests += 1
        self.spent += (len(received.body) * self.price.prompt + output * self.price.output) / 1e6
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


def arms(url: str) -> list[str]:
    return [word for name in "AB" for word in ("--arm", f"name={name},base_url={url}")]


SMALL = ("--repeats", "2", "--concurrency", "2", "--cache", "as-is", "--gate", "errors:90pp")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_polite_replay_keeps_its_budget_and_every_refusal_is_told(
    tmp_path: Path, workers: int
) -> None:
    """What was refused and sent again is one request of the budget."""
    price = Price(5, 10)
    billing = Billing(refused=5, price=price)
    trace = write_trace(tmp_path / "t.msgpack", [chat(i, stream=False) for i in range(60)])
    with answering(billing.answer) as server:
        run = replay(
            trace, base_url=server.url, out=tmp_path / "a.run", price={CHAT: price}, max_cost=0.01,
            concurrency=4, polite=True, workers=workers,
        )  # fmt: skip

    assert run.totals["ended_by"] == "max_cost"
    assert run.totals["completed"] == billing.requests
    assert run.totals["refused"]["attempts"] == {"http_429": 5}
    assert 0.005 < billing.spent <= 0.01
    assert run.totals["cost"]["most_usd"] == pytest.approx(billing.spent)


def test_targets_that_are_probed_one_after_the_other_draw_on_one_budget(tmp_path: Path) -> None:
    """There is room for the two requests of one of them only: the other is not asked."""
    billing = Billing()
    trace = write_trace(tmp_path / "t.msgpack", [chat(i, stream=False) for i in range(4)])
    with answering(billing.answer) as server:
        jobs = [
            resolve(
                ReplayOptions(
                    trace, base_url=server.url, out=tmp_path / f"{name}.run", price=PRICE, max_cost=0.7,
                    concurrency=1, probe="on",
                )
            )
            for name in "ab"
        ]  # fmt: skip
        runs = run_duet(jobs)

    assert [run.header["cache"]["probe"] is None for run in runs] == [False, True]
    assert billing.spent <= 0.7
    assert sum(run.totals["cost"]["usd"] for run in runs) == pytest.approx(billing.spent)


@pytest.mark.parametrize("most", [None, 0.6])
def test_what_a_budget_keeps_back_is_no_longer_warm_up(tmp_path: Path, most: float | None) -> None:
    """Sixteen requests due within 0.3 s, of which one at a time may leave: the first is the warm-up."""
    trace = write_trace(tmp_path / "t.msgpack", [chat(i, stream=False) for i in range(16)])
    with answering(lambda _: answer(prompt_tokens=1, tokens=1)) as server:
        run = replay(
            trace,
            base_url=server.url,
            out=tmp_path / "a.run",
            price=PRICE,
            max_cost=most,
            speed=1.0,
        )

    assert run.totals["completed"] == 16
    assert run.columns["warmup"].tolist() == [True] + [False] * 15


def test_a_budget_that_lets_nothing_go_is_bad_usage(
    tbench: Callable[..., Done], tmp_path: Path
) -> None:
    """The first of two requests may cost 2 dollars, the second less than the budget: it is never reached."""
    write_trace(tmp_path / "t.msgpack", [chat(0, max_tokens=1000), chat(1, max_tokens=1)])
    with answering(lambda _: answer()) as server:
        done = tbench(
            "replay", "t.msgpack", "--base-url", server.url, "--price", f"{CHAT}=1000/2000",
            "--max-cost", "1", "-o", "a.run",
        )  # fmt: skip

    assert (done.code, len(server.received)) == (2, 0), done.err
    assert (
        "--max-cost 1: the first request may cost more, so nothing was sent; raise it" in done.err
    )


def test_an_experiment_that_its_budget_ends_tells_what_was_measured(
    tbench: Callable[..., Done], tmp_path: Path
) -> None:
    """The server bills all it may, which the trace did not foretell: four runs are planned, two are paid."""
    billing = Billing()
    write_trace(tmp_path / "t.msgpack", [chat(i, stream=False) for i in range(4)])
    with answering(billing.answer) as server:
        done = tbench(
            "ab", "t.msgpack", *arms(server.url), *SMALL, "--price", f"{CHAT}=1000/2000",
            "--max-cost", "2", "-o", "x", "--json",
        )  # fmt: skip
    told = json.loads(done.out)

    assert done.code == 3, done.err
    assert "go on with: tbench ab -o x" in done.err
    assert (told["verdict"], told["ended_by"]) == ("INCONCLUSIVE", "max_cost")
    assert billing.requests == sum(run["completed"] for run in told["runs"] + told["set_aside"])
    assert told["spent_usd"] == pytest.approx(billing.spent)
    assert billing.spent <= 2.0
    assert told["missing"] == 4 - len(told["runs"])
    assert told["set_aside"][-1]["ended"] == "max_cost"
    assert told["warnings"][0].startswith("ENDED_EARLY: the next request might have passed")
    assert {row["verdict"] for row in told["comparisons"]} <= {"INCONCLUSIVE", "SKIPPED"}
    assert not (tmp_path / "x" / "report.json").exists()


def test_what_a_killed_run_had_in_flight_counts_when_its_experiment_goes_on(
    tbench: Callable[..., Done], tmp_path: Path
) -> None:
    """The server bills what it gets, two requests of which were never answered: they count with the most."""
    billing, killed, asked = Billing(), threading.Event(), itertools.count(1)
    write_trace(tmp_path / "t.msgpack", [chat(i, stream=False) for i in range(6)])

    def answer(received: Received) -> Given:
        given = billing.answer(received)
        if next(asked) in {3, 4}:
            killed.wait(PATIENCE_S)
        return given

    with answering(answer) as server:
        words = (
            "ab", "t.msgpack", *arms(server.url), *SMALL, "--price", f"{CHAT}=1000/2000", "-o", "x",
        )  # fmt: skip
        command = Command([*words, "--max-cost", "20"], tmp_path)
        until(lambda: billing.requests >= 4 or command.poll() is not None)
        command.kill()
        command.wait(PATIENCE_S)
        command.close()
        killed.set()
        (left,) = (tmp_path / "x").glob("*.part")
        left.write_bytes(b"")  # as a power cut may leave it
        refused = tbench(*words, "--max-cost", f"{billing.spent:.6f}")
        sent = billing.requests
        done = tbench(*words, "--max-cost", "20", "--json")
    told = json.loads(done.out)

    assert (refused.code, sent) == (2, 4)
    assert done.code in {0, 3, 4}, done.err
    assert billing.spent < told["spent_usd"] < billing.spent + 4 * MOST_USD
    assert [run["ended"] for run in told["set_aside"]][:1] == ["killed"]
    assert "the file is empty" in told["set_aside"][0]["unreadable"]
    assert not list((tmp_path / "x").glob("*.spent"))


def test_an_experiment_whose_server_fails_later_tells_what_was_measured(
    tbench: Callable[..., Done], tmp_path: Path
) -> None:
    """The first round is answered, nothing after it: the exit code is that of a server that fails."""
    asked = itertools.count()
    write_trace(tmp_path / "t.msgpack", [chat(i, stream=False) for i in range(4)])
    with answering(lambda _: answer() if next(asked) < 8 else Given([b"{}"], status=500)) as server:
        done = tbench("ab", "t.msgpack", *arms(server.url), *SMALL, "-o", "x", "--json")
    told = json.loads(done.out)

    assert done.code == 5, done.err
    assert (told["verdict"], told["ended_by"]) == ("INVALID", "errors")
    assert told["missing"] == 4 - len(told["runs"])
    assert "no request succeeded" in told["why"]
    assert (told["set_aside"][-1]["ended"], told["set_aside"][-1]["failed"]) == ("errors", 4)
    assert 4 * len(told["runs"]) + sum(run["completed"] for run in told["set_aside"]) == 8


@pytest.mark.parametrize(
    ("most", "says"),
    [
        ("0.4", "it lasts not for one run of each arm"),
        ("0.7", "it lasts for 1 whole round;"),
        ("20", None),
    ],
)
def test_a_dry_run_says_how_far_a_budget_lasts(
    tbench: Callable[..., Done], tmp_path: Path, most: str, says: str | None
) -> None:
    write_trace(tmp_path / "t.msgpack", [chat(i, stream=False) for i in range(10)])
    words = (
        "ab", "t.msgpack", *arms("http://127.0.0.1:9"), *SMALL, "--price", f"{CHAT}=1000/2000",
        "--max-cost", most,
    )  # fmt: skip
    dry = tbench(*words, "--dry-run", "--json")
    told = json.loads(dry.out)
    short = [text for text in told["warnings"] if text.startswith("--max-cost")]

    assert dry.code == 0, dry.err
    assert bool(short) is (says is not None)
    if says:
        assert says in short[0]
        refused = tbench(*words, "-o", "x")
        assert refused.code == 2
        assert short[0] in refused.err


@pytest.mark.parametrize("probe", ["off", "on"])
def test_a_dry_run_costs_what_the_runs_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probe: str
) -> None:
    """A server that counts as the trace says: each arm is probed once, and its runs are paid each."""
    billed: list[float] = []

    def bill(_received: Received) -> Given:
        billed.append((11 * 1000 + 8 * 2000) / 1e6)
        return answer(prompt_tokens=11, tokens=8)

    def counts(run: Run) -> dict[str, Any]:
        return {**numbers(run), "valid": True}  # whatever this machine does meanwhile

    monkeypatch.setattr(runner, "numbers", counts)
    trace = write_trace(tmp_path / "t.msgpack", [chat(i, stream=False) for i in range(4)])
    with answering(bill) as server:
        words: dict[str, Any] = {
            "price": PRICE, "probe": probe, "repeats": 2, "concurrency": 2, "base_url": server.url,
            "gate": ["errors:90pp"],
        }  # fmt: skip
        plan = experiment({"trace": str(trace), "arm": [{"name": "A"}, {"name": "B"}], **words})
        seen = runner.outlook(plan, plan.slots)
        most = seen.budget_usd
        runner.ab(
            trace, arms=[{"name": "A"}, {"name": "B"}], out=tmp_path / "x", max_cost=most, **words
        )
    spent = sum(run["usd"] for run in json.loads((tmp_path / "x/plan.json").read_text())["runs"])

    assert seen.probe_requests == {"off": 0, "on": 4}[probe]
    assert len(billed) == 16 + seen.probe_requests
    assert seen.cost_usd == pytest.approx(sum(billed))
    assert spent == pytest.approx(sum(billed))


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
        ({"tools": [SEARCH]}, "3 of 3 requests have tools, a history or a template at the server"),
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
