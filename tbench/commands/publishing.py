"""Publishing: where a judgement goes, for every verb that makes one: stdout, JUnit, Markdown, pages."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tbench.capture.errors import InputError
from tbench.capture.writing import check_folder
from tbench.commands.sharing import Shared

if TYPE_CHECKING:
    from tbench.analysis.judgement import Judgement


@dataclass(frozen=True, kw_only=True)
class Outlets:
    """What a result is printed as, and the files that it is written to; `markdown` "-" is stdout."""

    as_json: bool = False
    junit: Path | None = None
    markdown: str | None = None
    shared: Shared | None = None

    def __post_init__(self) -> None:
        if self.as_json and self.markdown == "-":
            raise InputError("--json and --markdown - both print to stdout; name a file for one")
        for option, name in (("--junit", self.junit), ("--markdown", self.markdown)):
            if name is not None and name != "-":
                check_folder(Path(name), f"{option} {name}")

    @property
    def files(self) -> bool:
        """Whether anything but the text or the JSON is asked for."""
        return bool(self.junit or self.markdown or self.shared)


def published(found: "Judgement", outlets: Outlets) -> int:
    """Print the judgement and write its files; returns the exit code of its verdict."""
    from tbench.analysis.comparison import Verdict
    from tbench.analysis.report.judgement import judgement_json, judgement_text
    from tbench.analysis.report.junit import judgement_junit
    from tbench.analysis.report.machine import dump
    from tbench.analysis.report.markdown import judgement_markdown
    from tbench.commands.output import command_line, terminal, write_shared

    if outlets.shared:
        _share(found, outlets.shared)
    if outlets.junit is not None:
        write_shared("--junit", outlets.junit, judgement_junit(found))
    shown = (
        dump(judgement_json(found))
        if outlets.as_json
        else "\n".join(judgement_text(found, terminal()["width"]))
    )
    if outlets.markdown is not None:
        shown = put_markdown(judgement_markdown(found, command_line()), outlets.markdown) or shown
    typer.echo(shown)
    exits = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3, Verdict.INVALID: 4}
    return exits[found.verdict]


def _share(found: "Judgement", shared: Shared) -> None:
    from tbench.analysis.report.page import judgement_report
    from tbench.analysis.report.workbook import judgement_book
    from tbench.commands.output import command_line

    if found.history is not None:
        raise InputError(
            "--html, --charts and --xlsx show runs; a baseline file has none of its own"
        )
    line = command_line()
    shared.write(
        lambda: judgement_report(found, command=line),
        lambda file: judgement_book(found, file, command=line),
    )


def put_markdown(text: str, where: str) -> str | None:
    """Write it to a file; what is to be printed is given back."""
    from tbench.commands.output import write_shared

    if where == "-":
        return text.rstrip("\n")
    write_shared("--markdown", Path(where), text)
    return None
