"""The experiment: what is decided before its first request, from a plan file or the command line."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from tbench.abtest.schedule import Kind, Slot, slots
from tbench.abtest.treatment import Treatment, treatments
from tbench.capture.errors import InputError
from tbench.capture.jsontext import loads
from tbench.capture.redact import mask_address
from tbench.replay.order import FLAGS, Order, parse_workers
from tbench.replay.warmup import parse_warmup
from tbench.replay.workers.pulse import MOST_ARMS

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
class Experiment:
    """Arms, rounds and order of the runs. `order` is what all arms share.

    `repeats` is how many runs each arm has, `pause_s` the seconds between two of them, `redo_invalid` how
    often a run is done again whose client was the limit. `max_cost` is in US dollars for all runs
    together. `declared` says how the runs will be judged (DECLARED), in the words of the plan.
    """

    order: Order
    treatments: tuple[Treatment, ...]
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


def experiment(words: Mapping[str, Any]) -> Experiment:
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
    return Experiment(
        order=_order(words),
        treatments=arms,
        schedule=schedule,
        pause_s=float(words.get("pause", 0.0)),
        declared={name: words[name] for name in DECLARED if name in words},
        words={**words, "trace": str(Path(words["trace"]).absolute())},
        **own,
    )


def _order(words: Mapping[str, Any]) -> Order:
    """The shared order; an experiment's prompts are new to every cache unless it says otherwise."""
    given = {name: words[name] for name in _ORDER if name in words}
    workers = words.get("workers", "auto")
    return Order(
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
