"""Scenarios: the grammar, its errors, and the sizes that are drawn."""

import math
import statistics
from random import Random

import pytest

from tbench.capture.errors import InputError
from tbench.capture.synthesis.scenario import DEFAULTS, FORMS, SCENARIOS, Size, check_task, parse

READ = {
    "D(100,7)": ("D", (100, 7)),
    "N(480,240)/(300,150)": ("N", (480, 240, 300, 150)),
    "U(50,100)/(200,250)": ("U", (50, 100, 200, 250)),
    "U(100,200)": ("U", (1, 100, 2, 200)),
    "E(64)": ("E", (64,)),
    "R(128,100)": ("R", (128, 100)),
    "I(512,256)": ("I", (512, 256, 1)),
    "I(512,256,3)": ("I", (512, 256, 3)),
    "dataset": ("dataset", ()),
}
"""What genai-bench's documentation says each of these means."""


@pytest.mark.parametrize(("text", "means"), READ.items())
def test_a_scenario_is_read(text: str, means: tuple[str, tuple[int, ...]]) -> None:
    """The letter and the numbers; and it is still what was written."""
    found = parse(text)

    assert (found.form, found.numbers) == means
    assert str(found) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("D(100)", "D(in,out), such as D(100,100)"),
        ("D(100, 100)", "no spaces"),
        ("D(1.5,100)", "whole numbers"),
        ("D(-1,100)", "D(in,out)"),
        ("D(100,100)x", "D(in,out)"),
        ("D(100,100)\nD(1,1)", "D(in,out)"),
        ("d(100,100)", "D(in,out)"),
        ("D(0,100)", "0 is not from 1"),
        ("D(\u0661\u0660,\u0661\u0660)", "D(in,out)"),
        ("D(" + "9" * 5000 + ",1)", "D(in,out)"),
        ("N(480,240)", "N(mean_in,sd_in)/(mean_out,sd_out)"),
        ("U(100,50)/(1,2)", "a minimum is over its maximum"),
        ("U(1,2)/(1,1)", "1 is not from 2"),
        ("E(64,64)", "E(tokens_per_document)"),
        ("R(64)", "R(document_tokens,query_tokens)"),
        ("I(512)", "I(width,height[,images])"),
        ("I(512,99999)", "99999 is not from 1 to 16,384"),
        ("A(100)", "speech"),
        ("Dataset", "dataset"),
        ("X(1)", "D(in,out), N("),
        ("", "D(in,out), N("),
    ],
)
def test_a_wrong_scenario_is_told_the_right_form(text: str, says: str) -> None:
    """In one line, whatever is wrong."""
    with pytest.raises(InputError) as caught:
        parse(text)

    assert says in str(caught.value)


@pytest.mark.parametrize(("task", "texts"), DEFAULTS.items())
def test_the_defaults_are_scenarios_of_their_task(task: str, texts: tuple[str, ...]) -> None:
    """Each is read, and is one that the task takes."""
    for text in texts:
        check_task(parse(text), task)


def test_a_scenario_of_another_task_is_refused() -> None:
    """And the task's own forms are named."""
    with pytest.raises(InputError, match=r"text-to-text takes D\(in,out\) or N\("):
        check_task(parse("E(64)"), "text-to-text")
    with pytest.raises(InputError, match=r"image-text-to-text takes I\(width"):
        check_task(parse("D(1,1)"), "image-text-to-text")


def test_every_form_belongs_to_a_task() -> None:
    """A form that no task takes could never be used."""
    assert {form for forms in SCENARIOS.values() for form in forms} == set(FORMS)


def test_fixed_sizes_are_what_they_say() -> None:
    """D, E, R and I draw nothing."""
    rng = Random(1)

    assert parse("D(100,7)").size(rng) == Size(input=100, output=7)
    assert parse("E(64)").size(rng) == Size(input=64)
    assert parse("R(128,100)").size(rng) == Size(input=128, query=100)
    assert parse("I(8,9,3)").size(rng) == Size(pixels=(8, 9), images=3)
    assert parse("dataset").size(rng) == Size()


def drawn(text: str, number: int = 10_000) -> tuple[list[int], list[int]]:
    rng = Random(7)
    sizes = [parse(text).size(rng) for _ in range(number)]
    return [one.input or 0 for one in sizes], [one.output or 0 for one in sizes]


def clamped(mean: float, sd: float, low: int) -> tuple[float, float]:
    """Mean and sd of max(low, round(X)) for a normal X, summed up from its distribution function."""
    normal = statistics.NormalDist(mean, sd)
    values = range(low, math.ceil(mean + 9 * sd))
    masses = [normal.cdf(v + 0.5) - (0 if v == low else normal.cdf(v - 0.5)) for v in values]
    first = sum(m * v for m, v in zip(masses, values, strict=True))
    second = sum(m * v * v for m, v in zip(masses, values, strict=True))
    return first, math.sqrt(second - first**2)


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("N(2000,200)/(800,80)", ((2000, 200), (800, 80))),
        ("N(480,240)/(300,150)", (clamped(480, 240, 1), clamped(300, 150, 2))),
        ("N(100,0)/(50,0)", ((100, 0), (50, 0))),
        ("U(50,100)/(200,250)", ((75, math.sqrt((51**2 - 1) / 12)), (225, math.sqrt((51**2 - 1) / 12)))),
        ("U(100,200)", ((50.5, math.sqrt((100**2 - 1) / 12)), (101, math.sqrt((199**2 - 1) / 12)))),
    ],
)  # fmt: skip
def test_drawn_sizes_have_the_mean_and_sd_asked_for(
    text: str, truth: tuple[tuple[float, float], tuple[float, float]]
) -> None:
    """Within 2 % over 10,000. Where the clamp bites, the truth is that of the clamped distribution."""
    for lengths, (mean, sd) in zip(drawn(text), truth, strict=True):
        assert statistics.fmean(lengths) == pytest.approx(mean, rel=0.02)
        assert statistics.pstdev(lengths) == pytest.approx(sd, rel=0.02)


def test_normal_sizes_never_fall_below_one_and_two() -> None:
    """A third of these draws is negative."""
    inputs, outputs = drawn("N(5,10)/(5,10)")

    assert (min(inputs), min(outputs)) == (1, 2)


def test_uniform_sizes_reach_both_ends_and_no_further() -> None:
    """Both ends are among what may come."""
    inputs, outputs = drawn("U(3,5)/(7,9)")

    assert (set(inputs), set(outputs)) == ({3, 4, 5}, {7, 8, 9})
