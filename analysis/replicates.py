"""Replicates: one arm's repeated runs, and whether two arms' runs took turns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tbench.analysis.arms import Arm, load_arm
from tbench.capture.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Replicates:
    """The runs of one arm, in the order in which they began.

    `unfinished` are files of killed or running replays that lay beside them and are not counted.
    """

    name: str
    runs: tuple[Arm, ...]
    unfinished: tuple[Path, ...] = ()

    @property
    def started_ns(self) -> tuple[int, ...]:
        """When each began, CLOCK_REALTIME."""
        return tuple(map(started_ns, self.runs))


def started_ns(run: Arm) -> int:
    """When a run began, CLOCK_REALTIME; 0 where it does not say."""
    return int(run.run.header.get("wall_ns") or 0)


def find_runs(text: str | Path) -> list[Path]:
    """The run files that a path, a folder or a glob names. Raises InputError where there are none."""
    path = Path(text)
    if path.is_dir():
        paths = sorted(path.glob("*.run"))
    elif path.exists():
        paths = [path]
    else:
        paths = sorted(path.parent.glob(path.name))
    if not paths:
        raise InputError(
            f"{text}: no run file there; give a run, a folder of runs, or a quoted glob"
        )
    return paths


def load_replicates(*texts: str | Path) -> Replicates:
    """The runs that folders or globs name, as one arm. Raises InputError for what is no run."""
    paths = dict.fromkeys(path for text in texts for path in find_runs(text))
    arms = [load_arm(path) for path in paths]
    for arm in arms:
        if arm.kind != "run":
            raise InputError(f"{arm.path}: a trace; an arm of several runs holds replays only")
    return Replicates(
        name=str(texts[0]) + (f" and {len(texts) - 1} more" if len(texts) > 1 else ""),
        runs=tuple(sorted(arms, key=started_ns)),
        unfinished=tuple(sorted(path for text in texts for path in _parts(Path(text)))),
    )


def _parts(path: Path) -> Iterator[Path]:
    """The `.part` files that a folder or a glob would name once they were closed."""
    if path.is_dir():
        return path.glob("*.run.part")
    return iter(()) if path.exists() else path.parent.glob(f"{path.name}.part")


def interleaved(first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether the runs, by when they began, form pairs that hold one of each arm.

    Otherwise what changes with time looks like a difference of the arms: with AAABBB and drift up to
    93 % of comparisons of equal arms find one.
    """
    if len(first) != len(second):
        return False
    arms = _order(first, second)
    return all({arms[i], arms[i + 1]} == {0, 1} for i in range(0, len(arms), 2))


def begun(first: Replicates, second: Replicates) -> tuple[int, int] | None:
    """How many pairs of interleaved runs each arm began; None where both began at once (a duet)."""
    if _schedules(first, second) == {"duet"}:
        return None
    begins = _order(first.started_ns, second.started_ns)[::2]
    return begins.count(0), begins.count(1)


def drawn(first: Replicates, second: Replicates) -> bool:
    """Whether chance decided which arm began each pair: as the runs say, else as far as one can see."""
    schedules = _schedules(first, second)
    if schedules == {None}:
        return not systematic(first.started_ns, second.started_ns)
    return schedules == {"random"}


def _schedules(*arms: Replicates) -> set[str | None]:
    """What the runs say of how their order was decided."""
    runs = (run for arm in arms for run in arm.runs)
    return {(run.run.header.get("experiment") or {}).get("schedule") for run in runs}


def systematic(first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether interleaved runs follow a rule (A B A B ..., A B B A ...), and were hardly drawn at random."""
    begins = _order(first, second)[::2]
    changes = {first_arm != second_arm for first_arm, second_arm in pairwise(begins)}
    return len(changes) < 2


def _order(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Which arm each run belongs to, by when it began."""
    return [arm for _, arm in sorted([(at, 0) for at in first] + [(at, 1) for at in second])]
