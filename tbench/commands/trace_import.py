"""tbench trace import: logs and public traces of others as a trace, and what was lost on the way."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tbench.board import Board
from tbench.capture.option import Option
from tbench.capture.synthesis.options import LENGTHS, BlockTokens, CharsPerToken, Tokenizer
from tbench.flags import verb

if TYPE_CHECKING:
    from tbench.capture.importers.conversion import Job, Survey

TIMES = "Times"


@verb
def import_trace(
    files: Annotated[
        list[Path],
        Option(
            help="Logs of one format: JSONL, JSON, CSV or Parquet, plain or gzip.",
            unit="FILE...",
            argument=True,
        ),
    ],
    *,
    out: Annotated[
        Path,
        Option(
            help="Trace to write; it must not exist.", unit="TRACE", flag="--output", short="-o"
        ),
    ],
    format_name: Annotated[
        str | None,
        Option(
            help="Format of the files; docs/import.md has them.",
            unit="NAME",
            flag="--format",
            default="told by their content",
        ),
    ] = None,
    fields: Annotated[
        list[str] | None,
        Option(
            help="Where a field of any log stands, and a time's unit (s, ms, us, ns, iso): arrival=ts:ms, "
            "duration=took:s, messages=request.messages; also end, ttft, first_token, body, prompt, answer, "
            "path, model, prompt_tokens, output_tokens, session, status, id. Repeatable.",
            unit="FIELD=PATH",
            flag="--map",
        ),
    ] = None,
    model: Annotated[
        str, Option(help="Model of requests whose log names none.", unit="NAME")
    ] = "unknown-model",
    rate: Annotated[
        float,
        Option(
            help="Spacing of requests whose log has no times, requests/s.",
            unit="RATE",
            group=TIMES,
            above=0,
        ),
    ] = 1.0,
    spread: Annotated[
        bool,
        Option(help="Draw arrivals of a coarse clock within its tick, seeded.", group=TIMES),
    ] = False,
    seed: Annotated[int, Option(help="Seed of written prompts and of --spread.", unit="N")] = 0,
    tokenizer: Tokenizer = None,
    chars_per_token: CharsPerToken = None,
    block_tokens: BlockTokens = None,
    prompt_tokens: Annotated[
        int | None,
        Option(
            help="Tokens of prompts to write where the log has neither content nor a size.",
            unit="TOKENS",
            group=LENGTHS,
            default="such requests are left out",
            least=1,
            most=2**22,
        ),
    ] = None,
) -> None:
    """Make a trace of a log or of a public trace; every row is imported or left out with its reason.

    A time that the log does not have is absent, never guessed. Where there are only lengths, prompts of those
    lengths are written. Times come from the log: `trace info` says which, and which were derived.
    """
    from tbench.capture.importers.conversion import resolve, survey, write
    from tbench.capture.synthesis.tokens import counter

    job = resolve(
        files,
        tokens=counter(tokenizer, chars_per_token),
        model=model,
        format_name=format_name,
        fields=fields or (),
        block_tokens=block_tokens,
        prompt_tokens=prompt_tokens,
        rate=rate,
        spread=spread,
        seed=seed,
    )
    for notice in job.notices:
        typer.echo(notice, err=True)
    with Board() as board:

        def show(step: str, done: int, total: int) -> None:
            if board.due():
                board.show(f"{step}: {done / max(total, 1):.0%} of {total / 1e6:,.1f} MB")

        counts = survey(job, partial(show, "reading"))
        write(job, counts, out, partial(show, "writing"))
    _report(job, counts, out)


def _report(job: "Job", counts: "Survey", out: Path) -> None:
    """What was imported to stdout; what was lost or is not as it seems to stderr."""
    from tbench.capture.importers.conversion import reasons
    from tbench.capture.terminal import plural

    left = counts.rows - counts.exchanges
    typer.echo(
        f"{out}: {plural(counts.exchanges, 'exchange')} of {plural(counts.rows, 'row')} ({job.format}); "
        f"{left:,} left out" + (f": {reasons(counts)}" if left else "")
    )
    if not job.timed:
        typer.echo(f"no arrivals in {job.format}: requests are spaced at {job.rate:g}/s", err=True)
    if tick := counts.ticks.tick_ns:
        done = "arrivals are drawn within it" if job.spread else "--spread draws them within it"
        typer.echo(
            f"arrivals stand on a clock of {tick / 1e9:g} s ({counts.ticks.together:,} at the instant of "
            f"another): bursts may be the clock's; {done}",
            err=True,
        )
    for reason, number in counts.refused.most_common():
        typer.echo(f"{plural(number, 'first-token time')} {reason}: taken as absent", err=True)
    if counts.undated_answers:
        typer.echo(
            f"{plural(counts.undated_answers, 'answer')} without an end: not in the trace", err=True
        )
    if counts.unnamed:
        typer.echo(
            f"{plural(counts.unnamed, 'request')} of no known model, asked of {job.model}: replay --model "
            "names another",
            err=True,
        )
    if written := counts.bodies["written"]:
        typer.echo(
            f"{plural(written, 'prompt')} written to length, counted by {job.tokens.source}",
            err=True,
        )
    if job.importer.cannot:
        typer.echo(f"not in {job.format}: {job.importer.cannot}", err=True)


def import_lines(imported: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What `trace info` says of an imported trace: its source, what was left out, the trust of its times."""
    from tbench.capture.terminal import named

    left_out, trust = imported.get("left_out") or {}, imported.get("trust") or {}
    files = ", ".join(map(str, imported.get("files") or ()))
    yield "imported", named(f"{imported.get('format')} from {files}: {imported.get('rows')} rows")
    if left_out:
        yield (
            "left out",
            "; ".join(f"{number:,} {named(reason)}" for reason, number in left_out.items()),
        )
    words = [f"{name.replace('_', ' ')} {trust[name]}" for name in TRUSTED if name in trust]
    absent = [name.replace("_", " ") for name in TRUSTED if name not in trust]
    yield "times", named(", ".join([*words, *(f"{name} absent" for name in absent)]))
    if tick := imported.get("tick_ns"):
        spread = "arrivals spread within it" if imported.get("spread") else "arrivals as logged"
        yield "clock", f"ticks of {tick / 1e9:g} s, {spread}"
    bodies = imported.get("bodies") or {}
    yield (
        "prompts",
        named(", ".join(f"{number:,} {kind}" for kind, number in bodies.items() if number)),
    )


TRUSTED = ("arrival", "first_token", "end")
