"""The closing figures against numbers worked out by hand, and when a run does not count."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.analysis.arms import arm_of_run
from tbench.analysis.compare import CompareOptions, compare
from tbench.analysis.report.machine import comparison_json, report_json
from tbench.analysis.report.text import run_text
from tbench.capture import frames
from tbench.capture.container_reader import open_container
from tbench.capture.errors import InvalidRunError
from tbench.capture.exchange import Outcome
from tbench.replay import metrics
from tbench.replay.closing import FEW, summary
from tbench.replay.runfile import Run, RunWriter, read_run, recount
from tbench.replay.sample import Sample
from tbench.replay.totals import Identity, identity, loss, numbers, why_invalid

WHOLE = {
    "planned": 0,
    "completed": 0,
    "failed": 0,
    "cancelled": 0,
    "lost_in_flight": 0,
    "never_sent": 0,
}


def sample(index: int, **fields: Any) -> Sample:
    """A stream that was due at its index, sent 1 ms later, with tokens at +0.2, +0.3 and +0.6 s."""
    due = float(index)
    known: dict[str, Any] = {
        "id": f"{index}",
        "index": index,
        "endpoint": "chat",
        "model": "m",
        "stream": True,
        "due": due,
        "sent": due + 0.001,
        "first_token": due + 0.2,
        "last_token": due + 0.6,
        "end": due + 0.7,
        "status": 200,
        "output_tokens": 5,
        "token_times": (due + 0.2, due + 0.3, due + 0.6),
    }
    return Sample(**{**known, **fields})


def run_of(tmp_path: Path, samples: list[Sample], **totals: Any) -> Run:
    writer = RunWriter(tmp_path / "a.run", {}, clock=lambda: 0.0)
    for one in samples:
        writer.add(one)
    fates = [one.fate.value for one in samples]
    counts = {name: fates.count(name) for name in ("completed", "failed", "cancelled")}
    return read_run(writer.close({**WHOLE, "planned": len(samples), **counts, **totals}))


def test_the_metrics_are_what_they_are_called(tmp_path: Path) -> None:
    """One stream, each number by hand: from due, per output token, per gap, to the last content."""
    found = numbers(run_of(tmp_path, [sample(0)]))

    assert found["ttft_s"]["mean"] == pytest.approx(0.2)
    assert found["tpot_s"]["mean"] == pytest.approx(0.4 / 4)
    assert found["itl_s"]["mean"] == pytest.approx(0.4 / 2)
    assert found["e2e_s"]["mean"] == pytest.approx(0.6)
    assert found["lag_s"]["mean"] == pytest.approx(0.001)
    assert found["duration_s"] == pytest.approx(0.7)
    assert found["requests_per_s"] == pytest.approx(1 / 0.699), "from the first sent"


def test_closed_loops_count_from_sent(tmp_path: Path) -> None:
    """Without a due time there is no lag, and latency begins when the request left."""
    found = numbers(run_of(tmp_path, [sample(0, due=None)]))

    assert found["ttft_s"]["mean"] == pytest.approx(0.199)
    assert found["lag_s"]["mean"] is None


def test_whole_answers_have_an_end_and_no_tokens(tmp_path: Path) -> None:
    """Without a stream the last byte is the end, and nothing is said about tokens in time."""
    whole = sample(0, stream=False, first_token=None, last_token=None, token_times=())
    found = numbers(run_of(tmp_path, [whole]))

    assert found["e2e_s"]["mean"] == pytest.approx(0.7)
    assert found["ttft_s"] == found["tpot_s"] == found["itl_s"] == dict.fromkeys(found["ttft_s"])


def test_one_output_token_has_no_time_per_token(tmp_path: Path) -> None:
    """Nor does one event have a gap."""
    short = sample(0, output_tokens=1, last_token=0.2, token_times=(0.2,))
    found = numbers(run_of(tmp_path, [short]))

    assert found["tpot_s"]["mean"] is found["itl_s"]["mean"] is None


def test_failures_and_warm_up_are_not_in_the_latencies(tmp_path: Path) -> None:
    """They are counted, and named, beside them."""
    samples = [
        sample(0, first_token=9.0, last_token=9.5),
        sample(1),
        sample(2, outcome=Outcome.HTTP_ERROR, status=429, first_token=None),
        sample(3, outcome=Outcome.TIMEOUT, status=None, first_token=None),
        sample(4, outcome=Outcome.HTTP_ERROR, status=429, first_token=None),
        sample(5, outcome=Outcome.CANCELLED, first_token=None),
    ]
    run = run_of(tmp_path, samples, warmup_s=0.5, planned=9, never_sent=3)
    found = numbers(run)

    assert told(run)[1] == (
        "requests    2 ok, 3 failed (http_429 2, timeout 1), 1 cancelled, 3 never sent, "
        "warm-up (in no rate or latency): the first 1 of those sent"
    )
    assert found["ttft_s"]["max"] == pytest.approx(0.2)
    assert (found["completed"], found["failed"], found["cancelled"]) == (2, 3, 1)
    assert found["errors"] == {"http_429": 2, "timeout": 1}


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=200), st.sampled_from(metrics.LEVELS))
def test_a_quantile_is_the_inverted_cdf(values: list[float], level: float) -> None:
    """The method of that name in numpy is another implementation."""
    ordered = np.sort(np.array(values))

    assert metrics.quantile(ordered, level) == np.quantile(ordered, level, method="inverted_cdf")


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=30))
def test_in_flight_is_the_area_over_the_time(spans: list[tuple[int, int]]) -> None:
    """Against a count at every unit of time."""
    sent = np.array([float(start) for start, _ in spans])
    end = np.array([float(start + took) for start, took in spans])
    found = metrics.in_flight({"sent": sent, "end": end})
    levels = [
        sum(start <= moment < start + took for start, took in spans)
        for moment in range(int(sent.min()), int(end.max()))
    ]

    assert found["max"] == max(levels)
    assert found["mean"] == pytest.approx(sum(levels) / len(levels))


def test_a_request_without_an_end_has_the_mean_in_flight_unknown() -> None:
    """It was outstanding for a time that nobody knows: the two others say nothing of the mean."""
    columns = {"sent": np.array([0.0, 1.0, 2.0]), "end": np.array([3.0, np.nan, 4.0])}

    assert metrics.in_flight(columns) == {"mean": None, "max": 3}


def test_an_identity_that_does_not_add_up_is_an_error() -> None:
    """Nothing is ever lost silently."""
    Identity(planned=7, completed=1, failed=2, cancelled=1, lost_in_flight=1, never_sent=2)
    with pytest.raises(InvalidRunError, match="does not add up"):
        Identity(planned=8, completed=1, failed=2, cancelled=1, lost_in_flight=1, never_sent=2)


def test_a_clients_lateness_that_moves_a_quantile_makes_the_run_invalid(tmp_path: Path) -> None:
    """Half of the requests left 80 ms late through the client's fault: the median is not the server's."""
    late = [sample(i, sent=i + 0.08, first_token=i + 0.28) for i in range(51)]
    run = run_of(tmp_path, [*late, *(sample(i) for i in range(51, 101))])

    assert "this client sent late" in (why_invalid(run) or "")
    assert numbers(run)["valid"] is False


@pytest.mark.parametrize(
    ("gap", "share", "starved", "connect", "valid"),
    [
        (0.5, 0.97, 0.0, 0.0, False),  # each of four places is free for a third of the time
        (0.5, 0.87, 0.0, 0.0, False),  # at the end it waits for the last answers
        (0.5, 0.6, 0.3, 0.0, False),  # ... or for requests, which are planned too slowly
        (
            0.5,
            0.6,
            0.01,
            0.0,
            True,
        ),  # ... but nobody here was busy: the target's connections came slowly
        (0.5, 0.97, 0.0, 0.5, True),  # ... or were being opened
        (0.01, 0.97, 0.3, 0.0, True),
    ],
)
def test_a_closed_loop_that_the_client_does_not_fill_is_invalid(
    tmp_path: Path, gap: float, share: float, starved: float, connect: float, valid: bool
) -> None:
    """Four places, requests of one second, and so long between an end and the next send."""
    places = [
        sample(
            4 * turn + place, due=None, sent=at, first_token=at + 0.5, end=at + 1, connect=connect
        )
        for turn in range(30)
        for place, at in enumerate([turn * (1 + gap) + connect] * 4)
    ]
    client = {"cpu_share": share / 2, "runnable_share": share, "starved_share": starved}
    run = run_of(tmp_path, places, client=client, workers=2)
    run.header["pacing"] = {"mode": "concurrency", "value": 4}

    why = why_invalid(run) or ""
    assert (not why) is valid
    assert valid or "held 3 of 4 requests in flight" in why
    assert valid or ("raise --workers" if share > 0.8 else "or --workers, or give") in why


def test_the_valve_and_the_connection_are_not_the_clients_lateness(tmp_path: Path) -> None:
    """A slow TLS handshake or a full valve is part of the latency, and no reason to discard the run."""
    waited = [sample(i, sent=i + 0.1, held=0.06, connect=0.04) for i in range(50)]

    assert why_invalid(run_of(tmp_path, waited)) is None


def test_a_few_late_requests_do_not_invalidate_a_run(tmp_path: Path) -> None:
    """Five in five hundred lie beyond every quantile that so many samples can carry."""
    some = [sample(i, sent=i + (0.1 if i % 100 == 0 else 0.001)) for i in range(500)]

    assert why_invalid(run_of(tmp_path, some)) is None


@pytest.mark.parametrize(
    ("stall", "clock", "valid"),
    [
        ({"p50": 0.01, "p99": 0.3, "max": 0.9}, "user", False),
        ({"p50": 0.0001, "p99": 0.049, "max": 0.9}, "user", True),
        ({"p50": 0.03, "p99": 0.04, "max": 0.9}, "user", False),  # the median latency is 0.2 s
        ({"p50": 0.03, "p99": 0.3, "max": 0.9}, "kernel", True),
    ],
)
def test_a_stalled_event_loop_invalidates_stamps_of_our_own(
    tmp_path: Path, stall: dict[str, float], clock: str, valid: bool
) -> None:
    """They are as late as the loop that takes them, at the median or in the tail; the kernel's are not."""
    run = run_of(tmp_path, [sample(0)], loop_stall_s=stall, clock=clock)

    assert (why_invalid(run) is None) is valid
    assert valid or "could not keep up" in (why_invalid(run) or "")


def test_what_was_lost_in_flight_makes_a_whole_run_invalid(tmp_path: Path) -> None:
    """A sample that never came is a defect of the tool."""
    run = run_of(tmp_path, [sample(0)], planned=2, lost_in_flight=1)

    assert identity(run).lost_in_flight == 1
    assert "lost" in (why_invalid(run) or "")


@pytest.mark.parametrize(("allowed", "valid"), [(0, False), (6, False), (7, True)])
def test_a_loss_that_was_allowed_leaves_a_run_valid(
    allowed: int, valid: bool, tmp_path: Path
) -> None:
    """What was lost in flight counts, and what was not sent as its worker was gone; it is always told."""
    losses = {
        "planned": 27,
        "lost_in_flight": 4,
        "never_sent": 3,
        "lost_workers": ["worker 2 died"],
    }
    run = run_of(tmp_path, [sample(i) for i in range(20)], **losses)
    run = replace(run, header={**run.header, "limits": {"allow_lost": allowed}})

    assert (why_invalid(run) is None) is valid
    assert "ttft p50 200 ms to 200 ms" in (loss(run) or "")
    assert "ttft p95 200 ms to unknown" in (loss(run) or "")


def test_a_run_file_that_lost_samples_is_invalid(tmp_path: Path) -> None:
    """A damaged block is skipped; the closing figures still know what was in it."""
    run = run_of(tmp_path, [sample(k) for k in range(2_500)])
    assert why_invalid(run) is None
    data = bytearray(run.path.read_bytes())
    data[len(data) // 3] ^= 1
    run.path.write_bytes(data)

    found = read_run(run.path)

    assert len(found) < 2_500
    assert f"holds {len(found):,} of 2,500 samples" in (why_invalid(found) or "")


def test_a_run_file_that_lost_its_last_record_has_its_totals(tmp_path: Path) -> None:
    """They are in the index, too; it is not taken for the file of a killed replay."""
    writer = RunWriter(tmp_path / "a.run", {}, clock=lambda: 0.0)
    writer.add(sample(0))
    path = writer.close({**WHOLE, "planned": 1, "completed": 1})
    row = frames.Rows(open_container(path).index["blocks"])[-1]
    data = bytearray(path.read_bytes())
    data[row.offset + row.length - 1] ^= 1
    path.write_bytes(data)

    found = read_run(path)

    assert found.complete
    assert found.totals["planned"] == 1
    assert "damaged" in (why_invalid(found) or "")


def test_what_the_capture_dropped_is_said(tmp_path: Path) -> None:
    """Traffic that is not in the trace is not in the replay."""
    header = {"pacing": {"meaning": "as recorded", "open_loop": True}}
    run = replace(
        run_of(tmp_path, [sample(0)], trace_losses={"dropped_requests": 7}), header=header
    )

    assert "7 requests passed its capture unrecorded" in "\n".join(summary(run, numbers(run)))


def test_a_quantile_of_few_values_is_marked(tmp_path: Path) -> None:
    """400 values are enough for a p95 and not for a p99, which needs 2,000: as `report` has it."""
    run = run_of(tmp_path, [sample(k) for k in range(400)])
    run = replace(run, header={"pacing": {"open_loop": True, "meaning": "as recorded"}})
    lines = "\n".join(summary(run, numbers(run))).splitlines()
    (ttft,) = (line.split() for line in lines if line.strip().startswith("TTFT"))

    assert ttft == ["TTFT", *["200"] * 4, "200*", "200", "400"]
    assert FEW in lines


def test_a_model_that_costs_nothing_has_its_line(tmp_path: Path) -> None:
    """Where it was asked for at all; an answer without a price has none."""
    cost = {"usd": 0.0, "uncounted": 0, "unpriced": {}}
    run = run_of(tmp_path, [sample(0, prompt_tokens=9)], cost=cost)
    free = replace(run, header={"target": {"prices": {"m": [0.0, 0.0]}}})

    assert "cost        $0.00 at --price" in "\n".join(summary(free, numbers(free)))
    assert "\ncost " not in "\n".join(summary(run, numbers(run)))


def test_a_killed_run_with_prices_has_no_cost_to_tell(tmp_path: Path) -> None:
    """What it had sent is counted again, without what that cost."""
    run = run_of(tmp_path, [sample(0, prompt_tokens=9)])
    killed = replace(
        run, totals=recount(run.columns), header={"target": {"prices": {"m": [1.0, 2.0]}}}
    )

    assert "\ncost " not in "\n".join(summary(killed, numbers(killed)))


def told(run: Run, *, verbose: bool = False) -> list[str]:
    """What `tbench replay` prints of a run."""
    run = replace(run, header={"pacing": {"open_loop": True, "meaning": "as recorded"}})
    return "\n".join(summary(run, numbers(run), verbose=verbose)).splitlines()


def test_a_figure_that_is_refused_has_no_mark(tmp_path: Path) -> None:
    """All tokens of a stream in one read: no time between them, whatever its few values are."""
    streams = [sample(k, token_times=(k + 0.2,) * 3, last_token=k + 0.2) for k in range(20)]
    lines = told(run_of(tmp_path, streams))

    assert not [line for line in lines if line.split()[0] == "TPOT"]


def test_a_plain_run_is_told_in_ten_lines(tmp_path: Path) -> None:
    """What a person asks first: how many, how fast, is the client to blame, what now; the rest with -v."""
    run = run_of(tmp_path, [sample(k) for k in range(2_000)])
    short, every = told(run), told(run, verbose=True)

    assert len(short) <= 10
    assert short[0].startswith(f"{run.path}  2,000 requests in 2,000 s, as recorded -> ")
    assert short[1] == "requests    2,000 ok, 0 failed"
    assert "mean concurrency 0.699 (max 1)" in short[2]
    assert short[6].split() == ["E2E", *["600"] * 6, "2,000"]
    assert {"ITL", "schedule", "identity", "latency"} & {line.split()[0] for line in short} == set()
    assert {"ITL", "schedule", "identity", "latency"} <= {
        line.split()[0].strip(",") for line in every
    }


def test_timeouts_are_said_beside_the_latencies(tmp_path: Path) -> None:
    """One of the warm-up is warm-up."""
    late = [sample(k, outcome=Outcome.TIMEOUT, status=None) for k in (0, 3, 7)]
    rest = [sample(k) for k in (1, 2, 4, 5, 6)]
    lines = told(run_of(tmp_path, [*late, *rest], warmup_s=0.5))

    words = "with 2 timeouts as slower than any other; mean and max are of the rest"
    assert any(words in line for line in lines), "\n".join(lines)


def test_replay_and_report_hide_the_same_quantiles_behind_timeouts(tmp_path: Path) -> None:
    """992 answers of 1 to 992 ms and 8 timeouts of 60 s: the k-th of 1,000 is k ms, and p99 may be a timeout.

    No timeout is a stream: TTFT has the ten streams alone, which all began after half a millisecond.
    """
    answer = {"stream": False, "first_token": None, "last_token": None, "token_times": ()}
    samples = []
    for k in range(1000):
        fields: dict[str, Any] = {**answer, "end": k + (k + 1) / 1000}
        if k >= 992:
            fields |= {"end": k + 60.0, "outcome": Outcome.TIMEOUT, "status": None}
        if k < 10:
            times = (k + 0.0005, fields["end"])
            fields |= {"stream": True, "first_token": times[0], "last_token": times[1]}
            fields["token_times"] = times
        samples.append(sample(k, **fields))
    run = run_of(tmp_path, samples)
    rows = {line.split()[0]: line.split()[1:] for line in told(run) if line.startswith("  ")}
    text = run_text(arm_of_run(run), width=140).splitlines()
    e2e = next(line for line in text if line.startswith("e2e "))

    assert rows["E2E"][1:] == ["500", "900", "950", ">990*", "992", "1,000"]
    assert e2e.split()[2:7] == ["500", "900", "950", ">", "990*"]
    assert rows["TTFT"][1:] == ["0.500*", "0.500*", "0.500*", "0.500*", "0.500", "10"]


def test_uncertain_first_tokens_are_the_same_in_words_and_in_numbers(tmp_path: Path) -> None:
    """Those of the warm-up and of failures count in neither."""
    samples = [sample(k, first_token_after=k + 0.15) for k in range(10)]
    samples[5] = replace(samples[5], outcome=Outcome.CUT)
    run = run_of(tmp_path, samples, warmup_s=2, client={"cpu_share": 0.1}, workers=1)

    assert numbers(run)["uncertain_first_tokens"] == 7
    assert any("7 first tokens uncertain by over 1 ms" in line for line in told(run))


def test_replay_report_and_comparison_have_the_same_quantiles(tmp_path: Path) -> None:
    """Of one run with failures, cancelled and whole answers, and a warm-up: 1,000 drawn latencies."""
    source = np.random.default_rng(1)
    kinds = [
        {},
        {"outcome": Outcome.HTTP_ERROR, "status": 500, "first_token": None, "last_token": None},
        {"outcome": Outcome.CANCELLED},
        {"stream": False, "first_token": None, "last_token": None, "token_times": ()},
    ]
    samples = []
    for k in range(1000):
        first = k + 0.1 + 0.1 * source.random()
        last = first + 0.1 * source.random()
        times = {"first_token": first, "last_token": last, "end": last + 0.1}
        times["token_times"] = (first, last)
        samples.append(sample(k, **{**times, **kinds[source.choice(4, p=[0.7, 0.1, 0.1, 0.1])]}))
    run = run_of(tmp_path, samples, warmup_s=60.0)
    arm = arm_of_run(run)
    printed, reported = numbers(run), report_json(arm)
    compared = comparison_json(compare(arm, arm, CompareOptions()))["comparisons"]

    assert all(reported[name] == figure for name, figure in printed.items())
    for name in ("ttft", "tpot", "itl", "e2e"):
        spread = printed[f"{name}_s"]
        summary_of = reported["summaries"][name]
        levels = {level: spread[level] for level in metrics.NAMED}
        assert {one: summary_of["quantiles"][one]["value"] for one in levels} == levels
        assert (summary_of["mean"], summary_of["max"]) == (spread["mean"], spread["max"])
        for row in (row for row in compared if row["metric"] == name):
            level = f"p{row['quantile'] * 100:g}"
            assert (
                level not in levels or (row["baseline"], row["candidate"]) == (levels[level],) * 2
            )


ONE_TOKEN = {"last_token": 0.2, "output_tokens": 1, "token_times": (0.2,)}
"""Neither TPOT nor ITL has a value."""
WHOLE_ANSWER = {"stream": False, "first_token": None, "last_token": None, "token_times": ()}


@pytest.mark.parametrize(
    ("late", "fields", "cause"),
    [
        (120, {"first_token_after": 0.15}, "p50 ttft lies between 0.15 s and 0.2 s"),
        (24, {"first_token": 0.4, "first_token_after": 0.3}, "p90 ttft lies between 0.3 s and 0.4"),
        (8, {"first_token_after": 0.15}, None),
        (120, {"first_token_after": 0.195}, None),
        (120, {"first_token": 0.02, "first_token_after": 0.0179}, "p50 ttft lies"),
        (120, {"first_token": 0.02, "first_token_after": 0.0181}, None),
        (120, {"first_answer": 0.4, "first_answer_after": 0.2}, "p50 ttft_answer lies between 0.2"),
        (120, {"last_token_after": 0.5}, "p50 e2e lies between 0.5 s and 0.6 s"),
        (120, {"last_token_after": 0.575}, "p50 tpot lies between 0.09375 s and 0.1 s"),
        (
            120,
            {"first_token_after": 0.195, "last_token": 0.23, "output_tokens": 2},
            "p50 tpot lies between 0.03 s and 0.035 s",
        ),
        (
            120,
            {"first_token_after": 0.1925, "last_token": 0.3, "output_tokens": None},
            "p50 itl lies between 0.05 s and 0.05375 s",
        ),
        (200, {**ONE_TOKEN, "first_token_after": 0.192}, None),
        (120, {**WHOLE_ANSWER, "end_after": 0.6}, "p50 e2e lies between 0.6 s and 0.7 s"),
        (120, {"end_after": 0.6}, None),
    ],
)
def test_what_was_read_late_may_make_a_run_invalid(
    tmp_path: Path, late: int, fields: dict[str, Any], cause: str | None
) -> None:
    """Of 200: where a judged quantile could be over 5 % off, it is said which, and between what it lies.

    Times are from when the request was due. A stamp that is uncertain by up to 2 ms counts as known.
    """

    def moved(due: int) -> dict[str, Any]:
        return {k: due + v if isinstance(v, float) else v for k, v in fields.items()}

    samples = [sample(i, **moved(i)) for i in range(late)]
    run = run_of(tmp_path, [*samples, *(sample(i) for i in range(late, 200))])
    said = why_invalid(run)

    assert numbers(run)["uncertain_first_tokens"] == late * ("first_token_after" in fields)
    if cause is None:
        assert said is None
    else:
        assert said is not None
        assert cause in said
        assert "over 5% apart, as stamps are uncertain by over 2 ms" in said
        assert "--workers" in said


def test_tokens_that_a_late_read_merged_count_as_uncertain(tmp_path: Path) -> None:
    """120 of 200 streams came with one read that the client made 9 ms late: their TPOT may be anything.

    80 tell theirs, and the median is printed of them. An event by itself has no time between tokens.
    """
    merged = {"last_token": 0.2, "first_token_after": 0.191, "last_token_after": 0.191}
    streams = [
        sample(i, **{k: i + v for k, v in merged.items()}, token_times=(i + 0.2,) * 3)
        for i in range(120)
    ]
    others = [sample(i) for i in range(120, 200)]
    (tmp_path / "b").mkdir()
    single = [replace(one, token_times=one.token_times[:1]) for one in streams]

    assert "p50 tpot lies between 0 s" in (why_invalid(run_of(tmp_path, [*streams, *others])) or "")
    assert why_invalid(run_of(tmp_path / "b", [*single, *others])) is None
