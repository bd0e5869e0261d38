"""tbench serve."""


def serve() -> None:
    """To be written."""
