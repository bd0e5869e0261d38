"""Repeated runs held against gates, for `tbench compare`, and where a judgement goes, for every verb."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from capture.errors import InputError

if TYPE_CHECKING:
    from analysis.judgement import Judgement


@dataclass(frozen=True, kw_only=True)
class Outlets:
    """What a result is printed as, and the files that it is written to; `markdown` "-" is stdout."""

    as_json: bool = False
    junit: Path | None = None
    markdown: str | None = None

    def __post_init__(self) -> None:
        if self.as_json and self.markdown == "-":
            raise InputError("--json and --markdown - both print to stdout; name a file for one")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the options of `tbench compare` ask of repeated runs, as they were written."""

    margin: str | None
    gates: Sequence[str]
    slo: str | None
    trend: bool
    warmup: str | None


def gated(runs: Sequence[Path], asked: Asked, outlets: Outlets) -> int:
    """Judge and publish; the exit code says the verdict."""
    from analysis.gate import parse_gates
    from analysis.judge import judge
    from analysis.replicates import load_replicates
    from analysis.slo import parse_slo
    from replay.warmup import parse_warmup

    slo = () if asked.slo is None else parse_slo(asked.slo)
    gates = parse_gates(asked.margin, asked.gates, slo)
    found = judge(
        [load_replicates(run) for run in runs],
        gates,
        contrast="trend" if asked.trend else "welch",
        warmup=None if asked.warmup is None else parse_warmup(asked.warmup),
    )
    return published(found, outlets)


def published(found: "Judgement", outlets: Outlets) -> int:
    """Print the judgement and write its files; returns the exit code of its verdict."""
    from analysis.comparison import Verdict
    from analysis.report.judgement import judgement_json, judgement_text
    from analysis.report.junit import judgement_junit
    from analysis.report.machine import dump
    from analysis.report.markdown import judgement_markdown
    from tbench.commands.output import command_line, write_shared

    if outlets.junit is not None:
        write_shared("--junit", outlets.junit, judgement_junit(found))
    shown = dump(judgement_json(found)) if outlets.as_json else "\n".join(judgement_text(found))
    if outlets.markdown is not None:
        shown = put_markdown(judgement_markdown(found, command_line()), outlets.markdown) or shown
    typer.echo(shown)
    exits = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3, Verdict.INVALID: 4}
    return exits[found.verdict]


def put_markdown(text: str, where: str) -> str | None:
    """Write it to a file; what is to be printed is given back."""
    from tbench.commands.output import write_shared

    if where == "-":
        return text.rstrip("\n")
    write_shared("--markdown", Path(where), text)
    return None
