"""Session: the runs of one arm, recorded together, as what a baseline file keeps of them."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

from tbench.analysis.endpoints import ERRORS, Figure
from tbench.analysis.gate import Gate
from tbench.analysis.history import Session
from tbench.analysis.replicates import Replicates
from tbench.analysis.reservations import failures_of, of_runs
from tbench.analysis.shared import Observed, shared
from tbench.capture.errors import InputError
from tbench.replay.warmup import Warmup


def name_of(gate: Gate) -> str:
    """What a gate looks at, as a history names it: goodput with its objectives."""
    slo = ",".join(one.text for one in gate.slo)
    return f"{gate.what} {slo}" if slo else gate.what


def host_of(url: str | None) -> str | None:
    """Host and port of a target: a user or a token in its address stays out."""
    try:
        parts = urlsplit(url or "")
        return f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
    except ValueError:
        return None


def recorded_at(arm: Replicates) -> str:
    """When the first run of an arm began, ISO 8601 in UTC."""
    first = min(arm.started_ns)
    return datetime.fromtimestamp(first / 1e9, UTC).isoformat(timespec="milliseconds")


def session_of(arm: Replicates, gates: Sequence[Gate], warmup: Warmup | None = None) -> Session:
    """The runs of one arm as a session. Raises InputError unless they are whole, valid and of one trace."""
    _check(arm)
    whole = shared([arm], warmup)
    figures = dict(_figures(whole.groups[0].runs, gates))
    first = arm.runs[0]
    return Session(
        recorded=recorded_at(arm),
        trace=str(first.source),
        name=arm.name,
        model=first.model,
        target=host_of(first.target),
        pacing=first.pacing,
        versions=dict(first.run.header.get("versions") or {}),
        requests=whole.n,
        figures=figures,
    )


def _check(arm: Replicates) -> None:
    sources = {run.source for run in arm.runs}
    if len(sources) > 1 or None in sources:
        raise InputError(f"{arm.name}: a session holds runs of one trace that has an id")
    for caution in of_runs(arm):
        if caution.code in ("INVALID_RUN", "PARTIAL_RUN", "MIXED_ARM"):
            raise InputError(f"{caution.code}: {caution.text}; no baseline can be made of it")


def _figures(
    runs: Sequence[Observed], gates: Sequence[Gate]
) -> Iterator[tuple[str, tuple[Figure, ...]]]:
    for gate in gates:
        found = tuple(gate.endpoint.figure(run, gate.slo) for run in runs)
        why = next((one.refusal for one in found if one.refusal), None)
        if why and gate.usual:
            continue
        if why or not all(0 <= one.value < float("inf") for one in found):
            raise InputError(f"{gate.what}: no baseline ({why or 'it lies among the timeouts'})")
        yield name_of(gate), found
    if not any(gate.metric == ERRORS for gate in gates):
        yield ERRORS, failures_of(runs)  # without which nobody can say that they rose
