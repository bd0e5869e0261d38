"""Whole comparisons of two arms: pairing, rows, refusals, cautions, and what is refused outright."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbench.analysis.arms import Arm, arm_of_run
from tbench.analysis.compare import CompareOptions, Comparison, Comparisons, Verdict, compare
from tbench.analysis.comparison import NO_DIFFERENCE
from tbench.analysis.report import sentences, tables
from tbench.analysis.report.ci import comparison_markdown
from tbench.analysis.report.page import comparison_head
from tbench.analysis.report.text import comparison_text, pair_text
from tbench.capture.errors import InputError, UnreachableError
from tbench.replay.columns import Column
from tbench.replay.options import ReplayOptions
from tbench.replay.pacing import parse_warmup
from tbench.replay.runfile import Run, read_run, recount
from tests.recorded import Columns, arm_of, run_columns


def columns(n: int, seed: int = 1, *, slow: float = 1.0, gap: float = 1.0) -> Columns:
    """So many streamed requests, one each `gap` seconds, whose shared part of the TTFT depends on nothing."""
    random, shared = np.random.default_rng(seed), np.random.default_rng(99)
    tokens = shared.integers(20, 200, n)
    wait_s = np.exp(shared.normal(size=n) * 0.4 + random.normal(size=n) * 0.2 - 2) * slow
    stream_s = tokens * 0.02 * slow * random.uniform(0.9, 1.1, n)
    columns = run_columns(n, gap_s=gap, wait_s=wait_s, stream_s=stream_s, lag_s=1e-4)
    columns["output_tokens"] = columns["token_events"] = tokens
    return columns | {"cached_tokens": np.full(n, 100)}


def arm(columns: Columns, name: str = "a", **changes: Any) -> Arm:
    return arm_of(columns, name, **changes)


def row(found: Comparisons, metric: str, quantile: float) -> Comparison:
    return next(one for one in found.rows if (one.metric, one.quantile) == (metric, quantile))


def codes(found: Comparisons) -> set[str]:
    return {caution.code for caution in found.warnings}


def test_a_slower_candidate_is_seen() -> None:
    """2,400 pairs over 40 minutes, 20 % slower: the ratio is covered and the label earned."""
    found = compare(arm(columns(2400)), arm(columns(2400, 3, slow=1.2), "b"))

    half = row(found, "ttft", 0.5)
    assert half.low is not None
    assert half.high is not None
    assert 1 < half.low < 1.2 < half.high
    assert (half.confidence, half.finding, half.verdict) == ("95%", "slower", Verdict.ADVISORY)
    assert (half.n_baseline, half.blocks, half.block_requests) == (2400, 16, 150)
    assert half.block_seconds == pytest.approx(150, rel=0.01)
    assert found.verdict is Verdict.ADVISORY


def test_equal_runs_show_no_difference() -> None:
    """The same samples twice: ratio 1 everywhere and nothing to beware of."""
    found = compare(arm(columns(2400)), arm(columns(2400), "b"))

    assert {one.ratio for one in found.rows} == {1}
    assert {one.finding for one in found.rows} == {NO_DIFFERENCE}
    assert codes(found) == set()


def test_the_default_table() -> None:
    """Four metrics at four quantiles, and p99.9 once there are 20,000 requests."""
    small, large = (compare(arm(columns(n)), arm(columns(n, 2))) for n in (2400, 20_000))

    assert {one.metric for one in small.rows} == {"ttft", "e2e", "tpot", "itl"}
    assert {one.quantile for one in small.rows} == {0.5, 0.9, 0.95, 0.99}
    assert {one.quantile for one in large.rows} == {0.5, 0.9, 0.95, 0.99, 0.999}
    assert [point.p for point in large.shift["ttft"]][-3:] == [0.95, 0.99, 0.999]


def test_a_short_or_small_comparison_earns_no_label() -> None:
    """Below 1,000 requests or 30 minutes the interval is shown as low, with the reason."""
    small = row(compare(arm(columns(900, gap=3)), arm(columns(900, 2, gap=3))), "ttft", 0.5)
    short = row(compare(arm(columns(1200, gap=1)), arm(columns(1200, 2, gap=1))), "ttft", 0.5)

    assert small.confidence == short.confidence == "low"
    assert small.verdict is Verdict.INCONCLUSIVE
    assert "900 requests" in str(small.warnings[0])
    assert "20 min" in str(short.warnings[0])


def test_a_quantile_below_its_minimum_n_is_refused() -> None:
    """p99 of 500 or of 200 requests: point estimates, no interval, and the reason."""
    some = row(compare(arm(columns(500)), arm(columns(500, 2))), "ttft", 0.99)
    few = row(compare(arm(columns(200)), arm(columns(200, 2))), "ttft", 0.99)

    assert some.ratio is not None
    assert (some.low, some.high, some.confidence, some.finding) == (None, None, "none", None)
    assert some.refusal == "n too small (needs ≥ 2,000)"
    assert few.ratio is not None
    assert (few.low, few.high, few.refusal) == (None, None, some.refusal)


def test_a_tail_that_lies_in_one_burst_is_refused() -> None:
    """All slow requests of the candidate fell into two minutes: that is no p99."""
    burst = columns(2400, 3)
    burst["first_token"][100:220] += 5

    tail = row(compare(arm(columns(2400)), arm(burst, "b")), "ttft", 0.99)

    assert tail.refusal is not None
    assert "of 16 time blocks" in tail.refusal


def test_swapping_the_arms_inverts_every_row() -> None:
    """Ratio, interval and finding read the same from both sides."""
    one, other = arm(columns(2400)), arm(columns(2400, 3, slow=1.2), "b")
    finding = {"slower": "faster", "faster": "slower", NO_DIFFERENCE: NO_DIFFERENCE}

    for forth, back in zip(compare(one, other).rows, compare(other, one).rows, strict=True):
        assert forth.ratio is not None
        assert back.ratio == pytest.approx(1 / forth.ratio, rel=1e-9)
        assert forth.low is not None
        assert back.high == pytest.approx(1 / forth.low, rel=1e-9)
        assert back.finding == finding[str(forth.finding)]


def test_requests_pair_by_id_whatever_their_order() -> None:
    """A candidate whose samples lie in another order, one missing, gives the same as in order."""
    base, other = columns(2400), columns(2400, 3)
    keep = np.delete(np.arange(2400), 7)
    mixed = np.random.default_rng(3).permutation(keep)

    plain = compare(
        arm({name: column[keep] for name, column in base.items()}),
        arm({name: column[keep] for name, column in other.items()}),
    )
    shuffled = compare(arm(base), arm({name: column[mixed] for name, column in other.items()}))

    assert [one.ratio for one in plain.rows] == [one.ratio for one in shuffled.rows]
    assert [one.low for one in plain.rows] == [one.low for one in shuffled.rows]
    assert codes(shuffled) == {"PARTIAL_OVERLAP"}


def test_a_run_that_ended_early_says_why_requests_are_missing() -> None:
    base, other = columns(2400), columns(2400, 3)
    part = arm({name: column[:2000] for name, column in other.items()}, "b")
    run = replace(part.run, totals={**part.run.totals, "ended_by": "interrupt"})
    found = compare(arm(base), replace(part, run=run))

    texts = {caution.code: caution.text for caution in found.warnings}
    assert texts["PARTIAL_OVERLAP"] == (
        "b: interrupted before its plan had ended; 400 requests are only in the baseline and 0 only in "
        "the candidate: 2,000 in both are compared"
    )


def test_rounds_of_a_loop_pair_with_their_own() -> None:
    """The same exchange in round 1 is another request than in round 0."""
    looped = columns(800)
    looped["id"] = np.concatenate([looped["id"][:400]] * 2)
    looped["cycle"] = np.repeat([0, 1], 400)
    second = {name: column[400:] for name, column in looped.items()}

    found = compare(arm(looped), arm(second, "b"), CompareOptions(warmup=parse_warmup("none")))

    assert len(found.offset_s[0]) == 400
    assert found.offset_s[0].tolist() == second["due"].tolist()


def test_warm_up_of_either_arm_is_left_out_of_both() -> None:
    """A pair counts only when neither of its requests is warm-up."""
    one, other = columns(2400), columns(2400, 3)
    one["warmup"][:50] = True
    other["warmup"][:80] = True

    found = compare(arm(one), arm(other, "b"))

    assert len(found.offset_s[0]) == len(found.offset_s[1]) == 2320
    assert codes(found) == {"WARMUP"}  # which programs read; people read it as a fact, once
    texts = (
        comparison_text(found),
        str(comparison_head(found, "")),
        comparison_markdown(found),
    )
    for shown in texts:
        assert " ".join(shown.split()).count("80 requests of each arm left out as warm-up") == 1
        assert "WARMUP" not in shown
    everything = compare(arm(one), arm(other, "b"), CompareOptions(warmup=parse_warmup("none")))
    assert len(everything.offset_s[0]) == 2400


def test_different_traces_need_a_word() -> None:
    """Without a common trace nothing pairs, unless one asks for two samples."""
    one, other = arm(columns(2400)), arm(columns(2000, 2), "b", source="trace-2")

    with pytest.raises(InputError, match="--unpaired"):
        compare(one, other)

    found = compare(one, other, CompareOptions(paired=False))
    assert not found.paired
    assert row(found, "ttft", 0.5).method == "block inversion, K=16, t15, unpaired"


def test_timeouts_hide_a_quantile() -> None:
    """8 % timeouts in the candidate: its p95 exceeds what they waited, and the ratio is bounded below."""
    late = columns(2400, 3)
    which = np.random.default_rng(5).random(2400) < 0.08
    late["outcome"][which], late["end"][which] = "timeout", late["due"][which] + 60

    tail = row(compare(arm(columns(2400)), arm(late, "b")), "ttft", 0.95)

    assert (tail.candidate, tail.candidate_at_least, tail.ratio, tail.high) == (
        None,
        60,
        None,
        None,
    )
    assert tail.low is not None
    assert tail.low > 2
    assert tail.finding == "slower"


def test_only_what_was_asked_for() -> None:
    """Metrics and quantiles of the question, in order, once each."""
    question = CompareOptions(metrics=("output_tokens",), quantiles=(0.9, 0.5, 0.9))

    found = compare(arm(columns(2400)), arm(columns(2400, 3)), question)

    assert [(one.metric, one.quantile) for one in found.rows] == [
        ("output_tokens", 0.5),
        ("output_tokens", 0.9),
    ]


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (CompareOptions(metrics=("speed",)), "no metric speed"),
        (CompareOptions(quantiles=(95.0,)), "between 0 and 1"),
        (CompareOptions(metrics=("reasoning_tokens",)), "no metric in common"),
    ],
)
def test_a_senseless_question_is_refused(question: CompareOptions, words: str) -> None:
    """One line that says what is wrong."""
    with pytest.raises(InputError, match=words):
        compare(arm(columns(100)), arm(columns(100, 2)), question)


def test_arms_without_anything_to_compare_are_refused() -> None:
    """An empty arm, one without a success, and two without a common request."""
    good, dead, other = columns(100), columns(100), columns(100)
    dead["outcome"][:] = "connect_error"
    other["id"] = np.array([f"x{i}" for i in range(100)], dtype=np.dtypes.StringDType())

    with pytest.raises(InputError, match="an empty run"):
        compare(arm(good), arm(columns(0)))
    with pytest.raises(UnreachableError, match="connect_error 100"):
        compare(arm(dead), arm(good))
    with pytest.raises(InputError, match="no request in common"):
        compare(arm(good), arm(other))


def test_a_step_is_flagged_and_caps_the_row() -> None:
    """The candidate slows down half-way: SLOW_DRIFT on the rows and on the whole."""
    step = columns(2400, 3)
    step["first_token"][1200:] += 0.1

    found = compare(arm(columns(2400)), arm(step, "b"))

    half = row(found, "ttft", 0.5)
    assert (half.drift, half.blocks, half.verdict) == (True, 4, Verdict.INCONCLUSIVE)
    (drift,) = (one for one in found.warnings if one.code == "SLOW_DRIFT")
    assert "may have changed slowly during the run (by chance alone, one report" in drift.text
    assert half.thirds is not None
    assert half.thirds[0] == pytest.approx(1, abs=0.1)
    assert half.thirds[2] == pytest.approx(1.7, abs=0.2)
    assert found.overall["ttft"].thirds is not None
    assert found.overall["e2e"].thirds is None


def test_a_queue_is_named() -> None:
    """An unbounded or drifting tail with a TTFT far beyond its median is the load's doing."""
    queued = columns(2400, 3)
    waiting = np.repeat([0, 6, 0, 8, 0, 7], 400) * np.linspace(0, 1, 2400)
    for name in ("first_token", "last_token"):
        queued[name] += waiting

    found = compare(arm(columns(2400)), arm(queued, "b"))
    alone = compare(
        arm(columns(2400)), arm(queued, "b"), CompareOptions(metrics=("e2e",), quantiles=(0.5,))
    )

    assert "LOAD_DOMINATED" in codes(found)
    assert "LOAD_DOMINATED" in codes(alone)
    waits = [one for one in found.rows if one.metric in {"ttft", "e2e"} and one.refusal is None]
    assert {(one.confidence, one.verdict) for one in waits} == {("low", Verdict.INCONCLUSIVE)}
    assert row(found, "tpot", 0.5).confidence == "95%"
    for comparisons in (found, alone):
        assert comparisons.equal_lengths is not None
        equal = [one for one in comparisons.equal_lengths.rows if one.refusal is None]
        assert {(one.confidence, one.verdict) for one in equal} == {("low", Verdict.INCONCLUSIVE)}


def test_a_backlog_is_named_though_it_leaves_no_interval() -> None:
    """Beyond capacity latencies grow evenly: p95 is not twice the median, and no row has an interval."""
    arms = [columns(2400), columns(2400, 3)]
    for one in arms:
        for name in ("first_token", "last_token"):
            one[name] += np.linspace(0, 480, 2400)

    compared = compare(arm(arms[0]), arm(arms[1], "b"))

    assert "LOAD_DOMINATED" in codes(compared)
    assert {one.confidence for one in compared.rows if one.metric in {"ttft", "e2e"}} == {"none"}
    assert row(compared, "tpot", 0.5).confidence == "95%"


def test_prompts_that_grow_are_no_backlog() -> None:
    """The TTFT of an idle server grows with them; not every answer counts its tokens."""
    arms = [columns(2400), columns(2400, 3)]
    for one in arms:
        for name in ("first_token", "last_token"):
            one[name] += np.linspace(0, 480, 2400)
        one["prompt_tokens"] = ((one["first_token"] - one["sent"]) * 1000).astype(int)
        one["prompt_tokens"][::3] = -1

    compared = compare(arm(arms[0]), arm(arms[1], "b"))

    assert "LOAD_DOMINATED" not in codes(compared)


def test_a_clock_that_ticks_is_said_and_contradicts_nothing() -> None:
    """All stamps on a grid of 50 ms, the candidate 8 % slower: row, sentence and discovery agree."""
    ticking = [columns(2400), columns(2400, 3, slow=1.08)]
    for one in ticking:
        for name in ("sent", "first_token", "last_token"):
            one[name] = np.round(one[name] / 0.05) * 0.05

    found = compare(arm(ticking[0]), arm(ticking[1], "b"), CompareOptions(metrics=("ttft",)))

    half, text = row(found, "ttft", 0.5), sentences.seen(found)
    assert half.finding == "slower"
    assert half.low is not None
    assert half.high is not None
    assert 1 < half.low < 1.08 < half.high
    assert half.q_value is not None
    assert half.q_value < 0.05
    assert "slower at TTFT p50" in text
    assert [caution.code for caution in half.warnings] == ["STEPS"]
    assert half.confidence == "95%"


def test_a_clock_that_ticks_beside_timeouts_leaves_an_end_open() -> None:
    """4.5 % of the baseline time out, 1.5 % of the candidate: how much lower its p95 is nobody knows."""
    ticking = [columns(2400), columns(2400, 3)]
    for one, every in zip(ticking, (22, 66), strict=True):
        for name in ("sent", "first_token", "last_token"):
            one[name] = np.round(one[name] / 0.05) * 0.05
        one["outcome"][::every] = "timeout"

    found = compare(arm(ticking[0]), arm(ticking[1], "b"), CompareOptions(metrics=("ttft",)))

    late = row(found, "ttft", 0.95)
    assert (late.baseline, late.low, late.refusal) == (None, None, None)
    assert late.high is not None


def test_a_difference_that_drifts_is_no_headline() -> None:
    """The candidate slows down half-way: said with low confidence, and no discovery."""
    step = columns(2400, 3)
    for name in ("first_token", "last_token"):
        step[name][1200:] += 0.4

    found = compare(arm(columns(2400)), arm(step, "b"), CompareOptions(metrics=("ttft", "tpot")))

    assert row(found, "ttft", 0.5).q_value is None
    assert row(found, "tpot", 0.5).q_value is not None
    sure, _, unsure = sentences.seen(found).partition("low confidence")
    assert "TTFT" not in sure
    assert ("TTFT" in unsure) == any(one.differs for one in found.rows if one.metric == "ttft")


def test_a_candidate_that_fails_half_is_not_called_faster() -> None:
    """Its slow half is refused, so that what is left is fast: the sentence begins with the failures."""
    refusing = columns(2400, 3)
    slow = refusing["first_token"] - refusing["sent"]
    refusing["outcome"][slow > np.median(slow)] = "http_error"

    found = compare(arm(columns(2400)), arm(refusing, "b"))

    assert row(found, "ttft", 0.5).finding == "faster"
    text = sentences.seen(found)
    assert text.startswith("The candidate fails more: 50.00% of its requests, the baseline 0.00%")
    assert "no evidence that it is faster" in text
    assert "faster at" not in text
    # Differences were seen, and have intervals.
    assert not {"No difference", "No quantile"} & set(re.findall(r"No \w+", text))


def longer(found: dict[str, Column]) -> None:
    found["output_tokens"] = found["output_tokens"] * 2


def cached(found: dict[str, Column]) -> None:
    found["cached_tokens"] = found["cached_tokens"] * 8


def failing(found: dict[str, Column]) -> None:
    found["outcome"][::10] = "http_error"


def late(found: dict[str, Column]) -> None:
    for name in ("sent", "first_token", "last_token", "end"):
        found[name][::20] += 0.5


def surviving(found: dict[str, Column]) -> None:
    ttft = found["first_token"] - found["due"]
    found["outcome"][ttft > np.quantile(ttft, 0.4)] = "http_error"


def rambling(found: dict[str, Column]) -> None:
    """One answer in twenty is ten times as long: the typical one is not."""
    found["output_tokens"][::20] *= 10


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (longer, "OUTPUT_LENGTH_DIFFERS"),
        (rambling, "OUTPUT_LENGTH_DIFFERS"),
        (cached, "CACHED_TOKENS_DIFFER"),
        (failing, "ERROR_MIX_DIFFERS"),
        (late, "CLIENT_LAG_DIFFERS"),
        (surviving, "SURVIVOR_BIAS"),
    ],
)
def test_each_caution_appears_when_its_cause_does(spoil: Any, code: str) -> None:
    """Spoil one thing in the candidate, and the comparison says so."""
    spoilt = columns(2400, 3)
    spoil(spoilt)

    assert code in codes(compare(arm(columns(2400)), arm(spoilt, "b")))
    assert code not in codes(compare(arm(columns(2400)), arm(columns(2400, 3), "b")))


def test_lag_explains_nothing_of_a_median_that_nobody_knows() -> None:
    """Half of the candidate's requests time out: how far its median lies from the baseline's is unknown."""
    spoilt = columns(2400, 3)
    late(spoilt)
    spoilt["outcome"][1::2] = "timeout"

    text = dict(sentences.caveats(compare(arm(columns(2400)), arm(spoilt, "b"))))["lag"]

    assert text.endswith("so much of TTFT or E2E can be the client's")


@pytest.mark.parametrize(("lost", "change"), [(0.46, "+"), (0.6, "the candidate's lies among")])
def test_survivors_say_both_changes(lost: float, change: str) -> None:
    """Of the answers alone, and with every failure as the slowest: by how much, or that there is none."""
    base, spoilt = columns(2400), columns(2400, 3)
    ttft = spoilt["first_token"] - spoilt["due"]
    failed = ttft > np.quantile(ttft, 1 - lost)
    spoilt["outcome"][failed] = "http_error"
    before = np.median((base["first_token"] - base["due"])[base["outcome"] == "ok"])
    alone = np.median(ttft[spoilt["outcome"] == "ok"]) / before - 1

    found = compare(arm(base), arm(spoilt, "b"))

    said = {caution.code: caution.text for caution in found.warnings}["SURVIVOR_BIAS"]
    stated = re.search(r"ttft p50 of the answers alone.*: (-\d+\.\d)% and (.*); which arm", said)
    assert stated
    assert float(stated[1]) / 100 == pytest.approx(alone, abs=0.002)
    assert stated[2].startswith(change)


def test_survivors_of_an_arm_that_took_no_time_are_said_too() -> None:
    """A clock that shows 0 for most first tokens leaves no share of a change."""
    base, spoilt = columns(2400), columns(2400, 3)
    base["first_token"] = base["due"].copy()
    base["outcome"][::2] = "http_error"
    base["outcome"][1] = "http_error"

    found = compare(arm(base), arm(spoilt, "b"))

    assert "up from zero" in str(found.warnings)


def test_what_the_arms_are_is_said() -> None:
    """Another model, another pacing, a recorded arm."""
    plain, found = arm(columns(2400)), columns(2400, 3)

    assert codes(compare(plain, arm(found, model="n"))) == {"DIFFERENT_MODEL"}
    assert codes(compare(plain, arm(found, pacing="x", as_recorded=False))) == {"DIFFERENT_PACING"}
    assert codes(compare(plain, arm(found, pacing="as recorded; 2 copies"))) == {"DIFFERENT_PACING"}
    assert "DIFFERENT_PACING" not in codes(compare(plain, arm(found, kind="trace", pacing="x")))
    assert codes(compare(plain, arm(found, kind="trace"))) >= {"RECORDED_ARM"}


COLD = "prompts may find in a cache their own conversation only (--cache cold)"


@pytest.mark.parametrize(
    ("baseline", "candidate", "words"),
    [
        ({}, {"cache": "cold"}, f"in the candidate alone {COLD}"),
        (
            {"cache": "structure"},
            {"cache": "cold"},
            f"prompts may find in a cache what this run sent (--cache structure) against {COLD}",
        ),
        (
            {"match_length": "cap"},
            {},
            "in the baseline alone answers at most as long as recorded (--match-length cap)",
        ),
        (
            {},
            {"polite": True},
            "in the candidate alone what is refused is sent again as the target asks (--polite)",
        ),
        (
            {"concurrency": 2, "cache": "cold"},
            {"speed": 2.0, "cache": "cold", "max_in_flight": 8},
            (
                "closed loop: 2 in flight, in trace order; recorded times are not used against "
                "open loop at 2x recorded speed; at most 8 in flight"
            ),
        ),
        ({"cache": "cold"}, {"cache": "cold"}, None),
        ({}, {"probe": "on"}, None),
    ],
)
def test_what_was_asked_for_differently_is_said(
    baseline: dict[str, Any], candidate: dict[str, Any], words: str | None
) -> None:
    """A cold cache, lengths held equal, waits for a limit: no server made these differences."""
    sides = [
        replace(arm(columns(2400), name), pacing=ReplayOptions("t", **asked).meaning)
        for name, asked in (("a", baseline), ("b", candidate))
    ]
    texts = [text.text for text in compare(*sides).warnings if text.code == "DIFFERENT_PACING"]

    assert texts == ([f"the arms were sent differently: {words}"] if words else [])


def test_what_a_run_of_an_earlier_version_was_asked_is_said() -> None:
    """Its header has the cache mode, and the words of its pacing have not."""
    run = read_run(Path(__file__).parents[1] / "fixtures/golden/decision/now.1.run")

    assert run.header["pacing"]["meaning"] == "open loop: every request at its recorded time / 2"
    assert arm_of_run(run).pacing == f"{run.header['pacing']['meaning']}; {COLD}"


def with_turns(found: dict[str, Column], name: str, waited: int, late_s: float = 9.0) -> Arm:
    """A run of which so many turns left late, the last ones."""
    for moment in ("due", "sent", "first_token", "last_token"):  # of which the end is one
        found[moment][len(found[moment]) - waited :] += late_s
    run = Run(Path(f"{name}.run"), {}, found, {**recount(found), "turns": {"waited": waited}}, True)
    return arm(found, name, run=run)


@pytest.mark.parametrize(
    ("waited", "differ"), [((8, 273), True), ((273, 8), True), ((9, 9), False)]
)
def test_arms_whose_turns_waited_differ_in_load(waited: tuple[int, int], *, differ: bool) -> None:
    """A slower arm is asked later, under less load; equal waits change what the rates are called, no more."""
    first, second = waited
    found = compare(with_turns(columns(400), "a", first), with_turns(columns(400, 3), "b", second))
    said = {caution.code: caution.text for caution in found.warnings}
    text = pair_text(found)

    assert "load set by the trace" not in text
    assert text.count("partly its own: turns waited") == 2
    assert ("LOAD_DIFFERS" in said) is differ
    if differ:
        names = ("candidate", "baseline") if second > first else ("baseline", "candidate")
        summary = f"the {names[0]} got less load: 273 of its turns waited for answers, 8 of the {names[1]}'s"
        assert summary in text
        assert said["LOAD_DIFFERS"].startswith(
            f"{summary}; its requests were due {265 * 9 / 400:.3g} s later"
        )


def test_as_many_turns_that_waited_longer_are_less_load() -> None:
    found = compare(
        with_turns(columns(400), "a", 9, 1.0), with_turns(columns(400, 3), "b", 9, 60.0)
    )
    texts = [caution.text for caution in found.warnings if caution.code == "LOAD_DIFFERS"]

    assert texts[0].startswith(
        "the candidate got less load: 9 turns of each waited for answers, its for longer; its requests "
        f"were due {9 * 59 / 400:.3g} s later"
    )


def test_waits_that_change_no_load_are_no_caution() -> None:
    """Two turns of 400, or 200 of them for a tenth of a millisecond."""
    few = compare(arm(columns(400)), with_turns(columns(400, 3), "b", 2, 0.05))
    short = compare(arm(columns(400)), with_turns(columns(400, 3), "b", 200, 1e-4))

    assert "LOAD_DIFFERS" not in codes(few) | codes(short)
    assert pair_text(few).count("load set by the trace") == 2
    assert pair_text(short).count("partly its own: turns waited") == 2


def test_failures_are_an_endpoint_of_their_own() -> None:
    """The rates, their difference with an interval that holds the truth, and the kinds."""
    worse = columns(2400, 3)
    worse["outcome"][np.random.default_rng(6).random(2400) < 0.1] = "http_error"

    errors = compare(arm(columns(2400)), arm(worse, "b")).errors

    assert errors.baseline == 0
    assert errors.low < 0.1 < errors.high
    assert errors.low > 0
    assert errors.method.startswith("block t, K=")
    assert dict(errors.kinds_candidate) == {"http_error": round(errors.candidate * 2400)}


def test_what_somebody_else_ended_is_no_success() -> None:
    """A quarter of the candidate's is cancelled, a third of the others fails: as the page's table says."""
    base, worse = columns(2400), columns(2400, 3)
    worse["outcome"][::4], worse["outcome"][1::4] = "cancelled", "http_error"

    first, second = arm(base), arm(worse, "b")
    errors = compare(first, second).errors
    table = tables.outcome_table({"b": (second,)}).only("share failed")

    assert (errors.baseline, errors.n_baseline) == (0, 2400)
    assert (errors.candidate, errors.n_candidate) == (1 / 3, 1800)
    assert errors.low < 1 / 3 < errors.high
    assert table.rows[0][0].value == errors.candidate


def test_runs_without_an_end_of_their_own_have_nothing_to_compare() -> None:
    """Every request of the candidate's was cancelled, which is no failure."""
    stopped = columns(2400, 3)
    stopped["outcome"][:] = "cancelled"

    with pytest.raises(UnreachableError, match=r"no request succeeded \(all were cancelled"):
        compare(arm(columns(2400)), arm(stopped, "b"))


def test_end_to_end_is_compared_once_more_at_equal_lengths() -> None:
    """Answers are 30 % longer and none is slower per token: e2e says slower, at equal lengths nothing is."""
    long = columns(2400, 3)
    extra = long["last_token"] - long["first_token"]
    long["output_tokens"] = np.rint(long["output_tokens"] * 1.3).astype(np.int32)
    long["last_token"] = long["first_token"] + 1.3 * extra

    for question in (CompareOptions(), CompareOptions(paired=False)):
        found = compare(arm(columns(2400)), arm(long, "b"), question)

        equal = found.equal_lengths
        assert equal is not None
        assert (equal.n, equal.refusal) == (2400, None)
        assert 0.5 < equal.overlap < 1
        half = next(one for one in equal.rows if one.quantile == 0.5)
        assert half.low is not None
        assert half.high is not None
        assert half.ratio is not None
        assert half.low < 1 < half.high
        assert half.confidence == row(found, "e2e", 0.5).confidence == "95%"
        assert 0.95 < half.ratio < 1.05
        assert (half.baseline, half.candidate, half.n_baseline) == (None, None, 2400)
        assert "output length taken out" in half.method
        assert row(found, "e2e", 0.5).finding == "slower"


def test_a_ratio_at_equal_lengths_has_no_value_among_the_timeouts_either() -> None:
    """The plain rows say `> T` at p99 where 2.5 % time out; here no value is anybody's."""
    timed_out = [columns(2400, seed) for seed in (2, 3)]
    for one in timed_out:
        one["outcome"][::40] = "timeout"

    found = compare(*(arm(one, name) for one, name in zip(timed_out, "ab", strict=True)))

    assert found.equal_lengths is not None
    late = next(one for one in found.equal_lengths.rows if one.quantile == 0.99)
    assert row(found, "e2e", 0.99).baseline_at_least is not None
    assert (late.baseline_at_least, late.candidate_at_least) == (None, None)

    timed_out[0]["outcome"][::6] = "timeout"
    slow = compare(arm(timed_out[0], "a"), arm(columns(2400, 3), "b"))
    assert slow.equal_lengths is not None
    plain = row(slow, "e2e", 0.9)
    equal = next(one for one in slow.equal_lengths.rows if one.quantile == 0.9)
    assert (plain.refusal, equal.refusal) == (None, None)
    assert (plain.ratio, plain.low) == (equal.ratio, equal.low) == (None, None)
    assert next(one for one in slow.equal_lengths.rows if one.quantile == 0.5).ratio is not None


def test_answers_without_lengths_in_common_are_not_compared_at_equal_lengths() -> None:
    """All are ten times as long: the reason instead of rows. Of one length, or uncounted: nothing."""
    spoilt, uncounted, alike = columns(2400, 3), columns(2400, 3), columns(2400)
    spoilt["output_tokens"] = spoilt["output_tokens"] * 10
    uncounted["output_tokens"] = np.full(2400, -1)
    alike["output_tokens"] = np.full(2400, 50)

    far = compare(arm(columns(2400)), arm(spoilt, "b")).equal_lengths

    assert far is not None
    assert far.rows == ()
    assert "as long in both arms" in str(far.refusal)
    assert compare(arm(columns(2400)), arm(uncounted, "b")).equal_lengths is None
    assert compare(arm(alike), arm(alike, "b")).equal_lengths is None


def test_no_failure_at_all_has_an_exact_bound() -> None:
    """Zero of 100 against zero of 100: plus and minus the Clopper-Pearson bound."""
    errors = compare(arm(columns(100)), arm(columns(100, 2))).errors

    assert (errors.low, errors.high) == pytest.approx((-0.036217, 0.036217), abs=1e-6)


def test_few_failures_fall_back_on_newcombe() -> None:
    """7 of 100 against none: too few for blocks, so requests are taken as independent."""
    worse = columns(100, 2)
    worse["outcome"][:7] = "cut"

    errors = compare(arm(columns(100)), arm(worse)).errors

    assert errors.method.startswith("Newcombe")
    assert errors.low < 0.07 < errors.high


def sessioned(seed: int, groups: int, **changes: float) -> dict[str, Column]:
    found = columns(2400, seed, **changes)
    found["session"] = np.random.default_rng(7).integers(1, groups + 1, 2400)
    return found


def test_a_few_sessions_lower_the_confidence() -> None:
    """Eight sessions hold all requests: said, low, and no discovery; 200 of them are enough."""
    few = compare(
        arm(sessioned(1, 8)), arm(sessioned(2, 8, slow=1.3), "b"), CompareOptions(metrics=("ttft",))
    )
    many = compare(
        arm(sessioned(1, 200)),
        arm(sessioned(3, 200, slow=1.3), "b"),
        CompareOptions(metrics=("ttft",)),
    )

    assert row(few, "ttft", 0.5).confidence == "low"
    assert row(few, "ttft", 0.5).sessions == pytest.approx(8, abs=0.2)
    assert row(few, "ttft", 0.5).q_value is None
    assert "FEW_SESSIONS" in {caution.code for caution in few.warnings}
    assert row(many, "ttft", 0.5).confidence == "95%"
    assert row(many, "ttft", 0.5).finding == "slower"


def test_equal_arms_whose_sessions_differ_are_rarely_told_apart() -> None:
    """30 sessions, each some 15 % faster or slower than its like: blocks of time alone tell half apart."""
    findings = []
    for seed in range(8):
        random, arms = np.random.default_rng(seed), []
        session = random.integers(0, 30, 1200)
        for name in "ab":
            found = columns(1200, seed=2 * seed + (name == "b"))
            slow = np.exp(random.normal(0, 0.15, 30))[session]
            found["first_token"] = found["sent"] + (found["first_token"] - found["sent"]) * slow
            arms.append(arm(found | {"session": session}, name))
        pair = compare(*arms, CompareOptions(metrics=("ttft",), quantiles=(0.5,)))
        findings.append(row(pair, "ttft", 0.5).finding)

    assert sum(finding in {"slower", "faster"} for finding in findings) <= 2


def test_a_report_says_whether_sessions_are_known() -> None:
    """Runs of an earlier version do not hold them."""
    known = comparison_text(compare(arm(sessioned(1, 200)), arm(sessioned(2, 200), "b")))
    unknown = comparison_text(compare(arm(columns(2400)), arm(columns(2400, 2), "b")))

    assert "by time and session" in " ".join(known.split())
    assert "sessions not known" in " ".join(unknown.split())


def test_one_arm_that_knows_is_enough() -> None:
    """A pair is the same request: what one run knows of it holds for both."""
    found = compare(
        arm(sessioned(1, 200)), arm(columns(2400, 2), "b"), CompareOptions(metrics=("ttft",))
    )

    assert row(found, "ttft", 0.5).sessions is not None
