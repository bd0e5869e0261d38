"""tbench benchmark: a model under synthetic load, at every point of a sweep (genai-bench's job and flags)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from tbench.benchmark.options import BenchmarkOptions
from tbench.capture.errors import InputError
from tbench.commands.output import Json
from tbench.flags import Verb, verb

if TYPE_CHECKING:
    from typer._click.core import Context


@verb
def benchmark(options: BenchmarkOptions, *, as_json: Json = False) -> int:
    """Measure a model at every point of a sweep: scenario by concurrency, batch size or rate.

    The folder has genai-bench's layout and JSON, and beside them the runs, which report and compare read.
    A point whose requests all fail is a result. Ends with 0; 4 where a point's own client was the limit; 5
    where nothing succeeds, or files could not be uploaded; 130 when interrupted (--resume goes on).
    """
    from tbench.benchmark.commands.benchmarking import benchmarked

    return benchmarked(options, as_json=as_json)


# genai-bench's flags for uploads: refused with one line that says what to write here instead.

SCHEMES: Final = {"aws": "s3", "azure": "az", "gcp": "gs"}
"""Its --storage-provider, and the scheme of a URL."""
ABSENT: Final = {
    "oci": "; OCI's S3-compatible endpoint goes in AWS_ENDPOINT_URL",
    "github": "; GitHub releases are no store for it",
}


class Benchmark(Verb):
    """`tbench benchmark`, which looks at genai-bench's flags for uploads before its options are read."""

    def parse_args(self, ctx: "Context", args: list[str]) -> list[str]:
        refuse(args)
        return super().parse_args(ctx, args)


def refuse(words: Sequence[str]) -> None:
    """Raise InputError for one of them, or for --upload-results without a value, which is theirs."""
    given = _given(words)
    theirs = [flag for flag in given if flag.startswith(("--storage-", "--github-"))]
    if "--namespace" in given:
        theirs.append("--namespace")
    bare = "--upload-results" in given and given["--upload-results"] is None
    if not theirs and not bare:
        return
    provider = given.get("--storage-provider") or "oci"
    scheme = SCHEMES.get(provider, "s3")
    place = f"{given.get('--storage-bucket') or 'BUCKET'}/{given.get('--storage-prefix') or ''}"
    raise InputError(
        f"{theirs[0] if theirs else '--upload-results'}: here the place is one URL: --upload-results "
        f"{scheme}://{place.rstrip('/')}, and credentials come from the environment (docs/genai-bench.md)"
        f"{ABSENT.get(provider, '') if theirs else ''}"
    )


def _given(words: Sequence[str]) -> dict[str, str | None]:
    """The flags, each with its value where the next word, or what stands behind `=`, is one."""
    flags: dict[str, str | None] = {}
    for word, behind in pairwise([*words, "--"]):
        flag, mark, value = word.partition("=")
        if flag.startswith("--"):
            flags[flag] = value if mark else None if behind.startswith("--") else behind
    return flags
