"""Repeated runs held against gates, for `tbench compare`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the options of `tbench compare` ask of repeated runs, as they were written."""

    margin: str | None
    gates: Sequence[str]
    slo: str | None
    trend: bool
    warmup: str | None
    as_json: bool


def gated(runs: Sequence[Path], asked: Asked) -> int:
    """Print the judgement; the exit code says the verdict."""
    from analysis.comparison import Verdict
    from analysis.gate import parse_gates
    from analysis.judge import judge
    from analysis.replicates import load_replicates
    from analysis.report.judgement import judgement_json, judgement_text
    from analysis.report.machine import dump
    from analysis.slo import parse_slo
    from replay.warmup import parse_warmup

    slo = () if asked.slo is None else parse_slo(asked.slo)
    gates = parse_gates(asked.margin, asked.gates, slo)
    warmup = None if asked.warmup is None else parse_warmup(asked.warmup)
    found = judge(
        [load_replicates(run) for run in runs],
        gates,
        contrast="trend" if asked.trend else "welch",
        warmup=warmup,
    )
    typer.echo(dump(judgement_json(found)) if asked.as_json else "\n".join(judgement_text(found)))
    exits = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3, Verdict.INVALID: 4}
    return exits[found.verdict]
