"""What a simulated service is like: one frozen table, read from TOML. Unknown keys are refused."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

from tbench.capture.errors import InputError
from tbench.simulator.engine import EngineSpec
from tbench.simulator.faults import known_fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Output lengths in tokens: lognormal around the median, within 2 and the maximum.

    They follow from the seed and the prompt alone, so that profiles differ in speed and not in work.
    """

    median: float = 60.0
    sigma: float = 0.5
    maximum: int = 400
    reasoning_median: float = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The service's limits. `requests_per_s` 0 is no limit; `burst` requests may come at once."""

    requests_per_s: float = 0.0
    burst: float = 10.0
    context_tokens: int = 131_072
    embedding_tokens: int = 514
    embedding_dims: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A service: its engine, lengths, limits, and the share of requests that each fault befalls.

    With `early_head` the response head leaves at once instead of with the first token.
    """

    name: str
    engine: EngineSpec = field(default_factory=EngineSpec)
    lengths: Lengths = field(default_factory=Lengths)
    limits: Limits = field(default_factory=Limits)
    faults: Mapping[str, float] = field(default_factory=dict)
    early_head: bool = False


def load_profile(name: str) -> Profile:
    """One of the profiles that come with tbench, by name, or a TOML file by its path."""
    shipped = files("tbench.simulator") / "profiles" / f"{name}.toml"
    path = Path(name)
    if "/" not in name and shipped.is_file():
        return parse_profile(shipped.read_text(), name)
    if not path.is_file():
        raise InputError(f"--profile {name}: no such profile; use fast, slow or a TOML file")
    return parse_profile(path.read_text(), path.stem, str(path))


def parse_profile(text: str, name: str, where: str | None = None) -> Profile:
    """A profile from TOML text. Raises InputError that names the key at fault."""
    where = where or name
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: not TOML: {error}") from None
    tables = {
        key: kind for key, kind in _kinds(Profile).items() if hasattr(kind, "__dataclass_fields__")
    }
    parts: dict[str, Any] = {
        key: _row(tables[key], value, f"{where}: [{key}]") if key in tables else value
        for key, value in table.items()
    }
    profile: Profile = _row(Profile, {"name": name, **parts}, where)
    check_faults(profile.faults, where)
    return profile


def check_faults(faults: Mapping[str, float], where: str) -> None:
    """Raises InputError unless each fault exists and the rates are shares that sum to 1 at most."""
    for kind, rate in faults.items():
        if not known_fault(kind):
            raise InputError(f"{where}: no such fault: {kind}; see tbench serve --help")
        if not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise InputError(f"{where}: the rate of fault {kind} must be from 0 to 1, not {rate}")
    if sum(faults.values()) > 1:
        raise InputError(f"{where}: the rates of all faults together are above 1")


def _kinds(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _row[T: Profile | Lengths | Limits | EngineSpec](kind: type[T], table: object, where: str) -> T:
    if not isinstance(table, Mapping):
        raise InputError(f"{where} must be a table")
    kinds = _kinds(kind)
    for key, value in table.items():
        if key not in kinds:
            known = ", ".join(one.name for one in fields(kind))
            raise InputError(f"{where}: unknown key {key}; known are {known}")
        if kinds[key] in (int, float) and not _number(value, whole=kinds[key] is int):
            raise InputError(f"{where}: {key} must be a number not below 0, not {value!r}")
    return kind(**table)


def _number(value: object, *, whole: bool) -> bool:
    kinds = int if whole else int | float
    return isinstance(value, kinds) and not isinstance(value, bool) and value >= 0
