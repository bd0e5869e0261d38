"""tbench upload: a benchmark's folder to a store, or once more to it."""

from pathlib import Path
from typing import Annotated

from tbench.capture.option import Option
from tbench.commands.output import Json
from tbench.flags import verb


@verb
def upload(
    folder: Annotated[Path, Option(help="Folder that tbench benchmark made.", argument=True)],
    url: Annotated[
        str,
        Option(
            help="Where to put it: s3://bucket/prefix, gs://, az://, file:///folder (whatever fsspec knows).",
            argument=True,
        ),
    ],
    traces: Annotated[bool, Option(help="Upload traces/ too, which hold the prompts.")] = False,
    as_json: Json = False,
) -> int:
    """Put a benchmark's folder below a URL, and compare each file there; what it held of it is replaced.

    The same as benchmark's --upload-results, at any time. Credentials come from the environment. Ends with 0;
    5 where files could not be uploaded, which are named.
    """
    from tbench.benchmark.upload import uploaded

    return uploaded(folder, url, traces=traces, as_json=as_json)
