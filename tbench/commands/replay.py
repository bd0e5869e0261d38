"""tbench replay."""


def replay() -> None:
    """To be written."""
