"""Every verb takes the flags that it took: names, defaults and types as tests/flags.json has them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from tbench.cli import app

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
    parameters = [one for one in command.params if one.name != "help"]
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
