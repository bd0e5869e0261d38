"""Replay: a trace sent again, measured. `tbench.replay(...)` calls `tbench.replay.api.replay`.

Options are resolved once into a job; the plan says which requests, the pacing when, the target where. The
player starts them, a sender sends them, the recorder writes a sample of each into the run file.
"""

import sys
from types import ModuleType


class _CallablePackage(ModuleType):
    """Package and function share a name: whichever part is imported first, the name can be called."""

    def __call__(self, *args: object, **options: object) -> object:
        from tbench.replay.api import replay  # noqa: PLC0415 - a worker needs none of it

        return replay(*args, **options)  # type: ignore[arg-type]

    @property
    def __signature__(self) -> object:
        """That of the function, for `help` and `inspect.signature`."""
        import inspect  # noqa: PLC0415 - nor this

        from tbench.replay.api import replay  # noqa: PLC0415

        return inspect.signature(replay)


sys.modules[__name__].__class__ = _CallablePackage
