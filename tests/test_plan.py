"""The plan: what is sent again, what is left out and why, and how rounds follow each other."""

import json
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbench import __main__ as entry
from tbench.capture.errors import InputError
from tbench.capture.exchange import Exchange, Outcome, Response
from tbench.capture.records import TraceHeader
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.closing import outlook
from tbench.replay.estimate import estimate, survey
from tbench.replay.fidelity import fidelity, recorded_in
from tbench.replay.job import Job, resolve
from tbench.replay.options import ReplayOptions
from tbench.replay.pacing import Clones
from tbench.replay.plan import Plan, Planned
from tests.recorded import chat_request, run_columns


def exchange(seq: int = 0, at: float = 0.0, took: float | None = 1.0, **fields: Any) -> Exchange:
    body = json.dumps({"model": "m", "messages": [], "max_tokens": 7}).encode()
    request = chat_request(seq, round(at * 1e9), body, **{"id": f"x{seq}", **fields})
    response = (
        None if took is None else Response(head_ns=0, end_ns=round((at + took) * 1e9), status=200)
    )
    return Exchange(request=request, response=response)


def test_offsets_count_from_the_first_request_that_is_sent() -> None:
    """What is left out in front does not delay the start."""
    plan = Plan(
        trace=[exchange(0, 2.0, method="GET", path="/v1/models"), exchange(1, 5), exchange(2, 6.5)]
    )
    found = list(plan)

    assert [(one.index, one.offset) for one in found] == [(0, 0.0), (1, 1.5)]
    assert plan.skipped == {"endpoint": 1}


@pytest.mark.parametrize(
    ("reason", "fields"),
    [
        ("retry", {"retry_of": "x0"}),
        ("retry", {"headers": (("x-stainless-retry-count", "1"),)}),
        ("websocket", {"method": "GET", "headers": (("upgrade", "websocket"),)}),
        ("endpoint", {"path": "/v1/files/upload"}),
        ("endpoint", {"path": "/v1/images/generations"}),
        (
            "previous_response_id",
            {"path": "/v1/responses", "body": b'{"previous_response_id":"resp_1"}'},
        ),
        ("path", {"path": "@evil/v1/chat/completions"}),
        ("path", {"path": ":81/v1/chat/completions"}),
        ("path", {"path": "http://evil/v1/chat/completions"}),
        ("path", {"path": "*"}),
        ("path", {"path": ""}),
        ("path", {"path": "/v1/chat/completions?after=" + "x" * 16_384}),
        ("no_body", {"body": None, "body_bytes": 10}),
        ("truncated_body", {"extra": {"truncated": True}}),
    ],
)
def test_each_reason_to_leave_out(reason: str, fields: dict[str, Any]) -> None:
    """One rule, one word in the count."""
    plan = Plan(trace=[exchange(0), exchange(1, 1.0, **fields)])

    assert [one.exchange.request.id for one in plan] == ["x0"]
    assert plan.skipped == {reason: 1}


def test_unsafe_endpoints_are_sent_when_allowed_retries_never() -> None:
    """--allow-unsafe lifts the one reason that is about safety."""
    trace = [exchange(0, path="/v1/files/upload"), exchange(1, retry_of="x0")]
    plan = Plan(trace=trace, allow_unsafe=True)

    assert [one.exchange.request.id for one in plan] == ["x0"]
    assert plan.skipped == {"retry": 1}


def test_failed_and_unanswered_requests_are_sent_again() -> None:
    """The plan is about what was asked, not about how it went."""
    failed = exchange(1, 1.0)
    assert failed.response
    trace = [
        exchange(0, took=None),
        Exchange(
            request=failed.request,
            response=Response(head_ns=None, end_ns=0, status=None, outcome=Outcome.TIMEOUT),
        ),
    ]

    assert len(list(Plan(trace=trace))) == 2


def test_rounds_follow_after_the_mean_gap_with_their_own_numbers() -> None:
    """Three requests over 4 s: the next round begins 2 s after the last of this one."""
    plan = Plan(trace=[exchange(0, 10), exchange(1, 11), exchange(2, 14)], rounds=3)
    found = [(one.index, one.cycle, one.offset) for one in plan]

    assert found == [
        (0, 0, 0.0), (1, 0, 1.0), (2, 0, 4.0),
        (3, 1, 6.0), (4, 1, 7.0), (5, 1, 10.0),
        (6, 2, 12.0), (7, 2, 13.0), (8, 2, 16.0),
    ]  # fmt: skip


def test_left_out_requests_are_counted_once() -> None:
    """Later rounds do not count the same request again."""
    plan = Plan(trace=[exchange(0), exchange(1, retry_of="x0")], rounds=4)

    assert len(list(plan)) == 4
    assert plan.skipped == {"retry": 1}


def test_the_number_of_requests_ends_the_plan_in_any_round() -> None:
    """--requests counts over rounds; an endless plan is read only so far."""
    plan = Plan(trace=[exchange(0), exchange(1, 1)], rounds=None, requests=5)

    assert [(one.index, one.cycle) for one in plan] == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)]


def test_an_endless_plan_of_nothing_ends() -> None:
    """A trace without requests to send is not read for ever."""
    assert list(Plan(trace=[exchange(0, method="GET", path="/x")], rounds=None)) == []


def test_the_trace_is_read_as_it_is_needed() -> None:
    """However long it is: sixteen are loaded at a time."""
    drawn: list[int] = []

    class Trace:
        def __iter__(self) -> Iterator[Exchange]:
            for seq in range(1000):
                drawn.append(seq)
                yield exchange(seq, float(seq))

    planned = iter(Plan(trace=Trace()))

    for _ in range(16):
        next(planned)
        assert len(drawn) == 16


def test_a_survey_measures_one_round() -> None:
    """Requests, span, latencies and the mean in flight of each second."""
    trace = [exchange(0, 10, 1.5), exchange(1, 11, 0.5), exchange(2, 13, None)]
    found = survey(Plan(trace=trace, rounds=9))

    assert (found.requests, found.span_s, found.busy_s) == (3, 3.0, 2.0)
    assert found.in_flight[:2] == pytest.approx([1.0, 1.0])


def turn(*said: str) -> bytes:
    roles = ("user", "assistant")
    messages = [{"role": roles[at % 2], "content": text} for at, text in enumerate(said)]
    return json.dumps({"model": "m", "messages": messages}).encode()


def test_requests_of_one_conversation_have_its_number() -> None:
    """A second turn contains the first one; a stranger between them does not. Rounds repeat the numbers."""
    bodies = [turn("hello"), turn("stranger"), turn("hello", "hi", "and now?")]
    trace = [exchange(seq, seq, body=body, body_bytes=len(body)) for seq, body in enumerate(bodies)]

    numbers = [one.session for one in Plan(trace=trace, rounds=2)]

    assert numbers[0] == numbers[2] != numbers[1]
    assert numbers[:3] == numbers[3:]


def test_idle_stretches_are_cut_and_all_else_keeps_its_gaps() -> None:
    """Ends at 11; 39 s of silence; a burst; 20 s beside a request in flight; 7 s, which may stay.

    The turn of a minute later answered what ended at 11 and thought all through the silence: 29 s less.
    """
    first, second = turn("hello"), turn("hello", "hi", "and now?")
    trace = [
        exchange(0, 10.0, body=first, body_bytes=len(first)),
        exchange(1, 50.0, 25.0),
        exchange(2, 50.5),
        exchange(3, 70.5, 1.5, body=second, body_bytes=len(second)),
        exchange(4, 82.0),
    ]
    plan = Plan(trace=trace, most_idle=10.0)
    planned = list(plan)

    assert [request.offset for request in planned] == [0.0, 11.0, 11.5, 31.5, 43.0]
    assert (planned[3].after, planned[3].think) == ((0,), 59.5 - 29.0)
    assert plan.idle == survey(plan).idle == {"stretches": 1, "seconds": 29.0}
    for exchanges, idle in ((trace, {"think_times": 1, "seconds": 29.0}), (trace[:3], {})):
        untimed = Plan(trace=exchanges, most_idle=10.0, timed=False)
        assert list(untimed)
        assert untimed.idle == idle
    assert [request.offset for request in Plan(trace=trace)] == [0.0, 40.0, 40.5, 60.5, 72.0]


# Clones: several copies of the recording, each shifted, merged.


def conversations() -> list[Exchange]:
    """Twenty conversations of one to four turns, 3 s apart, the turns 2.5 s; each answer takes 1 s."""
    rows = sorted(
        (3.0 * name + 2.5 * number, name, number)
        for name in range(20)
        for number in range(1 + name % 4)
    )
    trace = []
    for seq, (at, name, number) in enumerate(rows):
        words = [
            text for said in range(number) for text in (f"{name}, turn {said}", f"answer {said}")
        ]
        body = turn(*words, f"{name}, turn {number}")
        trace.append(exchange(seq, at, body=body, body_bytes=len(body)))
    return trace


def by_session(planned: list[Planned]) -> dict[int, list[Planned]]:
    sessions: dict[int, list[Planned]] = {}
    for request in planned:
        sessions.setdefault(request.session, []).append(request)
    return sessions


@pytest.mark.parametrize("within", [None, 0.0, 7.0])
@pytest.mark.parametrize("rounds", [1, 2])
def test_each_clone_has_every_conversation_with_its_order_and_its_gaps(
    within: float | None, rounds: int
) -> None:
    """2.5 copies: in each the sessions stand as recorded, only later, or round to the front as a whole."""
    alone = by_session(list(Plan(trace=conversations())))
    plan = Plan(
        trace=conversations(), clones=Clones(number=2.5, within=within, seed=4), rounds=rounds
    )
    planned = list(plan)

    assert [request.index for request in planned] == list(range(len(planned)))
    assert [request.offset for request in planned] == sorted(request.offset for request in planned)
    assert {(request.cycle % 3) for request in planned if request.clone == 2} == {2}
    for cycle in range(3 * rounds):
        copies = by_session([request for request in planned if request.cycle == cycle])
        if cycle % 3 < 2:
            assert copies.keys() == alone.keys()
        else:
            assert copies.keys() < alone.keys()
            assert 5 <= len(copies) <= 15  # half of twenty, by their hashes
        for session, requests in copies.items():
            recorded = alone[session]
            moved = requests[0].offset - recorded[0].offset
            shape = [(r.exchange.request.id, pytest.approx(r.offset + moved)) for r in recorded]
            assert [(r.exchange.request.id, r.offset) for r in requests] == shape
            before = [(), *((r.index,) for r in requests[:-1])]
            assert [r.after for r in requests] == before
            assert [r.think for r in requests] == [r.think for r in recorded]
    assert [(r.index, r.offset, r.clone) for r in plan] == [
        (r.index, r.offset, r.clone) for r in planned
    ]


@pytest.fixture(scope="module")
def bursts() -> list[Exchange]:
    """Three hours: bursts of about four conversations within a second, of one to three turns 4 s apart."""
    rng = random.Random(3)
    rows: list[tuple[float, int, int]] = []
    at = 0.0
    while (at := at + rng.expovariate(1 / 10)) < 10_000:
        for _ in range(1 + int(rng.expovariate(1 / 3))):
            begins, name = at + rng.expovariate(5.0), len(rows)
            rows += [(begins + 4.0 * turn, name, turn) for turn in range(rng.randint(1, 3))]
    trace = []
    for seq, (arrives, name, number) in enumerate(sorted(rows)):
        words = [text for said in range(number) for text in (f"{name}, {said}", "answer")]
        body = turn(*words, f"{name}, {number}")
        trace.append(exchange(seq, arrives, body=body, body_bytes=len(body)))
    return trace


def dispersions(seconds: Iterable[float], *windows: float) -> list[float]:
    """Variance over mean of the counts in whole windows, by numpy."""
    times = np.sort(np.array(list(seconds)))
    counts = [np.bincount(((times - times[0]) / window).astype(int))[:-1] for window in windows]
    return [float(each.var() / each.mean()) for each in counts]


WINDOWS_S = (0.1, 1.0, 10.0, 60.0)


def test_four_shifted_clones_keep_the_index_of_dispersion(bursts: list[Exchange]) -> None:
    """Within 15 %, at four times the rate, by the mean of three seeds; in step it has it four times.

    Three hours hold 166 windows of a minute, whose index is within 9 % of the truth (one deviation).
    """

    def planned(**shift: Any) -> list[float]:
        turns = Plan(trace=bursts, clones=Clones(number=4, **shift)).turns()
        return dispersions((turn.offset for turn in turns), *WINDOWS_S)

    wanted = dispersions((each.request.arrive_ns / 1e9 for each in bursts), *WINDOWS_S)
    shifted = np.mean([planned(seed=seed) for seed in range(3)], axis=0)

    assert min(wanted) > 1.5
    assert shifted == pytest.approx(wanted, rel=0.15)
    assert planned(within=0.0) == pytest.approx([4 * figure for figure in wanted], rel=0.01)


def test_at_speed_4_dispersion_is_the_recorded_one_of_windows_four_times_as_long(
    bursts: list[Exchange],
) -> None:
    recorded = [exchange.request.arrive_ns / 1e9 for exchange in bursts]
    schedule = ReplayOptions(trace="t", speed=4.0).pacing().schedule(None)
    dues = schedule(planned.offset for planned in Plan(trace=bursts))
    wanted = dispersions(recorded, *(4 * window for window in WINDOWS_S))

    assert dispersions(dues, *WINDOWS_S) == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("options", [{"clones": Clones(number=3)}, {"by_session": True}], ids=str)
def test_each_copy_holds_the_answers_that_the_recording_held(options: dict[str, Any]) -> None:
    """As exchange and turn, oldest first: so `--live-history` threads the same answers into each."""
    alone = list(Plan(trace=conversations(), live=True))
    copied = list(Plan(trace=conversations(), live=True, **options))

    def held(plan: list[Planned]) -> set[tuple[str, tuple[tuple[str, int], ...]]]:
        return {
            (r.exchange.request.id, tuple((plan[at].exchange.request.id, n) for at, n in r.history))
            for r in plan
        }

    assert held(copied) == held(alone)
    assert max(len(r.history) for r in alone) == 3
    places = {request.index: (request.session, request.clone) for request in copied}
    assert all(places[r.index] == places[at] for r in copied for at, _ in r.history)


@pytest.mark.parametrize("options", [{"clones": Clones(number=3)}, {"by_session": True}], ids=str)
def test_a_copy_holds_answers_from_before_what_is_remembered(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each turn lies near enough the one before it, the first far from the last."""
    live = list(Plan(trace=conversations(), live=True))
    steps = [r.index - at for r in live for at in r.after]
    spans = [r.index - at for r in live for at, _ in r.history]
    assert max(spans) > max(steps) + 1
    monkeypatch.setattr("tbench.replay.plan.REMEMBERED", max(steps) + 1)

    sent = list(Plan(trace=conversations(), live=True, **options))

    held = {(r.exchange.request.id, len(r.history)) for r in sent}
    assert held == {(r.exchange.request.id, len(r.history)) for r in live}
    assert not any(r.forgotten for r in sent)


@pytest.mark.parametrize(
    "options",
    [{}, {"clones": Clones(number=3)}, {"clones": Clones(number=2.5), "by_session": True}],
    ids=str,
)
def test_each_request_knows_in_how_many_histories_it_is(options: dict[str, Any]) -> None:
    """So a worker can let its answer go with the last of them."""
    plan = list(Plan(trace=conversations(), live=True, rounds=2, **options))
    uses = Counter(at for planned in plan for at, _ in planned.history)

    assert max(uses.values()) == 3
    assert [planned.uses for planned in plan] == [uses[planned.index] for planned in plan]


def test_the_first_requests_with_live_histories_are_not_kept_waiting_by_the_rest() -> None:
    """A trace is read no further than its first sixteen, and keeps no answer for those that do not go."""
    read = []

    class Trace:
        def __iter__(self) -> Iterator[Exchange]:
            for recorded in (*conversations(), *(exchange(n, float(n)) for n in range(100, 200))):
                read.append(recorded.request.id)
                yield recorded

    plan = list(Plan(trace=Trace(), live=True, requests=9))
    uses = Counter(at for planned in plan for at, _ in planned.history)

    assert max(Counter(read).values()) <= 2
    assert len(set(read)) == 16
    assert [planned.uses for planned in plan] == [uses[planned.index] for planned in plan]


def test_a_trace_that_changes_while_it_is_read_is_refused() -> None:
    class Growing(list[Exchange]):
        def __iter__(self) -> Iterator[Exchange]:
            items = list(super().__iter__())
            self.append(exchange(100 + len(self), 100.0))
            return iter(items)

    with pytest.raises(InputError, match="changed while it was read"):
        list(Plan(trace=Growing(conversations()), clones=Clones(number=2)))


def test_session_by_session_each_stands_whole_with_its_own_order() -> None:
    """Two rounds of two copies; every copy of a conversation is one run of indexes."""
    clones = Clones(number=2)
    alone = by_session(list(Plan(trace=conversations())))
    planned = list(Plan(trace=conversations(), clones=clones, rounds=2, by_session=True))

    assert [request.index for request in planned] == list(range(len(planned)))
    copies = [list(group) for _, group in groupby(planned, attrgetter("opening"))]
    assert len(copies) == 4 * len(alone)
    assert len({(requests[0].cycle, requests[0].session) for requests in copies}) == len(copies)
    for requests in copies:
        ids = [request.exchange.request.id for request in alone[requests[0].session]]
        assert [request.exchange.request.id for request in requests] == ids
        assert requests[0].opening == requests[0].index
        assert [r.after for r in requests] == [(), *((r.index,) for r in requests[:-1])]


@pytest.mark.parametrize("within", [None, 7.0])
def test_clones_begin_where_their_shift_says(within: float | None) -> None:
    """Round the recording, which comes again one mean gap after its last request; else as much later."""
    recorded = list(Plan(trace=conversations()))
    period = recorded[-1].offset * len(recorded) / (len(recorded) - 1)
    clones = Clones(number=3, within=within, seed=2)
    planned = by_session(list(Plan(trace=conversations(), clones=clones)))

    for session, requests in by_session(recorded).items():
        begins = [requests[0].offset + shift for shift in clones.shifts(period)]
        firsts = {r.clone: r.offset for r in reversed(planned[session])}
        expected = [at % period if within is None else at for at in begins]
        assert [firsts[clone] for clone in range(3)] == pytest.approx(expected)


def test_what_clones_leave_out_is_counted_once() -> None:
    plan = Plan(
        trace=[exchange(0), exchange(1, retry_of="x0"), exchange(2, 4)], clones=Clones(number=3)
    )

    assert len(list(plan)) == 6
    assert plan.skipped == {"retry": 1}
    assert survey(plan).requests == 6


def asking(name: str) -> Exchange:
    body = turn("hello")
    return exchange(0, 1.0, id=name, body=body, body_bytes=len(body))


def two_captures(folder: Path, second: str) -> ReplayOptions:
    """A request that is not sent, and one of another capture that is, by this id."""
    asked = {"a": [exchange(0, 0.0, id="x", path="/v1/files")], "b": [asking(second)]}
    for place, (name, exchanges) in enumerate(asked.items()):
        header = TraceHeader(wall_ns=10**18 + place, mono_ns=0, capture_id=name)
        with TraceWriter(folder / f"{name}.msgpack", header) as writer:
            for each in exchanges:
                writer.exchange(each)
    return ReplayOptions(folder, base_url="http://127.0.0.1:9", clones=2.0)


def test_a_request_that_is_sent_is_not_taken_for_one_of_its_id_that_is_not(tmp_path: Path) -> None:
    """In a copy of the recording, which is read once more."""
    planned = list(resolve(two_captures(tmp_path, "x"), send=False).plan())

    assert [each.exchange.request.path for each in planned] == ["/v1/chat/completions"] * 2


@pytest.mark.parametrize("clones", [1.0, 2.0])
def test_two_requests_of_one_id_are_refused(tmp_path: Path, clones: float) -> None:
    """A part of a trace beside it: turns and comparisons would take one for the other."""
    options = two_captures(tmp_path, "y")
    header = TraceHeader(wall_ns=10**18, mono_ns=0, capture_id="part")
    with TraceWriter(tmp_path / "part.msgpack", header) as writer:
        writer.exchange(asking("y"))

    with pytest.raises(InputError, match="two captures of this trace hold a request with the id y"):
        list(resolve(replace(options, clones=clones), send=False).plan())


def test_nothing_to_clone_is_nothing() -> None:
    assert list(Plan(trace=[], clones=Clones(number=2))) == []


def named(seq: int, name: str, **fields: Any) -> Exchange:
    """A request of the conversation that its header names."""
    return exchange(seq, 2.0 * seq, headers=(("x-session-id", name),), **fields)


@pytest.mark.parametrize("clones", [1, 2])
def test_a_predecessor_that_is_not_remembered_is_counted(
    clones: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversation that waits longer than a plan looks back: its next turn waits for nothing."""
    monkeypatch.setattr("tbench.replay.plan.REMEMBERED", 4)
    trace = [named(0, "long"), *(named(seq, "other") for seq in range(1, 6)), named(6, "long")]
    plan = Plan(trace=trace, clones=Clones(number=clones, within=0))

    turns = [planned for planned in plan if planned.exchange.request.id in {"x0", "x6"}]

    assert [planned.after for planned in turns] == [()] * 2 * clones
    assert plan.forgotten == clones


QUOTABLE = "The harbour is closed until the ice is gone."


def quoting(seq: int, words: str, *, tools: bool = False) -> Exchange:
    """A conversation of one request, answered with what another may quote."""
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": words}]}
    raw = json.dumps(body | ({"tools": [{"type": "function"}]} if tools else {})).encode()
    made = exchange(seq, 2.0 * seq, body=raw, body_bytes=len(raw))
    said = {"choices": [{"message": {"role": "assistant", "content": QUOTABLE}}]}
    assert made.response is not None
    return replace(made, response=replace(made.response, body=json.dumps(said).encode()))


@pytest.mark.parametrize("options", [{"apart": True}, {"by_session": True}], ids=str)
def test_an_answer_that_is_sent_apart_is_counted(options: dict[str, bool]) -> None:
    """Another conversation's, quoted: in each of the copies."""
    trace = [quoting(0, "How is the harbour?", tools=True), quoting(1, f"I heard: {QUOTABLE}")]
    together = Plan(trace=trace, clones=Clones(number=2, within=0))
    apart = replace(together, **options)

    waits = [planned.after for planned in together]
    assert waits == [(), (), (0,), (1,)]
    assert not any(planned.after for planned in apart)
    assert (together.severed, apart.severed) == (0, 2)


def test_a_retry_of_what_is_left_out_is_no_turn() -> None:
    """The next turn continues the last request that is sent."""
    trace = [named(0, "a"), named(1, "a", path="/v1/files/upload")]
    trace += [named(2, "a", retry_of="x1"), named(3, "a")]
    plan = Plan(trace=trace)

    assert [planned.after for planned in plan] == [(), (0,)]
    assert plan.forgotten == 0


@pytest.mark.parametrize(("option", "timed"), [({"speed": 2.0}, True), ({"sessions": 2}, False)])
def test_the_dry_run_says_what_a_turn_waits_for(
    option: dict[str, Any], *, timed: bool, tmp_path: Path
) -> None:
    """In a closed loop no turn has a time of its own."""
    trace = tmp_path / "t.msgpack"
    with TraceWriter(trace, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for exchange in conversations():
            writer.exchange(exchange)
    options = ReplayOptions(trace=str(trace), base_url="http://127.0.0.1:9", **option)
    lines = "\n".join(outlook(estimate(resolve(options, send=False))))

    assert "30 continue an earlier answer: each leaves when that has ended here" in lines
    assert ("or at its time if later" in lines) == timed
    assert ("and a place is free" in lines) != timed


def of_conversations(trace: Path, options: dict[str, Any]) -> Job:
    """A replay of them, which writes their trace."""
    with TraceWriter(trace, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for recorded in conversations():
            writer.exchange(recorded)
    return resolve(
        ReplayOptions(trace=str(trace), base_url="http://127.0.0.1:9", **options), send=False
    )


@pytest.mark.parametrize("more", [{}, {"concurrency": 200_000}])
def test_more_workers_than_this_machine_bears_are_refused(
    more: dict[str, Any], tmp_path: Path
) -> None:
    """A slip of the keyboard would take all memory; where fewer have work, no more are started anyway."""
    trace = tmp_path / "t.msgpack"
    with pytest.raises(InputError, match=r"--workers 100,000: at most .* this machine's \d+ core"):
        of_conversations(trace, {"workers": 100_000, **more})
    trace.unlink()

    assert of_conversations(trace, {"workers": 100_000, "concurrency": 3}).workers == 3
    assert entry.run(["doctor", "--workers", "100000"]) == 2, "before its first probe"


@pytest.mark.parametrize(("limits", "turns"), [({"loop": 3}, 90), ({"requests": 5}, None)])
def test_the_dry_run_counts_the_turns_of_all_that_would_be_sent(
    limits: dict[str, Any], turns: int | None, tmp_path: Path
) -> None:
    job = of_conversations(tmp_path / "t.msgpack", limits)

    sent = sum(bool(planned.after) for planned in job.plan())
    assert estimate(job).turns == sent
    assert turns in {None, sent}


@pytest.mark.parametrize(
    ("pacing", "requests", "duration_s"),
    [
        ({"concurrency": 1}, 4, 10.0),
        ({"concurrency": 1, "duration": 4.0}, 3, 4.0),
        ({"concurrency": 1, "causal": "off"}, 4, 5.0),
        ({"sessions": 1}, 4, 13.0),
        ({"concurrency_scale": 1.0, "only": ["from=20s"]}, 3, 4.5),
        ({"concurrency_scale": 1.0, "requests": 2, "only": ["from=20s"]}, 2, 3.0),
    ],
    ids=str,
)
def test_the_dry_run_of_a_closed_loop_is_what_its_places_and_turns_let_go(
    pacing: dict[str, Any], requests: int, duration_s: float, tmp_path: Path
) -> None:
    """By hand: two turns of 1 s, 8 s apart, and two requests of 1.5 s, 3 s apart.

    One place holds the first turn, both others from 1 to 4 s, and the second turn from 9 s. As recorded the
    places are 1, 1, 0, 1, 0 (of 1, .5, 0, 1, .5 in flight): the second goes when the first has ended, in the
    second half of a second, and the first once more at 3 s.
    """
    trace = tmp_path / "t.msgpack"
    talk = [exchange(0, 0.0, body=turn("a")), exchange(1, 9.0, body=turn("a", "b", "c"))]
    others = [exchange(seq, at, 1.5, body=turn(f"{at}")) for seq, at in ((2, 20.0), (3, 23.0))]
    with TraceWriter(trace, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for recorded in [*talk, *others]:
            writer.exchange(recorded)
    options = ReplayOptions(trace=str(trace), base_url="http://127.0.0.1:9", **pacing)
    seen = estimate(resolve(options, send=False))

    assert (seen.requests, seen.duration_s) == (requests, pytest.approx(duration_s))


@pytest.mark.parametrize(
    ("options", "requests", "duration_s"),
    [
        ({"concurrency": 5}, 40, 8.0),
        ({"concurrency": 1}, 40, 40.0),
        ({"concurrency": 20}, 40, 2.0),
        ({"concurrency": 2**63 - 1}, 40, 1.0),
        ({"concurrency": 5, "duration": 5.5}, 30, 5.5),
        ({"concurrency": 20, "duration": 1.5}, 40, 1.5),
        ({"concurrency": 5, "requests": 20}, 20, 4.0),
    ],
    ids=str,
)
def test_the_dry_run_of_a_long_closed_loop_goes_on_as_answers_end(
    options: dict[str, Any],
    requests: int,
    duration_s: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By hand: 40 requests of 1 s, in waves as wide as there are places; ten of them are played at least.

    What a duration cuts is known to half a wave.
    """
    monkeypatch.setattr("tbench.replay.estimate.WALKED", 10)
    trace = tmp_path / "t.msgpack"
    with TraceWriter(trace, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq in range(10):
            writer.exchange(exchange(seq, float(seq), 1.0, body=turn(f"{seq}")))
    options = {"trace": str(trace), "base_url": "http://127.0.0.1:9", "loop": 4} | options
    seen = estimate(resolve(ReplayOptions(**options), send=False))

    assert seen.duration_s == pytest.approx(duration_s)
    assert seen.requests == pytest.approx(requests, abs=2.5 if seen.requests_estimated else 0)


@pytest.mark.parametrize(
    "options",
    [
        {"loop": 2, "clones": 1.5, "requests": 10},
        {"clones": 3.0, "requests": 40},
        {"duration": 60.0},
        {"loop": 2},
    ],
    ids=str,
)
def test_the_dry_run_counts_the_recorded_gaps_as_the_fidelity_of_the_run(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """Each recorded request that is sent, once, whichever copy of it comes first."""
    trace = tmp_path / "t.msgpack"
    job = of_conversations(trace, options)
    ends, seen = options.get("duration", math.inf), estimate(job)
    sent = [planned for planned in job.plan() if planned.offset < ends]
    columns = run_columns(len(sent), gap_s=1.0, wait_s=0.5, stream_s=0.5)
    columns["cycle"] = np.array([planned.cycle for planned in sent])
    columns["id"] = np.array([planned.exchange.request.id for planned in sent])
    columns["due"] = columns["sent"] = np.array([planned.offset for planned in sent])
    known = recorded_in(trace, job.trace.header.capture_id)
    preserved = fidelity(columns, known, clones=options.get("clones", 1.0))
    rows = {row.name: row for row in preserved.rows}

    for row in seen.burstiness:
        of_run = rows[row.name]
        assert (row.n, row.recorded, row.intended) == pytest.approx(
            (of_run.n, of_run.recorded, of_run.intended), abs=1e-9
        )
