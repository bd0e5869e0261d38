"""Form: what fields a record must have, of which types, and how they are taken out of it."""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from tbench.capture.exchange import Headers
from tbench.capture.frames import FARTHEST

Fields = dict[str, tuple[type, ...]]
"""The names of a record's fields, and the types that each may have."""


class Form:
    """How records with the fields of a table come in.

    Combinations of types that were found right are remembered, with the places of the numbers among them:
    of those alone the size is still to be looked at.
    """

    def __init__(self, table: Fields) -> None:
        self._names = tuple(table)
        self._types = tuple(table.values())
        self._values = itemgetter(*table)
        self._known = frozenset({*table, "type", "id"})
        self._sound: dict[tuple[type, ...], tuple[int, ...]] = {}

    def read(self, record: Mapping[str, Any]) -> dict[str, Any] | None:
        """The table's fields of a record; None when one is missing or of a wrong type."""
        try:
            values = self._values(record)
        except KeyError:
            values = tuple(map(record.get, self._names))
        kinds = tuple(map(type, values))
        numbers = self._sound.get(kinds)
        if numbers is None:
            if not self._fit(kinds):
                return None
            numbers = tuple(place for place, kind in enumerate(kinds) if kind is int)
            self._sound[kinds] = numbers
        for place in numbers:
            if not -FARTHEST <= values[place] <= FARTHEST:
                return None
        known = dict(zip(self._names, values, strict=True))
        if "headers" in known:
            known["headers"] = _headers(known["headers"])
        return known

    def rest(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """What else a record holds."""
        if record.keys() <= self._known:
            return {}
        return {key: value for key, value in record.items() if key not in self._known}

    def _fit(self, kinds: tuple[type, ...]) -> bool:
        """Exactly as msgpack makes them: a bool is no int."""
        return all(kind in types for kind, types in zip(kinds, self._types, strict=True))


def _headers(pairs: list[Any]) -> Headers:
    return tuple(
        [(str(one[0]), str(one[1])) for one in pairs if isinstance(one, list) and len(one) == 2]
    )
