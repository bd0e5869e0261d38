"""`tbench replay` with its options checked: run it, print it, and end with the right exit code."""

import json
import sys
from dataclasses import asdict

from tbench.capture.errors import InvalidRunError
from tbench.replay.closing import check_reached, outlook, summary
from tbench.replay.estimate import estimate
from tbench.replay.job import resolve
from tbench.replay.options import ReplayOptions
from tbench.replay.progress import screen, watching
from tbench.replay.runner import run_replay
from tbench.replay.totals import numbers


def dry_run(order: ReplayOptions, *, as_json: bool) -> int:
    """Print what would be sent. Returns 0."""
    job = resolve(order, send=False)
    ahead = estimate(job)
    print(json.dumps(asdict(ahead)) if as_json else "\n".join(outlook(ahead, job.pace.meaning)))
    return 0


def send(order: ReplayOptions, *, as_json: bool, verbose: bool = False) -> int:
    """Replay and print the numbers. Returns 0, or 130 after an interrupt.

    Raises UnreachableError when no request succeeded, InvalidRunError when the client was the limit.
    """
    job = resolve(order, sys.argv[1:])
    print(
        f"replaying {job.options.trace} against {job.target.base_url}: {job.pace.meaning}",
        file=sys.stderr,
    )
    run = run_replay(job, watching(screen()), fork=True)
    figures = numbers(run)
    if as_json:
        print(json.dumps(figures))
    elif figures["completed"] or not figures["failed"]:
        print("\n".join(summary(run, figures, verbose=verbose)))
    if run.totals["ended_by"] == "interrupt":
        print(f"interrupted; what was measured is in {run.path}", file=sys.stderr)
        return 130
    if run.totals["ended_by"] == "max_cost":
        print("stopped before --max-cost was exceeded", file=sys.stderr)
    check_reached(run, figures)
    if not figures["valid"]:
        raise InvalidRunError(f"{run.path}: INVALID, {figures['invalid_because']}")
    return 0
