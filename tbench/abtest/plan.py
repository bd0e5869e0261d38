"""The experiment: what is decided before its first request, from a plan file or the command line."""

import random
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import orjson

from tbench.capture.errors import InputError
from tbench.capture.exchange import Headers
from tbench.capture.jsontext import loads
from tbench.capture.redact import mask_address, mask_lookalikes
from tbench.replay.options import FLAGS, ReplayOptions, parse_workers
from tbench.replay.provenance import WITHHELD, without_credentials
from tbench.replay.target import parse_headers
from tbench.replay.warmup import parse_warmup
from tbench.replay.workers.counters import MOST_ARMS

# The schedule: which arm is replayed when, so that what changes with time falls on all arms alike.
#
# Every round holds each arm once, so of any two arms each consecutive pair of runs holds one of each: what
# a gate on repeated runs needs (docs/statistics.md; runs of one arm after those of the other let drift pass
# for a difference in up to 93 % of comparisons). And each goes first as often as the other, or a place in
# the pair that is slower (an hourly job that meets every second run) would pass for a difference as well.

Kind = Literal["random", "abba", "duet"]


@dataclass(frozen=True, slots=True)
class Slot:
    """One replay of the plan: its round, from 1, and the arms that are replayed in it, by place."""

    round: int
    arms: tuple[int, ...]


def slots(arms: int, repeats: int, kind: Kind, seed: int) -> list[Slot]:
    """The replays in their order; the same seed gives the same."""
    return _KINDS[kind](arms, repeats, seed)


def _random(arms: int, repeats: int, seed: int) -> list[Slot]:
    """Rounds in twos: an order drawn, then its reverse, so that after any round no arm went first oftener."""
    source, order = random.Random(seed), list(range(arms))
    found = []
    for number in range(1, repeats + 1):
        order = source.sample(range(arms), arms) if number % 2 else order[::-1]
        found += [Slot(number, (arm,)) for arm in order]
    return found


def _abba(arms: int, repeats: int, _seed: int) -> list[Slot]:
    """Forwards, backwards, forwards: a steady drift cancels."""
    there = tuple(range(arms))
    return [
        Slot(number, (arm,))
        for number in range(1, repeats + 1)
        for arm in (there if number % 2 else there[::-1])
    ]


def _duet(arms: int, repeats: int, _seed: int) -> list[Slot]:
    """All arms at once, request by request (replay.runner draws that order)."""
    return [Slot(number, tuple(range(arms))) for number in range(1, repeats + 1)]


_KINDS: Final[Mapping[Kind, Callable[[int, int, int], list[Slot]]]] = {
    "random": _random,
    "abba": _abba,
    "duet": _duet,
}
MEANINGS: Final[Mapping[Kind, str]] = {
    "random": "in rounds that hold every arm once, two by two: in a drawn order, then in its reverse",
    "abba": "forwards and backwards in turn (A B, B A, ...)",
    "duet": "all at once, request by request, in an order drawn for each request",
}


# The treatment: what one arm of an experiment gets that the others do not. Parsed from `--arm`.

FORM: Final = "name=A,model=M,base_url=URL,api_key_env=VAR,set.max_tokens=64,header.NAME=VALUE"
_PLAIN: Final = ("name", "base_url", "model", "api_key_env")
_TABLES: Final = ("set", "map_model", "header")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_CUT = re.compile(rf",(?=(?:{'|'.join(_PLAIN)})=|(?:{'|'.join(_TABLES)})\.[^=,]+=)")
"""A comma ends a word where the next one begins as words do: values may hold commas."""


@dataclass(frozen=True, kw_only=True)
class ArmSpec:
    """An arm's name and what it changes of the shared order: None, or empty, is as the others have it."""

    name: str
    base_url: str | None = None
    model: str | None = None
    api_key_env: str | None = None
    map_model: Mapping[str, str] = field(default_factory=dict)
    set: Mapping[str, Any] = field(default_factory=dict)
    headers: Headers = field(default=(), repr=False)

    def order(self, shared: ReplayOptions) -> ReplayOptions:
        """The shared order, for this arm."""
        return replace(
            shared,
            base_url=self.base_url or shared.base_url,
            model=self.model,
            api_key_env=self.api_key_env,
            map_model=self.map_model,
            set=self.set,
            headers=self.headers,
        )

    @property
    def written(self) -> dict[str, Any]:
        """As a plan file has it, without the values that may be credentials."""
        found = {
            **{name: getattr(self, name) for name in _PLAIN},
            "map_model": dict(self.map_model),
            "set": without_credentials(self.set),
            "header": {name: WITHHELD for name, _ in self.headers},
        }
        return {name: value for name, value in found.items() if value not in (None, {})}


def parse_arm(text: str) -> dict[str, Any]:
    """`name=A,model=M,set.max_tokens=64` as the table that a plan file has for it."""
    table: dict[str, Any] = {}
    for word in _CUT.split(text.strip()):
        name, mark, value = word.partition("=")
        outer, dot, inner = name.partition(".")
        if not mark or (outer not in _TABLES if dot else name not in _PLAIN):
            raise InputError(f"--arm: {mask_lookalikes(word)!r} is not understood; write {FORM}")
        if dot:
            table.setdefault(outer, {})[inner] = _json(word, value) if outer == "set" else value
        else:
            table[name] = value
    return table


def _json(word: str, value: str) -> object:
    try:
        found: object = orjson.loads(value)
    except orjson.JSONDecodeError:
        shown = mask_lookalikes(word)
        raise InputError(
            f'--arm: {shown!r}: the value is no JSON; a text needs quotes: set.name="text"'
        ) from None
    return found


def treatments(tables: Iterable[object]) -> tuple[ArmSpec, ...]:
    """The arms of a plan, checked: names are unique, and there are at least two."""
    found = tuple(_treatment(table) for table in tables)
    names = [one.name for one in found]
    if len(found) < 2:
        raise InputError(f"an experiment needs two arms or more; give --arm {FORM!r} for each")
    if len({name.casefold() for name in names}) < len(names):
        raise InputError(f"arms {', '.join(names)}: two have the same name (case does not count)")
    return found


def _treatment(table: object) -> ArmSpec:
    if not isinstance(table, dict):
        raise InputError("arm: every arm is a table with a name and what it changes")
    unknown = table.keys() - {*_PLAIN, *_TABLES}
    if unknown:
        raise InputError(
            f"arm: no such key {min(unknown)}; there are {', '.join((*_PLAIN, *_TABLES))}"
        )
    name = table.get("name")
    if name is None:
        raise InputError(f"an arm has no name; write it as {FORM!r}")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            f"arm {name!r}: every arm needs a name of letters, digits, '_' and '-', 40 at most"
        )
    for key in _PLAIN:
        if not isinstance(table.get(key, ""), str):
            raise InputError(f"arm {name}: {key} must be a text")
    for key in _TABLES:
        if not isinstance(table.get(key, {}), dict):
            raise InputError(f"arm {name}: {key} must be a table, as in {key}.NAME=VALUE")
    return ArmSpec(
        **{key: table[key] for key in _PLAIN if key in table},
        map_model=_texts(name, table.get("map_model", {})),
        set=table.get("set", {}),
        headers=parse_headers(
            [f"{k}: {v}" for k, v in _texts(name, table.get("header", {})).items()]
        ),
    )


def _texts(name: str, table: Mapping[str, Any]) -> dict[str, str]:
    for key, value in table.items():
        if not isinstance(value, str):
            raise InputError(f"arm {name}: {key} must be a text")
        if value == WITHHELD:
            raise InputError(
                f"arm {name}: the value of {key} was not written down; give the whole command again"
            )
    return dict(table)


_ORDER: Final[Mapping[str, tuple[type, ...]]] = {
    **dict.fromkeys(FLAGS, (int, float)),
    "until": (str,),
    "seed": (int,),
    "max_in_flight": (int,),
    "spawn_rate": (int, float),
    "loop": (int,),
    "requests": (int,),
    "duration": (int, float),
    "timeout": (int, float),
    "base_url": (str,),
    "ca": (str,),
    "sender": (str,),
    "http2": (bool,),
    "proxy": (str,),
    "allow_unsafe": (bool,),
    "only": (list,),
    "cache": (str,),
}
"""What the order of `tbench replay` has too, under the same names, and its type in a plan."""
_OWN: Final[Mapping[str, tuple[type, ...]]] = {
    "trace": (str,),
    "arm": (list,),
    "repeats": (int,),
    "schedule": (str,),
    "pause": (int, float),
    "redo_invalid": (int,),
    "max_cost": (int, float),
    "warmup": (str,),
    "workers": (int, str),
}
DECLARED: Final[Mapping[str, tuple[type, ...]]] = {
    "margin": (str,),
    "gate": (list,),
    "slo": (str,),
    "trend": (bool,),
    "monitor": (bool,),
}
"""How the runs will be judged: kept with the plan, since it must not be chosen after looking at them."""
_TYPES: Final = {**_ORDER, **_OWN, **DECLARED}
_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "schedule": get_args(Kind),
    "cache": ("as-is", "cold"),
    "until": ("profile", "trace"),
    "sender": ("auto", "engine", "httpx"),
}
_LEAST: Final = {"repeats": 1, "pause": 0, "redo_invalid": 0}


@dataclass(frozen=True, kw_only=True)
class AbPlan:
    """Arms, rounds and order of the runs. `order` is what all arms share.

    `repeats` is how many runs each arm has, `pause_s` the seconds between two of them, `redo_invalid` how
    often a run is done again whose client was the limit. `max_cost` is in US dollars for all runs
    together. `declared` says how the runs will be judged (DECLARED), in the words of the plan.
    """

    order: ReplayOptions
    treatments: tuple[ArmSpec, ...]
    repeats: int = 5
    schedule: Kind = "random"
    seed: int = 0
    pause_s: float = 0.0
    redo_invalid: int = 1
    max_cost: float | None = None
    declared: Mapping[str, Any]
    words: Mapping[str, Any]

    @property
    def slots(self) -> list[Slot]:
        """The replays in their order."""
        return slots(len(self.treatments), self.repeats, self.schedule, self.seed)

    @property
    def written(self) -> dict[str, Any]:
        """The plan as a file keeps it: nothing in it may be a credential."""
        kept = {name: value for name, value in self.words.items() if name != "arm"}
        if "proxy" in kept:
            kept["proxy"] = mask_address(kept["proxy"])
        return {**kept, "arm": [one.written for one in self.treatments]}


def experiment(words: Mapping[str, Any]) -> AbPlan:
    """The experiment of a plan's words (docs/ab.md). Raises InputError naming the word that is wrong."""
    for name, value in words.items():
        _check(name, value)
    if "trace" not in words:
        raise InputError("a trace is missing: tbench ab TRACE --arm ... --arm ...")
    arms = treatments(words.get("arm", ()))
    schedule = words.get("schedule", "random")
    if schedule == "duet" and len(arms) > MOST_ARMS:
        raise InputError(
            f"--schedule duet: {len(arms)} arms at once, at most {MOST_ARMS} are possible"
        )
    own = {
        name: words[name]
        for name in ("repeats", "redo_invalid", "seed", "max_cost")
        if name in words
    }
    return AbPlan(
        order=_order(words),
        treatments=arms,
        schedule=schedule,
        pause_s=float(words.get("pause", 0.0)),
        declared={name: words[name] for name in DECLARED if name in words},
        words={**words, "trace": str(Path(words["trace"]).absolute())},
        **own,
    )


def _order(words: Mapping[str, Any]) -> ReplayOptions:
    """The shared order; an experiment's prompts are new to every cache unless it says otherwise."""
    given = {name: words[name] for name in _ORDER if name in words}
    workers = words.get("workers", "auto")
    return ReplayOptions(
        trace=Path(words["trace"]),
        warmup=parse_warmup(words.get("warmup", "auto")),
        workers=parse_workers(workers) if isinstance(workers, str) else workers,
        max_cost=words.get("max_cost"),
        **{"cache": "cold", **given},
    )


def _check(name: str, value: object) -> None:
    if name not in _TYPES:
        raise InputError(f"plan: no such key {name}; there are {', '.join(sorted(_TYPES))}")
    types = _TYPES[name]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        wanted = " or ".join(one.__name__ for one in types)
        raise InputError(f"plan: {name} is {value!r}; it must be {wanted}")
    if (
        name == "only"
        and isinstance(value, list)
        and not all(isinstance(one, str) for one in value)
    ):
        raise InputError(f"plan: only is {value!r}; it must be a list of texts")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise InputError(f"{_flag(name)} {value}: choose one of {', '.join(_CHOICES[name])}")
    if name in _LEAST and isinstance(value, int | float) and not value >= _LEAST[name]:
        raise InputError(f"{_flag(name)} {value}: must be at least {_LEAST[name]}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def read_plan(path: Path) -> dict[str, Any]:
    """The words of a plan file: TOML, or the `plan.json` that an experiment's folder has.

    A trace that it names by a relative path lies beside it.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        kept = path.suffix == ".json"
        words = loads(text)["plan"] if kept else tomllib.loads(text.decode())
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no plan: {error}") from None
    if not isinstance(words, dict):
        raise InputError(f"{path}: no plan: a table of keys is needed")
    if not kept and isinstance(words.get("trace"), str):
        words["trace"] = str(path.parent / words["trace"])
    return words
