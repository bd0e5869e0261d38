"""Settings: what an option is where the command line does not say it.

From the strongest: the flag, the plan file (`ab`), the variable `TBENCH_` + the option's name in capitals,
the settings file (`tbench.toml`), the default. What a target says stands where the target was named.
"""

import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from tbench.capture.errors import InputError
from tbench.capture.option import Option, Row, rows

FILE: Final = "tbench.toml"
SETTINGS: Final = Row(
    name="settings",
    kinds=(Path,),
    default=None,
    option=Option(
        help="Targets by name, defaults (docs/settings.md).",
        unit="FILE",
        default=f"{FILE}, here or above",
    ),
)
"""An option of every verb."""
TARGET: Final = Row(
    name="target",
    kinds=(str,),
    default=None,
    option=Option(
        help="Target from the settings file, by name (docs/settings.md).",
        unit="NAME",
        group="Where to",
        rival="target",
        common=True,
    ),
)
"""An option of every verb that sends to one server, or judges what one does; `ab` has it for each arm."""
CALLED: Final = {"base_url": "api_base", "model": "api_model_name"}
"""What these are called by a verb that has options of genai-bench's names; its --model is a label."""

UNCOUNTED: Final = "no gate counts it; --gate goodput:1pp or 'goodput>=99%' would"
"""Why an SLO of the settings does nothing in a verdict."""

sources: Final[dict[str, str]] = {}
"""Where each option of this process's verb is from, by its key, unless it is a flag or at its default."""


@dataclass(frozen=True)
class SettingsFile:
    """A settings file; its keys are known, and nothing in it is a credential. No `path`: there is no file."""

    path: Path | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    targets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def target(self, name: str, address: str | None) -> Mapping[str, Any]:
        """What a target says, as in the file. Raises InputError where there is none of this name.

        `address` is what takes a URL beside it, which is no name.
        """
        if name in self.targets:
            return self.targets[name]
        from tbench.capture.redact import mask_address  # noqa: PLC0415 (only where something is wrong)

        named = mask_address(name)
        instead = f"; give an address by {address}" if address else ""
        if "://" in name:
            raise InputError(f"target {named}: is no name of a settings file{instead}")
        if self.path is None:
            raise InputError(
                f"no target {named}, as there is no {FILE} here or above (docs/settings.md){instead}"
            )
        raise InputError(f"{self.path}: no target {named}; {_choice(name, self.targets)}{instead}")


_named: str | None = None
"""What --settings says."""


def settings_file() -> SettingsFile:
    """The file of --settings, or of TBENCH_SETTINGS; else the nearest `tbench.toml`, if there is any.

    That is looked for from this folder up to the first one that holds a `.git`, is the home, or the root.
    """
    named = _named or os.environ.get("TBENCH_SETTINGS")
    path = Path(named) if named else _nearest()
    if path is None:
        return SettingsFile()
    import tomllib  # noqa: PLC0415 (only where there is a file)

    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: no TOML: {error}") from None
    _check(content, {"defaults": None, "targets": None}, str(path))
    known = _known()
    of_target = {
        key: row
        for key, row in known.items()
        if row.option.of_target or row.option.group == TARGET.option.group
    }
    targets = content.get("targets", {})
    if not isinstance(targets, dict):
        raise InputError(f"{path} [targets]: must be a table")
    for name, table in targets.items():
        _check(table, of_target, f"{path} [targets.{name}]")
    _check(content.get("defaults", {}), known | {"target": TARGET}, f"{path} [defaults]")
    return SettingsFile(path, content.get("defaults", {}), targets)


def _nearest() -> Path | None:
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / FILE).is_file():
            return folder / FILE
        # A file above is another project's: its targets would get this one's requests.
        if (folder / ".git").exists() or folder == Path.home():
            break
    return None


def _known() -> dict[str, Row]:
    """The options that a settings file may set: those of replay, ab and benchmark; none has a late reader."""
    from tbench.abtest.options import AbOptions  # noqa: PLC0415 (only where there is a file)
    from tbench.benchmark.options import BenchmarkOptions  # noqa: PLC0415
    from tbench.replay.options import ReplayOptions  # noqa: PLC0415

    listed = [
        replace(row, option=replace(row.option, read=None)) if row.option.late else row
        for kind in (BenchmarkOptions, AbOptions, ReplayOptions)
        for row in rows(kind).values()
    ]
    return {row.key: row for row in listed if not row.option.argument and row.key not in SECRETS}


SECRETS: Final = {"api_key"}
OF_SERVER: Final = {"api_key", "api_key_env", "header"}
"""Options that hold or name a credential: what is meant for one server is never sent to another."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _check(table: object, known: Mapping[str, Row | None], where: str) -> None:
    """Refuse what is no table, a key that nobody knows, a value of another type, and whatever is secret."""
    from tbench.capture.redact import hides, looks_secret, mask_address  # noqa: PLC0415

    if not isinstance(table, dict):
        raise InputError(f"{where}: must be a table")
    for key, value in table.items():
        if key not in known:
            if looks_secret(key, str(value)):
                raise InputError(
                    f"{where} {key}: a key does not belong in a file; export it in a variable, and name "
                    "that by api_key_env"
                )
            raise InputError(f"{where} {key}: no such key; {_choice(key, known)}")
        if (row := known[key]) is None:
            continue
        inner = value if isinstance(value, dict) else {"": value}
        secret = next((name for name, member in inner.items() if hides(name, member)), None)
        if key == "api_key_env":
            secret = None if value == "" or _NAME.fullmatch(str(value)) else key
        if secret or (isinstance(value, str) and mask_address(value) != value):
            raise InputError(
                f"{where} {key}: holds what may be a credential; keep it out of the file"
            )
        words_of(row, value, f"{where} {key}")


def _choice(key: str, known: Collection[str]) -> str:
    """What there is, and which of it is meant."""
    from difflib import get_close_matches  # noqa: PLC0415 (only where something is wrong)

    near = get_close_matches(key, known, 1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{meant}there are {', '.join(sorted(known))}" if known else "there is none"


def words_of(row: Row, value: Any, where: str) -> Any:  # noqa: ANN401 (of an option of any type)
    """A value of a settings file as a command line has it. Raises InputError for one of another type."""
    try:
        if isinstance(value, dict) and row.repeatable and row.option.read:
            value = [_word(row.key, *item) for item in value.items()]
        else:
            row.of_plan(value)
        chosen = row.of_words(value)
        for member in chosen if row.repeatable and not row.option.read else (chosen,):
            row.check(member)
    except InputError as error:
        text = str(error).removeprefix("plan: ")
        raise InputError(f"{where}: {text}") from None
    return value


def _word(key: str, name: str, value: object) -> str:
    if key == "header":
        return f"{name}: {value}"
    try:
        return f"{name}={json.dumps(value) if key == 'set' else value}"
    except TypeError:
        raise InputError(f"{name}: JSON has no dates; write it as a text, in quotes") from None


def variable(key: str) -> str:
    """`TBENCH_MAX_COST`."""
    return f"TBENCH_{key.upper()}"


def settle(table: Mapping[str, Row], given: Mapping[str, Any]) -> dict[str, Any]:
    """What options of a verb are that were not `given`, as a command line would say it.

    `table` and `given` have them by the names of the verb's parameters. `sources` then says where each is
    from. Raises InputError for a settings file that cannot be used, and for two targets.
    """
    global _named  # noqa: PLW0603 (arms name their targets after the command line was read)
    # One process may run several verbs (tests do): what the last one set is nothing to this.
    sources.clear()
    _named = given.get("settings")
    file = settings_file()
    names = {row.key: name for name, row in table.items() if not row.option.argument}
    names.pop("settings")
    exported = {names[key]: word for key in names if (word := os.environ.get(variable(key)))}
    variables = {
        name: word.splitlines() if table[name].repeatable else word
        for name, word in exported.items()
    }
    known = _known() if file.defaults else {}
    defaults = {
        name: words_of(table[name], value, f"{file.path} [defaults] {key}")
        for key, value in file.defaults.items()
        if (name := _called(key, names)) is not None
        # A word may mean other things to other verbs: a benchmark has several rates.
        if key == "target" or table[name].kinds == known[key].kinds
    }
    settled: dict[str, Any] = {}
    for values, place in ((given, ""), (variables, None), (defaults, f"{file.path} [defaults]")):
        fresh = beneath(values, settled, table)
        if (chosen := fresh.get("target")) is not None:
            if clash := fresh.keys() & {"base_url", "api_base"}:
                flag = table[clash.pop()].flag
                raise InputError(f"{flag} and --target {chosen} are two; give one")
            origin = f"{file.path} [targets.{chosen}]"
            stronger = settled.keys() | (() if values is defaults else fresh.keys())
            address = next(
                (row.flag for row in map(table.get, ("base_url", "api_base")) if row), None
            )
            for key, value in file.target(str(chosen), address).items():
                if (name := _called(key, names)) is not None and name not in stronger:
                    settled[name] = words_of(table[name], value, f"{origin} {key}")
                    sources[key] = origin
        for name, value in fresh.items():
            if name not in settled:
                settled[name] = value
                sources[table[name].key] = variable(table[name].key) if place is None else place
    for name in given:
        sources.pop(table[name].key if name in table else name, None)
    return {name: value for name, value in settled.items() if name not in given}


def beneath(
    values: Mapping[str, Any], stronger: Collection[str], table: Mapping[str, Row]
) -> dict[str, Any]:
    """The options that nothing `stronger` says, nor a rival of theirs: pacings, ways to name the server.

    Values that lose their server to a stronger one lose what was meant for it alone: its key, its headers.
    """
    rivals = {table[name].option.rival for name in stronger if name in table} - {None}
    fresh = {
        name: value
        for name, value in values.items()
        if name in table and name not in stronger and table[name].option.rival not in rivals
    }
    left_out = values.keys() & table.keys() - fresh.keys()
    if any(table[name].option.rival == TARGET.option.rival for name in left_out):
        return {name: value for name, value in fresh.items() if table[name].key not in OF_SERVER}
    return fresh


def mistyped(table: Mapping[str, Row]) -> Iterator[str]:
    """A line for each variable that looks like one of these options and is none of any verb.

    Others may use the prefix, so it is no error.
    """
    from difflib import get_close_matches  # noqa: PLC0415 (only where something is wrong)

    known = {variable(row.key) for row in table.values() if not row.option.argument}
    for name in sorted(os.environ):
        if not name.startswith("TBENCH_") or name in known | {"TBENCH_SETTINGS"}:
            continue
        if (near := get_close_matches(name, known, 1, 0.85)) and name not in _variables():
            yield f"{name}: no option's variable; did you mean {near[0]}?"


@cache
def _variables() -> frozenset[str]:
    """The variables of all verbs. It takes long, as it loads each of them."""
    from typer.main import get_command  # noqa: PLC0415

    from tbench.cli import app  # noqa: PLC0415

    verbs: list[Any] = [get_command(app())]
    for verb in verbs:  # which grows by the verbs of a verb
        verbs += getattr(verb, "commands", {}).values()
    return frozenset(
        variable(row.key) for verb in verbs for row in getattr(verb, "rows", {}).values()
    )


def _called(key: str, names: Mapping[str, str]) -> str | None:
    """The parameter of a verb that a setting is for; None where it has none."""
    return names.get(CALLED.get(key, key)) or names.get(key)


def told(origins: Mapping[str, str]) -> list[str]:
    """Where options are from, a text for each place: `rate, seed from TBENCH.toml [defaults]`."""
    by_place = defaultdict(list)
    for key, place in origins.items():
        by_place[place].append(key)
    return [f"{', '.join(keys)} from {place}" for place, keys in by_place.items()]


def announce() -> None:
    """Say on stderr where the options are from that the command line does not have."""
    for text in told(sources):
        print(f"settings: {text}", file=sys.stderr)
