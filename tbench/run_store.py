"""The folder of a verb that makes many runs (`ab`, `benchmark`), and goes on after a stop or a kill.

What was asked for stands in it: the same command keeps the runs that count, and makes the others. What else
lies where a run will be is set aside, never overwritten.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import orjson

from tbench.capture.errors import InputError, InvalidRunError
from tbench.capture.jsontext import read_json
from tbench.capture.writing import write_whole
from tbench.replay.runform import NUMBER, TEXT, Fields, Items, check
from tbench.replay.workers.counters import outlay

DONE: Final = "done"
"""How a run ended that counts."""
KILLED: Final = "killed"
"""How one ended that nobody noted."""
ASIDE: Final = "set-aside"
LEDGER: Final = ".spent"
"""What the name of a run ends with that keeps what it may have cost, until it is noted."""
RUN: Final = Fields(
    {"run": TEXT, "ended": TEXT, "usd": NUMBER}, needed=frozenset({"run", "ended"}), filled=True
)
CURE: Final = "move it away, or choose another folder"


def make_folder(folder: Path, option: str) -> None:
    """Make it for its owner only. Raises InputError where that cannot be; `option` is what named it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{option} {folder}: cannot be made: {error.strerror}; name another"
        ) from None


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Where a verb keeps what: the plan under `key` of the JSON `file`, runs in the subfolder `runs`.

    `free` names words of the plan that may be others when it is taken up again, as they decide nothing
    about the result. `flag` is how a word is called for a person. `defaults` are those of words that a plan
    need not name.
    """

    file: str
    key: str
    runs: str = ""
    free: frozenset[str] = frozenset()
    flag: Callable[[str], str] = str
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class RunStore:
    """One folder, its files for their owner only.

    `entries` are the runs that were made, in order: `{"run", "ended", "usd"}` and what labels them. A run
    counts once its entry says `ended: "done"`; others lie in `set-aside/`, and are done again. `more` is
    what else the file holds.
    """

    folder: Path
    kind: Kind
    plan: Mapping[str, Any]
    entries: list[dict[str, Any]] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def opened(cls, folder: Path, kind: Kind, plan: Mapping[str, Any]) -> Self:
        """The store that is in a folder with this plan.

        Raises InputError where it cannot be read, or holds another plan.
        """
        path = folder / kind.file
        content = read_json(path, CURE)
        if not isinstance(content, dict):
            raise InputError(f"{path}: not a JSON object; {CURE}")
        try:
            form = Fields({kind.key: Fields({})}, needed=frozenset({kind.key}), filled=True)
            check(content, form, "it")
            before, runs = content.pop(kind.key), content.pop("runs", [])
            check(
                {"runs": runs}, Fields({"runs": Items(RUN)}, frozenset({"runs"}), filled=True), "it"
            )
            if None in runs:
                raise ValueError("it.runs holds null")
        except ValueError as error:
            raise InputError(f"{path}: {error}; {CURE}") from None
        # As the file has it: a tuple is a list there, and a path a text.
        now = orjson.loads(orjson.dumps(plan, default=str))
        for name in sorted({*before, *now} - kind.free):
            was, asked = (words.get(name, kind.defaults.get(name)) for words in (before, now))
            if was != asked:
                raise InputError(
                    f"{folder}: was begun with {kind.flag(name)} {was}, not {asked}; "
                    "its plan cannot change any more: choose another folder, or leave out what differs to "
                    "go on with it"
                )
        return cls(folder=folder, kind=kind, plan=before, entries=runs, more=content)

    def path(self, name: str) -> Path:
        """Where the run of this name lies."""
        return self.folder / self.kind.runs / f"{name}.run"

    def done(self, name: str) -> bool:
        """Whether that run is there and counts."""
        path = self.path(name)
        run = self._name(path)
        noted = any(entry["run"] == run and entry["ended"] == DONE for entry in self.entries)
        return noted and path.exists()

    def ledger(self, path: Path) -> Path:
        """Where a run at this path keeps what it may have cost, until it is noted."""
        return path.with_name(path.name + LEDGER)

    @property
    def spent(self) -> float:
        """What all runs so far may have cost, US dollars: those set aside too, and those that were killed.

        Without the `uncharged`.
        """
        folders = {self.folder, self.folder / self.kind.runs}
        killed = (path for folder in folders for path in folder.glob(f"*.run{LEDGER}"))
        return sum(float(entry.get("usd") or 0.0) for entry in self.entries) + sum(
            map(outlay, killed)
        )

    @property
    def uncharged(self) -> list[str]:
        """Runs that were killed before there was a budget: nothing kept what they cost."""
        if self.plan.get("max_cost") is not None:
            return []
        runs = self.folder / self.kind.runs
        # Of the arms of a duet one ledger is for all.
        parts = [] if any(runs.glob(f"*.run{LEDGER}")) else sorted(runs.glob("*.run.part"))
        return [
            *(
                run["run"]
                for run in self.entries
                if run["ended"] == KILLED and run.get("usd") is None
            ),
            *map(self._name, parts),
        ]

    def left(self, most: float | None) -> float | None:
        """What of a budget the runs so far have left, US dollars; None without one."""
        # Never 0, which an option of a replay may not be: a budget that is spent refuses the first request.
        return None if most is None else max(most - self.spent, 1e-9)

    def note(self, name: str, ended: str, usd: float | None, **labels: object) -> None:
        """Write down that a run was made; one that does not count is set aside."""
        path = self.path(name)
        # Noted before the ledger goes: a kill between the two counts the money twice, never not at all.
        self._enter(self._set_aside(path) if ended != DONE else path, ended, usd, **labels)
        self.ledger(path).unlink(missing_ok=True)

    def charge(self, path: Path, ended: str, usd: float | None) -> None:
        """Write down what a run cost, and how it ended; it stays where it is."""
        self._enter(path, ended, usd)
        self.ledger(path).unlink(missing_ok=True)

    def clear(self, path: Path) -> None:
        """Set aside what lies where a run will be, whole or not; what it may have cost stays counted."""
        part, ledger = path.with_name(path.name + ".part"), self.ledger(path)
        moved = [self._set_aside(file) for file in (path, part) if file.exists()]
        # Without a file, too, it gives up the name: that is of the run that comes next.
        aside = moved[0] if moved else self.folder / ASIDE / path.name
        noted = [entry for entry in self.entries if entry["run"] == self._name(path)]
        for entry in noted:
            entry["run"] = self._name(aside)
        spent = outlay(ledger) if ledger.exists() else None
        killed = moved[bool(noted) :] or ([] if spent is None else [aside])
        for file in killed:
            self._enter(file, KILLED, spent)
            spent = None
        if noted and not killed:
            self.write()
        ledger.unlink(missing_ok=True)

    def counts(self, entry: Mapping[str, Any]) -> bool:
        """Whether the run of an entry does: also one that is set aside may have come to its end."""
        return entry["ended"] == DONE and Path(entry["run"]).parent.name != ASIDE

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.folder))

    def _enter(self, path: Path, ended: str, usd: float | None, **labels: object) -> None:
        self.entries.append({"run": self._name(path), **labels, "ended": ended, "usd": usd})
        self.write()

    def write(self, *, sent: bool = False) -> None:
        """Keep the plan, the entries and `more`, as a whole or not at all.

        Raises InputError where that cannot be, InvalidRunError once a run was made or anything `sent`.
        """
        content = {self.kind.key: self.plan, **self.more, "runs": self.entries}
        failure = InvalidRunError if self.entries or sent else InputError
        text = json.dumps(content, indent=1, default=str)
        write_whole(self.folder / self.kind.file, text + "\n", failure=failure)

    def _set_aside(self, path: Path) -> Path:
        """Move a file, if there is one, to the first free name in `set-aside/`; returns where it is."""
        if not path.exists():
            return path
        aside = self.folder / ASIDE
        aside.mkdir(mode=0o700, exist_ok=True)
        number = 1
        while (free := aside / f"{path.name}.{number}").exists():
            number += 1
        return path.rename(free)
