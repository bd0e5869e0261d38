"""Judge: repeated runs of two or more arms held against gates. PASS, FAIL or INCONCLUSIVE, with the reasons.

The run is the unit: y = log of a run's quantile, Welch's t between the arms (docs/statistics.md). The steps
are analysis.pairing (which requests), case (the figures and their change), reservations (what to beware
of) and ruling (the verdicts).
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from tbench.analysis.case import LEAST_RUNS, GateEstimate, make_case
from tbench.analysis.gate import Gate
from tbench.analysis.judgement import ALPHA, Judgement, Method, Row, conclude
from tbench.analysis.pairing import CommonRequests, shared
from tbench.analysis.replicates import Replicates
from tbench.analysis.reservations import of_candidate, of_requests, of_runs
from tbench.analysis.ruling import settled
from tbench.analysis.summary import Caution
from tbench.capture.errors import InputError
from tbench.replay.warmup import Warmup

__all__ = ["ALPHA", "LEAST_RUNS", "Judgement", "Method", "Row", "judge"]


def judge(
    arms: Sequence[Replicates],
    gates: Sequence[Gate],
    *,
    contrast: Method = "welch",
    planned: bool = False,
    warmup: Warmup | None = None,
) -> Judgement:
    """Hold the runs of every arm but the first against those of the first.

    PASS needs every gate of every candidate; FAIL is one of them by Holm's rule over all. `contrast`
    "trend" takes a straight drift out, where chance drew the order of the runs; `planned` says that a plan
    had declared it before them. `warmup` None keeps the runs' own flags. Raises
    InputError where the arms are not of one trace, or share a run.
    """
    _check(arms, gates)
    whole = shared(arms, warmup)
    cases = list(_cases(whole, gates, contrast))
    beware = _cautions(arms, whole, cases, contrast)
    rows = tuple(settled(cases, {name: [c.code for c in found] for name, found in beware.items()}))
    warnings = tuple(dict.fromkeys(caution for found in beware.values() for caution in found))
    return Judgement(
        arms=tuple(arms),
        rows=rows,
        warnings=warnings,
        verdict=conclude(list(rows), warnings),
        contrast=contrast,
        planned=planned,
        n=whole.n,
        cautions=beware,
    )


def _check(arms: Sequence[Replicates], gates: Sequence[Gate]) -> None:
    if not gates:
        raise InputError("several runs need a gate: give --margin 5% or --gate ttft:p95:5%")
    if len(arms) < 2:
        raise InputError("a judgement needs a baseline and at least one candidate")
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        raise InputError(f"{', '.join(names)}: two arms of the same name")
    runs = [run for arm in arms for run in arm.runs]
    paths = Counter(run.path.resolve() for run in runs)
    if twice := [path for path, count in paths.items() if count > 1]:
        raise InputError(f"{min(twice)}: is in two arms; a run belongs to one")
    sources = {run.source for run in runs}
    if len(sources) > 1:
        raise InputError(
            f"{' and '.join(names)}: runs of {len(sources)} different traces; replay one trace for all arms"
        )


def _cases(
    whole: CommonRequests, gates: Sequence[Gate], contrast: Method
) -> Iterator[GateEstimate]:
    """Every gate for every candidate."""
    baseline, *candidates = whole.groups
    for candidate in candidates:
        for gate in gates:
            yield make_case(gate, baseline, candidate, contrast)


def _cautions(
    arms: Sequence[Replicates],
    whole: CommonRequests,
    cases: Sequence[GateEstimate],
    contrast: Method,
) -> dict[str, tuple[Caution, ...]]:
    """By candidate: those of all requests, of the baseline's runs, of its own, of the two together."""
    baseline, *candidates = zip(arms, whole.groups, strict=True)
    common = (*of_runs(baseline[0]), *of_requests(whole))
    found = {}
    for arm, group in candidates:
        own = [case for case in cases if case.arm == arm.name]
        pair = of_candidate((baseline[0], arm), (baseline[1], group), own, contrast)
        many = f"{arm.name}: " if len(candidates) > 1 else ""
        told = (Caution(code=one.code, text=f"{many}{one.text}") for one in pair)
        found[arm.name] = (*common, *of_runs(arm), *told)
    return found
