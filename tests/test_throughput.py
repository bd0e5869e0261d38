"""What a run did per second: by hand, in parts, and the same in every verb."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tbench.analysis.arms import Replicates, arm_of_run
from tbench.analysis.compare import CompareOptions, compare
from tbench.analysis.comparison import Comparisons
from tbench.analysis.gate import parse_gates
from tbench.analysis.gate_results import evaluate_gates
from tbench.analysis.pairing import RunView, shared
from tbench.analysis.report.ci import comparison_markdown
from tbench.analysis.report.machine import comparison_json, report_json
from tbench.analysis.report.page import comparison_report
from tbench.analysis.report.text import comparison_text, run_text
from tbench.analysis.report.workbook import run_book
from tbench.analysis.run_metrics import SHARED_LOOP, endpoint, parse_slo, rates
from tbench.benchmark.genai_bench import Trim, aggregate
from tbench.capture.exchange import Outcome
from tbench.replay.closing import summary
from tbench.replay.columns import from_samples, pack
from tbench.replay.runfile import Run, RunWriter, read_run
from tbench.replay.sample import Sample
from tbench.replay.table import Table
from tbench.replay.throughput import (
    RatesOfParts,
    Throughput,
    Tokens,
    drain,
    rate_of,
    three,
    throughput,
    window,
)
from tbench.replay.totals import numbers


def sample(index: int, **fields: Any) -> Sample:
    """A stream that is sent half a second after its index, and ends a second later: 100 and 20 tokens."""
    known: dict[str, Any] = {
        "id": f"{index}",
        "index": index,
        "endpoint": "chat",
        "model": "m",
        "stream": True,
        "due": float(index),
        "sent": index + 0.5,
        "first_token": index + 0.7,
        "last_token": index + 1.4,
        "end": index + 1.5,
        "status": 200,
        "prompt_tokens": 100,
        "output_tokens": 20,
    }
    return Sample(**{**known, **fields})


TRAFFIC = [
    sample(0),
    sample(1, outcome=Outcome.HTTP_ERROR, status=500, prompt_tokens=None, output_tokens=None),
    sample(2, endpoint="embeddings", stream=False, first_token=None, last_token=None,
           output_tokens=None, prompt_tokens=40),
    sample(3),
    sample(4, outcome=Outcome.TIMEOUT, status=None, prompt_tokens=None, output_tokens=None),
]  # fmt: skip
"""From 0.5 s to 5.5 s: three successes, 240 tokens in, 40 out."""


def columns(samples: list[Sample]) -> Table:
    return Table(lambda: [pack(from_samples(samples))])


def run_of(
    path: Path, samples: list[Sample], pacing: dict[str, Any] | None = None, **totals: Any
) -> Run:
    header = {"pacing": {"meaning": "as recorded", **(pacing or {"open_loop": True})}}
    writer = RunWriter(path, header, clock=lambda: 0.0)
    for one in samples:
        writer.add(one)
    fates = [one.fate.value for one in samples]
    counts = {name: fates.count(name) for name in ("completed", "failed", "cancelled")}
    rest = {"planned": len(samples), "lost_in_flight": 0, "never_sent": 0}
    return read_run(writer.close({**counts, **rest, **totals}))


def test_rates_are_of_the_successes_from_the_first_sent_to_the_last_end(tmp_path: Path) -> None:
    """What failed took time and gave nothing; an embedding has no output to count."""
    found = numbers(run_of(tmp_path / "a.run", TRAFFIC))

    assert found["throughput_over_s"] == pytest.approx(5.0)
    assert found["requests_per_s"] == pytest.approx(3 / 5)
    assert found["input_tokens_per_s"] == pytest.approx(240 / 5)
    assert found["output_tokens_per_s"] == pytest.approx(40 / 5)
    assert found["total_tokens_per_s"] == pytest.approx(280 / 5)
    assert found["without_token_counts"] == {"input": 0, "output": 0}


def test_the_warm_up_is_in_neither_the_count_nor_the_time(tmp_path: Path) -> None:
    """Without the first request: two successes from 1.5 s to 5.5 s."""
    found = numbers(run_of(tmp_path / "a.run", TRAFFIC, warmup_s=0.5))

    assert found["requests_per_s"] == pytest.approx(2 / 4)
    assert found["output_tokens_per_s"] == pytest.approx(20 / 4)


def test_report_gates_and_benchmark_say_the_same(tmp_path: Path) -> None:
    """One definition: a gate's figure, `replay --json`, and a benchmark's point over the same requests."""
    run = run_of(tmp_path / "a.run", TRAFFIC)
    observed = RunView(arm=arm_of_run(run), places=np.arange(len(TRAFFIC)), at=0)
    said, point = numbers(run), aggregate(run.columns, Trim())

    for metric in ("requests_per_s", "output_tokens_per_s"):
        assert endpoint(metric, None).figure(observed, ()).value == pytest.approx(said[metric])
    assert point["requests_per_second"] == pytest.approx(said["requests_per_s"])
    for side in ("output", "input", "total"):
        name = f"mean_{side}{'_tokens' * (side == 'total')}_throughput_tokens_per_s"
        assert point[name] == pytest.approx(said[f"{side}_tokens_per_s"])


def test_tokens_that_nobody_counted_make_a_lower_bound_and_are_said(tmp_path: Path) -> None:
    """One of two streams names no usage: at least 20 tokens in 5 s, and one is missing."""
    run = run_of(tmp_path / "a.run", [*TRAFFIC[:3], sample(3, output_tokens=None), TRAFFIC[4]])
    found = numbers(run)

    assert found["output_tokens_per_s"] == pytest.approx(20 / 5)
    assert found["without_token_counts"] == {"input": 0, "output": 1}
    said = "at least 4.00 output tok/s (1 success without token counts)"
    assert said in "\n".join(summary(run, found))
    assert said in run_text(arm_of_run(run), width=200)


def test_no_count_at_all_is_no_zero(tmp_path: Path) -> None:
    """A server without usage: unknown, not 0 tokens a second."""
    run = run_of(tmp_path / "a.run", [sample(k, output_tokens=None) for k in range(3)])
    found = numbers(run)

    assert found["output_tokens_per_s"] is None
    assert found["total_tokens_per_s"] is None
    assert "output tok/s unknown (3 successes without token counts)" in run_text(arm_of_run(run))


def test_only_embeddings_put_out_no_token(tmp_path: Path) -> None:
    """There is nothing to count, so that 0 is the truth."""
    run = run_of(tmp_path / "a.run", [replace(TRAFFIC[2], index=0)])

    assert numbers(run)["output_tokens_per_s"] == 0
    assert numbers(run)["input_tokens_per_s"] == pytest.approx(40)


def test_the_summary_and_the_report_begin_with_it(tmp_path: Path) -> None:
    """The first figures that users of other tools look for."""
    run = run_of(tmp_path / "a.run", TRAFFIC)
    said = "0.600 req/s, 8.00 output tok/s, 48.0 input tok/s"

    assert f"throughput  {said}" in "\n".join(summary(run, numbers(run)))
    assert f"throughput: {said}" in run_text(arm_of_run(run))


@pytest.mark.parametrize("cut", [0, 1, 7, 29, 30])
def test_parts_add_up(cut: int) -> None:
    """The sum of two parts of a run is that of the whole; nothing is neutral."""
    picks = np.random.default_rng(cut).integers(0, 5, 30)
    samples = [replace(TRAFFIC[pick], index=at, id=str(at)) for at, pick in enumerate(picks)]
    whole = columns(samples)
    mask = np.arange(len(samples)) < cut

    assert throughput(whole, mask) + throughput(whole, ~mask) == throughput(
        whole, np.arange(len(samples))
    )
    assert Throughput() + throughput(whole, mask) == throughput(whole, mask)


CLOSED = [
    sample(at, due=None, sent=10.0 + at // 4, first_token=None, last_token=None, end=11.0 + at // 4)
    for at in range(20)
]
CLOSED[-1] = replace(CLOSED[-1], end=20.0)
"""Four places from 10 s on, each answer takes 1 s; from 15 to 20 s one is left."""
RATE = (19 + 1 / 6) / 5
"""Successes a second of CLOSED while its places are taken."""


def loop_of(path: Path, samples: list[Sample], mode: str = "concurrency", **totals: Any) -> Run:
    places = 2 if mode == "sessions" else 4
    return run_of(path, samples, {"open_loop": False, "mode": mode, "value": places}, **totals)


def test_a_closed_loop_is_rated_while_its_places_are_taken(tmp_path: Path) -> None:
    """19 of 20 had ended by 15 s, and a sixth of the last was done; it says what is outside."""
    run = loop_of(tmp_path / "a.run", CLOSED)
    figures = numbers(run)

    assert (figures["requests_per_s"], figures["throughput_over_s"]) == pytest.approx((RATE, 5.0))
    assert figures["output_tokens_per_s"] == pytest.approx(RATE * 20)
    assert figures["drain"] == pytest.approx({"requests": 1, "over_s": 5.0, "window_s": 5.0})
    said = "1 request ended when places stayed empty, over the last 5.00 s: the rates are of the time before"
    assert f"drain       {said}" in "\n".join(summary(run, figures))
    assert f"drain: {said}" in " ".join(run_text(arm_of_run(run)).split())


def test_what_was_sent_in_the_warm_up_takes_its_share_of_the_time(tmp_path: Path) -> None:
    """Four that were sent at 10.5 s end within the window, which begins at 11 s: they count in part."""
    early = [replace(each, sent=10.5, end=11.0 + at / 8) for at, each in enumerate(CLOSED[:4])]
    figures = numbers(loop_of(tmp_path / "a.run", [*early, *CLOSED[4:]], warmup_s=10.75))

    parts = sum(at / 8 / (0.5 + at / 8) for at in range(4))
    assert figures["requests_per_s"] == pytest.approx((15 + parts + 1 / 6) / 4)


@pytest.mark.parametrize("more", [0, 1, 3])
def test_a_loop_in_lockstep_has_the_rate_of_its_rounds(tmp_path: Path, more: int) -> None:
    """Four in flight, each takes a second: 4 a second, whatever the rounds, though all end at an edge."""
    figures = numbers(loop_of(tmp_path / "a.run", CLOSED[: 12 + more]))

    assert figures["requests_per_s"] == pytest.approx(4.0)


def test_a_loop_whose_places_are_never_filled_again_is_rated_as_it_is(tmp_path: Path) -> None:
    """Five requests for four places, which take 1, 2, 3, 4 and 4 s: two ends would be all that counts."""
    samples = [replace(each, end=11.0 + at) for at, each in enumerate(CLOSED[:5])]
    figures = numbers(loop_of(tmp_path / "a.run", samples))

    assert (figures["requests_per_s"], figures["drain"]) == (pytest.approx(5 / 5), None)


def test_sessions_are_rated_until_the_first_has_no_other_behind_it(tmp_path: Path) -> None:
    """Two users: one has three conversations of 1 s, the other one of six turns, each of 1 s."""
    turns = [(number, number + 1.0, number) for number in range(3)]
    turns += [(number, number + 1.0, 9) for number in range(6)]
    samples = [
        replace(CLOSED[0], index=at, id=str(at), sent=float(sent), end=end, session=session)
        for at, (sent, end, session) in enumerate(sorted(turns))
    ]
    figures = numbers(loop_of(tmp_path / "a.run", samples, mode="sessions"))

    assert (figures["requests_per_s"], figures["throughput_over_s"]) == pytest.approx((2.0, 3.0))
    assert figures["drain"] == pytest.approx({"requests": 3, "over_s": 3.0, "window_s": 3.0})


@given(
    lanes=st.integers(1, 5),
    took=st.lists(st.floats(1, 40), min_size=6, max_size=40),
)
def test_every_place_is_taken_for_all_of_the_window(lanes: int, took: list[float]) -> None:
    """By the places themselves, each of which takes the next request when its last has ended."""
    free, spans = [0.0] * lanes, list[tuple[float, float]]()
    for lasts in took:
        place = free.index(min(free))
        spans.append((free[place], free[place] + lasts))
        free[place] += lasts
    assume(len({end for _, end in spans}) == len(spans))
    samples = [
        replace(CLOSED[0], index=at, id=str(at), sent=sent, end=end)
        for at, (sent, end) in enumerate(spans)
    ]
    table = columns(samples)
    table.mark("warmup", np.zeros(len(samples), dtype=bool))
    run = Run(
        Path("a.run"),
        {"pacing": {"mode": "concurrency", "open_loop": False, "value": lanes}},
        table,
        {},
        complete=True,
    )

    shares, began, until, full = window(run, np.arange(len(samples)))

    within = sum(end <= min(free) for _, end in spans)
    assert full == (within >= lanes)
    if within < lanes:  # too few to speak of a rate
        assert (began, until, shares.sum()) == (0.0, max(free), len(spans))
    else:
        first = min(free)
        parts = [max(0.0, min(end, first) - sent) / (end - sent) for sent, end in spans]
        assert (began, until) == (0.0, first)
        assert shares == pytest.approx(parts)


@given(
    places=st.integers(1, 5),
    mode=st.sampled_from(["concurrency", "sessions", "speed"]),
    requests=st.lists(
        st.tuples(
            st.floats(0, 9),  # its place is free so long before it
            st.floats(0.5, 40),
            st.integers(0, 6),  # the session that it belongs to
            st.sampled_from([None, "usage", "failed", "lost"]),
        ),
        min_size=1,
        max_size=40,
    ),
    warmup_s=st.floats(0, 30),
    part=st.integers(1, 9),
    seed=st.integers(0, 9),
)
def test_parts_in_any_order_have_the_rates_of_the_whole(
    places: int,
    mode: str,
    requests: list[tuple[float, float, int, str | None]],
    warmup_s: float,
    part: int,
    seed: int,
) -> None:
    """The window of a closed loop, which only its end tells, and what it leaves out."""
    free, samples = [0.0] * places, list[Sample]()
    for at, (rested, lasts, session, fate) in enumerate(requests):
        place = free.index(min(free))
        sent = free[place] + rested
        free[place] = sent + lasts
        known: dict[str, Any] = {"sent": sent, "end": sent + lasts, "session": session}
        if fate == "usage":
            known |= {"output_tokens": None}
        if fate == "failed":
            known |= {"outcome": Outcome.HTTP_ERROR, "status": 500, "output_tokens": None}
        if fate == "lost":
            known |= {"outcome": Outcome.CANCELLED, "end": None, "last_token": None}
        samples.append(replace(CLOSED[0], index=at, id=str(at), **known))
    header = {"pacing": {"mode": mode, "value": places}}
    good = np.arange(len(samples)) % 3 == 0

    def run(chosen: np.ndarray[Any, Any]) -> Run:
        table = columns([samples[at] for at in chosen])
        table.mark("warmup", table["sent"] < warmup_s)
        return Run(Path("a.run"), header, table, {"warmup_s": warmup_s}, complete=True)

    every = run(np.arange(len(samples)))
    rows = np.flatnonzero(~every.columns["warmup"])
    order = np.random.default_rng(seed).permutation(len(samples))
    parts = RatesOfParts(every)
    for chosen in np.array_split(order, -(-len(order) // part)):
        few = run(chosen)
        measured = np.flatnonzero(~few.columns["warmup"])
        parts.add(few.columns, measured, good[few.columns["index"]])
    rates = parts.close()

    truth, figures = rate_of(every, rows).figures, rates.throughput.figures
    assert figures.pop("without_token_counts") == truth.pop("without_token_counts")
    assert figures == pytest.approx(truth)
    assert rates.good == pytest.approx(window(every, rows).shares[good].sum())
    assert rates.drain == (None if (left := drain(every)) is None else pytest.approx(left))


def test_every_report_has_the_rate_of_that_time(tmp_path: Path) -> None:
    """Replay, report, a gate, a comparison and its goodput."""
    run = loop_of(tmp_path / "a.run", CLOSED)
    arm, slo = arm_of_run(run), parse_slo("e2e<2s")
    observed = RunView(arm=arm, places=np.arange(len(CLOSED)), at=0)
    pair = compare(arm, arm, CompareOptions(metrics=("e2e",), slo=slo))
    rates = {first.row.name: (first.value, second.value) for first, second in pair.rates}

    assert endpoint("requests_per_s", None).figure(observed, ()).value == pytest.approx(RATE)
    assert report_json(arm)["requests_per_s"] == pytest.approx(RATE)
    assert report_json(arm)["drain"] == numbers(run)["drain"]
    assert rates["requests_per_s"] == pytest.approx((RATE, RATE))
    assert rates["goodput_per_s"] == pytest.approx((3.8, 3.8))  # the last took 6 s
    assert report_json(arm, slo=slo)["goodput_per_s"] == pytest.approx(3.8)


def test_a_gate_rates_all_that_a_closed_loop_did(tmp_path: Path) -> None:
    """Also where another run holds half of it: of that over all the time there is no rate."""
    runs = [loop_of(tmp_path / f"{n}.run", CLOSED[:n], warmup_s=10.75) for n in (20, 12)]
    arms = [Replicates(name=f"{at}", runs=(arm_of_run(run),)) for at, run in enumerate(runs)]
    views = [group.runs[0] for group in shared(arms).groups]

    assert {len(view.places) for view in views} == {8}  # without the warm-up
    for run, view in zip(runs, views, strict=True):
        for metric in ("requests_per_s", "output_tokens_per_s"):
            rate = endpoint(metric, None).figure(view, ()).value
            assert rate == pytest.approx(numbers(run)[metric])
        good = endpoint("goodput_per_s", None).figure(view, parse_slo("e2e<2s")).value
        assert good == pytest.approx(
            report_json(view.arm, slo=parse_slo("e2e<2s"))["goodput_per_s"]
        )
    pages = evaluate_gates(arms, parse_gates(None, ["requests_per_s:5%"])).compared
    assert [rates(arm)[0].value for (arm,) in pages] == pytest.approx(
        [numbers(run)["requests_per_s"] for run in runs]
    )


def test_a_gate_rates_a_closed_loop_alike_whichever_run_warmed_up_longer(tmp_path: Path) -> None:
    """Four places, taken in turns, each for a second: 4 a second, also where more is dropped than is warm."""
    turns = [
        replace(CLOSED[0], index=at, id=str(at), sent=at / 4, end=at / 4 + 1) for at in range(40)
    ]
    runs = [loop_of(tmp_path / f"{warm}.run", turns, warmup_s=warm) for warm in (0.1, 2.1)]
    arms = [Replicates(name=f"{at}", runs=(arm_of_run(run),)) for at, run in enumerate(runs)]
    views = [group.runs[0] for group in shared(arms).groups]

    rates = [endpoint("requests_per_s", None).figure(view, ()).value for view in views]
    assert rates == pytest.approx([4.0, 4.0])


def test_arms_of_a_duet_share_the_places_of_a_closed_loop(tmp_path: Path) -> None:
    """Two of the four were the other arm's, which a window of four and a busy client must not count on."""
    alone = loop_of(
        tmp_path / "a.run",
        [each for each in CLOSED if each.index % 4 < 2],
        client={"runnable_share": 1.0},
    )
    run = replace(alone, header={**alone.header, "experiment": {"schedule": "duet"}})
    figures, arm = numbers(run), arm_of_run(run)
    view = RunView(arm=arm, places=np.arange(len(run)), at=0)
    pair = compare(arm, arm, CompareOptions(metrics=("e2e",), slo=parse_slo("e2e<2s")))

    assert "held 2 of 4 requests" in str(numbers(alone)["invalid_because"])
    assert figures["invalid_because"] is None
    assert (figures["requests_per_s"], figures["drain"]) == (pytest.approx(10 / 5), None)
    for gate in ("requests_per_s", "output_tokens_per_s", "goodput_per_s"):
        refusal = endpoint(gate, None).figure(view, parse_slo("e2e<2s")).refusal
        assert refusal == SHARED_LOOP
    assert pair.rates[0][0].value == pytest.approx(10 / 5)
    assert SHARED_LOOP in " ".join(comparison_text(pair).split())


def test_nothing_has_no_rate() -> None:
    """No request, or none that ended."""
    assert Throughput().figures["requests_per_s"] == 0.0
    assert Throughput(output=Tokens(n=1)).figures["output_tokens_per_s"] is None


@pytest.mark.parametrize(
    ("value", "said"),
    [(15, "15.0"), (14.5, "14.5"), (99.97, "100"), (1234.5, "1,234"), (0, "0"), (0.0421, "0.0421")],
)
def test_figures_have_three_digits(value: float, said: str) -> None:
    """15.0 beside 14.5: as many digits in each cell of a row."""
    assert three(value) == said


@pytest.fixture
def pair(tmp_path: Path) -> Comparisons:
    """The candidate sends as the baseline does, and takes a second longer for the last stream."""
    slow = [*TRAFFIC[:3], sample(3, end=5.5, last_token=5.4), TRAFFIC[4]]
    runs = [run_of(tmp_path / f"{name}.run", many) for name, many in (("a", TRAFFIC), ("b", slow))]
    slo = parse_slo("e2e<1.6s")
    return compare(*map(arm_of_run, runs), CompareOptions(metrics=("e2e",), slo=slo))


def test_a_comparison_has_the_rates_of_both_arms(pair: Comparisons) -> None:
    """By hand: two streams and an embedding in 5 s; one of the candidate's is late for the objective."""
    found = {first.row.name: (first.value, second.value) for first, second in pair.rates}

    assert found["requests_per_s"] == pytest.approx((3 / 5, 3 / 5))
    assert found["output_tokens_per_s"] == pytest.approx((40 / 5, 40 / 5))
    assert found["input_tokens_per_s"] == pytest.approx((240 / 5, 240 / 5))
    assert found["goodput"] == pytest.approx((3 / 5, 2 / 5))
    assert found["goodput_per_s"] == pytest.approx((3 / 5, 2 / 5))


def test_each_report_of_a_pair_shows_them_and_what_sets_them(pair: Comparisons) -> None:
    """Text, Markdown, page and JSON; in an open loop equal rates say nothing of speed."""
    texts = (comparison_text(pair), comparison_markdown(pair), comparison_report(pair).page())

    for text in texts:
        assert "output tok/s" in text
        assert "the trace sets the load" in " ".join(text.split())
    assert comparison_json(pair)["rates"]["goodput"]["candidate"] == pytest.approx(2 / 5)


def test_a_report_has_goodput_where_there_are_objectives(tmp_path: Path) -> None:
    """Three of five requests met it, in 5 s; without objectives nothing is said of it."""
    arm, slo = arm_of_run(run_of(tmp_path / "a.run", TRAFFIC)), parse_slo("e2e<1.6s")

    assert report_json(arm, slo=slo)["goodput"] == pytest.approx(3 / 5)
    assert report_json(arm, slo=slo)["goodput_per_s"] == pytest.approx(3 / 5)
    assert "goodput 60.00%, good requests/s 0.600 (e2e<1.6s)" in run_text(arm, slo=slo)
    assert "goodput" not in report_json(arm)


def test_a_workbook_has_them_as_numbers(tmp_path: Path) -> None:
    """The sheet of a run: requests, output, input and total per second."""
    book = tmp_path / "a.xlsx"
    with book.open("wb") as file:
        run_book(arm_of_run(run_of(tmp_path / "a.run", TRAFFIC)), file, command=None)
    rows = list(openpyxl.load_workbook(book)["Throughput"].values)

    assert rows[1][1:3] == ("requests/s", "output tokens/s")
    assert rows[2][1:5] == pytest.approx((3 / 5, 8, 48, 56))
