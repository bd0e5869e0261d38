"""The ledger: an experiment's folder, its plan, and which of its runs are there. It survives a kill."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import orjson

from tbench.capture.errors import InputError, InvalidRunError
from tbench.capture.jsontext import loads
from tbench.capture.writing import write_whole
from tbench.replay.runform import COUNT, NUMBER, TEXT, Fields, Items, check

PLAN: Final = "plan.json"
ASIDE: Final = "set-aside"
FREE: Final = frozenset({"max_cost"})
"""Words of a plan that may be others when it is taken up again: they decide nothing about the verdict."""

KEPT: Final = Fields(
    {
        "runs": Items(
            Fields(
                {"run": TEXT, "arm": TEXT, "round": COUNT, "ended": TEXT, "usd": NUMBER},
                needed=frozenset({"arm", "round", "ended", "usd"}),
            )
        )
    }
)
"""What the file of a plan holds beside it: an entry for each run that was made."""


class RunStore:
    """The folder of one experiment. Its files are for their owner only.

    `plan.json` holds the plan, as it was when the first run began, and one entry for each run that has
    been made: `{"run", "arm", "round", "ended", "usd"}`, in order. A run counts once its entry says
    `ended: "done"`; others lie in `set-aside/`, and are done again.
    """

    def __init__(
        self, folder: Path, plan: Mapping[str, Any], entries: list[dict[str, Any]]
    ) -> None:
        self.folder = folder
        self.plan = plan
        self.entries = entries

    @classmethod
    def opened(cls, folder: Path, plan: Mapping[str, Any]) -> Self:
        """The ledger of a folder, begun if there is none yet.

        Raises InputError where the folder holds another plan, or files that are not an experiment's.
        """
        place = folder / PLAN
        if not place.exists():
            return cls._begun(folder, plan)
        stored = _read(place)
        if changed := _differences(stored["plan"], plan):
            name, before, now = changed[0]
            raise InputError(
                f"{folder}: holds another experiment ({name} {before}, not {now}); its plan cannot change "
                "any more: choose another folder with -o, or leave out what differs to go on with it"
            )
        return cls(folder, stored["plan"], stored["runs"])

    @classmethod
    def _begun(cls, folder: Path, plan: Mapping[str, Any]) -> Self:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"-o {folder}: cannot be made: {error.strerror}") from None
        if left := sorted(path.name for path in folder.iterdir()):
            raise InputError(f"{folder}: holds files already ({left[0]}); choose another with -o")
        return cls(folder, plan, [])

    def path(self, arm: str, number: int) -> Path:
        """Where the run of an arm in a round lies: DIR/ARM.ROUND.run."""
        return self.folder / f"{arm}.{number}.run"

    def done(self, arm: str, number: int) -> bool:
        """Whether that run is there and counts."""
        return (
            any(
                entry["ended"] == "done" and (entry["arm"], entry["round"]) == (arm, number)
                for entry in self.entries
            )
            and self.path(arm, number).exists()
        )

    @property
    def spent(self) -> float:
        """What all runs so far have cost, US dollars, those set aside too."""
        return sum(float(entry["usd"] or 0.0) for entry in self.entries)

    def again(self, arm: str, number: int) -> int:
        """How often that run was done again."""
        return sum(
            (entry["arm"], entry["round"]) == (arm, number) and entry["ended"] != "done"
            for entry in self.entries
        )

    def note(self, arm: str, number: int, ended: str, usd: float | None) -> None:
        """Write down that a run was made; one that does not count is set aside."""
        path = self.path(arm, number)
        if ended != "done":
            path = self._set_aside(path)
        self.entries.append(
            {
                "run": str(path.relative_to(self.folder)),
                "arm": arm,
                "round": number,
                "ended": ended,
                "usd": usd,
            }
        )
        self.write()

    def clear(self, arm: str, number: int) -> None:
        """Set aside what a killed experiment left where that run will be."""
        path = self.path(arm, number)
        for left in (path, path.with_name(path.name + ".part")):
            if left.exists():
                self._set_aside(left)

    def write(self) -> None:
        """Keep the plan and the entries, as a whole or not at all.

        Raises InputError where that cannot be and no run is there yet, else InvalidRunError.
        """
        text = json.dumps({"plan": self.plan, "runs": self.entries}, indent=1, default=str)
        failure = InvalidRunError if self.entries else InputError
        write_whole(self.folder / PLAN, text + "\n", failure=failure)

    def _set_aside(self, path: Path) -> Path:
        if not path.exists():
            return path
        aside = self.folder / ASIDE
        aside.mkdir(mode=0o700, exist_ok=True)
        number = 1
        while (target := aside / f"{path.name}.{number}").exists():
            number += 1
        return path.rename(target)


def _read(place: Path) -> dict[str, Any]:
    try:
        stored = loads(place.read_bytes())
        check(stored, KEPT, PLAN)
        if isinstance(stored["plan"], dict) and all(
            isinstance(part, dict) for part in stored["runs"]
        ):
            return dict(stored)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{place}: cannot be read; move it away to begin anew in another folder")


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    plain = orjson.loads(orjson.dumps(now, default=str))
    return [
        (name, before.get(name), plain.get(name))
        for name in sorted({*before, *plain} - FREE)
        if before.get(name) != plain.get(name)
    ]
