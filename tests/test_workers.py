"""What passes between the parent and its workers: calls, ended attempts, counters, shares, and deaths."""

import os
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tbench.capture.exchange import Outcome
from tbench.replay.job import needed
from tbench.replay.options import ReplayOptions
from tbench.replay.pacing import Fixed, Profile, share
from tbench.replay.player import ENOUGH, UNAUTHORIZED, Breaker
from tbench.replay.run_recorder import actual_cost
from tbench.replay.sample import Sample
from tbench.replay.sender import NOWHERE, Call, Deadlines, Origin, Reply, frame
from tbench.replay.workers.calls import CallQueue, Feeder, SpoolReader, SpoolWriter
from tbench.replay.workers.counters import Budget, SharedCounters, outlay
from tbench.replay.workers.messages import WorkerTask, part
from tbench.replay.workers.pool import WorkerPool
from tbench.replay.workers.process import Here, Reading
from tests.conftest import PATIENCE_S
from tests.test_player import Attempt

HERE = Origin("http", "127.0.0.1", 9)


def call(index: int, body: bytes = b"{}", due: float | None = None) -> Call:
    head = b"POST / HTTP/1.1\r\nhost: h\r\n\r\n"
    return Call(
        index=index,
        due=due,
        origin=HERE,
        head=head,
        body=body,
        cost=0.5,
        label=b"l%d" % index,
        arm=2,
    )


@pytest.fixture
def shared() -> Iterator[SharedCounters]:
    with SharedCounters.made(2) as made:
        yield made


@pytest.fixture
def spool() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        yield file.fileno()


# The spool


def attempt(index: int, chunks: list[tuple[float, bytes]]) -> Attempt:
    reply = Reply(
        connecting=1.5,
        reused=True,
        sent=2.0,
        sent_wall_ns=10**18 + index,
        status=200,
        headers=[(b"content-type", b"text/event-stream"), (b"X-Odd", b"\xff\x00")],
        chunks=chunks,
        received=sum(len(data) for _, data in chunks),
        end=3.25,
        failure=(Outcome.CUT, "half an answer \udce4"),
        held=0.5,
    )
    return Attempt(Call(index, 0.125, NOWHERE, b"", b"", 0.25, b"\x00l", 3), reply)


def spooled(fd: int, attempts: list[Attempt]) -> None:
    async def main() -> None:
        writer = SpoolWriter(fd)
        writer.begin(1234.5)
        for one in attempts:
            writer.add(one.call, one.reply)
        writer.finish()
        await writer.run()
        assert writer.error is None

    trio.run(main)


def test_attempts_come_out_of_the_spool_as_they_went_in(spool: int) -> None:
    """Every field, odd bytes and half characters included, and the start of the run."""
    attempts = [attempt(i, [(2.5, b"a" * i), (2.75, b"\xff\x00")]) for i in range(50)]
    spooled(spool, attempts)
    reader = SpoolReader(spool)
    found = [Attempt(*ended) for ended in reader.ended()]

    assert [_plain(one) for one in found] == [_plain(one) for one in attempts]
    assert reader.began == 1234.5
    assert reader.read == 50
    assert list(reader.ended()) == []


def _plain(one: Attempt) -> tuple[object, ...]:
    reply = one.reply
    return (
        (one.call, one.held),
        (reply.connecting, reply.reused, reply.sent, reply.sent_wall_ns, reply.status),
        [tuple(pair) for pair in reply.headers],
        [tuple(pair) for pair in reply.chunks],
        (reply.received, reply.end, reply.failure),
    )


def test_a_torn_last_frame_is_not_read_and_the_rest_is(spool: int) -> None:
    """A worker that is killed in the middle of writing loses that attempt, no other."""
    spooled(spool, [attempt(i, [(2.5, b"x" * 100)]) for i in range(10)])
    os.ftruncate(spool, os.fstat(spool).st_size - 7)

    assert [call.index for call, _ in SpoolReader(spool).ended()] == list(range(9))


def test_what_was_read_is_given_back_to_the_disk(spool: int) -> None:
    """A long run's spool takes no more space than what is still to be read."""
    spooled(spool, [attempt(i, [(2.5, bytes(2**20))]) for i in range(40)])
    before = os.fstat(spool).st_blocks * 512
    assert sum(1 for _ in SpoolReader(spool).ended()) == 40
    after = os.fstat(spool).st_blocks * 512

    assert before >= 40 * 2**20
    assert after <= 17 * 2**20


def test_a_spool_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """No exception in the sending loop; the error is kept for the report."""
    path = tmp_path / "spool"
    path.touch()
    fd = os.open(path, os.O_RDONLY)

    async def main() -> SpoolWriter:
        writer = SpoolWriter(fd)
        first = attempt(0, [])
        writer.add(first.call, first.reply)
        writer.finish()
        await writer.run()
        return writer

    try:
        assert isinstance(trio.run(main).error, OSError)
    finally:
        os.close(fd)


# The call queue


def fed(calls: list[Call], shared: SharedCounters, most_bytes: int = 2**20) -> list[Call]:
    """What a worker has of them after the parent's thread has fed them."""
    ours, theirs = socket.socketpair()
    feeder = Feeder(iter(calls), [ours], lambda _: 0, [frame])
    thread = threading.Thread(target=feeder.run)

    async def main() -> list[Call]:
        queue = CallQueue(
            trio.socket.from_stdlib_socket(theirs), shared.row(0), most_bytes=most_bytes
        )
        woken = trio.Event()
        queue.tell(lambda: woken.set())  # noqa: PLW0108 (it changes)
        taken: list[Call] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.run)
            with trio.fail_after(PATIENCE_S):
                while not queue.over:
                    found = queue.take()
                    if found is None:
                        woken = trio.Event()
                        if not queue.over:
                            await woken.wait()
                    else:
                        taken.append(found)
        return taken

    thread.start()
    try:
        return trio.run(main)
    finally:
        thread.join(PATIENCE_S)
        ours.close()
        assert feeder.drawn == len(calls)
        assert feeder.done


def test_calls_reach_the_worker_in_order_and_whole(shared: SharedCounters) -> None:
    """Small and large bodies, with their due times, costs and labels."""
    calls = [call(i, bytes(i * 1000), due=i / 8) for i in range(200)]
    calls[7].refusal = "no"

    assert fed(calls, shared) == calls


def test_a_body_larger_than_what_is_kept_at_hand_passes(shared: SharedCounters) -> None:
    """The bound is on what waits, not on what a request may weigh."""
    calls = [call(0, bytes(5_000_000)), call(1), call(2, bytes(3_000_000))]

    assert fed(calls, shared, most_bytes=1000) == calls


def test_no_more_is_kept_at_hand_than_allowed(shared: SharedCounters) -> None:
    """A worker that sends nothing yet takes its fill and no more, however long the plan is."""
    ours, theirs = socket.socketpair()
    endless = (call(i, bytes(10_000)) for i in range(10**9))
    feeder = Feeder(endless, [ours], lambda _: 0, [frame])
    thread = threading.Thread(target=feeder.run)

    async def main() -> int:
        queue = CallQueue(trio.socket.from_stdlib_socket(theirs), shared.row(0), most_bytes=10**6)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.run)
            with trio.fail_after(PATIENCE_S):
                while not shared.row(0)["full"]:  # noqa: ASYNC110 (shared memory)
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        held = 0
        while queue.take() is not None:
            held += 1
        return held

    thread.start()
    held = trio.run(main)
    feeder.stop()
    thread.join(PATIENCE_S)
    ours.close()

    assert not thread.is_alive()
    assert 90 <= held <= 110  # of 10.6 kB each
    assert feeder.rest(lambda: True) == 0


def test_how_long_a_worker_lacked_a_call_is_known(shared: SharedCounters) -> None:
    """Five seconds, then one is there for nine, then none for two until the plan is over."""
    ours, theirs = socket.socketpair()
    clock = trio.testing.MockClock()

    async def main() -> float:
        queue = CallQueue(trio.socket.from_stdlib_socket(theirs), shared.row(0), most_bytes=10**6)
        fed = trio.Event()
        queue.tell(lambda: fed.set())  # noqa: PLW0108 (it changes)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.run)
            assert queue.take() is None
            clock.jump(5)
            ours.sendall(frame(call(0)))
            await fed.wait()
            clock.jump(9)
            fed = trio.Event()
            assert queue.take() is not None
            assert queue.take() is None
            clock.jump(2)
            ours.close()
            await fed.wait()
            clock.jump(3)
            assert queue.take() is None
        return queue.starved_s

    assert trio.run(main, clock=clock) == pytest.approx(7)


def test_a_worker_that_is_gone_holds_up_nobody(shared: SharedCounters) -> None:
    """Its calls are drawn and dropped; the other worker gets all of its own."""
    (ours, theirs), (gone, closed) = socket.socketpair(), socket.socketpair()
    closed.close()
    turns = iter(i % 2 for i in range(1000))
    calls = iter([call(i) for i in range(1000)])
    feeder = Feeder(calls, [ours, gone], lambda _: next(turns), [frame, frame])
    thread = threading.Thread(target=feeder.run)
    thread.start()

    async def main() -> list[int]:
        queue = CallQueue(trio.socket.from_stdlib_socket(theirs), shared.row(0), most_bytes=10**9)
        with trio.fail_after(PATIENCE_S):
            await queue.run()
        return [found.index for found in iter(queue.take, None)]

    indices = trio.run(main)
    thread.join(PATIENCE_S)
    ours.close()
    gone.close()

    assert indices == list(range(0, 1000, 2))
    assert feeder.drawn == 1000


def test_a_frame_carries_half_a_character() -> None:
    """A host or label that was no UTF-8 in the trace does not stop the queue."""
    odd = Call(index=0, due=None, origin=Origin("http", "h\udce4", 80), head=b"", body=b"")

    assert frame(odd)


# Counters, shares, budget


def test_rows_of_the_counters_do_not_touch_each_other(shared: SharedCounters) -> None:
    """Each worker has counters of its own, and the money is neither's."""
    for _ in range(7):
        shared.row(0).issue(0)
    for _ in range(11):
        shared.row(1).issue(4)
    shared.row(1)["starved"] += 2
    shared.row(1)["ended"] = 3
    shared.settled = (1.5, 2.5)

    assert [shared.row(i).issued(0) for i in range(2)] == [7, 0]
    assert [shared.row(i).issued(4) for i in range(2)] == [0, 11]
    assert [shared.row(i).in_flight for i in range(2)] == [7, 8]
    assert [shared.row(i)["starved"] for i in range(2)] == [0, 2]
    assert shared.settled == (1.5, 2.5)


@given(st.integers(0, 10_000), st.integers(1, 64))
def test_shares_add_up_and_are_even(whole: int, workers: int) -> None:
    """No request in flight is lost or invented by dividing them, and none differs by more than one."""
    shares = [share(whole, worker, workers) for worker in range(workers)]

    assert sum(shares) == whole
    assert max(shares) - min(shares) <= 1


@given(st.lists(st.integers(0, 500), min_size=1, max_size=20), st.integers(1, 8))
def test_a_profile_is_divided_window_by_window(limits: list[int], workers: int) -> None:
    """At every time the workers' limits sum to the whole."""
    parts = [part(Profile(limits=limits), worker, workers) for worker in range(workers)]

    for window, limit in enumerate(limits):
        assert sum(one.allowed(window + 0.5) for one in parts) == limit


def test_how_many_workers_a_pacing_needs() -> None:
    """One for every 500 in flight, or 2,000 requests/s."""
    assert needed(ReplayOptions("t", concurrency=64).pacing()) == 1
    assert needed(ReplayOptions("t", concurrency=1001).pacing()) == 3
    assert needed(ReplayOptions("t", constant=5000).pacing()) == 3
    assert needed(ReplayOptions("t", speed=100).pacing()) == 1


def test_the_budget_reserves_and_settles_across_processes(shared: SharedCounters) -> None:
    """What is in flight counts with the most it may cost, what has ended with what it did cost."""
    worker, parent = Budget(1.0, shared), Budget(1.0, shared)

    assert worker.reserve(0.6)
    assert not worker.reserve(0.6)
    parent.settle(actual_cost(_sample(Outcome.HTTP_ERROR), 0.6), 0.6)  # which is free
    assert worker.reserve(0.6)
    parent.settle(actual_cost(_sample(Outcome.CUT), 0.6), 0.6)  # uncounted: as expected
    assert not worker.reserve(0.5)
    assert worker.reserve(0.4)


def _sample(outcome: Outcome) -> Sample:
    return Sample(
        id="x",
        index=0,
        endpoint="chat",
        model="m",
        stream=True,
        due=None,
        sent=0.0,
        outcome=outcome,
    )


# The breaker


def refused(status: int) -> Reply:
    return Reply(status=status)


@pytest.mark.parametrize(
    ("reply", "stops"),
    [
        (lambda: Reply(failure=(Outcome.CONNECT_ERROR, "refused")), True),
        (lambda: refused(401), True),
        (lambda: refused(403), True),
        (lambda: refused(404), True),
        (lambda: refused(429), False),
        (lambda: refused(503), False),
        (lambda: refused(200), False),
        (lambda: Reply(failure=(Outcome.RESET, "reset")), False),
    ],
)
def test_only_lasting_failures_stop_a_replay(reply: Callable[[], Reply], stops: bool) -> None:
    """Nobody listens, a wrong key, an unknown model: not a busy server."""
    breaker = Breaker()
    for _ in range(ENOUGH):
        breaker.see(reply())

    assert breaker.on is stops


def test_what_a_breaker_cancels_does_not_undo_it() -> None:
    """The run then says that it ended by errors, with how many in flight it may be."""
    breaker = Breaker()
    for _ in range(ENOUGH):
        breaker.see(refused(404))
    breaker.see(Reply(failure=(Outcome.CANCELLED, "the replay was stopped")))

    assert breaker.on


def test_one_other_reply_takes_the_breaker_out_of_service() -> None:
    """A target that ever answered otherwise may do so again."""
    breaker = Breaker()
    for status in [404] * (ENOUGH - 1) + [401] + [404] * 100:
        breaker.see(refused(status))

    assert not breaker.on


@pytest.mark.parametrize(
    ("keyless", "status", "after"),
    [(True, 401, 1), (False, 401, UNAUTHORIZED), (True, 404, ENOUGH), (False, 404, ENOUGH)],
)
def test_a_missing_key_stops_at_the_first_401(keyless: bool, status: int, after: int) -> None:
    """A wrong key after a few, since a key may be for some endpoints only."""
    breaker = Breaker(keyless=keyless)
    seen = [breaker.see(refused(status)) or breaker.on for _ in range(after)]

    assert seen == [False] * (after - 1) + [True]
    ever = Breaker(keyless=keyless)
    for one in (200, *[status] * 100):
        ever.see(refused(one))
    assert not ever.on


# The worker pool


def task(number: int, workers: int, budget: float | None = None) -> WorkerTask:
    return WorkerTask(
        number=number,
        workers=workers,
        sender="engine",
        http2=False,
        proxy=None,
        deadlines=Deadlines(),
        origins=(HERE,),
        keyless=(False,),
        connections=0,
        closed=Fixed(limit=1),
        ends=60.0,
        max_in_flight=None,
        budget=budget,
        ca=None,
        ahead_bytes=10**6,
        causal="max",
        polite=False,
        copies=1,
        live=False,
    )


def test_a_worker_that_is_killed_is_named_and_the_others_finish(tmp_path: Path) -> None:
    """Nothing hangs, and the pool says who died of what."""

    async def main() -> tuple[list[str], int]:
        with (
            WorkerPool.started([task(0, 2), task(1, 2)], tmp_path) as pool,
            trio.fail_after(PATIENCE_S),
        ):
            await pool.ready()
            await pool.warm()
            pool.workers[1].kill()
            for worker in pool.workers:
                worker.calls.close()
            pool.go()
            await pool.finished()
            return pool.lost, len(pool.stats)

    assert trio.run(main) == (["worker 2 was killed by SIGKILL"], 1)


def test_a_pool_that_is_left_early_leaves_no_process(tmp_path: Path) -> None:
    """Also before the start: the workers end with the connection to their parent."""

    async def main() -> Counter[int]:
        with (
            WorkerPool.started([task(0, 2), task(1, 2)], tmp_path) as pool,
            trio.fail_after(PATIENCE_S),
        ):
            await pool.ready()
        return Counter(worker.process.wait(0) for worker in pool.workers)

    assert trio.run(main) == {0: 2}


# Money where each worker has a page of its own, as on other machines


def test_all_that_a_lost_machine_had_left_may_be_spent(shared: SharedCounters) -> None:
    """What it reserved is on its own page; so is that of one whose answers could not be kept."""
    with ExitStack() as stack:
        budgets = [Budget(1.0, stack.enter_context(SharedCounters.made(1))) for _ in range(4)]
        failures = [SimpleNamespace(failure=failure) for failure in (None, "disk")]
        for budget in budgets:
            budget.settle(0.25, 0.5)
        workers: Any = [
            SimpleNamespace(number=number, budget=budget, stats=stats)
            for number, (budget, stats) in enumerate(
                zip(budgets, [*failures, None, None], strict=True)
            )
        ]
        apart, empty = Here(apart=True), [SimpleNamespace(budget=None, stats=None)]

        assert WorkerPool(workers[:1], apart, shared).unsettled_usd == 0.0
        assert WorkerPool(workers, apart, shared).unsettled_usd == 3 * 0.75
        bare: Any = empty
        assert WorkerPool(bare, apart, shared).unsettled_usd is None


def test_on_one_page_only_what_is_reserved_may_be_spent(shared: SharedCounters) -> None:
    budgets = [Budget(1.0, shared) for _ in range(2)]
    assert budgets[0].reserve(0.5)
    assert budgets[1].reserve(0.25)
    budgets[0].settle(0.125, 0.5)
    workers: Any = [SimpleNamespace(budget=budget, stats=None) for budget in budgets]

    assert WorkerPool(workers, Here(), shared).unsettled_usd == 0.25


@pytest.mark.parametrize("before", [0.0, 0.125])
def test_machines_that_were_told_nothing_spent_nothing(tmp_path: Path, before: float) -> None:
    """Their whole budget counts from the moment of the start; what was spent before it stays."""
    ledger, tasks = tmp_path / "a.ledger", [task(0, 1, 0.5)] * 2

    async def main(pool: WorkerPool) -> list[float]:
        with trio.fail_after(PATIENCE_S):
            await pool.ready()
            outlays = [outlay(ledger)]
            for worker in pool.workers:
                worker.calls.close()
            pool.go()
            pool.stop()
            return [*outlays, outlay(ledger)]

    with WorkerPool.started(tasks, tmp_path, Here(apart=True), ledger, before):
        pass
    assert ledger.exists() == bool(before)
    with WorkerPool.started(tasks, tmp_path, Here(apart=True), ledger, before) as pool:
        assert trio.run(main, pool) == [before, before + 1.0]
    assert outlay(ledger) == before + 1.0


# What machines that read the trace themselves say of it


def test_what_other_machines_made_and_could_not_read_is_gathered(shared: SharedCounters) -> None:
    """Counts of the calls of all of them, for each arm; and who could not go on, where, and why."""
    made = [[{"seed": 2}, {"no_model": 1}, {}], [{}, {}, {"tools": 3}]]
    readings = [
        None,
        Reading(refusal="no such file"),
        Reading(refusal=None, counts=made),
        Reading(refusal=None, counts=made, failure="t.msgpack: no such file"),
    ]
    workers: Any = [
        SimpleNamespace(number=number, process=SimpleNamespace(node=f"m{number}", reading=reading))
        for number, reading in enumerate(readings)
    ]
    pool = WorkerPool(workers, Here(), shared)

    assert pool.counts(0) == [{"seed": 4}, {"no_model": 2}, {}]
    assert pool.counts(1) == [{}, {}, {"tools": 6}]
    assert pool.unread == ["by worker 4 on m3: t.msgpack: no such file"]
