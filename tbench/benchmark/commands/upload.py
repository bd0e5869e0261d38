"""tbench upload: a benchmark's folder to a store, or once more to it."""

from pathlib import Path
from typing import Annotated

import typer


def upload(
    folder: Annotated[Path, typer.Argument(help="A folder that tbench benchmark made.")],
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="What it is put below: s3://bucket/prefix, gs://, az://, file:///folder (whatever fsspec "
            "knows).",
        ),
    ],
    traces: Annotated[
        bool, typer.Option("--traces", help="With traces/, which hold the prompts.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Put a benchmark's folder below a URL, and compare each file there; what it held of it is replaced.

    The same as benchmark's --upload-results, at any time. Credentials come from the environment. Ends with 0;
    5 where files could not be uploaded, which are named.
    """
    from tbench.benchmark.upload import uploaded

    return uploaded(folder, url, traces=traces, as_json=as_json)
