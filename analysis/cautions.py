"""Cautions: what makes a comparison less than it seems. Each check is a function; CHECKS lists them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from analysis.arms import Arm
from analysis.failures import ErrorDifference
from analysis.metrics import METRICS, composite, values
from analysis.pairing import Match, Places
from analysis.quantiles import minimum_n, ordered, several
from analysis.summary import Caution, Floats

LENGTH, CACHED, MIX, LAG = 0.05, 0.05, 0.01, 0.05
"""Tolerated: ratio of output lengths - 1, difference of cached shares, of an error kind's share, and of
lag as a share of the median TTFT."""
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


def cautions(evidence: Evidence) -> tuple[Caution, ...]:
    """All that holds of this comparison as a whole."""
    return tuple(
        Caution(code=code, text=text)
        for code, check in CHECKS.items()
        if (text := check(evidence)) is not None
    )


def _invalid_run(evidence: Evidence) -> str | None:
    causes = [
        f"{arm.name}: {arm.invalid_because}" for arm, _ in evidence.sides() if arm.invalid_because
    ]
    return "; ".join(causes) or None


def _lag(evidence: Evidence) -> str | None:
    lags = evidence.pair("lag")
    n = min(int((~np.isnan(side)).sum()) for side in lags)
    p = next((p for p in _LATE if n >= minimum_n(p)), 0.5)
    late = [one for side in lags for one in several(side, [p])]
    middles = [one for side in evidence.pair("ttft") for one in several(side, [0.5])]
    if len(late + middles) < 4:
        return None
    typical = min(middles)
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
        f"{medians[1]:.0f} tokens); e2e compares lengths too, tpot does not"
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


def _survivor_bias(evidence: Evidence) -> str | None:
    """Failing fast can look fast: does the sign change when a failure counts as the worst latency?"""
    if not evidence.errors.baseline and not evidence.errors.candidate:
        return None
    for name in ("ttft", "e2e"):
        metric = METRICS[name]
        plain = [several(side, _HEADLINES) for side in evidence.pair(name)]
        whole = [
            several(composite(arm, metric)[places], _HEADLINES) for arm, places in evidence.sides()
        ]
        if not all(plain):
            continue
        for p, one, other in zip(_HEADLINES, _signs(plain), _signs(whole), strict=True):
            if one * other < 0:
                return (
                    f"the sign of {name} p{p * 100:g} changes when a failed request counts as the slowest: "
                    "one arm looks fast because its slow requests failed"
                )
    return None


def _signs(sides: list[list[float]]) -> list[int]:
    """At each quantile, which arm has the larger one; two timeouts are alike."""
    return [(second > first) - (second < first) for first, second in zip(*sides, strict=True)]


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
    "ERROR_MIX_DIFFERS": _error_mix,
    "SURVIVOR_BIAS": _survivor_bias,
    "PARTIAL_OVERLAP": _partial,
    "WARMUP": _warm_up,
    "DIFFERENT_PACING": _pacing,
    "DIFFERENT_MODEL": _model,
    "RECORDED_ARM": _recorded,
}
"""Code -> check; a check returns what to say, or None when all is well."""
