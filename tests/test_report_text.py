"""The text of a report: what is said, what is refused, and that any terminal can show it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.analysis import words
from tbench.analysis.arms import Arm
from tbench.analysis.cautions import CHECKS
from tbench.analysis.compare import CompareOptions, compare
from tbench.analysis.report.sentences import CAVEATS, NAMED_ABOVE, caveats
from tbench.analysis.report.tables import cost_table
from tbench.analysis.report.text import comparison_text, pair_text, run_text
from tbench.analysis.summary import FACTS, Caution
from tbench.replay import columns as blocks
from tbench.replay.closing import FEW
from tbench.replay.runfile import Run, recount
from tbench.replay.sample import Sample
from tbench.replay.table import Table, gather_gaps


def arm(n: int, name: str = "fast", slow: float = 1.0, **changes: Any) -> Arm:
    random = np.random.default_rng(n)
    noise = random.lognormal(sigma=0.2, size=n)
    samples = [
        Sample(
            id=f"r{k}",
            index=k,
            endpoint="chat",
            model="m",
            stream=True,
            due=float(k),
            sent=k + 0.001,
            first_token=k + 0.03 * slow * noise[k],
            last_token=k + 0.23 * slow * noise[k],
            end=k + 0.3 * slow * noise[k],
            status=200,
            prompt_tokens=10,
            output_tokens=21,
            token_times=(k + 0.03 * slow * noise[k], k + 0.23 * slow * noise[k]),
        )
        for k in range(n)
    ]
    found = dict(Table(lambda: [blocks.pack(blocks.from_samples(samples))]))
    found["warmup"] = np.zeros(n, dtype=bool)
    gaps = gather_gaps([blocks.pack_tokens(samples)], n)
    given: dict[str, Any] = {
        "kind": "run",
        "name": name,
        "run": Run(Path(f"{name}.run"), {}, found, recount(found), complete=True),
        "source": "t",
        "model": "m",
        "target": "http://h/v1",
        "pacing": "as recorded",
        "as_recorded": True,
        "token_gaps": lambda: gaps,
    }
    return Arm(**(given | changes))


def test_a_comparison_begins_with_what_matters() -> None:
    """Who is compared, then one row per quantile: values, ratio, interval, finding."""
    text = comparison_text(compare(arm(500), arm(500, "slow", slow=2)))

    assert text.startswith("baseline   fast at http://h/v1\ncandidate  slow at http://h/v1\n")
    assert "m; as recorded; 500 requests, paired" in text
    line = next(line for line in text.splitlines() if line.startswith("TTFT"))
    assert line.split()[:2] == ["TTFT", "p50"]
    assert "2.00x" in line
    assert line.endswith("slower")
    assert "ADVISORY: The candidate was slower at TTFT p50 p90 p95, E2E p50 p90 p95" in text
    assert "(low confidence)" in text


@pytest.mark.parametrize(
    ("slow", "first"),
    [
        (
            2,
            "CANDIDATE SLOWER  TTFT 2.00x, E2E 2.00x, TPOT 2.00x at the median (advisory, low confidence)",
        ),
        (
            0.5,
            "CANDIDATE FASTER  TTFT 0.500x, E2E 0.500x, TPOT 0.500x at the median (advisory, low ",
        ),
        (
            1,
            "NO DIFFERENCE SEEN  TTFT 1.000x, E2E 1.000x, TPOT 1.000x at the median (advisory, low ",
        ),
    ],
)
def test_the_short_text_begins_with_the_verdict_and_its_ratios(slow: float, first: str) -> None:
    """In under thirty lines; who, the table with p50 and p95, and a line for each caveat."""
    lines = pair_text(compare(arm(500), arm(500, "other", slow=slow))).splitlines()

    assert lines[0].startswith(first)
    assert len(lines) <= 30
    assert "compared   500 requests, paired; as recorded" in lines
    assert [line.split()[0] for line in lines if " p50 " in line] == ["TTFT", "E2E", "TPOT"]
    assert sum(line.lstrip().startswith("p95") for line in lines) == 3
    (at,) = (n for n, line in enumerate(lines) if line == "Before you trust it")
    assert lines[at + 1].startswith("  sample    500 requests (needs 1,000)")


def test_each_caveat_stands_apart_from_its_label() -> None:
    """However long the label is: `rate limit` has the whole width of its column."""
    pair = compare(arm(500), arm(500, "other"))
    for code, label in CAVEATS.items():
        text = pair_text(replace(pair, warnings=(Caution(code=code, text="so it is"),)))
        assert text.partition("Before you trust it\n  ")[2].startswith(f"{label} "), code


def test_a_candidate_that_fails_is_not_called_faster() -> None:
    """Half as slow, and every fourth request refused: the first line says what it costs."""
    base, quick = arm(500), arm(500, "quick", slow=0.5)
    columns = dict(quick.columns)
    columns["outcome"] = np.where(np.arange(500) % 4 == 0, "http_error", columns["outcome"])
    columns["status"] = np.where(np.arange(500) % 4 == 0, 503, columns["status"])
    failing = replace(quick, run=replace(quick.run, columns=columns))

    assert pair_text(compare(base, failing)).startswith(
        "CANDIDATE FAILS MORE  25.00% of requests fail"
    )


def test_a_headline_without_an_interval_says_the_real_reason() -> None:
    """Six of ten requests of both arms time out: their median lies there, however many there are."""
    sides = []
    for side in (arm(1000), arm(1000, "b", slow=2)):
        late = np.arange(1000) % 10 < 6
        columns = {**side.columns, "outcome": np.where(late, "timeout", side.columns["outcome"])}
        sides.append(replace(side, run=replace(side.run, columns=columns)))

    said = pair_text(compare(*sides, CompareOptions(metrics=("e2e",)))).splitlines()[0]
    assert said.endswith("(no interval: it lies among the timeouts in both arms)")
    few = pair_text(compare(arm(9), arm(9, "b"))).splitlines()[0]
    assert few.endswith("(too few requests for an interval)")


def test_caveats_come_by_how_far_they_could_move_the_verdict() -> None:
    """Another cache before few requests; a fact (the models) is none."""
    other = arm(500, "b", model="n")
    columns = {**other.columns, "cached_tokens": np.full(500, 9)}
    base = {**arm(500).columns, "cached_tokens": np.zeros(500, dtype=int)}
    pair = compare(
        replace(arm(500), run=replace(arm(500).run, columns=base)),
        replace(other, run=replace(other.run, columns=columns)),
    )

    assert [label for label, _ in caveats(pair)] == ["cache", "sample"]
    assert caveats(pair)[0][1].startswith("0% vs 90% of prompt tokens came from the prefix cache")


def test_a_caveat_of_some_metrics_names_them_all() -> None:
    """Two thousand answers over half an hour, of which 900 were streamed."""
    sides = []
    for name in ("first", "second"):
        columns = dict(arm(2000, name).columns)
        for stamp in ("first_token", "first_answer"):
            columns[stamp] = np.where(np.arange(2000) % 20 < 9, columns[stamp], np.nan)
        sides.append(replace(arm(2000, name), run=replace(arm(2000).run, columns=columns)))

    line = dict(
        caveats(compare(*sides, CompareOptions(metrics=("ttft", "e2e", "tpot", "ttft_sent"))))
    )["sample"]

    assert line == (
        "900 requests (needs 1,000) (ttft p50 p90 p95; tpot p50 p90 p95; ttft_sent p50 p90 p95): "
        "CIs are approximate (~)"
    )


def test_a_caveat_of_both_arms_names_both() -> None:
    """One line of a warning is not that of the baseline alone."""
    sides = []
    for name in ("first", "second"):
        whole = arm(500, name)
        columns = {**whole.columns, "coalesced": np.full(500, 19), "token_events": np.full(500, 20)}
        sides.append(replace(whole, run=replace(whole.run, columns=columns)))

    line = dict(caveats(compare(*sides, CompareOptions(metrics=("ttft",)))))["buffered"]

    assert line.startswith("first: 1")
    assert "second: 1" in line


def test_a_cost_that_lacks_requests_is_a_bound_in_the_table_too() -> None:
    """Of half of the requests nobody counted the tokens; of another model nobody knows the price."""
    header = {"target": {"prices": {"m": [1.0, 1.0, None, None]}}}

    def shown(**changes: Any) -> str:
        whole = arm(100)
        columns = {**whole.columns, **changes}
        run = Run(Path("a.run"), header, columns, recount(columns), complete=True)
        made = cost_table({"a": (replace(whole, run=run),)})
        assert made is not None
        return made.only("cost").rows[0][0].shown

    half = np.arange(100) % 2 == 0
    assert shown() == "$0.00310"
    assert shown(prompt_tokens=np.where(half, 10, -1)) == "≥ $0.00155"
    assert shown(model=np.where(half, "m", "n").astype(object)) == "≥ $0.00155"
    assert shown(prompt_tokens=np.full(100, -1)) == "unknown"


def test_every_check_of_a_pair_has_its_place_among_the_caveats() -> None:
    """One that is added without one would come last, in words that are too long."""
    assert set(CHECKS) - FACTS - NAMED_ABOVE <= set(CAVEATS)


def test_a_refused_quantile_says_what_it_needs() -> None:
    """Both reports print the number that the quantile takes."""
    text = " ".join(comparison_text(compare(arm(500), arm(500))).split())

    assert "n 500 < 2,000" in text
    assert "needs ≥ 2,000" in run_text(arm(500))


def test_a_quantile_of_few_values_is_shown_and_marked() -> None:
    """399 requests: `replay` prints their p95, so `report` does, with its mark; 400 need none."""
    few, enough = run_text(arm(399)), run_text(arm(400))
    value = float(np.sort(arm(399).columns["last_token"] - arm(399).columns["due"])[379]) * 1e3

    assert f"{value:.0f}*" in few
    assert "needs ≥ 400" in few
    assert "needs ≥ 400" not in enough
    assert "needs ≥ 2,000" in enough
    assert FEW in few


def test_objects_print_what_the_verbs_print() -> None:
    """In a notebook: the table, not eighty thousand characters of arrays."""
    alone, both = arm(100), compare(arm(100), arm(100, "slow", slow=2))

    assert str(alone) == run_text(alone)
    assert str(both) == pair_text(both)
    assert "requests    100 ok, 0 failed" in str(alone.run)
    for shown in map(repr, (alone, both, alone.run)):
        assert len(shown) < 200
        assert "\n" not in shown


def test_models_of_one_name_and_two_vendors_are_told_apart() -> None:
    """Their vendors stand where nothing else differs, and nowhere else."""
    now = arm(100, model="old/m, e")
    same = pair_text(compare(now, arm(100, "b", model="new/m, e")))
    other = pair_text(compare(now, arm(100, "b", model="new/n, e")))

    assert re.findall(r"run  (old/m \+ e|new/m \+ e)  http", same) == ["old/m + e", "new/m + e"]
    assert "m + e" in other and "old/" not in other


def test_definitions_and_cautions_are_printed() -> None:
    """A number without its meaning is a rumour."""
    text = comparison_text(compare(arm(100), arm(100, "b", model="n")))

    assert "ttft: time to first token" in text
    assert "! m against n" in text
    assert "DIFFERENT_MODEL" not in text


def test_a_run_is_reported_whole() -> None:
    """The identity, load, validity, metrics with intervals, and errors."""
    text = run_text(arm(500))

    assert "planned 500 = completed 500 + failed 0" in text
    assert "in flight" in text
    assert "\nvalid\n" in text
    assert "ms, n 500" in text
    assert "no errors" in text


def cut_short(n: int = 500) -> Arm:
    """Every fifth request was given up by the application, 10 to 260 ms after it was made."""
    given_up = arm(n)
    columns = dict(given_up.columns)
    columns["outcome"] = columns["outcome"].copy()
    columns["outcome"][::5] = "client_abort"
    for name in ("first_token", "last_token", "end"):
        columns[name] = columns[name].copy()
    columns["first_token"][::5] = columns["last_token"][::5] = np.nan
    columns["end"][::5] = columns["sent"][::5] + np.linspace(0.01, 0.26, n // 5)
    run = Run(Path("a.run"), {}, columns, recount(columns), complete=True)
    return replace(given_up, run=run)


def test_requests_that_were_cut_short_are_counted() -> None:
    """A fifth of the candidate's were given up: no latency holds them, and the comparison says so."""
    text = " ".join(comparison_text(compare(arm(500), cut_short())).split())

    assert "! requests were cut short before their answer (none against 100 client_abort)" in text
    assert "cut short" not in comparison_text(compare(arm(500), arm(500, "b")))


def test_a_drift_is_printed_by_thirds() -> None:
    """The candidate becomes slow after half of the trace: three ratios, rising."""
    step = arm(500, "b")
    for name in ("first_token", "last_token", "end"):
        step.columns[name][250:] += 0.1

    text = " ".join(comparison_text(compare(arm(500), step)).split())

    said = text.split("drift: the ratio in each third of the trace: e2e p50 ")[1]
    first, middle, last = (float(x[:-1]) for x in said.split(";")[0].split(", ")[:3])
    assert first == 1
    assert first < middle < last


def test_equal_lengths_have_a_table_of_their_own() -> None:
    """Every second answer is longer by half: what the table is of; and why there is none."""
    longer = arm(500, "b")
    longer.columns["output_tokens"][::2] = 32
    longer.columns["output_tokens"][1::4] = 31
    base = arm(500)
    base.columns["output_tokens"][::3] = 32

    text = " ".join(comparison_text(compare(base, longer)).split())

    assert "E2E at equal output lengths (what length explains is taken out; 500 requests" in text
    assert "tpot and e2e_per_token do not" in text
    longer.columns["output_tokens"][:] = np.where(np.arange(500) % 2, 40, 41)
    text = " ".join(comparison_text(compare(base, longer)).split())
    assert "E2E at equal output lengths: only 0% of the answers are as long in both arms" in text


def test_an_invalid_run_says_so() -> None:
    """A client that sent late by its own fault: INVALID, with the cause."""
    late = arm(500)
    columns = dict(late.columns)
    for name in ("sent", "first_token", "last_token", "end"):
        columns[name] = columns[name] + 0.5
    run = Run(Path("late.run"), {}, columns, recount(columns), complete=True)

    assert "INVALID: this client" in run_text(replace(late, run=run))


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """Tables fold instead of running over, and nothing is padded."""
    texts = [
        comparison_text(compare(arm(500), arm(500, "slow", slow=2)), width=width),
        pair_text(compare(arm(500), arm(500, "slow", slow=2)), width=width),
        run_text(arm(500), width=width),
    ]

    for line in "\n".join(texts).splitlines():
        assert len(line) <= width
        assert line == line.rstrip()


def test_a_pipe_gets_no_escape_sequence_and_a_terminal_colour() -> None:
    """Colour is asked for, never assumed."""
    found = compare(arm(500), arm(500, "slow", slow=2))

    assert "\x1b" not in comparison_text(found)
    assert "\x1b[31m" in comparison_text(found, colour=True)


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (None, "s", "-"),
        (0.0, "s", "0 s"),
        (1.5e-5, "s", "15.0 µs"),
        (0.01234, "s", "12.3 ms"),
        (2.5, "s", "2.50 s"),
        (1234.5, "s", "1,234 s"),
        (54321, "tok", "54,321 tok"),
        (45.678, "tok/s", "45.7 tok/s"),
    ],
)
def test_amounts_are_said_in_the_unit_of_their_size(
    value: float | None, unit: str, said: str
) -> None:
    """Three digits and a unit that fits."""
    assert words.amount(value, unit) == said


def test_open_ends_are_said() -> None:
    """Unbounded is 0 or infinity with an open bracket."""
    assert words.ratio_interval(0.9, None) == "[0.900, ∞)"
    assert words.ratio_interval(None, 1.5) == "(0, 1.50]"
    assert words.beyond(None, 60, "s") == "> 60.0 s"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        *(
            (None, "-"),
            (3.7341, "3.73x"),
            (12.34, "12.3x"),
            (1234.5, "1,234x"),
            (0.05123, "0.0512x"),
        ),
        *((0.992, "0.992x"), (1.004, "1.004x"), (1.0, "1.000x"), (1.1, "1.10x"), (0.9, "0.900x")),
    ],
)
def test_a_ratio_has_three_digits_and_near_one_three_decimals(
    value: float | None, said: str
) -> None:
    """Near 1 its distance from 1 is what is read."""
    assert words.ratio(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        *(
            (1.021, "+2.1%"),
            (0.958, "-4.2%"),
            (3.22, "+222%"),
            (9.996, "+900%"),
            (1.9994, "+99.9%"),
        ),
        *((1.9996, "+100%"), (12.0, "12.0x"), (1.0, "+0.0%"), (None, "unknown")),
    ],
)
def test_a_change_has_no_digits_that_nobody_measures(value: float | None, said: str) -> None:
    """One decimal below a doubling, none above, a ratio from ten times on; no blank before the sign."""
    assert words.change(value) == said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0.527, 1.44), "527 ms, 1,440 ms"),
        ((0.0005, 0.016232), "0.500 ms, 16.2 ms"),
        ((0.0005, 0.0009), "500 µs, 900 µs"),
        ((1.5, 2.5), "1.50 s, 2.50 s"),
        ((0.5, 12.0), "0.500 s, 12.0 s"),
        ((None, 0.2), "-, 200 ms"),
        ((0.0, 0.2), "0 ms, 200 ms"),
        ((float("nan"), float("inf")), "-, timed out"),
    ],
)
def test_figures_side_by_side_share_a_unit(values: tuple[float | None, ...], said: str) -> None:
    """527 ms beside 1.44 s do not compare at a glance."""
    assert ", ".join(words.figure(value, "s", beside=values) for value in values) == said


@given(st.floats(1e-7, 1e5))
def test_an_amount_is_never_off_by_more_than_half_a_per_cent(value: float) -> None:
    """Rounding keeps three digits."""
    factor = {"s": 1, "ms": 1e-3, "µs": 1e-6}
    number, unit = words.amount(value, "s").replace(",", "").split()

    assert float(number) * factor[unit] == pytest.approx(value, rel=0.0051)
