"""A short `make calibrate`: error rates of the product's own statistics on traffic with known truth.

The bars are those of the full one, widened by what 99 % of simulations with so few replays do; every replay
is seeded. The usual tests must miss them on the same traffic, or the traffic proves nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import replace

import calibrate
import pytest
from calibrate import CELLS, count, main
from calibration.advice import UNLABELLED
from calibration.bars import FAILS, FPR, PASSES, Bar, Rate, Tally, band, rates
from calibration.pairs import AGREES, FLAG, WRONG
from calibration.runs import EQUAL_FAILS, QUEUES, REFUSED, WELCH

SEED = 2026
Rates = Mapping[tuple[str, float | None], Rate]


def simulate(cell: str, replays: int) -> Rates:
    """The cell's rates, with every bar that it has met."""
    found = list(rates(cell, count(cell, SEED, 0, replays), CELLS[cell].bars))
    missed = [rate for rate in found if rate.ok is False]
    assert not missed, missed
    return {(rate.measure, rate.point): rate for rate in found}


def fooled(found: Rates, test: str, point: float | None = None) -> bool:
    """Whether that test finds differences between equal arms oftener than chance and the bar allow."""
    rate = found[f"A/A differs, {test}", point]
    return rate.rate > Bar(measure=FPR, points=(point,), high=0.08).limits(rate.n)[1]


def barred(found: Rates) -> set[str]:
    return {measure for (measure, _), rate in found.items() if rate.bar}


def test_what_is_said_of_a_moderately_dependent_pair_is_true() -> None:
    """Equal arms differ in one of twenty, 95 % of intervals hold the truth; the usual tests are fooled."""
    found = simulate("full n=2000", 200)

    assert {FPR, "covers shift5", "covers tail10"} < barred(found)
    assert fooled(found, "Mann-Whitney")
    assert fooled(found, "Kolmogorov-Smirnov")
    assert fooled(found, "bootstrap of the median")


def test_a_queue_is_flagged_or_right_and_fools_every_usual_test() -> None:
    """At most 15 % of equal arms differ, and at most 8 % without a flag."""
    found = simulate("FIFO queue at 0.8", 200)

    assert {FPR, WRONG} < barred(found)
    assert fooled(found, "Mann-Whitney")
    assert fooled(found, "Kolmogorov-Smirnov")
    assert fooled(found, "bootstrap of the median")


@pytest.mark.parametrize("load", [1.05, 1.2])
def test_more_than_is_served_is_named_and_labels_no_row(load: float) -> None:
    """A pair of equal arms, and one whose candidate is 5 % slower."""
    for arms in ("", " x1.05"):
        assert barred(simulate(f"8 servers at a load of {load:g}{arms}", 10)) == {
            UNLABELLED,
            QUEUES,
        }


def test_more_than_is_served_fools_no_gate() -> None:
    """Of equal arms few fail, and each says that a queue decides."""
    rates_of = simulate("5+5 runs of 8 servers, load 1.05", 20)

    assert barred(rates_of) == {FPR, PASSES, FAILS, EQUAL_FAILS, QUEUES}


def test_regimes_of_minutes_are_flagged_and_fool_sixteen_blocks() -> None:
    """With K fixed the same method is wrong: what chooses K, and the flag, are what protects."""
    found = simulate("regimes of 5 min", 400)

    assert {FLAG, WRONG} < barred(found)
    assert fooled(found, "K=16", 0.5)


def test_independent_requests_fool_nobody() -> None:
    """The controls fail for the dependence, not for themselves: fixed K is right here."""
    found = simulate("independent n=2000", 200)

    assert barred(found) == {FPR}
    assert not fooled(found, "K=16", 0.5)
    assert not fooled(found, "Mann-Whitney")


@pytest.mark.parametrize("of", ["full n=2000", "FIFO queue at 0.8"])
def test_an_interval_covers_what_its_test_holds(of: str) -> None:
    """The simulations ask the test that `invert` inverts; here both are asked."""
    assert barred(simulate(f"intervals of {of}", 25)) == {AGREES}


def test_a_slower_server_is_covered_through_its_queue() -> None:
    """8 % more work at a load of .85 is a multiple of that in latency, and the interval holds it."""
    assert barred(simulate("FIFO queue at 0.85 x1.08", 200)) == {"covers x1.08"}


def test_errors_in_bursts_fool_mcnemar_and_not_the_blocks() -> None:
    """The blocks hold their 5 %."""
    found = simulate("errors in bursts of 20 n=2000", 300)

    assert fooled(found, "McNemar")
    assert found[FPR, None].bar == (0.0, 0.08)


def test_errors_by_themselves_fool_nobody() -> None:
    """On independent errors McNemar is right: the control fails for the bursts, not for itself."""
    assert not fooled(simulate("errors each by itself n=2000", 300), "McNemar")


@pytest.mark.parametrize("cell", ["3+3 runs full", "3+3 runs FIFO queue at .8"])
def test_the_judge_is_wrong_as_rarely_as_it_says(cell: str) -> None:
    """Of simulated replays: A/A, and a change as large as the margin, which must neither pass nor fail."""
    assert barred(simulate(cell, 60)) == {FPR, PASSES, FAILS}


@pytest.mark.parametrize("order", ["pairs", "ABBA"])
def test_hours_that_drift_do_not_fool_the_judge(order: str) -> None:
    """As long as the arms took turns."""
    for hours in ("linear 20 %", "AR(1) 10 %", "regimes of 60 min"):
        assert simulate(f"5+5 {order} {hours}", 50)[FPR, 0.5].bar == (0.0, 0.08)


def test_a_place_among_the_runs_fools_only_orders_drawn_one_by_one() -> None:
    """An hourly job that meets every second run: with either arm first as often nothing differs."""
    place = "every second run +10 %, noise 1 %"

    assert simulate(f"5+5 pairs {place}", 60)[FPR, 0.5].rate == 0
    assert simulate(f"5+5 drawn one by one {place}", 60)[FPR, 0.5].rate > 0.08


@pytest.mark.parametrize("kind", ["in bursts of 10", "rate varies from run to run"])
def test_errors_that_come_together_do_not_pass_at_the_margin(kind: str) -> None:
    """However few of them a run happens to show."""
    assert barred(simulate(f"errors:0.5pp {kind}, 5 runs of 300", 100)) == {PASSES, FAILS}


def test_the_judge_refuses_what_would_fool_welch() -> None:
    """All runs of one arm before those of the other: most equal arms differ, and none is judged."""
    found = simulate("5+5 AAA BBB linear 20 %", 50)

    assert found[WELCH, 0.5].rate > 0.8
    assert found[REFUSED, None].rate == 1


def tally(hits: int, trials: int) -> Tally:
    """Of A/A at p50."""
    found = Tally()
    for trial in range(trials):
        found.add({(FPR, 0.5): trial < hits})
    return found


def test_a_rate_beyond_its_bar_is_missed() -> None:
    """From 400 replays on the bar is the bar; with fewer, chance is allowed for."""
    bar = Bar(measure=FPR, points=(0.5,), low=0.025, high=0.08)

    def holds(times: int, n: int) -> bool | None:
        (found,) = rates("a cell", tally(times, n), [bar])
        return found.ok

    assert [holds(times, 400) for times in (9, 10, 32, 33)] == [False, True, True, False]
    assert [holds(times, 40) for times in (0, 8, 9)] == [True, True, False]
    assert band(0.05, 400) == pytest.approx((0.025, 0.08))


def test_a_bar_that_nothing_measures_is_an_error() -> None:
    """Not a bar that holds."""
    with pytest.raises(KeyError, match="not measured"):
        list(rates("a cell", tally(1, 10), [Bar(measure=FLAG, points=(0.5,))]))


def test_more_processes_change_no_digit() -> None:
    """Each replay has its own random numbers, whoever draws them."""
    cell = "errors in bursts of 20 n=2000"
    halves = count(cell, 1, 0, 10)
    halves.merge(count(cell, 1, 10, 20))

    assert list(count(cell, 1, 0, 20)) == list(halves)


def test_the_command_prints_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0 when the bars hold, 2 for a cell that does not exist."""
    few = ["--processes", "1", "--replays", "30", "--cells", "in bursts of 20 n=2000"]

    assert main(few) == 0
    table = capsys.readouterr().out
    assert main([*few, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["missed"], told["replays"], told["rates"][0]["replays"]) == (0, 30, 30)
    assert "A/A differs, McNemar" in table
    assert "0 missed" in table
    with pytest.raises(SystemExit) as ended:
        main(["--cells", "nothing of that name"])
    assert ended.value.code == 2


def test_a_missed_bar_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table says which quantile missed it."""
    cell = "errors in bursts of 20 n=2000"
    unreachable = Bar(measure="A/A differs, McNemar", points=(None,), high=0.0)
    monkeypatch.setattr(calibrate, "CELLS", {cell: replace(CELLS[cell], bars=(unreachable,))})

    assert main(["--processes", "1", "--replays", "5"]) == 1
