"""What a replay preserved: figures of processes whose burstiness is known, and of runs made by hand."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.capture.exchange import Chunk, Exchange, Response
from tbench.capture.records import TraceHeader
from tbench.capture.trace_reader import read_trace
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.fidelity import (
    Fidelity,
    Recorded,
    displaced,
    fidelity,
    fidelity_of,
    recorded_in,
)
from tbench.replay.runfile import RunWriter, read_run
from tbench.replay.sample import Sample
from tests.recorded import chat_request

Columns = dict[str, Any]
Make = Callable[..., Columns]
Floats = np.ndarray[Any, np.dtype[np.float64]]


@pytest.fixture
def run(repeats: Any) -> Make:
    """A run's columns: when each request was due and sent, and columns of another value."""

    def make(due: Any, sent: Any = None, **others: Any) -> Columns:
        times = np.asarray(due, float)
        columns: Columns = repeats.columns(len(times), seed=1)
        columns |= {"due": times, "sent": times if sent is None else np.asarray(sent, float)}
        columns["end"] = columns["last_token"] = columns["sent"] + 1
        columns["first_token"] = columns["sent"] + 0.5
        return columns | {name: np.full(len(times), value) for name, value in others.items()}

    return make


def beside(columns: Columns, arrivals: Any = None) -> Recorded:
    """A recording with these columns, and arrivals where those were others."""
    times = columns["sent"] if arrivals is None else np.asarray(arrivals, float)
    stamps = zip(columns["id"].tolist(), times.tolist(), strict=True)
    return Recorded({id_: (time, time + 1) for id_, time in stamps}, columns)


def figures(made: Fidelity) -> dict[str, tuple[float | None, float | None, float | None]]:
    return {row.name: (row.recorded, row.intended, row.replayed) for row in made.rows}


def poisson(rng: np.random.Generator, rate: float, lasts: float) -> Floats:
    return np.sort(rng.uniform(0, lasts, rng.poisson(rate * lasts)))


def mmpp(rng: np.random.Generator, rates: tuple[float, float], stay: float, lasts: float) -> Floats:
    """A Poisson process whose rate changes between two, each held for an exponential time."""
    parts, at, state = [], 0.0, 0
    while at < lasts:
        held = rng.exponential(stay)
        parts.append(at + poisson(rng, rates[state], held))
        at, state = at + held, 1 - state
    return np.concatenate(parts)


def test_poisson_traffic_has_one_and_a_clock_has_none(run: Make) -> None:
    rng = np.random.default_rng(3)
    made = figures(fidelity(run(poisson(rng, 10, 2_000))))
    for name in ("CV of gaps", "IDC in 0.1 s", "IDC in 1 s", "IDC in 10 s"):
        assert made[name][1:] == (pytest.approx(1, abs=0.25), pytest.approx(1, abs=0.25)), name
    clock = figures(fidelity(run(np.arange(1_000) / 10)))

    assert clock["CV of gaps"][1] == pytest.approx(0, abs=1e-6)
    assert clock["IDC in 1 s"][1:] == (0, 0)


def test_batches_have_their_size(run: Make) -> None:
    """Poisson instants of five requests each: variance 25-fold, mean five-fold."""
    times = np.repeat(poisson(np.random.default_rng(4), 2, 4_000), 5)

    assert figures(fidelity(run(times)))["IDC in 1 s"][1] == pytest.approx(5, rel=0.1)


def test_a_modulated_process_has_that_of_its_formula(run: Make) -> None:
    """Var N(w) = m w + 2 d (w/s - (1 - exp(-s w))/s^2): d is the rate's variance, which decays with s."""
    low, high, stay = 2.0, 12.0, 5.0
    times = mmpp(np.random.default_rng(5), (low, high), stay, 6_000)
    made = figures(fidelity(run(times)))
    mean, variance, decay = (low + high) / 2, (high - low) ** 2 / 4, 2 / stay
    for window in (0.1, 1, 10):
        shared = window / decay - (1 - exp(-decay * window)) / decay**2
        expected = 1 + 2 * variance * shared / (mean * window)
        assert made[f"IDC in {window:g} s"][1] == pytest.approx(expected, rel=0.12)


def test_windows_are_of_the_trace_whatever_the_speed(run: Make) -> None:
    """At four times the speed, 1 s of the trace is 0.25 s of the replay: the figures stay."""
    came = np.round(mmpp(np.random.default_rng(6), (2, 12), 5, 1_000), 6)
    made = fidelity(run(came / 4), beside(run(came)), speed=4.0)
    for name, (recorded, intended, replayed) in figures(made).items():
        if name.startswith(("CV", "IDC")):
            assert recorded == pytest.approx(intended, rel=0.01) == replayed

    assert made.moved_share == 0
    assert figures(made)["requests/s"][2] == pytest.approx(4 * figures(made)["requests/s"][0])


def test_a_window_that_the_run_is_too_short_for_is_absent(run: Make) -> None:
    """Of 30 s there are 30 windows of 1 s, and three of 10 s, which say nothing."""
    names = figures(fidelity(run(np.arange(300) / 10)))

    assert "IDC in 1 s" in names
    assert not {"IDC in 10 s", "IDC in 60 s"} & names.keys()


def test_poisson_arrivals_in_place_of_bursts_are_no_preserved_burstiness(run: Make) -> None:
    rng = np.random.default_rng(7)
    came = np.repeat(poisson(rng, 2, 500), 5)
    made = fidelity(
        run(np.sort(rng.uniform(0, 500, len(came)))), beside(run(came)), speed=None, mode="poisson"
    )
    aspects = {aspect.name: aspect for aspect in made.aspects}

    assert aspects["arrival times"].preserved is False
    assert aspects["arrival times"].figure == "--poisson replaces them"
    assert aspects["burstiness"].preserved is False


@given(st.lists(st.integers(0, 5), max_size=6))
def test_displaced_is_the_least_that_must_be_left_out(times: list[int]) -> None:
    """By trying every subset."""
    n = len(times)
    longest = max(
        size
        for size in range(n + 1)
        for subset in combinations(times, size)
        if list(subset) == sorted(subset)
    )

    assert displaced([float(time) for time in times]) == n - longest


def test_the_sentence_says_what_is_preserved_and_what_is_not(run: Make) -> None:
    """100 requests 1 s apart, sent 2 ms late; answers 12 % shorter, and hardly anything from a cache."""
    due = np.arange(100.0)
    recorded = beside(run(due, prompt_tokens=1_000, output_tokens=100, cached_tokens=610))
    made = fidelity(
        run(due, due + 0.002, prompt_tokens=1_000, output_tokens=88, cached_tokens=30),
        recorded,
        turns={"causal": "max", "continued": 40, "early": 0},
    )

    assert figures(made)["out of order"] == (None, None, 0)
    assert made.sentence == (
        "keeps arrival times (lag p99 2.00 ms of all requests), order of turns (40 turns), burstiness (IDC "
        "in 1 s 0 recorded, 0 sent), prompt tokens (+0.0%); does not keep output tokens (-12.0%), cache "
        "reuse (61% recorded, 3% served)"
    )
    assert (made.requests, made.answers, made.displaced, made.late_share) == (100, 100, 0, 0)


def test_answers_that_stop_at_a_tenth_are_counted(run: Make) -> None:
    """Three of fifty: two of a tenth and one without anything; what was short when recorded is none."""
    recorded = run(np.arange(60.0), output_tokens=200)
    recorded["output_tokens"][50:] = 5
    replayed = run(np.arange(60.0), output_tokens=200)
    replayed["output_tokens"][[3, 4, 5, 55]] = 20, 20, 0, 0
    made = fidelity(replayed, beside(recorded))

    assert figures(made)["output of a tenth or less"] == (None, None, pytest.approx(3 / 50))
    assert "output tokens (+11.8%, 3 of 50 a tenth or less)" in made.sentence


def test_turns_that_waited_are_no_kept_times(run: Make) -> None:
    """Due when their predecessor had ended: punctual by their due times, and not by the recorded ones."""
    came = np.arange(100.0)
    due = np.where(came % 10 == 9, came + 0.5, came)
    made = fidelity(run(due), beside(run(came)))

    assert made.late_share == 0
    assert made.moved_share == pytest.approx(0.1)
    assert made.aspects[0].preserved is False


def test_turns_that_are_due_before_their_recorded_time_have_moved_alone(run: Make) -> None:
    """By --causal think a faster target is asked sooner: one in ten is, the others kept their times."""
    came = np.arange(100.0)
    made = fidelity(run(np.where(came % 10 == 9, came - 0.5, came)), beside(run(came)))

    assert made.moved_share == pytest.approx(0.1)


@pytest.mark.parametrize(("waited", "kept"), [(0, True), (3, None)])
def test_without_its_trace_times_are_known_where_no_turn_waited(
    run: Make, waited: int, *, kept: bool | None
) -> None:
    """What waited is punctual by a due time that its predecessor's end has made."""
    turns = {"causal": "max", "continued": 40, "early": 0, "waited": waited}

    assert fidelity(run(np.arange(100.0)), turns=turns).aspects[0].preserved is kept


def test_turns_that_were_not_sent_have_no_order(run: Make) -> None:
    """Nobody listened, so no turn left: none kept its order. Of four of which one was skipped three did."""
    none, three = (
        fidelity(
            run(np.arange(9.0)),
            turns={"causal": "max", "continued": 4, "early": 0, "skipped": skipped},
        ).aspects[1]
        for skipped in (4, 1)
    )

    assert (none.preserved, none.figure) == (None, "")
    assert (three.preserved, three.figure) == (True, "3 turns")


def test_hit_rates_of_a_run_stand_beside_the_recorded_ones(run: Make) -> None:
    rates = {
        "requests": 90,
        "prompt_tokens": 9_000,
        "planned": 0.62,
        "served": 0.60,
        "recorded": 0.61,
    }
    made = fidelity(run(np.arange(100.0)), beside(run(np.arange(100.0))), hit_rates=rates)

    assert figures(made)["cached prompt tokens"] == (0.61, 0.62, 0.60)
    assert "cache reuse (61% recorded, 60% served)" in made.sentence.partition("does not keep")[0]


def test_turns_that_left_early_are_counted_against_their_order(run: Make) -> None:
    made = fidelity(run(np.arange(5.0)), turns={"causal": "strict", "continued": 4, "early": 2})

    assert made.aspects[1].preserved is False
    assert made.aspects[1].figure == "2 of 4 left early"


def test_what_was_recorded_once_counts_once(run: Make) -> None:
    """Three clones of each request in step: the recording has no bursts, the replay has batches of three."""
    came = poisson(np.random.default_rng(8), 5, 800)
    columns = run(np.repeat(came, 3))
    columns["id"], columns["cycle"] = (
        np.repeat(run(came)["id"], 3),
        np.arange(len(columns["id"])) % 3,
    )
    made = fidelity(columns, beside(run(came)), clones=2.5)
    recorded, _, replayed = figures(made)["IDC in 1 s"]

    assert recorded == pytest.approx(1, abs=0.2)
    assert replayed == pytest.approx(3 * recorded)
    assert made.aspects[0].preserved
    assert made.aspects[0].figure == "lag p99 0 ms of all requests, 2.5 copies of each session"


def test_a_closed_loop_keeps_no_times_and_says_so(run: Make) -> None:
    columns = run(np.arange(50.0)) | {"due": np.full(50, np.nan)}
    made = fidelity(columns, beside(run(np.arange(50.0) * 2)), speed=None, mode="concurrency")

    assert str(made.aspects[0]) == "arrival times (a closed loop has none)"
    assert made.lag_s == {"p50": None, "p99": None, "max": None}


def test_a_run_without_a_request_is_no_error(run: Make) -> None:
    made = fidelity(run([]), beside(run([])))

    assert made.requests == 0
    assert {aspect.preserved for aspect in made.aspects} == {None}


# With files: a trace of ten answers, and its replay.


def write_trace(path: Path, first: int = 0) -> str:
    """Ten chats a second apart, each answered after 300 ms: 20 tokens asked, 7 said, 5 from a cache.

    They are numbered from `first` on.
    """
    body = b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}'
    usage = b'"usage":{"prompt_tokens":20,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":5}}'
    answer = (
        b'{"choices":[{"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}],%b}'
        % usage
    )
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq in range(10):
            at = (7 + seq) * 10**9
            request = chat_request(first + seq, at, body)
            end = at + 300_000_000
            response = Response(
                head_ns=end, end_ns=end, status=200, headers=(("content-type", "application/json"),),
                body=answer, body_bytes=len(answer), chunks=(Chunk(at_ns=end, size=len(answer)),),
            )  # fmt: skip
            writer.exchange(Exchange(request=request, response=response))
    return read_trace(path).header.capture_id


def test_a_trace_in_the_place_of_another_is_read_anew(tmp_path: Path) -> None:
    """By one process: arrivals and answers are of the one that is there now."""
    path = tmp_path / "trace.msgpack"
    for first in (0, 100):
        path.unlink(missing_ok=True)
        recorded = recorded_in(path, write_trace(path, first))

        assert list(recorded.arrivals) == [f"{first + seq:032x}" for seq in range(10)]
        assert recorded.arrivals.keys() == set(recorded.answers["id"].tolist())


def write_run(path: Path, header: dict[str, Any]) -> Any:
    writer = RunWriter(path, header, clock=lambda: 0.0)
    for seq in range(10):
        writer.add(
            Sample(
                id=f"{seq:032x}", index=seq, endpoint="chat", model="m", stream=False, due=seq / 2,
                sent=seq / 2, end=seq / 2 + 0.4, status=200, prompt_tokens=20, output_tokens=7,
                cached_tokens=5,
            )
        )  # fmt: skip
    fates = {"planned": 10, "completed": 10, "failed": 0, "cancelled": 0}
    return read_run(writer.close({**fates, "lost_in_flight": 0, "never_sent": 0}))


def test_a_trace_is_read_again_for_what_was_recorded(tmp_path: Path) -> None:
    trace = {"path": str(tmp_path / "t.msgpack"), "capture_id": write_trace(tmp_path / "t.msgpack")}
    pacing = {"mode": "speed", "value": 2.0, "open_loop": True}
    made = fidelity_of(write_run(tmp_path / "a.run", {"trace": trace, "pacing": pacing}))
    rows = figures(made)

    assert (made.requests, made.answers, made.speed, made.missing) == (10, 10, 2.0, None)
    assert rows["requests/s"] == (pytest.approx(1), pytest.approx(2), pytest.approx(2))
    assert rows["output tokens, mean"] == (7, None, 7)
    assert rows["cached prompt tokens"] == (0.25, None, 0.25)
    assert rows["E2E from sent, p50"] == (pytest.approx(0.3), None, pytest.approx(0.4))
    assert rows["in flight, mean"][0] == pytest.approx(10 * 0.3 / 9.3)
    assert made.recorded_s[0] == pytest.approx(np.arange(10) / 2)


def test_experiments_may_be_moved_with_their_trace(tmp_path: Path) -> None:
    trace = {"path": "/nowhere/t.msgpack", "capture_id": write_trace(tmp_path / "t.msgpack")}

    assert fidelity_of(write_run(tmp_path / "a.run", {"trace": trace})).missing is None


@pytest.mark.parametrize(
    ("trace", "missing"),
    [
        ({"path": "gone.msgpack", "capture_id": "c"}, "gone.msgpack is not at hand"),
        ({"path": "t.msgpack", "capture_id": "another"}, "t.msgpack is not the trace of this run"),
        ({"path": "/dev/zero"}, "/dev/zero is not at hand"),
        ({"path": "x" * 5_000}, "is not at hand"),
        ({"path": "a\0b"}, "is not at hand"),
        (None, "it names no trace"),
    ],
)
def test_without_its_trace_a_run_says_so(tmp_path: Path, trace: Any, missing: str) -> None:
    write_trace(tmp_path / "t.msgpack")
    pacing = {"mode": "speed", "value": 1.0, "open_loop": True}
    made = fidelity_of(write_run(tmp_path / "a.run", {"trace": trace, "pacing": pacing}))

    assert made.missing is not None and made.missing.endswith(missing)
    assert made.sentence.startswith(
        "keeps arrival times (lag p99 0 ms of all requests); unknown: order of turns, burstiness"
    )
    assert missing in made.sentence
    assert replace(made, missing=None).sentence in made.sentence
