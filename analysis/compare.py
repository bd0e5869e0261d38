"""Compare: two arms, request by request, as ratios of quantiles with their intervals."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tbench.analysis.arms import Arm, load_arm
from tbench.analysis.beyond import gather, is_beyond
from tbench.analysis.blocks import Clusters, clusters_of
from tbench.analysis.cautions import QUEUED, ComparedArms, cautions, has_backlog, load_dominated
from tbench.analysis.compared_sums import NEEDED, ComparedSums, compared_sums
from tbench.analysis.comparison import Comparison, Comparisons, EqualLengths, Shift, Verdict
from tbench.analysis.contrast import Contrast
from tbench.analysis.lengths import COMMON, FEWEST, length_bins, overlap
from tbench.analysis.means import Failures, Overall, error_difference
from tbench.analysis.metrics import METRICS
from tbench.analysis.pairing import match, same_source, warm_up
from tbench.analysis.run_metrics import Slo, rates
from tbench.analysis.spending import compared_costs
from tbench.analysis.summary import Caution, Floats
from tbench.analysis.t_tests import adjusted
from tbench.capture.errors import InputError, UnreachableError
from tbench.replay.metrics import minimum_n
from tbench.replay.pacing import Warmup

__all__ = ["CompareOptions", "Comparison", "Comparisons", "Shift", "Verdict", "compare"]

DEFAULT_METRICS = ("ttft", "e2e", "tpot", "itl")
QUEUEING = frozenset({"ttft", "ttft_sent", "ttft_answer", "e2e", "e2e_sent"})
"""Metrics that hold the wait in the server's queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions:
    """What to compare: empty `metrics` and `quantiles` mean the usual ones that the arms allow.

    `warmup` None keeps the runs' own flags (a trace has none: auto). `slo` says what a good request is.
    """

    metrics: tuple[str, ...] = ()
    quantiles: tuple[float, ...] = ()
    paired: bool = True
    warmup: Warmup | None = None
    slo: Slo = ()


def compare_files(
    baseline: Path, candidate: Path, options: CompareOptions | None = None
) -> Comparisons:
    """Compare two runs or traces. Raises what `compare` does, and InputError for what is neither."""
    options = options or CompareOptions()
    if not is_beyond((baseline, candidate)):
        return compare(load_arm(baseline), load_arm(candidate), options)
    _check(options)
    if alone := [name for name in options.metrics if METRICS[name].gap_quantile is not None]:
        raise InputError(
            f"--metric {alone[0]}: of more samples than are held in memory it is not told; leave it out"
        )
    if options.warmup is not None:
        raise InputError(
            "--warmup: of more samples than are held in memory only the runs' own warm-up can be left out"
        )
    names = {*(options.metrics or DEFAULT_METRICS), *(each.metric for each in options.slo), *NEEDED}
    first, second = (
        gather(path, names=tuple(names), slo=options.slo) for path in (baseline, candidate)
    )
    return compare(first, second, options)


def compare(baseline: Arm, candidate: Arm, options: CompareOptions | None = None) -> Comparisons:
    """Compare two arms of the same trace.

    Raises InputError when there is nothing to compare or the options make no sense, UnreachableError
    when no request of an arm succeeded.
    """
    options = options or CompareOptions()
    _check(options)
    for arm in (baseline, candidate):
        arm.check_not_empty()
        if not arm.succeeded:
            kinds = list(arm.errors.items())
            commonest = ", ".join(f"{kind} {count:,}" for kind, count in kinds[:3])
            why = commonest or "all were cancelled, or left by their client"
            raise UnreachableError(f"{arm.path}: no request succeeded ({why})")
    if baseline.sums is None:
        compared, sessions = _held(baseline, candidate, options)
    else:
        if options.paired:
            same_source(baseline, candidate)
        compared, sessions = compared_sums(baseline, candidate), ()
    matched = compared.match
    answers = _answers(compared, options, sessions)
    beware = cautions(compared)
    if isinstance(compared, ComparedSums):
        beware = (*compared.beware(), *beware)
    equal_lengths = _equal_lengths(compared, options, sessions)

    def tail() -> Iterable[Comparison]:
        if "ttft" in answers:
            return answers["ttft"].tail
        return _contrast("ttft", compared, options, sessions).tail()

    rows = tuple(chain.from_iterable(answer.rows for answer in answers.values()))
    if load := _load_dominated(compared, rows, tail):
        rows = _doubted(rows, load)
        if equal_lengths:
            equal_lengths = replace(equal_lengths, rows=_doubted(equal_lengths.rows, load))
    rows = adjusted(rows)
    # One pair advises; not even that where a client was the limit of its own run.
    invalid = any(caution.code == "INVALID_RUN" for caution in beware)
    if baseline.sums is None:
        baseline, candidate = (
            arm.only(places, ~warm_up(arm, options.warmup))
            for arm, places in ((baseline, matched.baseline), (candidate, matched.candidate))
        )
    return Comparisons(
        baseline=baseline,
        candidate=candidate,
        paired=matched.paired,
        requests=(compared.sizes[0], compared.sizes[1]),
        rows=rows,
        rates=tuple(
            zip(
                rates(baseline, matched.baseline, options.slo),
                rates(candidate, matched.candidate, options.slo),
                strict=True,
            )
        ),
        shift={name: answer.shift for name, answer in answers.items()},
        overall={name: answer.overall for name, answer in answers.items()},
        errors=compared.errors,
        costs=compared_costs((baseline, candidate), matched),
        equal_lengths=equal_lengths,
        values={name: answer.values for name, answer in answers.items()},
        offset_s=_offsets(compared),
        warnings=(*beware, *_row_cautions(rows, load)),
        verdict=Verdict.INVALID if invalid else Verdict.ADVISORY,
    )


def _check(options: CompareOptions) -> None:
    """Raises InputError for a metric or a quantile that there is not."""
    for name in options.metrics:
        if name not in METRICS:
            raise InputError(f"no metric {name}; there are {', '.join(METRICS)}")
    for p in options.quantiles:
        if not 0 < p < 1:
            raise InputError(f"--quantile {p:g}: give a number between 0 and 1, such as 0.95")


def _held(
    baseline: Arm, candidate: Arm, options: CompareOptions
) -> tuple[ComparedArms, tuple[Clusters, ...]]:
    """Two arms whose samples are at hand, with what sessions have in common."""
    matched = match(baseline, candidate, paired=options.paired, warmup=options.warmup)
    sides = ((baseline, matched.baseline), (candidate, matched.candidate))
    sessions = clusters_of(*(arm.sessions[at] for arm, at in sides), paired=matched.paired)
    first, second = (
        Failures.of(arm.failed[at], arm.kinds(at), (arm.ok | arm.failed)[at]) for arm, at in sides
    )
    if not first.n or not second.n:
        raise InputError("nothing is left to compare after the warm-up; try --warmup none")
    errors = error_difference(first, second, sessions=sessions)
    compared = ComparedArms(baseline=baseline, candidate=candidate, match=matched, errors=errors)
    return compared, sessions


def _offsets(compared: ComparedArms) -> tuple[Floats, Floats]:
    if isinstance(compared, ComparedSums):
        return np.empty(0), np.empty(0)
    first, second = (arm.offset_s[places] for arm, places in compared.sides())
    return first, second


class _Answer(NamedTuple):
    """All that is kept of a metric: its contrast, which holds everything sorted, is not."""

    values: tuple[Floats, Floats]
    rows: tuple[Comparison, ...]
    tail: tuple[Comparison, ...]
    shift: tuple[Shift, ...]
    overall: Overall


def _answers(
    compared: ComparedArms, options: CompareOptions, sessions: tuple[Clusters, ...]
) -> dict[str, _Answer]:
    """One for each metric that both arms have; raises InputError when there is none."""
    asked = options.metrics or DEFAULT_METRICS
    answers = {
        name: _Answer(
            contrast.values,
            tuple(contrast.rows()),
            tuple(contrast.tail()),
            contrast.shift(),
            contrast.overall(),
        )
        for name in asked
        if (contrast := _contrast(name, compared, options, sessions)).in_both
    }
    if not answers:
        raise InputError(f"the two arms have no metric in common (looked for {', '.join(asked)})")
    return answers


def _contrast(
    name: str, compared: ComparedArms, options: CompareOptions, sessions: tuple[Clusters, ...]
) -> Contrast:
    if isinstance(compared, ComparedSums):
        return compared.contrast(name, options.quantiles)
    offsets = _offsets(compared)
    return Contrast(
        metric=METRICS[name],
        values=compared.pair(name),
        paired=compared.match.paired,
        asked=options.quantiles,
        span_s=min(float(np.nanmax(offset) - np.nanmin(offset)) for offset in offsets),
        timeouts_s=(compared.baseline.timeout_s, compared.candidate.timeout_s),
        sessions=sessions,
    )


def _equal_lengths(
    compared: ComparedArms, options: CompareOptions, sessions: tuple[Clusters, ...]
) -> EqualLengths | None:
    """End to end once more, with the output length taken out; None where lengths have nothing to say."""
    if isinstance(compared, ComparedSums):
        return None
    tokens = compared.pair("output_tokens")
    both = np.concatenate(tokens)
    if not min(compared.counts("output_tokens")) or np.nanmin(both) == np.nanmax(both):
        return None
    contrast = _contrast("e2e", compared, options, sessions)
    answered = [~np.isnan(side) for side in tokens]
    bins = length_bins(*tokens)
    share = overlap(*(side[known] for side, known in zip(bins, answered, strict=True)))
    reason = f"n too small (needs ≥ {FEWEST})" if contrast.n < FEWEST else None
    if reason is None and share < COMMON:
        reason = f"only {share:.0%} of the answers are as long in both arms (needs {COMMON:.0%})"
    rows = () if reason else tuple(replace(contrast, bins=bins).rows())
    return EqualLengths(n=contrast.n, overlap=share, rows=rows, refusal=reason)


def _row_cautions(rows: tuple[Comparison, ...], load: Caution | None) -> Iterator[Caution]:
    """Each code that a row carries, once, with where it holds; a load that left no interval, too."""
    if load and not any(load in row.warnings for row in rows):
        yield load
    answered = sum(row.refusal is None for row in rows)
    for code in dict.fromkeys(caution.code for row in rows for caution in row.warnings):
        flagged = [
            (row, caution) for row in rows for caution in row.warnings if caution.code == code
        ]
        where = "; ".join(
            f"{metric} {' '.join(f'p{row.quantile * 100:.6g}' for row, _ in group)}"
            for metric, group in groupby(flagged, key=lambda pair: pair[0].metric)
        )
        everywhere, first = len(flagged) == answered, flagged[0][1]
        brief = first.brief if everywhere or not first.brief else f"{first.brief} ({where})"
        where = "all intervals" if everywhere else where
        yield Caution(code=code, text=f"{first.text} ({where})", brief=brief)


def _doubted(rows: tuple[Comparison, ...], load: Caution) -> tuple[Comparison, ...]:
    """The rows, those that hold the wait with less confidence."""
    return tuple(row.doubted(load) if row.metric in QUEUEING else row for row in rows)


def _load_dominated(
    compared: ComparedArms,
    rows: tuple[Comparison, ...],
    tail: Callable[[], Iterable[Comparison]],
) -> Caution | None:
    """Whether a queue makes the rows.

    `tail` gives the rows of the TTFT's tail, whether or not they were asked for.
    """
    if not any(row.metric in QUEUEING for row in rows):
        return None
    # Near saturation a small change of the service becomes a large change of the waiting: the TTFT's tail is
    # far from its middle, or its middle goes up and down with time, and enough requests (not their timeouts)
    # gave no interval there to rely on.
    lost = any(
        min(row.n_baseline, row.n_candidate) >= minimum_n(row.quantile)
        and row.ratio is not None
        and (row.drift or None in (row.low, row.high))
        for row in tail()
    )
    if not lost:
        return None
    middles = filter(None, compared.quantiles("ttft", (0.5, 0.95)))
    if any(late > QUEUED * middle for middle, late in middles) or has_backlog(compared):
        return load_dominated()
    return None
