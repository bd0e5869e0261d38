"""tbench compare."""


def compare() -> None:
    """To be written."""
