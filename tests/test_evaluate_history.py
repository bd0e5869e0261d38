"""Runs against a baseline file: one more draw's interval, when it decides, and how often it is wrong."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tbench.analysis.arms import Replicates
from tbench.analysis.comparison import Verdict
from tbench.analysis.evaluate_history import (
    differs_by_kind,
    evaluate_history,
    has_trend,
    predicted,
    session_of,
)
from tbench.analysis.gate import parse_gates
from tbench.analysis.gate_results import GateResults
from tbench.analysis.history import History, Session
from tbench.analysis.report.ci import judgement_junit, judgement_markdown
from tbench.analysis.report.machine import judgement_json
from tbench.analysis.report.text import judgement_text
from tbench.analysis.run_metrics import Figure
from tbench.capture.errors import InputError

E2E = parse_gates(None, ["e2e:p50:10%"])
CALM = (0.63, 0.64, 0.65, 0.62, 0.64, 0.63)
"""Medians of six sessions; the arms' own is 636 ms."""


def history(medians: Sequence[float], runs: int = 3, **changes: Any) -> History:
    """Sessions whose runs all have that median end-to-end latency, and two errors in 500."""
    return History(
        path=Path("baseline.json"),
        sessions=tuple(
            Session(
                **{
                    "recorded": f"2026-11-{day + 1:02}T02:00:00.000+00:00",
                    "trace": "trace-1",
                    "name": "nightly",
                    "model": "m",
                    "target": None,
                    "pacing": "as recorded",
                    "versions": {},
                    "requests": 500,
                    "figures": {
                        "e2e:p50": (Figure(value=value, n=500),) * runs,
                        "errors": (Figure(value=0.004, n=500, events=2),) * runs,
                    },
                    **changes,
                }
            )
            for day, value in enumerate(medians)
        ),
    )


def tonight(repeats: Any, factor: float = 1.0, runs: int = 3, **told: Any) -> Replicates:
    _, arm = repeats.arms(factor, repeats=runs, **told)
    return replace(arm, name="tonight")


def codes(found: GateResults) -> set[str]:
    return {caution.code for caution in found.warnings}


@pytest.mark.parametrize(
    ("factor", "expected"), [(1.0, "PASS"), (1.3, "FAIL"), (1.1, "INCONCLUSIVE")]
)
def test_a_session_is_the_unit(repeats: Any, factor: float, expected: str) -> None:
    """The change is against the mean of the sessions, with the t of five degrees of freedom."""
    found = evaluate_history(history(CALM), tonight(repeats, factor), E2E)
    (row,) = found.rows
    y = [math.log(value) for value in CALM]
    new = float(np.mean(np.log(row.candidate_runs)))

    assert found.verdict.value == expected
    # Of a night's runs only as many are looked at as each session has.
    assert row.reason == (
        "the interval holds the margin; more sessions would narrow it"
        if expected == "INCONCLUSIVE"
        else None
    )
    assert row.comparison.ratio == pytest.approx(math.exp(new - float(np.mean(y))))
    assert row.comparison.method == "prediction t over 6 sessions of 3 runs each, df 5"
    assert row.baseline_runs == pytest.approx(CALM)


def test_too_few_sessions_decide_nothing_and_say_how_many_are_missing(repeats: Any) -> None:
    """However large the change."""
    found = evaluate_history(history(CALM[:3]), tonight(repeats, 3.0), E2E)

    assert found.verdict is Verdict.INCONCLUSIVE
    assert {row.reason for row in found.rows} == {"NOT_ENOUGH_HISTORY"}
    assert "3 sessions of e2e:p50; a verdict needs 5: 2 more" in str(found.warnings)
    alone = evaluate_history(history(CALM[:1]), tonight(repeats), E2E)
    assert "1 session of e2e:p50; a verdict needs 5: 4 more" in str(alone.warnings)


def test_sessions_that_rise_decide_nothing(repeats: Any) -> None:
    """Their mean is not where tonight's should lie."""
    found = evaluate_history(history([0.5, 0.53, 0.56, 0.6, 0.63]), tonight(repeats), E2E)

    assert found.verdict is Verdict.INCONCLUSIVE
    assert "HISTORY_TREND" in codes(found)


@pytest.mark.parametrize(
    ("medians", "expected"),
    [
        ((0.635, 0.64, 0.645, 0.64, 0.65, 0.60), "INCONCLUSIVE"),
        ((0.60, 0.65, 0.64, 0.645, 0.64, 0.635), "PASS"),
    ],
)
def test_a_pass_holds_against_the_latest_session_too(
    repeats: Any, medians: tuple[float, ...], expected: str
) -> None:
    """Tonight is within 10 % of the mean of all, and of the latest session or not."""
    found = evaluate_history(history(medians), tonight(repeats, 1.0), E2E)

    assert found.verdict.value == expected


def test_a_week_that_has_a_shape_decides_nothing(repeats: Any) -> None:
    """Weekends (the first of November 2026 is a Sunday) are 8 % slower than the days between."""
    fortnight = [0.69, 0.64, 0.645, 0.635, 0.64, 0.638, 0.688, 0.692, 0.641, 0.64]
    found = evaluate_history(history(fortnight), tonight(repeats, 1.3), E2E)
    flat = evaluate_history(history([0.64, 0.638] * 5), tonight(repeats), E2E)

    assert found.verdict is Verdict.INCONCLUSIVE
    assert "HISTORY_WEEKLY" in codes(found)
    assert "weekends differ from those of weekdays" in str(found.warnings)
    assert flat.verdict is Verdict.PASS


def test_runs_beyond_the_fewest_are_not_counted(repeats: Any) -> None:
    """A mean of two runs varies more than one of five: all sessions give as many as the one with fewest."""
    mixed = history(CALM[:5], runs=5)
    short = replace(mixed, sessions=(*mixed.sessions, *history(CALM, runs=2).sessions[5:]))
    twice = parse_gates(None, ["e2e:p50:10%", "e2e:p50:20%"])
    found = evaluate_history(short, tonight(repeats, runs=5), twice)
    row, _ = found.rows

    told = (warning.text for warning in found.warnings if warning.code == "UNEQUAL_RUNS")
    assert "".join(told).startswith("e2e:p50: the first 2 of up to 5 runs of each session are")

    assert row.comparison.method == "prediction t over 6 sessions of 2 runs each, df 5"
    assert len(row.candidate_runs) == 2


def test_a_limit_needs_no_history(repeats: Any) -> None:
    gates = parse_gates(None, ["e2e:p50<=1s", "e2e:p50:10%"])
    limit, change = evaluate_history(history(CALM[:1]), tonight(repeats), gates).rows

    assert limit.comparison.verdict is Verdict.PASS
    assert change.comparison.verdict is Verdict.INCONCLUSIVE


def test_errors_that_are_equal_by_chance_have_the_spread_of_independent_requests(
    repeats: Any,
) -> None:
    """Six sessions with 6 errors in 1,500 each show no spread at all; none tonight is 0.4 points fewer."""
    (row,) = evaluate_history(
        history(CALM), tonight(repeats), parse_gates(None, ["errors:0.01pp"])
    ).rows
    low, high = row.comparison.low, row.comparison.high
    assert low is not None
    assert high is not None

    assert row.comparison.ratio == pytest.approx(-0.004)
    assert high - low > 0.003


def test_one_run_tonight_has_the_spread_of_bursts_too(repeats: Any) -> None:
    """Nothing shows how errors come, so by tens: six sessions with 2 in 500 each, and none tonight in 500."""
    (row,) = evaluate_history(
        history(CALM, runs=1), tonight(repeats, runs=1), parse_gates(None, ["errors:0.5pp"])
    ).rows
    # Agresti and Caffo's share of (bursts + 1) of (n / 10 + 2), in both arms.
    bursts = sum(
        (share := (k + 1) / (n + 2)) * (1 - share) / (n + 2) for k, n in ((1.2, 300), (0, 50))
    )

    assert row.comparison.runs == (6, 1)
    assert row.comparison.n_candidate == 500
    assert row.comparison.high == pytest.approx(-0.004 + stats.t.ppf(0.95, 5) * bursts**0.5)


def _failing(run: dict[str, Any]) -> None:
    run["outcome"][::33] = "http_error"


@pytest.mark.parametrize("kept", [True, False])
def test_a_candidate_that_fails_more_than_the_sessions_did_never_passes(
    repeats: Any, kept: bool
) -> None:
    """3 % of its requests, against .4 % or a share that an old file does not hold: 20 % faster or not."""
    calm = history(CALM)
    if not kept:
        sessions = [
            replace(one, figures={"e2e:p50": one.figures["e2e:p50"]}) for one in calm.sessions
        ]
        calm = replace(calm, sessions=tuple(sessions))
    found = evaluate_history(calm, tonight(repeats, 0.8, spoil=_failing), E2E)
    allowed = evaluate_history(
        history(CALM),
        tonight(repeats, 0.8, spoil=_failing),
        (*E2E, *parse_gates(None, ["errors:20pp"])),
    )

    assert [(row.comparison.verdict.value, row.reason) for row in found.rows] == [
        ("INCONCLUSIVE", "FAILURES_ROSE")
    ]
    said = {caution.code: caution.text for caution in found.warnings}["FAILURES_ROSE"]
    before = "0.40%" if kept else "an unknown share"
    assert said.startswith(f"3.20% of the candidate's requests fail, {before} of the baseline's")
    assert allowed.rows[0].comparison.verdict is Verdict.PASS


def test_a_session_keeps_how_many_requests_failed_whatever_is_gated(repeats: Any) -> None:
    session = session_of(tonight(repeats, spoil=_failing), E2E)

    assert [one.events for one in session.figures["errors"]] == [16, 16, 16]


@pytest.mark.parametrize(
    ("changes", "told", "code"),
    [
        ({"model": "old"}, {}, "DIFFERENT_MODEL"),
        ({"target": "h"}, {"target": "http://other/v1"}, "DIFFERENT_TARGET"),
        ({"pacing": "at 2 requests/s"}, {}, "DIFFERENT_PACING"),
        ({"versions": {"tbench": "0.0.9"}}, {}, "DIFFERENT_VERSION"),
        ({"requests": 480}, {}, "PARTIAL_OVERLAP"),
        ({}, {"ended_by": "interrupt"}, "PARTIAL_RUN"),
    ],
)
def test_what_differs_is_said(
    repeats: Any, changes: dict[str, Any], told: dict[str, Any], code: str
) -> None:
    found = evaluate_history(history(CALM, **changes), tonight(repeats, **told), E2E)

    assert code in codes(found)
    assert (found.verdict is Verdict.PASS) == (code != "PARTIAL_RUN")
    assert codes(evaluate_history(history(CALM), tonight(repeats), E2E)) == set()


@pytest.mark.parametrize(
    ("kept", "gates", "said"),
    [
        (history(CALM, trace="other"), E2E, "a run of trace trace-1, the baseline is of other"),
        (
            history(CALM),
            parse_gates(None, ["tpot:p50:5%"]),
            "no session has tpot:p50; it has e2e:p50",
        ),
        (history(CALM), parse_gates("10%", []), "no session has ttft:p50"),
        (history(()), E2E, "holds no session"),
        (history(CALM), (), "needs a gate"),
        (
            history(CALM, recorded="1970-01-01T00:00:00.000+00:00"),
            E2E,
            "these runs are a session of baseline.json",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(
    repeats: Any, kept: History, gates: Any, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        evaluate_history(kept, tonight(repeats), gates)


def test_sessions_without_a_gates_figure_are_counted(repeats: Any) -> None:
    """A gate that was added later is judged on the sessions that have it."""
    kept = history(CALM)
    old = replace(kept.sessions[0], figures={"errors": kept.sessions[0].figures["errors"]})
    mixed = replace(kept, sessions=(old, *kept.sessions[1:]))
    found = evaluate_history(mixed, tonight(repeats), E2E)

    assert "5 of 6 sessions have e2e:p50" in str(found.warnings)
    assert found.rows[0].comparison.runs == (5, 3)


def test_a_file_of_a_version_without_errors_says_no_more_than_that(repeats: Any) -> None:
    """Not that one session has them, nor that the first 0 runs are compared."""
    kept = history(CALM, figures={"e2e:p50": (Figure(value=0.63, n=500),) * 3})
    errors = [gate for gate in parse_gates("10%", []) if gate.metric == "errors"]
    found = evaluate_history(kept, tonight(repeats), (*E2E, *errors))

    assert [str(caution.text) for caution in found.warnings] == ["0 of 6 sessions have errors"]
    assert found.rows[1].comparison.refusal == "no session of the file has errors"


def test_every_report_shows_a_history(repeats: Any) -> None:
    """Text, JSON, JUnit and Markdown."""
    found = evaluate_history(history(CALM), tonight(repeats), E2E)
    lines = list(judgement_text(found))

    assert any("baseline.json 6 sessions from 2026-11-01 to 2026-11-06" in line for line in lines)
    assert max(map(len, lines)) <= 100
    assert judgement_json(found)["history"]["sessions"] == 6
    assert '"6 sessions from 2026-11-01 to 2026-11-06"' in judgement_junit(found)
    assert "3 runs against 6 sessions from" in judgement_markdown(found)


def test_equal_sessions_are_rarely_called_different(repeats: Any) -> None:
    """From runs to verdict: sessions differ by 4 %, runs by 1 %; nominal .05, at most .08."""
    random, wrong, trials = np.random.default_rng(6), 0, 300
    base = [repeats.columns(100, seed) for seed in range(3)]
    plain = [float(np.median(one["end"] - one["due"])) for one in base]
    for _ in range(trials):
        offsets = np.exp(random.normal(0, 0.04, 6)[:, None] + random.normal(0, 0.01, (6, 3)))
        sessions = history([1.0] * 5, requests=100).sessions
        sessions = tuple(
            replace(one, figures={"e2e:p50": tuple(Figure(value=m * o, n=100) for m, o in pairs)})
            for one, pairs in zip(
                sessions, ([*zip(plain, row, strict=True)] for row in offsets[:5]), strict=True
            )
        )
        runs = [
            repeats.run(
                one
                | {
                    "end": one["due"] + (one["end"] - one["due"]) * o,
                    "last_token": one["end"] * np.nan,
                },
                at,
            )
            for at, (one, o) in enumerate(zip(base, offsets[5], strict=True))
        ]
        found = evaluate_history(
            History(path=Path("b.json"), sessions=sessions),
            Replicates(name="t", runs=tuple(runs)),
            E2E,
        )
        row = found.rows[0].comparison
        wrong += row.finding != "no difference seen"

    assert wrong / trials <= 0.08


def test_it_is_the_textbooks_prediction_interval() -> None:
    """Mean -+ t * sd * sqrt(1 + 1/N): a draw at its end lies exactly at the end of the turned interval."""
    draws = [1.0, 1.2, 0.9, 1.1, 0.95, 1.2]
    mean, sd, n = float(np.mean(draws)), float(np.std(draws, ddof=1)), len(draws)
    half = float(stats.t.isf(0.025, n - 1)) * sd * math.sqrt(1 + 1 / n)

    found = predicted(draws, mean - half)

    assert (found.value, found.high) == pytest.approx((-half, 0.0), abs=1e-12)
    assert found.df == n - 1
    assert predicted([1.0] * 5, 1.0, floor=0.04).se == pytest.approx(0.2)


def test_what_is_decided_holds_against_the_latest_draw_too() -> None:
    """Its error is sd * sqrt(2): ends, p-values and the turned estimate are those of the less sure."""
    draws, new = [1.0, 0.9, 0.8, 0.7, 0.6], 0.65
    sd = float(np.std(draws, ddof=1))
    t = float(stats.t.isf(0.05, 4))

    found = predicted(draws, new)

    assert found.most == pytest.approx(new - 0.6 + t * sd * math.sqrt(2))
    assert found.least == pytest.approx(new - 0.8 - t * sd * math.sqrt(1.2))
    assert found.worse(-0.2) == pytest.approx(
        stats.t.sf((new - 0.8 + 0.2) / (sd * math.sqrt(1.2)), 4)
    )
    assert (found.negated.most, found.negated.low) == pytest.approx((-found.least, -found.high))
    assert found.negated.worse(0.1) == pytest.approx(
        stats.t.cdf((new - 0.6 + 0.1) / (sd * 2**0.5), 4)
    )


@pytest.mark.parametrize("sessions", [5, 8, 20])
def test_draws_of_one_law_are_rarely_called_different(sessions: int) -> None:
    """Session offsets of 4 %, three runs of 2 % each: nominal .05; a change at the margin too."""
    random = np.random.default_rng(sessions)
    margin, trials = math.log(1.1), 4000
    wrong = passes = fails = 0
    for _ in range(trials):
        y = random.normal(0, 0.04, sessions + 1) + random.normal(0, 0.02, (3, sessions + 1)).mean(0)
        equal = predicted(y[:-1].tolist(), float(y[-1]))
        at_margin = predicted(y[:-1].tolist(), float(y[-1]) + margin)
        wrong += equal.low > 0 or equal.high < 0
        passes += at_margin.most < margin
        fails += at_margin.worse(margin) < 0.05

    assert max(wrong, passes, fails) / trials <= 0.06


def test_runs_as_units_would_be_wrong() -> None:
    """A control: the same sessions, their runs taken for independent draws, differ in a third of cases."""
    random = np.random.default_rng(1)
    wrong = 0
    for _ in range(1000):
        y = random.normal(0, 0.04, 6) + random.normal(0, 0.02, (3, 6))
        found = stats.ttest_ind(y[:, :-1].ravel(), y[:, -1], equal_var=False)
        wrong += float(found.pvalue) < 0.05

    assert wrong / 1000 > 0.3


def test_a_trend_is_told_from_chance() -> None:
    """At most 5 % of histories without one have one; a steady rise has."""
    random = np.random.default_rng(2)
    flagged = sum(has_trend(random.normal(size=6).tolist()) for _ in range(4000))
    theirs = random.normal(size=7)
    theirs += 0.9 * np.arange(7)

    assert flagged / 4000 <= 0.06
    assert has_trend(theirs.tolist()) == (stats.linregress(np.arange(7), theirs).pvalue < 0.05)
    assert has_trend([1.0, 2.0, 3.0, 4.0, 5.0])
    assert not has_trend([1.0] * 5)


def test_two_kinds_of_draws_differ_by_students_test() -> None:
    """The same answer as scipy's pooled t-test; none where a kind has fewer than two draws."""
    random = np.random.default_rng(3)
    kinds = [False] * 5 + [True] * 3
    for _ in range(200):
        draws = random.normal(size=8) + np.array(kinds) * random.choice([0.0, 2.0])
        theirs = stats.ttest_ind(draws[:5], draws[5:]).pvalue < 0.05
        assert differs_by_kind(draws.tolist(), kinds) == theirs

    assert not differs_by_kind([1.0, 1.0, 9.0], [False, False, True])


def _few(run: dict[str, Any]) -> None:
    run["outcome"][100:] = "cancelled"


def test_a_usual_gate_that_runs_are_too_short_for_is_not_testable(repeats: Any) -> None:
    """Nor were the sessions' runs, which so have no figure of it; as between two arms."""
    kept = history(CALM)
    sessions = [
        replace(one, figures={**one.figures, "ttft:p50": one.figures["e2e:p50"]})
        for one in kept.sessions
    ]
    found = evaluate_history(
        replace(kept, sessions=tuple(sessions)),
        tonight(repeats, spoil=_few),
        parse_gates("10%", []),
    )
    reasons = {row.gate.what: str(row.reason) for row in found.rows}

    for what in ("ttft:p95", "e2e:p95"):
        assert reasons[what].startswith("not testable: 100 requests in a run, needs 400"), reasons
    assert "not testable" not in reasons["e2e:p50"]
    assert "TTFT p95" in "".join(judgement_text(found))
