"""`tbench.compare` and `tbench.report`: the typed way in for programs."""

from collections.abc import Sequence
from pathlib import Path

from tbench.analysis.arms import Arm
from tbench.analysis.beyond import load
from tbench.analysis.compare import CompareOptions, compare_files
from tbench.analysis.comparison import Comparisons
from tbench.capture.remote import as_path
from tbench.replay.pacing import parse_warmup


def compare(
    baseline: str | Path,
    candidate: str | Path,
    *,
    metrics: Sequence[str] = (),
    quantiles: Sequence[float] = (),
    paired: bool = True,
    warmup: str | None = None,
) -> Comparisons:
    """Compare two runs (or captured traces) of one trace: candidate / baseline, with intervals.

    Args:
        baseline: the run or trace to compare with.
        candidate: the run or trace to be judged.
        metrics: names of analysis.metrics.METRICS; none means the defaults of `tbench compare`.
        quantiles: between 0 and 1; none means the defaults.
        paired: request by request; False compares arms that do not share a trace, more weakly.
        warmup: `auto`, `none`, seconds or a share such as `5%`; None keeps what the runs were made with.

    Returns all that the two say about each other; printed, it is the table of `tbench compare`.

    Raises InputError where a file is not a run or trace, or the arms have nothing in common.
    """
    options = CompareOptions(
        metrics=tuple(metrics),
        quantiles=tuple(quantiles),
        paired=paired,
        warmup=None if warmup is None else parse_warmup(warmup),
    )
    return compare_files(as_path(baseline), as_path(candidate), options)


def report(run: str | Path) -> Arm:
    """A run, or a captured trace, as columns of its samples; printed, it is the table of `tbench report`.

    Raises InputError where the file is neither, or holds no request; InvalidRunError where it lost them.
    """
    arm = load(run)
    arm.check_not_empty()
    return arm
