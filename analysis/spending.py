"""Spending: what an arm's requests cost by list prices, per successful answer and per session.

Both are ratios of sums, so that what failed and was charged all the same is in them. How sure they are
depends on which sessions the traffic had: sessions are the clusters, and few may hold most of the cost.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from scipy import special

from tbench.analysis.arms import Arm
from tbench.analysis.blocks import Clusters, Ints
from tbench.analysis.means import mean_of_series
from tbench.analysis.pairing import Match, Places
from tbench.analysis.summary import Floats
from tbench.analysis.sums import Charges
from tbench.replay.cost import FREE, Price
from tbench.replay.price_table import prices_at
from tbench.replay.request import address
from tbench.replay.table import where, words

PER_SUCCESS: Final = "cost_per_success"
PER_SESSION: Final = "cost_per_session"
TITLES: Final = {PER_SUCCESS: "cost/success", PER_SESSION: "cost/session"}
LEAST_RUNS: Final = 3
"""As a verdict takes."""
UNHELD: Final = "the requests are more than memory holds"
"""Why there is no interval."""
LEAST_SESSIONS: Final = 100
"""With fewer, one that did not occur may cost as much as all that did: no interval
(docs/statistics.md, "Cost")."""
SKEWER: Final = 2.0
"""The skewness that is reckoned with, over that of the sample, in which the dearest sessions are too few."""
FARTHEST: Final = 7.0
"""Where a ratio of e^7 times the estimate is not rejected, that end is open."""
HALVINGS: Final = 50


class Terms(NamedTuple):
    """Of each request its `share` of what is divided, that `among` what it is divided by, and its session."""

    share: Floats
    among: Floats
    sessions: Ints


@dataclass(frozen=True, kw_only=True)
class CostRatio:
    """US dollars per success or per session (`name`); or the candidate's over the baseline's.

    `value` is None where it is not known, which `refusal` explains. Without `terms` it has no interval.
    """

    name: str
    value: float | None
    refusal: str | None = None
    terms: Terms | None = None

    @cached_property
    def interval(self) -> tuple[float | None, float | None, str | None]:
        """Low and high of 95 % confidence, None where an end is open; or why there is no interval.

        The wider of two. Batch means with sessions as clusters, as of any mean here, see what neighbours in
        time share. A test over the sessions, inverted, reaches as far as it must where few of them hold most
        of the cost (`over_sessions`).
        """
        if self.value is None or self.terms is None:
            return None, None, self.refusal
        share, among, sessions = self.terms
        lone = sessions < 0
        last = int(sessions.max(initial=-1))
        numbers = np.where(lone, last + np.cumsum(lone), sessions).astype(np.int64)
        place = np.unique(numbers, return_inverse=True)[1]
        n = int(place.max(initial=-1)) + 1
        if n < LEAST_SESSIONS:
            return None, None, f"{n:,} sessions < {LEAST_SESSIONS}"
        influence = (share - among) * len(share)
        mean = mean_of_series(influence, sessions=Clusters(numbers))
        low, high = over_sessions(np.bincount(place, share), np.bincount(place, among))
        return (
            None if low is None else self.value * math.exp(min(low, mean.low)),
            None if high is None else self.value * math.exp(max(high, mean.high)),
            None,
        )


def over_sessions(share: Floats, among: Floats) -> tuple[float | None, float | None]:
    """How far below and above its estimate a ratio is not rejected, on logarithms; None: however far.

    A ratio of r times the estimate is tested by the sessions' share - r among, which add up to 1 - r: by
    Student's t and by t with the skewness removed (P. Hall's cubic, J. Royal Statistical Society B 54, 1992);
    both must reject. E. C. Fieller, J. Royal Statistical Society B 16 (1954).
    """
    n = len(share)
    y, z = share - among, among - among.mean()
    y -= y.mean()
    # With these seven moments each ratio that is tried costs a polynomial, not a pass over the
    # sessions.
    squares = [float((y ** (2 - k) * z**k).mean()) for k in range(3)]
    cubes = [float((y ** (3 - k) * z**k).mean()) for k in range(4)]
    critical = -float(special.stdtrit(n - 1, 0.025)) / math.sqrt(n)

    def rejected(log: float) -> bool:
        x = -math.expm1(log)  # 1 - r
        variance = squares[0] + 2 * x * squares[1] + x * x * squares[2]
        if variance <= 0:
            return True
        third = cubes[0] + 3 * x * cubes[1] + 3 * x * x * cubes[2] + x**3 * cubes[3]
        skew = SKEWER * third / variance / math.sqrt(variance)
        # The mean over the standard deviation, not over its error: Hall's cubic is written for
        # that, and `critical` is divided by sqrt(n) in return.
        t = x / n / math.sqrt(variance * n / (n - 1))
        cubic = t + skew * t * t / 3 + skew * skew * t**3 / 27 + skew / (6 * n)
        return min(abs(t), abs(cubic)) > critical

    if not squares[0]:
        return 0.0, 0.0

    def end(far: float) -> float | None:
        near, beyond = 0.0, far
        for _ in range(HALVINGS):
            middle = (near + beyond) / 2
            near, beyond = (near, middle) if rejected(middle) else (middle, beyond)
        return beyond if rejected(far) else None

    return end(-FARTHEST), end(FARTHEST)


@dataclass(frozen=True, kw_only=True)
class Spending:
    """The cost of an arm's requests, and the ratios by their names.

    `usd` is a lower bound where `uncounted` requests name no tokens, as those that were lost in flight, or
    there is a `refusal`. It is `known` where anything was charged, or may have been by prices that there are.
    """

    usd: float
    uncounted: int
    known: bool
    refusal: str | None
    ratios: dict[str, CostRatio]


def spending(arm: Arm, places: Places | None = None, *, shared: bool = False) -> Spending:
    """Of the requests at these places; of all outside the warm-up without any.

    There is a cost per session where each request is known to belong to one. Those that are `shared` with
    other arms are what they are; else what was lost in flight may have been charged as well.
    """
    lost = Charges(uncounted=0 if shared else arm.run.totals.get("lost_in_flight", 0))
    if arm.sums is not None:
        return _of_sums(arm.sums.charges + lost)
    places = np.flatnonzero(arm.measured) if places is None else places
    amounts, charges = charged(arm, places)
    charges += lost
    refusal = charges.refusal
    sessions = arm.sessions[places].astype(np.int64)
    units = {PER_SUCCESS: arm.ok[places].astype(np.float64)}
    if len(places) and sessions.min() >= 0:
        # A clone, or a further round, is a conversation of its own; as a cluster it is its session's.
        cycles = arm.columns["cycle"][places].astype(np.int64)
        copies = sessions * (int(cycles.max()) + 1) + cycles
        units[PER_SESSION] = np.zeros(len(places))
        units[PER_SESSION][np.unique(copies, return_index=True)[1]] = 1.0
    total = charges.usd
    ratios = {}
    for name, per in units.items():
        count = float(per.sum())
        value, why = _ratio(charges, count)
        ratios[name] = CostRatio(
            name=name,
            value=value,
            refusal=why,
            terms=None if value is None else Terms(amounts / total, per / count, sessions),
        )
    return Spending(
        usd=total,
        uncounted=charges.uncounted,
        known=charges.known,
        refusal=refusal,
        ratios=ratios,
    )


def _ratio(charges: Charges, count: float) -> tuple[float | None, str | None]:
    """What each of so many costs; or None, and why."""
    if charges.refusal:
        return None, charges.refusal
    if not count:
        return None, "no request succeeded"
    return (charges.usd / count, None) if charges.usd else (None, "nothing was charged")


def _of_sums(charges: Charges) -> Spending:
    """Without intervals, and without a cost per session: sessions are more than memory holds."""
    value, why = _ratio(charges, charges.successes)
    ratio = CostRatio(name=PER_SUCCESS, value=value, refusal=why or UNHELD)
    return Spending(
        usd=charges.usd,
        uncounted=charges.uncounted,
        known=charges.known,
        refusal=charges.refusal,
        ratios={PER_SUCCESS: ratio},
    )


def _host(arm: Arm) -> str | None:
    """The target's host; empty where what the file says is no address, so that no list has prices there."""
    try:
        return address(arm.target).host if arm.target else None
    except ValueError:
        return ""


def charged(arm: Arm, places: Places) -> tuple[Floats, Charges]:
    """US dollars of each request, and what they come to."""
    given = (arm.run.header.get("target") or {}).get("prices") or {}
    prices = prices_at(_host(arm), {model: Price(*figures) for model, figures in given.items()})

    def tokens(name: str, at: Places) -> Floats:
        return np.maximum(arm.columns[name][places[at]], 0).astype(np.float64)

    amounts, unpriced = np.zeros(len(places)), []
    counted = arm.columns["prompt_tokens"][places] >= 0
    named = np.zeros(len(places), dtype=bool)
    for model in sorted(words(arm.columns, "model")):
        at = np.flatnonzero(where(arm.columns, "model", model)[places] & counted)
        named[at] = True
        price = prices.get(model)
        if price is None:
            unpriced += [model] if len(at) else []
            continue
        # As replay.cost.cost: cached and created tokens are among the prompt's, priced alike unless said.
        prompt = tokens("prompt_tokens", at)
        amounts[at] = price.prompt * prompt + price.output * tokens("output_tokens", at)
        cached = np.minimum(tokens("cached_tokens", at), prompt)
        if price.cached is not None:
            amounts[at] += (price.cached - price.prompt) * cached
        if price.created is not None:
            created = np.minimum(tokens("cache_creation_tokens", at), prompt - cached)
            amounts[at] += (price.created - price.prompt) * created
    amounts /= 1e6
    unpriced += ["(no model)"] if (counted & ~named).any() else []
    return amounts, Charges(
        usd=float(amounts.sum()),
        n=len(places),
        successes=int(arm.ok[places].sum()),
        uncounted=int((~counted & ~where(arm.columns, "outcome", *FREE)[places]).sum()),
        unpriced=frozenset(unpriced),
        priced=not prices.keys().isdisjoint(words(arm.columns, "model")),
    )


def compared_costs(
    arms: Sequence[Arm], match: Match
) -> tuple[tuple[CostRatio, CostRatio, CostRatio], ...]:
    """Each ratio of the baseline, of the candidate, and candidate / baseline (an interval where paired)."""
    places = (match.baseline, match.candidate)
    first, second = (
        spending(arm, at, shared=match.paired).ratios for arm, at in zip(arms, places, strict=True)
    )
    rows = []
    for name in [name for name in first if name in second]:
        before, after = first[name], second[name]
        change = CostRatio(name=name, value=None, refusal=before.refusal or after.refusal)
        if before.value and after.value:
            change = CostRatio(
                name=name,
                value=after.value / before.value,
                refusal=change.refusal or "the requests are not paired",
            )
            if match.paired:
                assert before.terms is not None
                assert after.terms is not None
                change = replace(
                    change,
                    refusal=None,
                    terms=Terms(
                        after.terms.share + before.terms.among,
                        before.terms.share + after.terms.among,
                        np.maximum(before.terms.sessions, after.terms.sessions),
                    ),
                )
        rows.append((before, after, change))
    return tuple(rows)


def over_runs(
    ratios: Sequence[CostRatio | None],
) -> tuple[float | None, float | None, float | None, str | None]:
    """A ratio's geometric mean over runs, low and high of 95 % confidence, and why one of them is missing.

    The run is the unit: Student's t of the logarithms. None stands for a run whose sessions are not known.
    """
    if not ratios:
        return None, None, None, "no runs"
    for each in ratios:
        if each is None or each.value is None:
            return None, None, None, "no sessions known" if each is None else each.refusal
    logs = np.log([each.value for each in ratios if each and each.value])
    mean, n = float(logs.mean()), len(logs)
    if n < LEAST_RUNS:
        return math.exp(mean), None, None, f"{n} runs < {LEAST_RUNS}"
    reach = -float(special.stdtrit(n - 1, 0.025)) * float(logs.std(ddof=1)) / math.sqrt(n)
    return math.exp(mean), math.exp(mean - reach), math.exp(mean + reach), None
