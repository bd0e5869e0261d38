"""Pilot: the runs that a plan is made from, and the options that say what it is for."""

import re
from collections.abc import Sequence
from pathlib import Path

from tbench.analysis.arms import load_arm
from tbench.analysis.gate import ERRORS
from tbench.analysis.metrics import METRICS
from tbench.analysis.replicates import Replicates, find_runs, load_replicates
from tbench.capture.container import open_container
from tbench.capture.errors import InputError

_SHARE = re.compile(r"(\d+(?:\.\d+)?)%")
_ASKED = re.compile(r"(?P<metric>\w+):p(?P<quantile>\d+(?:\.\d+)?)")


def load_pilot(texts: Sequence[str | Path]) -> tuple[Replicates, ...]:
    """The arms that these paths, folders and globs name; a folder or a glob of runs is one arm.

    Single runs of one model, target and pacing are one arm too. Raises InputError where the arms are not of
    one trace, or a run is named twice.
    """
    arms = _gathered([_load(text) for text in texts])
    runs = [run for arm in arms for run in arm.runs]
    paths = [run.path.resolve() for run in runs]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise InputError(f"{twice[0]}: named twice; a run counts once")
    if len({run.source for run in runs}) > 1:
        raise InputError("the pilot's runs are of different traces; give runs of one trace")
    for run in runs:
        if not run.ok.any():
            raise InputError(f"{run.path}: no request succeeded; a pilot needs some")
    return arms


def _load(text: str | Path) -> Replicates:
    path = Path(text)
    if not path.is_file() and _is_run(find_runs(path)[0] if _names_runs(path) else path):
        return load_replicates(text)
    return Replicates(name=str(text), runs=(load_arm(path),))


def _names_runs(path: Path) -> bool:
    """Whether a folder or a glob names any file that may be a run."""
    return any(path.glob("*.run")) if path.is_dir() else any(path.parent.glob(path.name))


def _is_run(path: Path) -> bool:
    return path.is_file() and open_container(path).header.get("kind") == "run"


def _gathered(arms: Sequence[Replicates]) -> tuple[Replicates, ...]:
    """Single runs that were made alike become one arm, in the order in which they began."""
    found: dict[object, list[Replicates]] = {}
    for place, arm in enumerate(arms):
        first = arm.runs[0]
        alone = len(arm.runs) == 1 and first.kind == "run"
        found.setdefault((first.model, first.target, first.pacing) if alone else place, []).append(
            arm
        )
    return tuple(_one(alike) for alike in found.values())


def _one(alike: Sequence[Replicates]) -> Replicates:
    if len(alike) == 1:
        return alike[0]
    runs = sorted(
        (arm.runs[0] for arm in alike), key=lambda run: run.run.header.get("wall_ns") or 0
    )
    return Replicates(name=f"{alike[0].name} and {len(alike) - 1} more", runs=tuple(runs))


def parse_share(option: str, text: str) -> float:
    """`5%` -> .05. Raises InputError naming the option."""
    found = _SHARE.fullmatch(text.strip())
    if not found or not float(found[1]):
        raise InputError(f"{option} {text}: write it as 5%")
    return float(found[1]) / 100


def parse_asked(text: str) -> tuple[str, float]:
    """`ttft:p95` -> ("ttft", .95). Raises InputError saying what the right form is."""
    found = _ASKED.fullmatch(text.strip())
    if text.strip() == ERRORS:
        raise InputError(f"--metric {text}: a share has no quantile; plans are for quantiles")
    if not found:
        raise InputError(f"--metric {text}: write it as ttft:p95")
    if found["metric"] not in METRICS:
        raise InputError(
            f"--metric {text}: no metric {found['metric']}; there are {', '.join(METRICS)}"
        )
    p = float(found["quantile"]) / 100
    if not 0 < p < 1:
        raise InputError(f"--metric {text}: the quantile lies between p0 and p100")
    return found["metric"], p
