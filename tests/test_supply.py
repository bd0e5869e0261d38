"""Calls that are made beside a worker, of a trace that is read there: those that the command makes."""

import socket
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest
import trio
import trio.testing

from tbench.capture.errors import InputError
from tbench.capture.exchange import Exchange, Response
from tbench.capture.records import TraceHeader
from tbench.capture.trace_reader import Lookup, Trace, read_trace
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.cost import Price
from tbench.replay.estimate import first_look
from tbench.replay.job import resolve
from tbench.replay.options import ReplayOptions
from tbench.replay.pacing import Clones
from tbench.replay.plan import Plan, Turn
from tbench.replay.runner import _ReplayRun, recipe_of, steps
from tbench.replay.target import Recipe, Step
from tbench.replay.workers import carrier
from tbench.replay.workers.calls import Feeder
from tbench.replay.workers.carrier import Carrier, Entries, Supplier
from tests.conftest import PATIENCE_S
from tests.test_workers_end_to_end import MODEL, write_trace

URL = "http://127.0.0.1:9"
USAGE = b'{"usage":{"prompt_tokens":9,"completion_tokens":7},"choices":[]}'


def received(sock: socket.socket) -> bytes:
    sock.settimeout(PATIENCE_S)
    return b"".join(iter(lambda: sock.recv(2**16), b""))


def supplied(trace: Trace, recipe: Recipe, given: list[Step]) -> tuple[bytes, Supplier]:
    """What a worker gets of a supplier that has the entries of these steps; and that supplier."""
    feeding, entries = socket.socketpair()
    calls, worker = socket.socketpair()
    supplier = Supplier(trace, entries, calls)
    feeder = Feeder(iter(given), [feeding], lambda _: 0, [Entries(recipe)])
    threads = [threading.Thread(target=work) for work in (feeder.run, supplier.run)]
    for thread in threads:
        thread.start()
    data = received(worker)
    for thread in threads:
        thread.join(PATIENCE_S)
    for sock in (feeding, entries, calls, worker):
        sock.close()
    return data, supplier


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Conversations of three turns, with answers whose length the server told, in several files."""
    exchanges = list(read_trace(write_trace(tmp_path / "s.msgpack", 300, turns=3, gap_s=0.2)))
    header = TraceHeader(wall_ns=10**18, mono_ns=0)
    with TraceWriter(tmp_path / "t.msgpack", header, rotate_bytes=3000) as writer:
        for exchange in exchanges:
            end_ns = exchange.request.arrive_ns + 1
            answer = Response(
                head_ns=end_ns,
                end_ns=end_ns,
                status=200,
                headers=(("content-type", "application/json"),),
                body=USAGE,
            )
            writer.exchange(Exchange(request=exchange.request, response=answer))
    return tmp_path / "t.msgpack"


def planned(trace: Path, **options: Any) -> tuple[list[Step], list[Step], Recipe]:
    """What is to be sent of a trace, the same without what was recorded, and how calls are made of it."""
    job = resolve(ReplayOptions(trace, **{"base_url": URL, **options}))
    survey = first_look(job)
    plan = job.plan(answers=job.target.lengths != "no")
    whole, bare = (list(steps(job, turns, survey)) for turns in (plan, plan.turns()))
    return whole, bare, recipe_of([job], survey)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model": "other", "set": {"temperature": 0.5}, "headers": {"x-team": "a"}},
        {"match_length": "cap"},
        {"cache": "cold", "clones": 3.0, "loop": 2},
        {"concurrency": 4, "live_history": True, "loop": 2},
        {"live_history": True, "clones": 3.0},
        {"sessions": 3, "clones": 2.0},
        {"to": "messages", "set": {"max_tokens": 5}},
        {"max_cost": 900.0, "price": {MODEL: Price(1.0, 2.0)}, "set": {"max_tokens": 5}},
        {"rate": 30.0, "causal": "think", "duration": 5.0},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_calls_made_beside_a_worker_are_those_of_the_command(
    trace: Path, options: dict[str, Any]
) -> None:
    """Byte for byte, whatever was asked for; and what was changed is counted alike."""
    plan, bare, recipe = planned(trace, **options)
    here = b"".join(map(recipe.frame, plan))
    there, supplier = supplied(read_trace(trace), recipe, bare)

    assert len(read_trace(trace).files) > 1
    assert there == here != b""
    assert supplier.failure is None
    assert supplier.counts == recipe.counts


class Counted:
    """A trace that counts how often it is read from its start."""

    def __init__(self, trace: Trace) -> None:
        self.trace, self.times = trace, 0

    def __iter__(self) -> Iterator[Exchange]:
        self.times += 1
        return iter(self.trace)


@pytest.mark.parametrize(
    "options",
    [
        {"rounds": 3},
        {"clones": Clones(number=2.5)},
        {"by_session": True, "apart": True, "rounds": 2},
    ],
    ids="-".join,
)
def test_further_rounds_and_clones_come_of_one_reading(trace: Path, options: Any) -> None:
    """Where calls are made elsewhere, all that is decided of a request is known by then."""
    counted = Counted(read_trace(trace))
    plan = Plan(trace=counted, live=True, **options)
    decided = [field.name for field in fields(Turn)]
    bare = [[getattr(turn, name) for name in decided] for turn in plan.turns()]

    assert counted.times == 1
    assert bare == [[getattr(turn, name) for name in decided] for turn in plan]
    assert 600 <= len(bare) <= 900


@pytest.mark.parametrize("order", [reversed, sorted])
def test_exchanges_are_looked_up_in_any_order(trace: Path, order: Any) -> None:
    """With their answers where these are asked for, moved onto the first capture's clock as in reading."""
    opened = read_trace(trace)
    lookup = Lookup(opened)
    exchanges = list(opened)

    for number in order(range(len(exchanges))):
        exchange = exchanges[number]
        assert lookup.exchange(exchange.places) == exchange
        request = lookup.exchange(exchange.places[:1])
        assert request and (request.request, request.response) == (exchange.request, None)


def test_a_trace_that_is_another_by_now_ends_the_supply(trace: Path, tmp_path: Path) -> None:
    """What was made before is sent; the rest is not, and why is said. Nothing else is sent in its place."""
    plan, _, recipe = planned(trace)
    other = read_trace(write_trace(tmp_path / "o.msgpack", 300, turns=3))
    strange = [Step(step.planned, step.due) for step in plan[:2]]
    strange[1].planned.places = next(iter(other)).places
    data, supplier = supplied(read_trace(trace), recipe, strange)

    assert data == recipe.frame(plan[0])
    assert supplier.failure == "the trace has changed while it was read; replay it again"


def test_a_trace_that_is_gone_ends_the_supply(trace: Path) -> None:
    """Its files are opened anew for what is read of them."""
    plan, _, recipe = planned(trace)
    opened = read_trace(trace)
    trace.unlink()
    data, supplier = supplied(opened, recipe, plan)

    assert data == b""
    assert supplier.failure == f"{trace}: no such file"


@pytest.mark.parametrize(
    ("most", "given", "words"),
    [(2**20, msgpack.packb(b"no recipe"), "UnpicklingError"), (4, bytes(5), "BufferFull")],
    ids=["recipe", "size"],
)
def test_what_no_call_can_be_made_of_ends_the_supply_with_a_reason(
    trace: Path, most: int, given: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's calls end, and why is said."""
    monkeypatch.setattr(carrier, "MOST_FRAME", most)
    feeding, entries = socket.socketpair()
    calls, worker = socket.socketpair()
    with feeding, entries, calls, worker:
        supplier = Supplier(read_trace(trace), entries, calls)
        feeding.sendall(given)
        feeding.shutdown(socket.SHUT_WR)
        supplier.run()

        assert received(worker) == b""
    assert (supplier.failure or "").startswith(f"{words}: ")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda trace: trace.unlink(), "no such file"),
        (lambda trace: trace.write_bytes(b"something else"), "not a tbench file"),
        (lambda trace: write_trace(trace, 300, turns=3), "its files are others there"),
    ],
    ids=["gone", "none", "another"],
)
def test_a_machine_without_the_trace_says_why(trace: Path, change: Any, words: str) -> None:
    """It may have none, or another of that name."""
    identity = read_trace(trace).identity
    assert Carrier().read(str(trace), identity) is None
    trace.unlink()
    change(trace.parent / trace.name) if words != "no such file" else None

    assert words in (Carrier().read(str(trace), identity) or "")


def test_a_plan_that_cannot_be_made_is_no_empty_one() -> None:
    """The feed has ended a moment before it says why; so far nothing was drawn."""
    pool, job = SimpleNamespace(ready=trio.lowlevel.checkpoint, full=False), SimpleNamespace()
    job.options, job.only = SimpleNamespace(trace="t"), SimpleNamespace(words=())
    feeder = SimpleNamespace(horizon=None, done=True, drawn=0)
    run = SimpleNamespace(
        pool=pool,
        feeder=feeder,
        job=job,
        plan=SimpleNamespace(skipped={}),
        fed=trio.Event(),
        interrupts=0,
    )

    async def feed() -> None:
        await trio.testing.wait_all_tasks_blocked()
        run.fed.set()
        raise InputError("two captures")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed)
            await _ReplayRun._get_ready(run)  # type: ignore[arg-type]

    with pytest.RaisesGroup(pytest.RaisesExc(InputError, match="two captures")):
        trio.run(main)
