"""tbench replay: send a trace again, paced, and measure every request."""

from typing import Annotated

from tbench.capture.option import Option
from tbench.commands.output import Json, Verbose
from tbench.flags import verb
from tbench.replay.options import OUTPUT, ReplayOptions


@verb
def replay(
    options: ReplayOptions,
    *,
    dry_run: Annotated[
        bool, Option(help="Send nothing; print what would be sent.", group=OUTPUT)
    ] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Send a trace again, paced as recorded or otherwise, and measure every request.

    Latency counts from when a request was due in open loops (so waiting for a slow target counts), from
    when it was sent in closed loops. Ctrl-C stops and keeps what is there.
    """
    from tbench.replay.command import dry_run as look
    from tbench.replay.command import send

    if dry_run:
        return look(options, as_json=as_json)
    return send(options, as_json=as_json, verbose=verbose)
