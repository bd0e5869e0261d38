"""Cautions: what makes a comparison less than it seems. Each check is a function; CHECKS lists them."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from tbench.analysis.arms import Arm
from tbench.analysis.blocks import BLOCKS
from tbench.analysis.means import ErrorDifference
from tbench.analysis.metrics import METRICS, cached_tokens, composite, values
from tbench.analysis.pairing import Match, Places
from tbench.analysis.summary import Caution, Floats, newcombe, several
from tbench.analysis.words import amount
from tbench.capture.exchange import ABANDONED, NOTHING
from tbench.capture.terminal import plural
from tbench.replay import metrics
from tbench.replay.metrics import minimum_n
from tbench.replay.table import tally
from tbench.replay.totals import EARLY

LENGTH, CACHED, MIX, FINISH, LAG, LOAD = 0.05, 0.05, 0.01, 0.05, 0.05, 0.01
"""Tolerated: ratio of output lengths - 1, difference of cached shares, of an error kind's share, of a finish
reason's share, of lag as a share of the median TTFT, and of mean due times as a share of the mean E2E."""
ENDINGS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("end_turn", "stop_sequence", "tool_use", "tool_calls", "completed"), "stop"),
    **dict.fromkeys(("max_tokens", "max_output_tokens"), "length"),
}
"""How an answer ended, in the words of one dialect -> as chat says whether it was cut."""
MEAN_LENGTH: Final = 0.10
"""Tolerated: ratio of mean output lengths - 1, as in MLPerf's TEST09."""
QUEUED: Final = 3.0
"""Times to first token that are so many times as long as others are made of waiting."""
MIDDLING: Final = 100
"""A median of fewer requests says too little of a stretch of time."""
_HEADLINES = (0.5, 0.9, 0.95)
_LATE = (0.99, 0.95, 0.9)
"""The lag is compared at the first of these that there are enough requests for."""


class Remark(NamedTuple):
    """What a check has to say, as a Caution has it."""

    text: str
    figures: Mapping[str, float] = NOTHING
    brief: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedArms:
    """What a check may ask: the two arms, which of their requests are compared, and the failures.

    Of pairs, the baseline's comes first.
    """

    baseline: Arm
    candidate: Arm
    match: Match
    errors: ErrorDifference

    def sides(self) -> Iterator[tuple[Arm, Places]]:
        yield self.baseline, self.match.baseline
        yield self.candidate, self.match.candidate

    @property
    def sizes(self) -> list[int]:
        """How many requests of each arm are compared."""
        return [len(places) for _, places in self.sides()]

    def kinds(self) -> list[Mapping[str, int]]:
        """How often each outcome other than ok occurs."""
        return [arm.kinds(places) for arm, places in self.sides()]

    def tallies(self, column: str) -> list[Mapping[str, int]]:
        """How often each word of a column occurs."""
        return [tally(arm.columns, column, places) for arm, places in self.sides()]

    def refused(self) -> list[int]:
        """How many requests were refused at first and sent again."""
        return [int((arm.columns["refusals"][places] > 0).sum()) for arm, places in self.sides()]

    def due_s(self) -> list[float]:
        """When requests were due, on the mean."""
        return [float(np.nanmean(arm.columns["due"][places])) for arm, places in self.sides()]

    def e2e_s(self) -> list[float]:
        """How long a request of each arm was under way, on the mean; the warm-up too."""
        return [float(np.nanmean(metrics.e2e(arm.columns))) for arm, _ in self.sides()]

    def pair(self, metric: str) -> tuple[Floats, Floats]:
        """A metric's values of the compared requests, baseline first."""
        first, second = (values(arm, METRICS[metric])[places] for arm, places in self.sides())
        return first, second

    def counts(self, metric: str) -> list[int]:
        """How many values of a metric the compared requests have."""
        return [int((~np.isnan(side)).sum()) for side in self.pair(metric)]

    def quantiles(self, metric: str, points: Sequence[float]) -> list[list[float]]:
        """Their quantiles; none of no values."""
        return [several(side, points) for side in self.pair(metric)]

    def courses(self, metric: str) -> list[Floats]:
        """How a metric goes over time: its medians in up to BLOCKS stretches of the requests."""
        return [course(side) for side in self.pair(metric)]

    def lags(self, points: Sequence[float]) -> list[list[float]]:
        """Quantiles of how late the client itself sent: waits for a connection or the limit do not count."""
        lateness = (
            np.where(arm.ok, metrics.client_lag(arm.columns), np.nan)[places]
            for arm, places in self.sides()
        )
        return [several(side, points) for side in lateness]

    def worst(self, metric: str, points: Sequence[float]) -> list[list[float]]:
        """Quantiles with every failure as bad as a timeout."""
        composites = (composite(arm, METRICS[metric])[places] for arm, places in self.sides())
        return [several(side, points) for side in composites]

    def means(self, metric: str) -> list[float]:
        """Their means; 0 of no values."""
        known = (side[~np.isnan(side)] for side in self.pair(metric))
        return [float(side.mean()) if len(side) else 0.0 for side in known]

    def length_ratio(self) -> float:
        """How many times as long the candidate's answers are, typically; 1 where nobody counted."""
        if self.match.paired:
            first, second = self.pair("output_tokens")
            both = (first > 0) & (second > 0)
            return float(np.median(second[both] / first[both])) if both.any() else 1.0
        medians = [value for side in self.quantiles("output_tokens", [0.5]) for value in side]
        return medians[1] / medians[0] if len(medians) == 2 and all(medians) else 1.0

    def cached_shares(self) -> list[float | None]:
        """The share of prompt tokens that came from the server's cache; None where no answer names any."""
        return [cached_tokens(arm, places).share for arm, places in self.sides()]

    def finish_reasons(self) -> list[Mapping[str, int]]:
        """How often answers ended for each reason, as far as the server said.

        Of arms that speak different dialects, by what all of them tell apart.
        """
        reasons = self.tallies("finish_reason")
        spoken = [side.keys() for side in self.tallies("endpoint")]
        alike = ENDINGS if spoken[0] != spoken[-1] else {}
        counts: list[Mapping[str, int]] = []
        for side in reasons:
            counter = Counter[str]()
            for reason, count in side.items():
                counter[alike.get(reason, reason)] += count
            counts.append(counter)
        return counts


def cautions(compared: ComparedArms, codes: Iterable[str] | None = None) -> tuple[Caution, ...]:
    """All that holds of this comparison as a whole; of these codes only, where they are given."""
    remarks = {code: CHECKS[code](compared) for code in (CHECKS if codes is None else codes)}
    return tuple(
        Caution(code=code, **(Remark(remark) if isinstance(remark, str) else remark)._asdict())
        for code, remark in remarks.items()
        if remark is not None
    )


def course(values: Floats) -> Floats:
    """The medians of stretches of at least MIDDLING requests, up to BLOCKS of them; NaN is no value."""
    stretches = np.array_split(values, max(1, min(BLOCKS, len(values) // MIDDLING)))
    return np.array([(several(part, [0.5]) or [np.nan])[0] for part in stretches])


def has_backlog(compared: ComparedArms) -> bool:
    """Whether the first tokens of one stretch of an arm took QUEUED times as long as those of another.

    Beyond a server's capacity they take longer and longer, evenly: their p95 is only 1.9 times their median.
    Longer prompts take longer on an idle server too: by so much more they may, where tokens are known.
    """
    courses = zip(compared.courses("ttft"), compared.courses("prompt_tokens"), strict=True)
    return any(_outgrows(medians, lengths) for medians, lengths in courses)


def _outgrows(medians: Floats, lengths: Floats) -> bool:
    """Whether a stretch takes QUEUED times as long as another, and for its length too; NaN is unknown."""
    lengths = np.where(lengths > 0, lengths, np.nan)
    # fmax takes the 1 where a length is not known (NaN), and
    # the longer stretch as an excuse, never the shorter.
    longer = np.fmax(lengths[:, None] / lengths, 1)
    return bool((medians[:, None] > QUEUED * longer * medians).any())


def load_dominated() -> Caution:
    """Of latencies that are made of waiting."""
    return Caution(
        code="LOAD_DOMINATED",
        text="waiting in a queue dominates the TTFT: the ratio belongs to this load, a small change of the "
        "service can be a large one here, and so can the luck of a run; repeat at a lower load",
    )


def _invalid_run(compared: ComparedArms) -> str | None:
    arms = (compared.baseline, compared.candidate)
    causes = [f"{arm.name}: {arm.invalid_because}" for arm in arms if arm.invalid_because]
    return "; ".join(causes) or None


def _buffered(compared: ComparedArms) -> str | None:
    arms = (compared.baseline, compared.candidate)
    return "; ".join(f"{arm.name}: {arm.buffered}" for arm in arms if arm.buffered) or None


def _uncertain(compared: ComparedArms) -> Remark | None:
    arms = [arm for arm in (compared.baseline, compared.candidate) if arm.uncertain]
    if not arms:
        return None
    counts = ", ".join(f"{arm.name} {arm.uncertain:,} of {len(arm):,}" for arm in arms)
    return Remark(
        f"first tokens were read late and may have come over 1 ms before their stamp: {counts}",
        brief=f"first tokens read over 1 ms late: {counts}",
    )


def _lost(compared: ComparedArms) -> str | None:
    """Whether requests of a run have no sample, as a worker was lost (and --allow-lost let it count)."""
    arms = (compared.baseline, compared.candidate)
    lost = [f"{arm.name}: {text}" for arm in arms if (text := arm.loss)]
    return "; ".join(lost) or None


def _sent_again(compared: ComparedArms) -> str | None:
    """Whether requests waited until their target would have them (`replay --polite`)."""
    counts = compared.refused()
    if not any(counts):
        return None
    listed = " against ".join(
        f"{n:,} of {size:,}" for n, size in zip(counts, compared.sizes, strict=True)
    )
    return (
        f"requests were refused at first and sent again when the target would have them ({listed}): their "
        "latencies include that wait, and what came behind them was held back"
    )


def _lag(compared: ComparedArms) -> Remark | None:
    n = min(compared.counts("lag"))
    p = next((p for p in _LATE if n >= minimum_n(p)), 0.5)
    late = [value for side in compared.lags([p]) for value in side]
    middles = [value for side in compared.quantiles("ttft", [0.5]) for value in side]
    if len(late + middles) < 4:
        return None
    # By the faster arm's median: there the same lag is the larger share.
    if abs(late[0] - late[1]) <= LAG * min(middles):
        return None
    text = (
        f"requests left late by different amounts: client lag p{p * 100:g} {late[0] * 1e3:.2f} ms against "
        f"{late[1] * 1e3:.2f} ms, more than 5% of the median TTFT; so much of ttft or e2e can be the "
        "client's, nothing of *_sent, tpot or itl"
    )
    return Remark(text, {"quantile": p, "apart_s": abs(late[0] - late[1])})


def _output_length(compared: ComparedArms) -> str | None:
    """By the typical answer, and by the mean, with which a server's work grows."""
    ratio, means = compared.length_ratio(), compared.means("output_tokens")
    mean_ratio = means[1] / means[0] if all(means) else 1.0
    # Both: one long answer in twenty moves a mean and no median, and a server's work goes by the mean.
    if abs(ratio - 1) <= LENGTH and abs(mean_ratio - 1) <= MEAN_LENGTH:
        return None
    way = "longer" if mean_ratio > 1 else "shorter"
    medians = [value for side in compared.quantiles("output_tokens", [0.5]) for value in side]
    return (
        f"the candidate's answers are {abs(mean_ratio - 1):.0%} {way} on average ({means[0]:.0f} and "
        f"{means[1]:.0f} tokens), {ratio:.2f} times as long (median {medians[0]:.0f} and {medians[1]:.0f}); "
        "e2e compares lengths too, tpot and e2e_per_token do not"
    )


def _cached(compared: ComparedArms) -> str | Remark | None:
    shares = compared.cached_shares()
    named = [0.0 if share is None else share for share in shares]
    if abs(named[0] - named[1]) <= CACHED:
        return None
    if None in shares:
        silent, other = ("baseline", "candidate")[:: 1 if shares[0] is None else -1]
        return (
            f"the {silent} names no tokens from a cache, and {max(named):.0%} of the {other}'s prompt tokens "
            "came from the server's; TTFT compares caches too"
        )
    text = (
        f"{shares[0]:.0%} of the baseline's prompt tokens came from the server's cache, {shares[1]:.0%} "
        "of the candidate's; TTFT compares caches too"
    )
    return Remark(text, {"baseline": named[0], "candidate": named[1]})


def _error_mix(compared: ComparedArms) -> str | None:
    errors = compared.errors
    parts = []
    if not errors.low <= 0 <= errors.high:
        parts.append(f"failures {errors.baseline:.1%} against {errors.candidate:.1%}")
    # Equal rates may hide that timeouts became refusals, which says as much of a server.
    kinds = errors.kinds_baseline, errors.kinds_candidate
    for kind in sorted({*kinds[0], *kinds[1]}):
        counts = (side.get(kind, 0) for side in kinds)
        first, second = (count / n for count, n in zip(counts, compared.sizes, strict=True))
        if abs(first - second) > MIX:
            parts.append(f"{kind} {first:.1%} against {second:.1%}")
    if not parts:
        return None
    return f"{', '.join(parts)}; latencies are of the successes only"


def _finish(compared: ComparedArms) -> str | None:
    """Answers that were cut ("length") are not those that ended by themselves ("stop")."""
    first, second = (Counter(reasons) for reasons in compared.finish_reasons())
    n, m = first.total(), second.total()
    if not n or not m:
        return None
    parts = []
    for reason in sorted({*first, *second}):
        share, other = first[reason] / n, second[reason] / m
        low, high = newcombe((first[reason], n), (second[reason], m))
        if abs(share - other) > FINISH and not low <= 0 <= high:  # and not by chance alone
            parts.append(f"{reason} {share:.0%} against {other:.0%}")
    if not parts:
        return None
    return f"answers ended for different reasons: {', '.join(parts)}"


def _survivor_bias(compared: ComparedArms) -> str | None:
    """Failing fast can look fast: does the sign change when a failure counts as the worst latency?"""
    if not compared.errors.baseline and not compared.errors.candidate:
        return None
    for name in ("ttft", "e2e"):
        plain, worst = compared.quantiles(name, _HEADLINES), compared.worst(name, _HEADLINES)
        if not all(plain):
            continue
        # One quantile that turns is enough: it is the one that a headline may be made of.
        for p, before, after in zip(
            _HEADLINES, zip(*plain, strict=True), zip(*worst, strict=True), strict=True
        ):
            if _sign(*before) * _sign(*after) < 0:
                return (
                    f"{name} p{p * 100:g} of the answers alone, and with every failure as the slowest "
                    f"request: {_change(*before)} and {_change(*after)}; which arm is faster depends on how "
                    "failures count"
                )
    return None


def _sign(first: float, second: float) -> int:
    """Which arm has the larger one; two timeouts are alike."""
    return (second > first) - (second < first)


def _change(first: float, second: float) -> str:
    """From the baseline's quantile to the candidate's; a failure has no length."""
    if math.isinf(first) or math.isinf(second):
        return f"the {'baseline' if math.isinf(first) else 'candidate'}'s lies among the failures"
    return f"{second / first - 1:+.1%}" if first > 0 else "up from zero"


def _cut_short(compared: ComparedArms) -> str | None:
    """Whether requests ended before their answer, and not by the server's fault: no latency holds them."""
    counts = [
        {kind: n for kind, n in kinds.items() if kind in ABANDONED} for kinds in compared.kinds()
    ]
    if not any(counts):
        return None
    listed = " against ".join(
        ", ".join(f"{n:,} {kind}" for kind, n in kinds.items()) or "none" for kinds in counts
    )
    return (
        f"requests were cut short before their answer ({listed}): no latency holds them, so quantiles are "
        "too low where slow requests were given up"
    )


def _partial(compared: ComparedArms) -> str | None:
    first, second = compared.match.alone
    if not first and not second:
        return None
    apart = f"{plural(first, 'request is', 'requests are')} only in the baseline"
    causes = [
        f"{arm.name}: {EARLY[ended]}; "
        for arm in (compared.baseline, compared.candidate)
        if (ended := str(arm.run.totals.get("ended_by"))) in EARLY
    ]
    return (
        f"{''.join(causes)}{apart} and {second:,} only in the candidate: "
        f"{len(compared.match.baseline):,} in both are compared"
    )


def _warm_up(compared: ComparedArms) -> str | None:
    first, second = compared.match.dropped
    if not first and not second:
        return None
    if first == second:
        return f"{plural(first, 'request')} of each arm left out as warm-up"
    return f"{first:,} and {plural(second, 'request')} left out as warm-up"


def _pacing(compared: ComparedArms) -> str | None:
    first, second = compared.baseline, compared.candidate
    recorded = "trace" in {first.kind, second.kind}  # it has no words for its pacing
    if first.pacing == second.pacing or (recorded and first.as_recorded and second.as_recorded):
        return None
    clauses = [arm.pacing.split("; ") for arm in (first, second)]
    only = [
        "; ".join(clause for clause in these if clause not in others)
        for these, others in (clauses, clauses[::-1])
    ]
    differ = " against ".join(only if all(only) else (first.pacing, second.pacing))
    if any(only) and not all(only):
        differ = f"in the {'baseline' if only[0] else 'candidate'} alone {only[0] or only[1]}"
    return f"the arms were sent differently: {differ}"


def _load(compared: ComparedArms) -> str | None:
    """Turns wait for answers: a slow server is asked later, and so is under less load."""
    arms = (compared.baseline, compared.candidate)
    if not any(arm.paced_by_answers for arm in arms) or not all(arm.open_loop for arm in arms):
        return None
    first, second = compared.due_s()
    apart_s, later = abs(second - first), second > first
    # Held against how long a request is under way: less than that changes how many are at once by less.
    e2e_s = min(compared.e2e_s())
    if not apart_s > LOAD * e2e_s:
        return None
    names = ("baseline", "candidate")
    its, others = arms[later].waited, arms[not later].waited
    waited = f"{its:,} of its turns waited for answers, {others:,} of the {names[not later]}'s"
    if its == others:
        waited = f"{plural(its, 'turn')} of each waited for answers, its for longer"
    return (
        f"the {names[later]} got less load: {waited}; its requests were due "
        f"{amount(apart_s, 's')} later on the mean, so a ratio in its favour is too good "
        "(--causal strict sends both the same arrivals)"
    )


def _model(compared: ComparedArms) -> str | None:
    first, second = compared.baseline.model, compared.candidate.model
    return f"{first} against {second}" if first and second and first != second else None


def _recorded(compared: ComparedArms) -> str | None:
    names = [arm.name for arm in (compared.baseline, compared.candidate) if arm.kind == "trace"]
    if not names:
        return None
    return (
        f"{' and '.join(names)} was recorded through the capture proxy: its times include the "
        "application's connection, and begin when the request reached the proxy"
    )


def _same_run(compared: ComparedArms) -> str | None:
    first, second = compared.baseline, compared.candidate
    if not first.markers & second.markers:
        return None
    return f"{first.path} and {second.path} are one {first.kind}, compared with itself: no difference is none"


CHECKS: dict[str, Callable[[ComparedArms], str | Remark | None]] = {
    "SAME_RUN": _same_run,
    "INVALID_RUN": _invalid_run,
    "BUFFERED_STREAM": _buffered,
    "REQUESTS_LOST": _lost,
    "SENT_AGAIN": _sent_again,
    "CLIENT_LAG_DIFFERS": _lag,
    "TTFT_UNCERTAIN": _uncertain,
    "OUTPUT_LENGTH_DIFFERS": _output_length,
    "CACHED_TOKENS_DIFFER": _cached,
    "FINISH_REASONS_DIFFER": _finish,
    "ERROR_MIX_DIFFERS": _error_mix,
    "SURVIVOR_BIAS": _survivor_bias,
    "CUT_SHORT": _cut_short,
    "PARTIAL_OVERLAP": _partial,
    "WARMUP": _warm_up,
    "DIFFERENT_PACING": _pacing,
    "LOAD_DIFFERS": _load,
    "DIFFERENT_MODEL": _model,
    "RECORDED_ARM": _recorded,
}
"""Code -> check; a check returns what to say, perhaps with its figures, or None when all is well."""
