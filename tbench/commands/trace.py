"""tbench trace."""

import typer

app = typer.Typer(help="Look into traces.", no_args_is_help=True)


@app.command()
def info() -> None:
    """To be written."""


@app.command()
def head() -> None:
    """To be written."""
