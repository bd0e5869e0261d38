"""The table of contents: which verb lives where. No logic."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Annotated, Final

import typer

from tbench.flags import Verb, Verbs, settings

VERBS: Final[Mapping[str, tuple[str, str]]] = {
    "capture": ("tbench.commands.capture", "Record what an app sends to an LLM and what comes back."),
    "trace": ("tbench.commands.trace", "Show, make, check, repair, cut and join traces."),
    "replay": ("tbench.commands.replay", "Send a trace again, paced as recorded or not, and measure it."),
    "ab": ("tbench.abtest.command", "Replay a trace to two or more arms in turns; decide which is worse."),
    "compare": ("tbench.commands.compare", "Compare two runs of one trace, or judge repeated runs by gates."),
    "report": ("tbench.commands.report", "Report one run, one trace, or a benchmark's folder."),
    "power": ("tbench.commands.power", "Plan how many requests and runs a comparison needs."),
    "benchmark": ("tbench.benchmark.verbs", "Measure a model at each point of a load sweep."),
    "excel": ("tbench.benchmark.verbs", "Make a workbook of a benchmark."),
    "plot": ("tbench.benchmark.verbs", "Draw charts of benchmarks."),
    "upload": ("tbench.benchmark.verbs", "Upload a benchmark's folder to a store."),
    "serve": ("tbench.simulator.command", "Serve a simulated Together endpoint, without any model."),
    "doctor": ("tbench.doctor.command", "Measure what load this machine can send: requests/s, streams, lag."),
    "demo": ("tbench.demo", "Show the main job on this machine: capture, replay twice, compare."),
}  # fmt: skip
"""Verb -> its module, which has a function of that name, or `app` for verbs of its own; and a summary."""
ABOUT: Final = (
    "Record real LLM traffic, replay it against any model, and say honestly which is faster."
)
EPILOG: Final = """\
Environment: TOGETHER_API_KEY (OPENAI_API_KEY ... by the host; another: --api-key-env) holds the API
key, TBENCH_OPTION an option, as tbench.toml does (docs/settings.md); NO_COLOR leaves colours out.
--debug, anywhere, shows where an error arises.
"""


def app(words: Sequence[str] | None = None) -> typer.Typer:
    """The command line: with every verb, or as much of it as these words of one call need.

    A verb is imported when it is called, so that the list of all starts at once.
    """
    contents = typer.Typer(
        name="tbench",
        help=ABOUT,
        epilog=EPILOG,
        cls=Verbs,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=settings(),
    )
    contents.callback(invoke_without_command=True)(main)
    called = words[:1] if words and words[0] in VERBS else VERBS
    for verb in called:
        module, summary = VERBS[verb]
        if words is not None and called is VERBS:
            contents.command(verb, help=summary)(_not_called)
            continue
        if hasattr(imported := import_module(module), "app"):
            contents.add_typer(imported.app, name=verb, short_help=summary)
            continue
        contents.command(verb, cls=Verb, short_help=summary)(getattr(imported, verb))
    return contents


def _not_called() -> None:
    """Stands for a verb that is only listed."""


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
    """Show the verbs where none is called."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
