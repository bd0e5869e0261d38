"""Repeated runs held against gates, for `tbench compare`."""

from collections.abc import Sequence
from pathlib import Path

import typer

from tbench.commands.sharing import Shared


def gated(
    baseline: Path,
    candidate: Path,
    asked: tuple[str | None, Sequence[str]],
    *,
    shared: Shared,
    as_json: bool,
) -> int:
    """Print the judgement, write the reports of it; the exit code says the verdict."""
    from analysis.comparison import Verdict
    from analysis.gate import parse_gates
    from analysis.judge import judge
    from analysis.replicates import load_replicates
    from analysis.report.judgement import judgement_json, judgement_text
    from analysis.report.machine import dump

    gates = parse_gates(*asked)
    found = judge([load_replicates(baseline), load_replicates(candidate)], gates)
    if shared:
        from analysis.report.page import judgement_report
        from analysis.report.workbook import judgement_book
        from tbench.commands.output import command_line

        line = command_line()
        shared.write(
            lambda: judgement_report(found, command=line),
            lambda file: judgement_book(found, file, command=line),
        )
    typer.echo(dump(judgement_json(found)) if as_json else "\n".join(judgement_text(found)))
    exits = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3, Verdict.INVALID: 4}
    return exits[found.verdict]
