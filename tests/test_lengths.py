"""The length of answers as a control variate: against its definition, its symmetries, and known truth."""

import math

import numpy as np
import pytest

from tbench.analysis.blocks import Ints, Side, clusters_of
from tbench.analysis.inversion import Pair, invert
from tbench.analysis.lengths import AtEqualLengths, length_bins, overlap
from tbench.analysis.summary import Floats

HALF = np.array([0.5])


def arms(seed: int, n: int = 1920, longer: float = 1.0, slow: float = 1.0) -> tuple[Floats, ...]:
    """End to end of both arms in seconds, and their output tokens, a few of each absent."""
    random = np.random.default_rng(seed)
    base = 180 * np.exp(0.6 * random.normal(size=n))
    found: list[Floats] = []
    for length, factor in ((1.0, 1.0), (longer, slow)):
        tokens = np.rint(base * length * np.exp(random.normal(0, 0.4, n))) + 1
        times = factor * (0.2 + 0.02 * np.exp(random.normal(0, 0.15, n)) * tokens)
        times[random.random(n) < 0.01], tokens[random.random(n) < 0.01] = math.nan, math.nan
        times[random.random(n) < 0.002] = math.inf
        found += [times, tokens]
    return found[0], found[1], found[2], found[3]


def pair(a: Floats, tokens: Floats, b: Floats, others: Floats) -> AtEqualLengths:
    return AtEqualLengths(Side(a), Side(b), length_bins(tokens, others))


def brute(
    values: tuple[Floats, Floats], bins: tuple[Ints, Ints], ends: tuple[float, float]
) -> float:
    """The difference of the scores, with a loop over requests: each is expected what other blocks show."""
    scores = []
    known = [~np.isnan(one) for one in values]
    block = np.arange(len(values[0])) * 16 // len(values[0])
    for mine in (0, 1):
        total = 0.0
        for i in np.flatnonzero(known[mine]):
            within = held = 0.0
            for side in (0, 1):
                others = known[side] & (block != block[i]) & (bins[side] == bins[mine][i])
                within += (values[side][others] <= ends[side]).sum() / known[side].sum()
                held += others.sum() / known[side].sum()
            total += (values[mine][i] <= ends[mine]) - (within / held if held else 0.5)
        scores.append(total / known[mine].sum())
    return float(scores[1] - scores[0])


def test_the_score_is_that_of_its_definition() -> None:
    """At the pooled median: the share within it, less what answers of that length in other blocks show."""
    a, tokens, b, others = arms(1, n=640)
    bins = length_bins(tokens, others)
    pooled = np.concatenate([a[~np.isnan(a)], b[~np.isnan(b)]])
    weights = np.repeat(
        [0.5 / (~np.isnan(a)).sum(), 0.5 / (~np.isnan(b)).sum()],
        [(~np.isnan(a)).sum(), (~np.isnan(b)).sum()],
    )
    order = np.argsort(pooled)
    c = pooled[order][np.searchsorted(np.cumsum(weights[order]), 0.5 - 1e-12)]

    difference, terms = AtEqualLengths(Side(a), Side(b), bins).scores(np.zeros(1), HALF)

    assert difference[0] == pytest.approx(brute((a, b), bins, (c, c)), abs=1e-12)
    assert terms.sum() == pytest.approx(0, abs=1e-12)


def test_swapping_the_arms_inverts_the_answer() -> None:
    """Ratio and interval become their reciprocals."""
    a, tokens, b, others = arms(2, slow=1.1)

    forth = invert(pair(a, tokens, b, others), [0.5, 0.95])
    back = invert(pair(b, others, a, tokens), [0.5, 0.95])

    for one, other in zip(forth, back, strict=True):
        assert one.ratio * other.ratio == pytest.approx(1, rel=1e-3)
        assert one.low * other.high == pytest.approx(1, rel=1e-9)
        assert one.high * other.low == pytest.approx(1, rel=1e-9)


def test_where_lengths_differ_it_answers_for_equal_lengths() -> None:
    """Answers are 25 % longer and nothing is slower per token: the plain ratio says 1.2, this one 1."""
    held = plain = 0
    for seed in range(12):
        a, tokens, b, others = arms(seed + 40, longer=1.25)
        (found,) = invert(pair(a, tokens, b, others), [0.5])
        (whole,) = invert(Pair(a, b), [0.5])
        held += found.low <= 1 <= found.high
        plain += whole.low <= 1 <= whole.high

    assert held >= 10
    assert plain <= 1


def test_the_interval_is_much_narrower_where_lengths_scatter() -> None:
    """Lengths that differ by 40 % between the arms make most of the width: it falls by a quarter or more."""
    ratios = []
    for seed in range(12):
        a, tokens, b, others = arms(seed + 80, slow=1.05)
        (found,), (whole,) = invert(pair(a, tokens, b, others), [0.5]), invert(Pair(a, b), [0.5])
        if found.blocks == whole.blocks:
            ratios.append(math.log(found.high / found.low) / math.log(whole.high / whole.low))
            assert found.low <= found.ratio <= found.high

    assert len(ratios) >= 8
    assert np.median(ratios) < 0.75


def test_what_neighbouring_blocks_share_belongs_to_the_variance() -> None:
    """A moving average with rho = .3 at lag 1: blocks of two by themselves know 1.3 / 1.6 of the variance."""
    random = np.random.default_rng(5)
    draws = random.normal(size=(8000, 33))
    terms = draws[:, 1:] + draws[:, :-1] / 3
    terms -= terms.mean(axis=1, keepdims=True)
    truth = 32 * (4 / 3) ** 2  # of the sum of an endless row's 32 terms
    equal, blocks = pair(*arms(5)), np.full(8000, 16)

    assert Pair.variance(equal, terms, blocks).mean() / truth == pytest.approx(1.3 / 1.6, abs=0.03)
    assert equal.variance(terms, blocks).mean() / truth == pytest.approx(1, abs=0.05)


def test_a_guessed_autocorrelation_costs_degrees_of_freedom() -> None:
    """On independent terms the variance scatters at most as much as squares of so many normal numbers."""
    terms = np.random.default_rng(6).normal(size=(20_000, 32))
    terms -= terms.mean(axis=1, keepdims=True)
    equal = pair(*arms(6))

    for k in (16, 8, 4):
        guesses = equal.variance(terms, np.full(len(terms), k))
        degrees = 2 * guesses.mean() ** 2 / guesses.var()
        assert k / 2 - 2 < equal.freedom(np.array([k]))[0] <= 1.05 * degrees


def test_sessions_count_here_as_well() -> None:
    """A speed of its own for each session, in each arm: the interval grows by it."""
    random = np.random.default_rng(9)
    a, tokens, b, others = arms(9)
    sessions = random.integers(30, size=len(a))
    a, b = (one * np.exp(random.normal(0, 0.2, 30))[sessions] for one in (a, b))
    known = clusters_of(sessions, sessions, paired=True)
    bins = length_bins(tokens, others)

    (blind,) = invert(AtEqualLengths(Side(a), Side(b), bins), [0.5])
    (seeing,) = invert(AtEqualLengths(Side(a), Side(b), bins, sessions=known), [0.5])

    assert seeing.inflation > 2
    assert math.log(seeing.high / seeing.low) > 1.4 * math.log(blind.high / blind.low)


def test_bins_and_what_they_have_in_common() -> None:
    """Up to 40 by quantiles, a bin for what was not counted; equal lengths overlap, distant ones do not."""
    tokens = np.arange(4000.0)
    first, second = length_bins(tokens, np.where(tokens < 100, math.nan, tokens))

    assert np.unique(first).tolist() == list(range(40))
    assert second[:100].tolist() == [40] * 100
    assert overlap(first, first) == 1
    assert overlap(*length_bins(np.full(500, 20.0), np.full(500, 30.0))) == 0
    assert overlap(*length_bins(np.full(500, 20.0), np.full(500, 20.0))) == 1
