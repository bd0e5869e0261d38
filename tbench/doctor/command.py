"""tbench doctor: what this machine can hold."""

import sys
from typing import Annotated

import typer

from tbench.capture.option import Option
from tbench.commands.output import Json
from tbench.flags import verb


@verb
def doctor(
    workers: Annotated[int, Option(help="Processes that send.", least=1)] = 1,
    as_json: Json = False,
) -> int:
    """Find out in 20 s what this machine can hold: requests/s, streams, lag, exactness of the stamps.

    Real replays against a server of our own that knows when it wrote what. On two cores that server
    takes one; where it was the limit, the line says so.
    """
    import json

    from tbench.doctor.examination import examine, text

    results = examine(workers, lambda what: print(what, file=sys.stderr, flush=True))
    typer.echo(json.dumps(results.as_json()) if as_json else "\n".join(text(results)))
    return 0
