"""The noise floor of one arm's repeated runs, for `tbench compare --self-check`."""

from collections.abc import Sequence
from pathlib import Path

import typer

SEED = 1
"""Of the splits that are drawn where there are too many: the same files give the same numbers."""


def self_checked(
    arms: Sequence[Path],
    asked: tuple[Sequence[str], Sequence[float], str | None],
    gates: tuple[str | None, Sequence[str]],
    *,
    as_json: bool,
) -> int:
    """Print what equal arms show, for metrics, quantiles and a warm-up; 4 where a run is INVALID, else 0."""
    import numpy as np

    from tbench.analysis.compare import Question
    from tbench.analysis.gate import parse_gates, parse_margin
    from tbench.analysis.replicates import load_replicates
    from tbench.analysis.report.machine import dump
    from tbench.analysis.report.selfcheck import self_check_json, self_check_text
    from tbench.analysis.selfcheck import self_check
    from tbench.replay.warmup import parse_warmup

    metrics, quantiles, warmup = asked
    question = Question(
        metrics=tuple(metrics),
        quantiles=tuple(quantiles),
        warmup=None if warmup is None else parse_warmup(warmup),
    )
    held = parse_gates(*gates) or parse_margin("5%")
    found = self_check(
        [load_replicates(arm) for arm in arms], question, held, np.random.default_rng(SEED)
    )
    typer.echo(dump(self_check_json(found)) if as_json else "\n".join(self_check_text(found)))
    return 4 if any(caution.code == "INVALID_RUN" for caution in found.warnings) else 0
