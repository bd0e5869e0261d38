"""Kin: processes of this very package, whatever the folder they are started in holds."""

import os
import sys
from pathlib import Path


def kin_command(module: str) -> list[str]:
    """What runs a module of ours. -P: a folder of that name in the user's own place is not ours."""
    return [sys.executable, "-P", "-m", module]


def kin_environ() -> dict[str, str]:
    """Our environment, with the place of this package first: kin must not find another one."""
    here = str(Path(__file__).parents[2])
    given = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([here, given] if given else [here])}
