"""tbench replay: send a trace again, paced, and measure every request."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tbench.capture.errors import InputError, InvalidRunError, StoppedError
from tbench.capture.option import Option
from tbench.commands.output import Json, Verbose, terminable
from tbench.flags import verb
from tbench.replay.options import OUTPUT, ReplayOptions
from tbench.settings import announce, sources, told

if TYPE_CHECKING:
    from tbench.replay.runner import Progress


@verb
def replay(
    options: ReplayOptions,
    *,
    dry_run: Annotated[
        bool, Option(help="Send nothing; print what would be sent.", group=OUTPUT, common=True)
    ] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Send a trace again, paced as recorded or otherwise, and measure every request.

    Latency counts from when a request was due in open loops (so waiting for a slow target counts), from
    when it was sent in closed loops. Ctrl-C stops and keeps what was measured.
    """
    from tbench.replay.closing import check_reached, outlook, row, summary
    from tbench.replay.estimate import estimate
    from tbench.replay.job import resolve

    if dry_run:
        job = resolve(options, send=False)
        ahead = estimate(job)
        lines = [*outlook(ahead)]
        if job.budget is not None and (ahead.budget_usd or ahead.cost_usd or 0) > job.budget:
            lines.append(row("limit", f"--max-cost {job.budget:g} may end it before all are sent"))
        lines += [row("settings", text) for text in told(sources)]
        print(json.dumps(asdict(ahead) | {"settings": sources}) if as_json else "\n".join(lines))
        return 0
    from tbench.board import Board
    from tbench.replay.progress import watching
    from tbench.replay.runner import run_replay
    from tbench.replay.totals import numbers

    job = resolve(options, sys.argv[1:])
    nothing = "nothing but --probe was sent" if job.probes else "nothing was sent"
    announce()
    try:
        with terminable(), Board() as board:

            async def watch(live: "Progress") -> None:
                # Not before all is ready: what is refused was never under way.
                board.say(
                    f"replaying {options.trace} against {job.target.base_url}: {options.meaning}"
                )
                await watching(board)(live)

            run = run_replay(job, watch, fork=True)
    except KeyboardInterrupt:  # while it sends, one ends that, and the run is written
        if files := [path for path in (f"{job.out}", f"{job.out}.part") if Path(path).exists()]:
            raise StoppedError(f"interrupted; what was measured is in {files[0]}") from None
        raise StoppedError(
            f"interrupted before the first request: {nothing}, no run is written"
        ) from None
    figures = numbers(run)
    if as_json:
        print(json.dumps({**figures, "pacing": options.meaning, "fidelity": run.fidelity.json}))
    elif figures["completed"] or not figures["failed"]:
        print("\n".join(summary(run, figures, verbose=verbose)))
    if run.totals["ended_by"] == "interrupt":
        print(f"interrupted; what was measured is in {run.path}", file=sys.stderr)
        return 130
    if run.totals["ended_by"] == "max_cost":
        if figures["never_sent"] == figures["planned"]:
            raise InputError(
                f"--max-cost {options.max_cost:g}: the first request may cost more, so {nothing}; raise it "
                "(--dry-run says what should last), or limit the output by --set max_tokens=N"
            )
        print("stopped before --max-cost was exceeded", file=sys.stderr)
    check_reached(run, figures)
    if not figures["valid"]:
        raise InvalidRunError(f"{run.path}: INVALID, {figures['invalid_because']}")
    return 0
