"""tbench capture."""


def capture() -> None:
    """To be written."""
