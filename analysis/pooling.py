"""Pooling: an arm's runs laid end to end, so that what is checked of one pair of runs is checked of all."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import numpy as np

from tbench.analysis.arms import Arm
from tbench.analysis.cautions import Evidence
from tbench.analysis.failures import ErrorDifference
from tbench.analysis.pairing import Match
from tbench.analysis.shared import Group
from tbench.analysis.welch import difference
from tbench.replay.columns import Column
from tbench.replay.runfile import Run, recount


def pooled(baseline: Group, candidate: Group) -> Evidence:
    """The shared requests of all runs of two arms, paired by run where there are as many.

    The failure rates' interval is Welch's over the runs; without two runs of each it excludes nothing.
    """
    sides = [
        _end_to_end([run.arm for run in group.runs], group.name) for group in (baseline, candidate)
    ]
    places = [_places(group) for group in (baseline, candidate)]
    match = Match(
        baseline=places[0],
        candidate=places[1],
        paired=len(baseline.runs) == len(candidate.runs),
        dropped=(0, 0),
        alone=(0, 0),
    )
    return Evidence(
        baseline=sides[0],
        candidate=sides[1],
        match=match,
        errors=_errors(sides, (baseline, candidate), places),
    )


def _places(group: Group) -> Column:
    starts = accumulate((len(run.arm) for run in group.runs), initial=0)
    return np.concatenate(
        [run.places + start for run, start in zip(group.runs, starts, strict=False)]
    )


def _errors(
    arms: Sequence[Arm], groups: tuple[Group, Group], places: Sequence[Column]
) -> ErrorDifference:
    shares = [[float(run.arm.failed[run.places].mean()) for run in group.runs] for group in groups]
    first, second = (float(np.mean(side)) for side in shares)
    found = difference(shares[0], shares[1]) if min(map(len, shares)) > 1 else None
    return ErrorDifference(
        baseline=first,
        candidate=second,
        difference=second - first,
        low=found.low if found else -1.0,
        high=found.high if found else 1.0,
        method="Welch t on the runs' shares",
        n_baseline=len(places[0]),
        n_candidate=len(places[1]),
        kinds_baseline=arms[0].kinds(places[0]),
        kinds_candidate=arms[1].kinds(places[1]),
    )


class _Columns(Mapping[str, Column]):
    """Columns laid end to end when they are asked for: most never are."""

    def __init__(self, parts: Sequence[Mapping[str, Column]]) -> None:
        self._parts = parts

    def __getitem__(self, name: str) -> Column:
        return np.concatenate([part[name] for part in self._parts])

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts[0])

    def __len__(self) -> int:
        return len(self._parts[0])


def _end_to_end(runs: Sequence[Arm], name: str) -> Arm:
    first = runs[0]
    columns = _Columns([run.columns for run in runs])
    return Arm(
        kind=first.kind,
        name=name,
        run=Run(first.path, first.run.header, columns, recount(columns), complete=True),
        source=first.source,
        model=_joined(run.model for run in runs),
        target=_joined(run.target for run in runs),
        pacing=_joined(run.pacing for run in runs) or "",
        as_recorded=all(run.as_recorded for run in runs),
        token_gaps=lambda: _gaps(runs),
    )


def _joined(words: Iterator[str | None]) -> str | None:
    return ", ".join(dict.fromkeys(word for word in words if word)) or None


def _gaps(runs: Sequence[Arm]) -> tuple[Column, Column]:
    each = [run.token_gaps() for run in runs]
    starts = accumulate((len(gaps) for _, gaps in each), initial=0)
    offsets = [one[:-1] + start for (one, _), start in zip(each, starts, strict=False)]
    gaps = np.concatenate([gaps for _, gaps in each])
    return np.concatenate([*offsets, [len(gaps)]]), gaps
