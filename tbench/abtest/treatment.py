"""The treatment: what one arm of an experiment gets that the others do not. Parsed from `--arm`."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from tbench.capture.errors import InputError
from tbench.capture.exchange import Headers
from tbench.capture.redact import mask_lookalikes
from tbench.replay.order import Order
from tbench.replay.provenance import WITHHELD, without_credentials
from tbench.replay.target import parse_headers

FORM: Final = "name=A,model=M,base_url=URL,api_key_env=VAR,set.max_tokens=64,header.NAME=VALUE"
_PLAIN: Final = ("name", "base_url", "model", "api_key_env")
_TABLES: Final = ("set", "map_model", "header")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_CUT = re.compile(rf",(?=(?:{'|'.join(_PLAIN)})=|(?:{'|'.join(_TABLES)})\.[^=,]+=)")
"""A comma ends a word where the next one begins as words do: values may hold commas."""


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """An arm's name and what it changes of the shared order: None, or empty, is as the others have it."""

    name: str
    base_url: str | None = None
    model: str | None = None
    api_key_env: str | None = None
    map_model: Mapping[str, str] = field(default_factory=dict)
    set: Mapping[str, Any] = field(default_factory=dict)
    headers: Headers = field(default=(), repr=False)

    def order(self, shared: Order) -> Order:
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


def treatments(tables: Iterable[object]) -> tuple[Treatment, ...]:
    """The arms of a plan, checked: names are unique, and there are at least two."""
    found = tuple(_treatment(table) for table in tables)
    names = [one.name for one in found]
    if len(found) < 2:
        raise InputError(f"an experiment needs two arms or more; give --arm {FORM!r} for each")
    if len({name.casefold() for name in names}) < len(names):
        raise InputError(f"arms {', '.join(names)}: two have the same name (case does not count)")
    return found


def _treatment(table: object) -> Treatment:
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
    return Treatment(
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
