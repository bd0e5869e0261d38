"""Repeated runs held against gates, for `tbench compare`."""

from collections.abc import Sequence
from pathlib import Path

import typer


def gated(
    baseline: Path, candidate: Path, asked: tuple[str | None, Sequence[str]], *, as_json: bool
) -> int:
    """Print the judgement; the exit code says the verdict."""
    from analysis.comparison import Verdict
    from analysis.gate import parse_gates
    from analysis.judge import judge
    from analysis.replicates import load_replicates
    from analysis.report.judgement import judgement_json, judgement_text
    from analysis.report.machine import dump

    gates = parse_gates(*asked)
    found = judge([load_replicates(baseline), load_replicates(candidate)], gates)
    typer.echo(dump(judgement_json(found)) if as_json else "\n".join(judgement_text(found)))
    exits = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3, Verdict.INVALID: 4}
    return exits[found.verdict]
