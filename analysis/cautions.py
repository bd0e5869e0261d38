"""Cautions: what makes a comparison less than it seems. Each check is a function; CHECKS lists them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from analysis.arms import Arm
from analysis.failures import ErrorDifference
from analysis.metrics import METRICS, composite, values
from analysis.pairing import Match, Places
from analysis.quantiles import minimum_n, newcombe, ordered, quantile
from analysis.summary import Caution, Floats

LENGTH, CACHED, MIX, FINISH, LAG = 0.05, 0.05, 0.01, 0.05, 0.05
"""Tolerated: ratio of output lengths - 1, difference of cached shares, of an error kind's share, of a finish
reason's share, and of lag as a share of the median TTFT."""
_HEADLINES = (0.5, 0.9, 0.95)
_LATE = (0.99, 0.95, 0.9)
"""The lag is compared at the first of these that there are enough requests for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the checks look at: the two arms, which of their requests are compared, and the failures."""

    baseline: Arm
    candidate: Arm
    match: Match
    errors: ErrorDifference

    def sides(self) -> Iterator[tuple[Arm, Places]]:
        yield self.baseline, self.match.baseline
        yield self.candidate, self.match.candidate

    def pair(self, metric: str) -> tuple[Floats, Floats]:
        """A metric's values of the compared requests, baseline first."""
        first, second = (values(arm, METRICS[metric])[places] for arm, places in self.sides())
        return first, second


def cautions(evidence: Evidence, codes: Iterable[str] | None = None) -> tuple[Caution, ...]:
    """All that holds of this comparison as a whole; of these codes only, where they are given."""
    return tuple(
        Caution(code=code, text=text)
        for code in (CHECKS if codes is None else codes)
        if (text := CHECKS[code](evidence)) is not None
    )


def _invalid_run(evidence: Evidence) -> str | None:
    causes = [
        f"{arm.name}: {arm.invalid_because}" for arm, _ in evidence.sides() if arm.invalid_because
    ]
    return "; ".join(causes) or None


def _lag(evidence: Evidence) -> str | None:
    lags = [ordered(side) for side in evidence.pair("lag")]
    firsts = [ordered(side) for side in evidence.pair("ttft")]
    if not all(map(len, lags + firsts)):
        return None
    n = min(map(len, lags))
    p = next((p for p in _LATE if n >= minimum_n(p)), 0.5)
    late = [quantile(side, p) for side in lags]
    typical = min(quantile(side, 0.5) for side in firsts)
    if abs(late[0] - late[1]) <= LAG * typical:
        return None
    return (
        f"requests left late by different amounts: lag p{p * 100:g} {late[0] * 1e3:.2f} ms against "
        f"{late[1] * 1e3:.2f} ms, more than 5% of the median TTFT; the client is part of the difference"
    )


def _output_length(evidence: Evidence) -> str | None:
    first, second = evidence.pair("output_tokens")
    medians = [float(np.median(kept)) if len(kept := ordered(x)) else 0.0 for x in (first, second)]
    if evidence.match.paired:
        both = (first > 0) & (second > 0)
        ratio = float(np.median(second[both] / first[both])) if both.any() else 1.0
    else:
        ratio = medians[1] / medians[0] if all(medians) else 1.0
    if abs(ratio - 1) <= LENGTH:
        return None
    return (
        f"the candidate's answers are {ratio:.2f} times as long (median {medians[0]:.0f} and "
        f"{medians[1]:.0f} tokens); e2e compares lengths too, tpot and e2e_per_token do not"
    )


def _cached(evidence: Evidence) -> str | None:
    shares = []
    for arm, places in evidence.sides():
        from_cache, prompt = (
            np.nansum(values(arm, METRICS[name])[places])
            for name in ("cached_tokens", "prompt_tokens")
        )
        shares.append(float(from_cache / prompt) if prompt else 0.0)
    if abs(shares[0] - shares[1]) <= CACHED:
        return None
    return (
        f"{shares[0]:.0%} of the baseline's prompt tokens came from the server's cache, {shares[1]:.0%} "
        "of the candidate's; TTFT compares caches too"
    )


def _error_mix(evidence: Evidence) -> str | None:
    errors = evidence.errors
    parts = []
    if not errors.low <= 0 <= errors.high:
        parts.append(f"failures {errors.baseline:.1%} against {errors.candidate:.1%}")
    for kind in sorted({*errors.kinds_baseline, *errors.kinds_candidate}):
        first = errors.kinds_baseline.get(kind, 0) / errors.n_baseline
        second = errors.kinds_candidate.get(kind, 0) / errors.n_candidate
        if abs(first - second) > MIX:
            parts.append(f"{kind} {first:.1%} against {second:.1%}")
    if not parts:
        return None
    return f"{', '.join(parts)}; latencies are of the successes only"


def _finish(evidence: Evidence) -> str | None:
    """Answers that were cut ("length") are not those that ended by themselves ("stop")."""
    sides = [(arm.columns.get("finish_reason"), places) for arm, places in evidence.sides()]
    first, second = (
        Counter(() if reasons is None else (word for word in reasons[places] if word is not None))
        for reasons, places in sides
    )
    n, m = first.total(), second.total()
    if not n or not m:
        return None
    parts = [
        f"{reason} {first[reason] / n:.0%} against {second[reason] / m:.0%}"
        for reason in sorted({*first, *second})
        if _apart((first[reason], n), (second[reason], m))
    ]
    if not parts:
        return None
    return f"answers ended for different reasons: {', '.join(parts)}"


def _apart(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two shares (count, n) differ by more than FINISH, and not by chance alone."""
    low, high = newcombe(one, other)
    return abs(one[0] / one[1] - other[0] / other[1]) > FINISH and not low <= 0 <= high


def _survivor_bias(evidence: Evidence) -> str | None:
    """Failing fast can look fast: does the sign change when a failure counts as the worst latency?"""
    if not evidence.errors.baseline and not evidence.errors.candidate:
        return None
    for name in ("ttft", "e2e"):
        metric = METRICS[name]
        plain = [ordered(side) for side in evidence.pair(name)]
        whole = [ordered(composite(arm, metric)[places]) for arm, places in evidence.sides()]
        if not all(map(len, plain)):
            continue
        for p in _HEADLINES:
            if _sign(plain, p) * _sign(whole, p) < 0:
                return (
                    f"the sign of {name} p{p * 100:g} changes when a failed request counts as the slowest: "
                    "one arm looks fast because its slow requests failed"
                )
    return None


def _sign(sides: list[Floats], p: float) -> float:
    first, second = (quantile(side, p) for side in sides)
    return float(np.sign(second - first)) if first != second else 0.0


def _partial(evidence: Evidence) -> str | None:
    first, second = evidence.match.alone
    if not first and not second:
        return None
    return (
        f"{first:,} requests are only in the baseline and {second:,} only in the candidate: "
        f"{len(evidence.match.baseline):,} in both are compared"
    )


def _warm_up(evidence: Evidence) -> str | None:
    first, second = evidence.match.dropped
    if not first and not second:
        return None
    if first == second:
        return f"{first:,} requests are left out of each arm as warm-up"
    return f"{first:,} and {second:,} requests are left out as warm-up"


def _pacing(evidence: Evidence) -> str | None:
    first, second = evidence.baseline, evidence.candidate
    if first.pacing == second.pacing or (first.as_recorded and second.as_recorded):
        return None
    return f"the arms were sent differently: {first.pacing} against {second.pacing}"


def _model(evidence: Evidence) -> str | None:
    first, second = evidence.baseline.model, evidence.candidate.model
    return f"{first} against {second}" if first and second and first != second else None


def _recorded(evidence: Evidence) -> str | None:
    names = [arm.name for arm, _ in evidence.sides() if arm.kind == "trace"]
    if not names:
        return None
    return (
        f"{' and '.join(names)} was recorded through the capture proxy: its times include the "
        "application's connection, and begin when the request reached the proxy"
    )


CHECKS: dict[str, Callable[[Evidence], str | None]] = {
    "INVALID_RUN": _invalid_run,
    "INVALID_COMPARISON": _lag,
    "OUTPUT_LENGTH_DIFFERS": _output_length,
    "CACHED_TOKENS_DIFFER": _cached,
    "FINISH_REASONS_DIFFER": _finish,
    "ERROR_MIX_DIFFERS": _error_mix,
    "SURVIVOR_BIAS": _survivor_bias,
    "PARTIAL_OVERLAP": _partial,
    "WARMUP": _warm_up,
    "DIFFERENT_PACING": _pacing,
    "DIFFERENT_MODEL": _model,
    "RECORDED_ARM": _recorded,
}
"""Code -> check; a check returns what to say, or None when all is well."""
