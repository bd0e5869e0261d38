"""The documents tell the truth: links lead somewhere, commands and flags exist, files named are there."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name

import pytest
from typer.main import get_command

from tbench.cli import app

ROOT = Path(__file__).parent.parent
FOLDERS = ("analysis", "capture", "replay", "tbench")
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "fixtures").glob("*.md")]
)
LINK = re.compile(r"\]\(([^)#]+?)(?:#[^)]*)?\)")
COMMAND = re.compile(r"^ {4}(?:\$ )?tbench ([^#\n]*)", re.MULTILINE)
DOTTED = re.compile(r"`(?!tbench\.toml`)((?:capture|replay|analysis|tbench)(?:\.\w+)+)`")
BARE = re.compile(r"\b(\w+\.py)\b")
NAMED = re.compile(r"`((?:capture|replay|analysis|tbench|docs|benchmarks|fixtures)/[\w./]+\.\w+)`")


def each(pattern: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    for document in DOCUMENTS:
        for found in pattern.finditer(document.read_text()):
            yield document.relative_to(ROOT).as_posix(), found[1].strip()


def known_options(words: list[str]) -> set[str]:
    """The options of the verb that these words call."""
    command = get_command(app())
    for word in words:
        if not hasattr(command, "commands") or word not in command.commands:
            break
        command = command.commands[word]
    return {name for parameter in command.params for name in parameter.opts}


@pytest.mark.parametrize(("document", "target"), sorted(set(each(LINK))))
def test_links_between_documents_lead_somewhere(document: str, target: str) -> None:
    """A link to a file that is not there is a dead end for the reader."""
    assert target.startswith("http") or (ROOT / document).parent.joinpath(target).exists()


@pytest.mark.parametrize(("document", "line"), sorted(set(each(COMMAND))))
def test_commands_in_the_documents_exist(document: str, line: str) -> None:
    """Each verb and flag of an example is one that the command line knows."""
    words = shlex.split(line.rstrip("\\").replace("…", "").partition(" -- ")[0])
    flags = {word.partition("=")[0] for word in words if word.startswith("-")}

    assert words[0] in get_command(app()).commands, document  # type: ignore[attr-defined]
    assert flags - known_options(words) - {"--help", "--help-all", "--debug"} == set(), document


@pytest.mark.parametrize(("document", "path"), sorted(set(each(NAMED))))
def test_files_named_in_the_documents_exist(document: str, path: str) -> None:
    """Documents that name a file of ours must follow it when it moves."""
    assert "NAME" in path or (ROOT / path).exists(), document


@pytest.mark.parametrize(("document", "name"), sorted(set(each(DOTTED))))
def test_names_in_the_documents_exist(document: str, name: str) -> None:
    """`replay.sender.Sender` leads to something that can be imported."""
    try:
        resolve_name(name)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"{document}: {error}")


def test_the_picture_of_the_architecture_names_files_that_exist() -> None:
    """Its boxes hold bare names of files, which must be somewhere in the folders of code or benchmarks."""
    folders = (*FOLDERS, "benchmarks")
    there = {path.name for folder in folders for path in (ROOT / folder).rglob("*.py")}
    named = set(BARE.findall((ROOT / "docs" / "architecture.md").read_text()))

    assert {"addon.py", "player.py", "compare.py"} <= named <= there


def promises() -> Iterator[tuple[str, str]]:
    """The tests that docs/reliability.md names: file and function; `::name` is of the file before it."""
    file = ""
    for name, test in re.findall(
        r"`(test_\w+\.py)?::(\w+)`", (ROOT / "docs/reliability.md").read_text()
    ):
        file = name or file
        yield file, test


@pytest.mark.parametrize(("file", "test"), sorted(set(promises())))
def test_each_promise_has_its_test(file: str, test: str) -> None:
    """Of the table of faults: who renames a test renames it there."""
    assert f"def {test}(" in (ROOT / "tests" / file).read_text()
