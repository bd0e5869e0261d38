"""The experiment: what is decided before its first request, from a plan file or the command line."""

import random
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import orjson

from tbench.abtest.options import FORM, OF_ARM, AbOptions, Kind
from tbench.analysis.gate import Gate, parse_gate, parse_gates
from tbench.analysis.gate_estimate import LEAST_RUNS, Method
from tbench.analysis.interim import Looks
from tbench.analysis.run_metrics import parse_slo
from tbench.capture.errors import InputError
from tbench.capture.exchange import NOTHING
from tbench.capture.jsontext import loads
from tbench.capture.option import made, rows
from tbench.capture.redact import mask_address, mask_lookalikes
from tbench.capture.remote import as_path, is_url
from tbench.replay.cost import parse_prices, prices_written
from tbench.replay.options import ReplayOptions
from tbench.replay.provenance import WITHHELD, without_credentials
from tbench.replay.target import parse_headers
from tbench.replay.workers.counters import MOST_ARMS
from tbench.settings import settings_file, variable, words_of

USUAL_MARGIN: Final = "5%"
MOST_MONITORED: Final = 100
"""Runs of an arm that are looked at: the levels of 100 looks take seconds, those of 10,000 weeks."""

# The schedule: which arm is replayed when, so that what changes with time falls on all arms alike.
#
# Every round holds each arm once, so of any two arms each consecutive pair of runs holds one of each: what
# a gate on repeated runs needs (docs/statistics.md; runs of one arm after those of the other let drift pass
# for a difference in up to 93 % of comparisons). And each goes first as often as the other, or a place in
# the pair that is slower (an hourly job that meets every second run) would pass for a difference as well.


@dataclass(frozen=True, slots=True)
class Slot:
    """One replay of the plan: its round, from 1, and the arms that are replayed in it, by place."""

    round: int
    arms: tuple[int, ...]


def run_name(arm: str, number: int) -> str:
    """What the run of an arm in a round is called."""
    return f"{arm}.{number}"


def slots(arms: int, repeats: int, kind: Kind, seed: int) -> list[Slot]:
    """The replays in their order (MEANINGS); the same seed gives the same."""
    everyone = tuple(range(arms))
    if kind == "duet":  # replay.runner draws the order of each request
        return [Slot(number, everyone) for number in range(1, repeats + 1)]
    # One source for all rounds: whoever goes on after a stop draws the same order for the rest.
    source, order, planned = random.Random(seed), list(everyone), []
    for number in range(1, repeats + 1):
        if number % 2 == 0:
            order.reverse()  # after two rounds no arm went first oftener; a steady drift cancels
        else:
            order = source.sample(everyone, arms) if kind == "random" else list(everyone)
        planned += [Slot(number, (arm,)) for arm in order]
    return planned


MEANINGS: Final[Mapping[Kind, str]] = {
    "random": "in rounds that hold every arm once, two by two: in a drawn order, then in its reverse",
    "abba": "forwards and backwards in turn (A B, B A, ...)",
    "duet": "all at once, request by request, in an order drawn for each request",
}


# What one arm of an experiment gets that the others do not.

_ROWS: Final = {row.key: row for name, row in rows(ReplayOptions).items() if name in OF_ARM}
_TABLES: Final = [key for key, row in _ROWS.items() if row.repeatable]
_KEYS: Final = ["name", "target", *_ROWS]
_TEXTS: Final = [key for key in _KEYS if key not in _TABLES]
_GATED: Final = {row.key: row for row in rows(AbOptions).values() if row.option.of_target}
"""What a target says of the gates. It holds for all arms: those of the candidates count, which are judged."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_CUT = re.compile(rf",(?=(?:{'|'.join(_TEXTS)})=|(?:{'|'.join(_TABLES)})\.[^=,]+=)")
"""A comma ends a word where the next one begins as words do: values may hold commas."""


@dataclass(frozen=True, kw_only=True)
class ArmSpec:
    """An arm's name and what it changes of the shared order, by the names of ReplayOptions.

    `sources` says of the changes that a target of the settings file has made where they are from, `gated`
    what it says of the gates, each with its place.
    """

    name: str
    changes: Mapping[str, Any] = field(repr=False)  # headers among them
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    gated: Mapping[str, tuple[str, str]] = field(default_factory=dict, compare=False)

    def order(self, shared: ReplayOptions) -> ReplayOptions:
        """The shared order, for this arm; a price of its own goes before that of all."""
        changes = {**self.changes, "price": {**shared.price, **self.changes.get("price", {})}}
        return replace(shared, **changes, sources={**shared.sources, **self.sources})

    @property
    def written(self) -> dict[str, Any]:
        """As a plan file has it, without the values that may be credentials."""
        table = {key: self.changes.get(row.name) for key, row in _ROWS.items()}
        table["set"] = without_credentials(table["set"] or {})
        table["header"] = {name: WITHHELD for name, _ in table["header"] or ()}
        table["price"] = prices_written(table["price"] or {})
        filled = {key: value for key, value in table.items() if value not in (None, {})}
        return {"name": self.name, **filled}


def parse_arm(text: str) -> dict[str, Any]:
    """`name=A,model=M,set.max_tokens=64` as the table that a plan file has for it."""
    table: dict[str, Any] = {}
    for word in _CUT.split(text.strip()):
        name, mark, value = word.partition("=")
        outer, dot, inner = name.partition(".")
        if not mark or outer not in (_TABLES if dot else _TEXTS):
            raise InputError(f"--arm: {mask_lookalikes(word)!r} is not understood; write {FORM}")
        if inner in table.get(outer, {}) if dot else name in table:
            raise InputError(f"--arm: {mask_lookalikes(name)} is given twice; give it once")
        if not dot:
            table[name] = value
            continue
        member: object = value
        if outer == "set":
            try:
                member = orjson.loads(value)
            except orjson.JSONDecodeError:
                raise InputError(
                    f"--arm: {mask_lookalikes(word)!r}: the value is no JSON; a text needs quotes: "
                    'set.name="text"'
                ) from None
        table.setdefault(outer, {})[inner] = member
    return table


def treatments(tables: Iterable[object]) -> tuple[ArmSpec, ...]:
    """The arms of a plan, checked: names are unique, and there are at least two."""
    specs = tuple(_treatment(table) for table in tables)
    names = [spec.name for spec in specs]
    if len(specs) < 2:
        raise InputError(f"an experiment needs two arms or more; give --arm {FORM!r} for each")
    if len({name.casefold() for name in names}) < len(names):
        raise InputError(f"arms {', '.join(names)}: two have the same name (case does not count)")
    return specs


def _treatment(table: object) -> ArmSpec:
    if not isinstance(table, dict):
        raise InputError("arm: every arm is a table with a name and what it changes")
    if unknown := table.keys() - set(_KEYS):
        raise InputError(f"arm: no such key {min(unknown)}; there are {', '.join(_KEYS)}")
    name = table.get("name")
    if name is None:
        raise InputError(f"an arm has no name; write it as {FORM!r}")
    if isinstance(name, str) and "=" in name:  # a word that no arm has lies in what came before it
        word = name.rpartition(",")[2].partition("=")[0]
        raise InputError(f"arm: no such key {word}; there are {', '.join(_KEYS)}")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            f"arm {name!r}: every arm needs a name of letters, digits, '_' and '-', 40 at most"
        )
    for key, value in table.items():
        table_like = key in _TABLES
        if not isinstance(value, dict if table_like else str):
            wanted = f"a table, as in {key}.NAME=VALUE" if table_like else "a text"
            raise InputError(f"arm {name}: {key} must be {wanted}")
    texts = {"map_model", "header", "price"} & table.keys()
    for key, value in (item for text in texts for item in table[text].items()):
        if not isinstance(value, str):
            raise InputError(f"arm {name}: {key} must be a text")
        if value == WITHHELD:
            raise InputError(
                f"arm {name}: the value of {key} was not written down; give the whole command again"
            )
    return (
        _with_target(name, table)
        if "target" in table
        else ArmSpec(name=name, changes=_changes(table))
    )


def _with_target(arm: str, table: Mapping[str, Any]) -> ArmSpec:
    """An arm with what its target says and its table does not."""
    if "base_url" in table:
        raise InputError(f"arm {arm}: target and base_url are two; give one")
    file = settings_file()
    target = file.target(table["target"], "base_url=URL")
    place = f"{file.path} [targets.{table['target']}]"
    if foreign := target.keys() - _ROWS.keys() - _GATED.keys():
        raise InputError(f"{place} {min(foreign)}: is for all arms; give --{min(foreign)}")
    added = {key: value for key, value in target.items() if key in _ROWS and key not in table}
    return ArmSpec(
        name=arm,
        changes=_changes({**added, **table}),
        sources=dict.fromkeys(added, place),
        gated={key: (target[key], place) for key in _GATED if key in target},
    )


def _changes(table: Mapping[str, Any]) -> dict[str, Any]:
    """What the table of an arm changes, by the names of ReplayOptions."""
    changes = {row.name: table[key] for key, row in _ROWS.items() if key in table}
    headers, prices = changes.pop("headers", {}), changes.pop("price", {})
    if headers:
        changes["headers"] = parse_headers([f"{key}: {value}" for key, value in headers.items()])
    if prices:
        changes["price"] = parse_prices([f"{model}={text}" for model, text in prices.items()])
    if changes.get("base_url") == "":  # as the others have it
        del changes["base_url"]
    return changes


@dataclass(frozen=True, kw_only=True)
class AbPlan:
    """An experiment, resolved. `order` is what all arms share.

    `repeats` is how many runs each arm has, `pause_s` the seconds between two of them, `redo_invalid` how
    often a run is repeated whose client was the limit. `max_cost` is in US dollars for all runs together.
    `gates`, `contrast` and `looks` (None: one look, at the end) belong to the plan, since they must not be
    chosen after looking at the runs. `words` are the options as they were given.
    """

    order: ReplayOptions
    treatments: tuple[ArmSpec, ...]
    repeats: int
    schedule: Kind
    seed: int
    pause_s: float
    redo_invalid: int
    max_cost: float | None
    gates: tuple[Gate, ...]
    contrast: Method
    looks: Looks | None
    words: Mapping[str, Any]

    @property
    def slots(self) -> list[Slot]:
        """The replays in their order."""
        return slots(len(self.treatments), self.repeats, self.schedule, self.seed)

    @property
    def written(self) -> dict[str, Any]:
        """The plan as a file keeps it: nothing in it may be a credential."""
        words = {name: value for name, value in self.words.items() if name != "arm"}
        if "proxy" in words:
            words["proxy"] = mask_address(words["proxy"])
        return {**words, "arm": [arm.written for arm in self.treatments]}


def experiment(words: Mapping[str, Any], sources: Mapping[str, str] = NOTHING) -> AbPlan:
    """The plan of an experiment's words (docs/ab.md). Raises InputError naming the word that is wrong.

    `sources` says of words where they are from, if neither the command line nor a plan file has them.
    """
    table = {row.key: row for row in rows(AbOptions).values()}
    if isinstance(words.get("price"), Mapping):
        words = {**words, "price": prices_written(words["price"])}
    values: dict[str, Any] = {"arms": ()}
    for key, value in words.items():
        if key not in table:
            raise InputError(f"plan: no such key {key}; there are {', '.join(sorted(table))}")
        values[table[key].name] = table[key].of_plan(value)
    if "trace" not in words:
        raise InputError("a trace is missing: tbench ab TRACE --arm ... --arm ...")
    options = made(AbOptions, values)
    arms = treatments(options.arms)
    counted = any(parse_gate(text).endpoint.needs_slo for text in options.gate)
    gated = _gated(arms[1:], words, sources, frozenset() if counted else frozenset({"slo"}))
    words = {**words, **{key: value for key, (value, _) in gated.items()}}
    sources = {**sources, **{key: place for key, (_, place) in gated.items()}}
    options = replace(options, **{_GATED[key].name: words[key] for key in gated})
    schedule, repeats = options.schedule, options.repeats
    margin = USUAL_MARGIN if options.margin is None and not options.gate else options.margin
    slo = parse_slo(options.slo) if options.slo else ()
    gates = parse_gates(margin, options.gate, slo, standing="slo" in sources)
    if "slo" in sources and not counted:  # in the folder's plan it would be one that was asked for
        words = {key: value for key, value in words.items() if key != "slo"}
    if schedule == "duet":
        _check_duet(options.replay, arms, gates)
    if options.trend and schedule != "random":
        raise InputError(
            f"--trend needs an order of runs that chance drew, not --schedule {schedule}"
        )
    if options.trend and options.monitor:
        raise InputError(
            "--trend and --monitor: the looks of a monitored plan are Welch's; drop one"
        )
    if options.monitor and repeats <= LEAST_RUNS:
        raise InputError(
            f"--monitor: {repeats} runs of each arm leave no look before the last; take --repeats "
            f"{LEAST_RUNS + 1} or more"
        )
    if options.monitor and repeats > MOST_MONITORED:
        raise InputError(
            "--monitor: the levels of so many looks take long to work out; take --repeats "
            f"{MOST_MONITORED} or fewer"
        )
    return AbPlan(
        order=replace(options.replay, sources=sources),
        treatments=arms,
        repeats=repeats,
        schedule=schedule,
        seed=options.replay.seed,
        pause_s=float(options.pause),
        redo_invalid=options.redo_invalid,
        max_cost=options.replay.max_cost,
        gates=gates,
        contrast="trend" if options.trend else "welch",
        looks=Looks(runs=tuple(range(LEAST_RUNS, repeats + 1))) if options.monitor else None,
        words={**words, "trace": str(as_path(words["trace"]).absolute())},
    )


def _check_duet(order: ReplayOptions, arms: Sequence[ArmSpec], gates: Sequence[Gate]) -> None:
    """Raises InputError for what arms that run at once cannot have."""
    if len(arms) > MOST_ARMS:
        raise InputError(
            f"--schedule duet: {len(arms)} arms at once, at most {MOST_ARMS} are possible"
        )
    if order.max_in_flight is not None:
        raise InputError(
            "--max-in-flight: the arms of a duet would share it, so that the slower one holds up the other; "
            "leave it out, or take --schedule random"
        )
    paced = next((gate for gate in gates if gate.endpoint.paced), None)
    if paced and not order.pacing().is_open:
        raise InputError(
            f"--gate {paced.text}: the arms of a duet share the places of a closed loop, so that the slower "
            "one sets the rate of both; take --schedule random"
        )


def _gated(
    candidates: Iterable[ArmSpec],
    words: Mapping[str, Any],
    sources: Mapping[str, str],
    idle: Collection[str],
) -> dict[str, tuple[str, str]]:
    """What the candidates' targets say of the gates, and where, unless a stronger place says it.

    Stronger is all but `[defaults]`. Raises InputError for a value that is none, and for two that differ,
    unless it is `idle`: no gate looks at it.
    """
    gated: dict[str, tuple[str, str]] = {}
    for key, row in _GATED.items():
        if key in words and sources.get(key) in {None, variable(key)}:
            continue
        targets = [(arm.name, *arm.gated[key]) for arm in candidates if key in arm.gated]
        if not targets:
            continue
        first, chosen, origin = targets[0]
        gated[key] = words_of(row, chosen, f"{origin} {key}"), origin
        for name, value, place in targets:
            if value != chosen and key not in idle:
                raise InputError(
                    f"arms {first} and {name}: {key} is {chosen} by {origin}, {value} by {place}; one holds "
                    f"for all candidates: give {row.flag}"
                )
    return gated


def read_plan(path: Path) -> dict[str, Any]:
    """The words of a plan file: TOML, or the `plan.json` that an experiment's folder has.

    A trace that it names by a relative path lies beside it.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        stored = path.suffix == ".json"
        words = loads(text)["plan"] if stored else tomllib.loads(text.decode())
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no plan: {error}") from None
    if not isinstance(words, dict):
        raise InputError(f"{path}: no plan: a table of keys is needed")
    if not stored and isinstance(words.get("trace"), str) and not is_url(words["trace"]):
        words["trace"] = str(path.parent / words["trace"])
    return words
