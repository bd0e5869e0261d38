"""Pairing: which requests of two arms are compared, in which order, and what is left out as warm-up."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tbench.analysis.arms import Arm, Truths
from tbench.analysis.summary import Floats
from tbench.capture.errors import InputError
from tbench.replay.table import short
from tbench.replay.warmup import Warmup

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Where the compared requests lie in each arm, in arrival order; equal length when `paired`.

    `dropped` counts what was left out of each arm as warm-up, `alone` what only one arm has.
    """

    baseline: Places
    candidate: Places
    paired: bool
    dropped: tuple[int, int]
    alone: tuple[int, int]


def match(
    baseline: Arm, candidate: Arm, *, paired: bool = True, warmup: Warmup | None = None
) -> Match:
    """Pair two arms by exchange and round, in the baseline's order; or leave them unpaired.

    `warmup` None keeps the runs' own flags. A pair is dropped when either of
    its requests is warm-up. Raises InputError when the arms share no request, or not the trace.
    """
    warm = (warm_up(baseline, warmup), warm_up(candidate, warmup))
    if not paired:
        return _apart(warm)
    same_source(baseline, candidate)
    first, second = _common(baseline, candidate)
    if not len(first):
        raise InputError(
            f"{baseline.path} and {candidate.path} have no request in common; "
            "compare runs of one trace, or add --unpaired"
        )
    warm_pairs = warm[0][first] | warm[1][second]
    dropped = int(warm_pairs.sum())
    return Match(
        baseline=first[~warm_pairs],
        candidate=second[~warm_pairs],
        paired=True,
        dropped=(dropped, dropped),
        alone=(len(baseline) - len(first), len(candidate) - len(first)),
    )


def warm_up(arm: Arm, rule: Warmup | None) -> Truths:
    """The samples that do not count: by the run's own flags (None; a trace has none: `auto`), or by a rule.

    The warm-up begins with the first request and lasts a share of the time to the last one's start.
    """
    if rule is None and arm.kind == "run":
        return ~arm.measured
    offset = arm.offset_s - np.nanmin(arm.offset_s, initial=np.inf)
    return np.asarray(offset < (rule or Warmup()).seconds(_span(offset)))


def _span(offset: Floats) -> float:
    return float(np.nanmax(offset, initial=0.0))


def _apart(warm: tuple[Truths, Truths]) -> Match:
    first, second = (np.flatnonzero(~drop) for drop in warm)
    dropped = (int(warm[0].sum()), int(warm[1].sum()))
    return Match(baseline=first, candidate=second, paired=False, dropped=dropped, alone=(0, 0))


def same_source(baseline: Arm, candidate: Arm) -> None:
    """Raises InputError for arms of different traces."""
    sources = {baseline.source, candidate.source} - {None}
    if len(sources) > 1:
        raise InputError(
            f"{baseline.path} and {candidate.path} come from different traces, so no request pairs; "
            "add --unpaired to compare them as two samples"
        )


def _common(baseline: Arm, candidate: Arm) -> tuple[Places, Places]:
    """Where the requests that both arms have lie in each, in the baseline's order."""
    a, b = ((short(arm.columns, "id"), arm.columns["cycle"]) for arm in (baseline, candidate))
    if len(baseline) == len(candidate) and (a[0] == b[0]).all() and (a[1] == b[1]).all():
        every = np.arange(len(baseline))
        return every, every
    known: dict[tuple[str, int], int] = {}
    for place, key in enumerate(zip(b[0].tolist(), b[1].tolist(), strict=True)):
        known.setdefault(key, place)
    keys = zip(a[0].tolist(), a[1].tolist(), strict=True)
    places = np.array([known.pop(key, -1) for key in keys], dtype=np.int64)
    first = np.flatnonzero(places >= 0)
    return first, places[first]
