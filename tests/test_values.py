"""tbench.values: the short way to an option's value says what typer's own says."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from tbench.cli import app
from tbench.values import quicken

WORDS = (
    *("", " ", "0", "1", "-1", "+1", "01", "1_000", "1.0", "1.5", ".5", "5.", "1e3", "inf", "nan", "-0"),
    *("70000", "12345678901234567890", "0x10", "\u0661", "true", "True", "auto", "AUTO", "s", "no such file"),
    *("/", "pyproject.toml", "together", "profile", "-", "ttft"),
)  # fmt: skip


def parameters(command: Any, path: str = "tbench") -> Iterator[tuple[str, Any]]:
    context = command.make_context("x", [], resilient_parsing=True)
    for one in command.get_params(context):
        yield f"{path} {one.name}", (command, context, one)
    for name, below in getattr(command, "commands", {}).items():
        yield from parameters(below, f"{path} {name}")


def said(parameter: Any, context: Any, value: object) -> object:
    try:
        found = parameter.process_value(context, value)
    except Exception as error:  # whatever typer raises
        return type(error).__name__, str(error)
    return type(found).__name__, repr(found)


def both() -> list[tuple[str, Any, Any]]:
    plain, quick = get_command(app()), get_command(app())
    quicken(quick)
    pairs = zip(parameters(plain), parameters(quick), strict=True)
    return [(name, one, other) for (name, one), (_, other) in pairs if other[2].callback is None]


@pytest.mark.parametrize(("name", "plain", "quick"), both(), ids=lambda value: str(value)[:60])
def test_every_option_takes_every_word_as_typer_does(name: str, plain: Any, quick: Any) -> None:
    """With its errors, for each option of each verb."""
    several = plain[2].multiple or plain[2].nargs == -1
    given: list[object] = [(word,) for word in WORDS] if several else list(WORDS)
    defaults: list[object] = [(), ("1", "x")] if several else [plain[2].default]
    for value in (*given, *defaults, None):
        assert said(quick[2], quick[1], value) == said(plain[2], plain[1], value), value


@pytest.mark.parametrize(
    "words",
    [["trace", "info", "fixtures/absent.msgpack"], ["replay", "absent", "--concurrency", "4"]],
)
def test_plain_words_do_not_load_pydantic(words: list[str]) -> None:
    """It takes longer to load than typer."""
    probe = f"import sys, tbench.__main__ as m; m.run({words!r}); print('pydantic' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", probe],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )

    assert done.stdout.strip() == "False"
