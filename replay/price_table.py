"""Price tables: what models cost at whose hosts, who says so and from when (docs/replay.md, "Prices").

One form, TOML, for the list that comes with tbench and for `--prices FILE`. A model is looked up by its exact
id at the target's host; what no table has there has no price, rather than a guessed one.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from tbench.capture.errors import InputError
from tbench.capture.exchange import NOTHING
from tbench.capture.providers.provider import counted
from tbench.replay.cost import BY_OPTION, DEAREST, FIGURES, Price

SHIPPED: Final = Path(__file__).with_name("prices.toml")
LISTED: Final = "list prices"
COUNTS: Final = ("context", "picture")
"""What is in tokens; of a list, `picture` is that of all its models."""


class PriceList(NamedTuple):
    """The prices of one maker, by model, at the hosts that fit a pattern (none: at any)."""

    hosts: Sequence[str]
    models: Mapping[str, Price]

    def holds_at(self, host: str | None) -> bool:
        """Whether these are prices of that host; one that is not known may be any."""
        named = not self.hosts or host is None
        return named or any(fnmatchcase(str(host).lower(), pattern) for pattern in self.hosts)


def prices_at(
    host: str | None, given: Mapping[str, Price] = NOTHING, file: str | Path | None = None
) -> dict[str, Price]:
    """What models cost at a host: by those `given`, else by a file, else by the list of tbench."""
    lists = [*shipped(), *(() if file is None else read_price_lists(Path(file)))]
    prices: dict[str, Price] = {}
    for price_list in lists:  # the later one goes before the earlier
        if price_list.holds_at(host):
            prices.update(price_list.models)
    return {**prices, **given}


@cache
def shipped() -> tuple[PriceList, ...]:
    """The lists that come with tbench."""
    return read_price_lists(SHIPPED)


def read_price_lists(path: Path) -> tuple[PriceList, ...]:
    """The lists in a file. Raises InputError where it cannot be read, or says something else than prices."""
    try:
        table = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise InputError(f"--prices {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"--prices {path}: not TOML: {error}") from None
    lists = table.pop("list", None)
    if (
        not isinstance(lists, list)
        or not lists
        or not all(isinstance(each, dict) for each in lists)
    ):
        raise InputError(f'--prices {path}: has no [[list]] of prices (docs/replay.md, "Prices")')
    _check_names(f"--prices {path}", table, ())
    return tuple(_read(path, number, each) for number, each in enumerate(lists, 1))


def _read(path: Path, number: int, table: Mapping[str, Any]) -> PriceList:
    place = f"--prices {path}: [[list]] {number}"
    _check_names(place, table, ("source", "date", "hosts", "models", "picture"))
    hosts, models = table.get("hosts", []), table.get("models")
    if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
        raise InputError(f'{place}: hosts: write a list of names, such as ["api.example.com"]')
    for host in hosts:
        if "/" in host or "[" in host or host.count(":") == 1:
            raise InputError(
                f"{place}: hosts: {host!r}: write a host alone, without scheme, port or path"
            )
    if not isinstance(models, dict):
        raise InputError(f"{place}: has no [list.models]")
    known = [str(table[name]) for name in ("source", "date") if name in table]
    if not isinstance(table.get("date", ""), (str, date)):
        raise InputError(f"{place}: date: write it as 2026-01-31")
    name = LISTED if path == SHIPPED else path.name
    source = f"{name} ({', '.join(known)})" if known else name
    return PriceList(
        hosts=[host.lower() for host in hosts],
        models={
            model: _price(f"{place}, {model}", row, source, table.get("picture"))
            for model, row in models.items()
        },
    )


def _price(place: str, row: object, source: str, picture: object) -> Price:
    if not isinstance(row, dict):
        raise InputError(f"{place}: write it as {{ prompt = 0.5, output = 2 }}")
    _check_names(place, row, (*FIGURES, *COUNTS))
    row = row if picture is None else {"picture": picture, **row}
    for name in FIGURES[:2]:
        if name not in row:
            raise InputError(f"{place}: has no price for {name}")
    for name, value in row.items():
        if name in COUNTS:
            if type(value) is not int or not counted(value):
                raise InputError(f"{place}: {name}: {value!r} is not a number of tokens")
        elif type(value) not in (int, float) or not 0 <= value <= DEAREST:
            raise InputError(f"{place}: {name}: {value!r} is not US dollars per million tokens")
    return Price(**row, source=source)


def _check_names(place: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise InputError for a name that means nothing here: mistyped, it would be left out."""
    for name in table.keys() - known:
        raise InputError(
            f"{place}: no such key {name}" + (f"; there are {', '.join(known)}" if known else "")
        )


def priced_by(prices: Mapping[str, Price], models: Iterable[str]) -> dict[str, list[str]]:
    """Who says what these models cost, and of which of them."""
    sources: dict[str, list[str]] = {}
    for model in models:
        if model in prices:
            sources.setdefault(prices[model].source or BY_OPTION, []).append(model)
    return sources
