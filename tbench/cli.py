"""The table of contents: which verb lives where. No logic."""

from typing import Annotated

import typer

from tbench.commands.ab import ab
from tbench.commands.benchmark import benchmark
from tbench.commands.capture import capture
from tbench.commands.compare import compare
from tbench.commands.demo import demo
from tbench.commands.doctor import doctor
from tbench.commands.excel import excel
from tbench.commands.plot import plot
from tbench.commands.power import power
from tbench.commands.replay import replay
from tbench.commands.report import report
from tbench.commands.serve import serve
from tbench.commands.storage_flags import Benchmark
from tbench.commands.trace import app as trace
from tbench.commands.upload import upload

app = typer.Typer(
    name="tbench",
    help="Record real LLM traffic, replay it against any model, and say honestly which is faster.",
    epilog="--debug, anywhere, shows where an error comes from.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tbench {version('tbench')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    _version_too: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Record real LLM traffic, replay it against any model, and say honestly which is faster."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command()(capture)
app.add_typer(trace, name="trace")
app.command()(replay)
app.command()(ab)
app.command(cls=Benchmark)(benchmark)
app.command()(upload)
app.command()(excel)
app.command()(plot)
app.command()(report)
app.command()(compare)
app.command()(power)
app.command()(serve)
app.command()(doctor)
app.command()(demo)
