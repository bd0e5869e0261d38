"""The table of contents: which verb lives where. No logic."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Annotated, Final

import typer
from typer.core import TyperCommand

VERBS: Final[Mapping[str, str]] = {
    "capture": "tbench.commands.capture",
    "trace": "tbench.commands.trace",
    "replay": "tbench.commands.replay",
    "ab": "tbench.abtest.command",
    "benchmark": "tbench.benchmark.commands.benchmark",
    "upload": "tbench.benchmark.commands.upload",
    "excel": "tbench.benchmark.commands.excel",
    "plot": "tbench.benchmark.commands.plot",
    "report": "tbench.commands.report",
    "compare": "tbench.commands.compare",
    "power": "tbench.commands.power",
    "serve": "tbench.simulator.command",
    "doctor": "tbench.doctor.command",
    "demo": "tbench.demo.command",
}
"""Verb -> its module, which has a function of that name, or `app` where it has verbs of its own."""
CLASSES: Final[Mapping[str, tuple[str, str]]] = {
    "benchmark": ("tbench.benchmark.commands.benchmark", "Benchmark"),
}
"""Verbs whose words are looked at before their options are read, and the class that does: module, name."""


def app(words: Sequence[str] = ()) -> typer.Typer:
    """The command line; with the one verb that the first of these words names, if it names one."""
    whole = typer.Typer(
        name="tbench",
        help="Record real LLM traffic, replay it against any model, and say honestly which is faster.",
        epilog="--debug, anywhere, shows where an error comes from.",
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    whole.callback(invoke_without_command=True)(main)
    for verb in words[:1] if words and words[0] in VERBS else VERBS:
        module = import_module(VERBS[verb])
        if hasattr(module, "app"):
            whole.add_typer(module.app, name=verb)
        else:
            whole.command(cls=_class(verb))(getattr(module, verb))
    return whole


def _class(verb: str) -> type[TyperCommand]:
    module, name = CLASSES.get(verb, ("typer.core", "TyperCommand"))
    found: type[TyperCommand] = getattr(import_module(module), name)
    return found


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tbench {version('tbench')}")
        raise typer.Exit


def main(
    context: typer.Context,
    _version_too: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Record real LLM traffic, replay it against any model, and say honestly which is faster."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
