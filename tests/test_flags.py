"""Every verb takes the flags that it took: names, defaults and types as tests/flags.json has them."""

import ast
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from tbench.cli import app

ROOT = Path(__file__).parents[1]
FOLDERS = ("analysis", "capture", "replay", "tbench")
GOLDEN = json.loads((Path(__file__).parent / "flags.json").read_text())


def verbs(command: Any, path: str = "tbench") -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", {})
    if not below:
        yield path, command
    for name, verb in below.items():
        yield from verbs(verb, f"{path} {name}")


def row(parameter: Any) -> str:
    """`--rate float`, with what it is when not given, and how often it may be."""
    words = [
        "/".join([*sorted(parameter.opts), *sorted(parameter.secondary_opts)]),
        parameter.type_descriptor.annotation.__name__
        if isinstance(parameter.type_descriptor.annotation, type)
        and not hasattr(parameter.type_descriptor.annotation, "__args__")
        else str(parameter.type_descriptor.annotation).replace("typing.", ""),
        "required" if parameter.required else f"= {parameter.default}",
        *(["repeatable"] if parameter.multiple or parameter.nargs == -1 else []),
    ]
    return " ".join(words)


def rows(command: Any) -> list[str]:
    """Arguments in their order, then options by name: the order of a help page is not pinned."""
    parameters = [one for one in command.params if one.name not in {"help", "help_all"}]
    arguments = [row(one) for one in parameters if one.param_type_name == "argument"]
    return arguments + sorted(row(one) for one in parameters if one.param_type_name == "option")


COMMANDS = dict(verbs(get_command(app())))


def test_the_verbs_are_those_that_there_were() -> None:
    """A verb that goes or comes is written into the golden by hand."""
    assert sorted(COMMANDS) == sorted(GOLDEN)


@pytest.mark.parametrize("verb", sorted(GOLDEN))
def test_a_verb_takes_the_flags_that_it_took(verb: str) -> None:
    """Scripts name flags, leave them out, and repeat them: all of it stays."""
    assert rows(COMMANDS[verb]) == GOLDEN[verb]


@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_every_flag_explains_itself(verb: str) -> None:
    """A flag without a help text is one that nobody finds out about."""
    assert [one.name for one in COMMANDS[verb].params if not one.help] == []


def declared() -> Counter[str]:
    """How often each flag is declared, in all sources: as the field, parameter or shared row that has it."""
    flags: Counter[str] = Counter()
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.arg) and node.annotation:
                flags.update(flags_of(node.arg, node.annotation))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                flags.update(flags_of(node.target.id, node.annotation))
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                flags.update(flags_of(node.targets[0].id.lower(), node.value))
    return flags


def flags_of(name: str, annotation: ast.expr) -> Iterator[str]:
    for call in ast.walk(annotation):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "").endswith("Option"):
            words = {word.arg: word.value for word in call.keywords}
            if "argument" not in words:
                flag = ast.literal_eval(words["flag"]) if "flag" in words else None
                yield flag or "--" + name.replace("_", "-")


SAME_WORD_OTHER_THING = {
    *(
        "--api-key",
        "--api-key-env",
        "--batch-size",
        "--dry-run",
        "--duration",
        "--format",
        "--host",
        "--margin",
        "--metric",
    ),
    *("--metrics-time-unit", "--model", "--out", "--output", "--poisson", "--port", "--rate"),
    *(
        "--repeats",
        "--requests",
        "--seed",
        "--spawn-rate",
        "--to",
        "--verbose",
        "--warmup",
        "--workers",
    ),
}
"""A rate of arrivals and the list of rates of a sweep, the key to send and the keys to accept ..."""


def test_no_option_is_declared_twice() -> None:
    """What verbs share is one row that they name: the same help, check and default in each."""
    assert {flag for flag, times in declared().items() if times > 1} == SAME_WORD_OTHER_THING
