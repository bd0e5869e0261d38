"""Paths in the JSON of a body, one tree of them so that a body is walked once, and what stands there cut.

A path is names with dots between them, as replay.portability.Bond tells.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from operator import is_
from typing import Any, Final

Json = Mapping[str, Any]

Tree = dict[str, "_Member"]


@dataclass(slots=True)
class _Member:
    """A member that paths lead to: why it goes, where a path ends there, and what they lead to in it."""

    reason: str | None = None
    only: str | None = None
    inside: Tree = field(default_factory=dict)
    items: list["_Items"] = field(default_factory=list)

    def goes(self, value: object) -> bool:
        """Whether it is one to go: null and what is empty says nothing."""
        if self.reason is None:
            return False
        if self.only is not None:
            return value is True if self.only == "true" else value == self.only
        return value not in (None, "", [], {})


@dataclass(slots=True)
class _Items:
    """Items of a list: `every` one, or those of `kinds` (`others`: of all else) with a member, or without."""

    every: bool
    kinds: re.Pattern[str] | None
    others: bool
    member: str
    has: bool
    reason: str | None = None
    inside: Tree = field(default_factory=dict)

    def fits(self, item: object) -> bool:
        """Whether an item of the list is meant."""
        if self.kinds is not None:
            kind = item.get("type") if isinstance(item, dict) else item
            if not isinstance(kind, str) or bool(self.kinds.fullmatch(kind)) is self.others:
                return False
        return not self.member or (
            isinstance(item, dict) and bool(item.get(self.member)) is self.has
        )


_STEP: Final = re.compile(r"(\w+)(?:(\[)(!?)([\w.*|]*)(?:([+-])(\w+))?\])?(?:=(\w+))?(?:\.|$)")


def grow(tree: Tree, path: str, reason: str) -> None:
    """Put a path into the tree, with the reason why what stands there goes. Raises ValueError for no path."""
    end = 0
    while end < len(path):
        step = _STEP.match(path, end)
        if step is None:
            raise ValueError(f"no path: {path}")
        name, each, others, kinds, sign, holds, only = step.groups()
        end = step.end()
        member = tree.setdefault(name, _Member())
        place: _Member | _Items = member
        if only:
            member.only = only
        if each:
            every = not (kinds or holds)
            # Paths over every item share one tree, so that an item is walked once for
            # all of them; those with conditions stand apart, since each has its own.
            known = [items for items in member.items if every and items.every]
            pattern = re.compile("|".join(map(translate, kinds.split("|")))) if kinds else None
            items = _Items(every, pattern, bool(others), holds or "", sign == "+")
            place = (known or [items])[0]
            member.items += [] if known else [items]
        if end == len(path):
            place.reason = reason
        tree = place.inside


def pruned(holder: Json, tree: Tree, reasons: set[str]) -> Json:
    """The object without what the tree leads to, nor what that empties; itself where it leads nowhere."""
    copy: dict[str, Any] | None = None
    for name, member in tree.items():
        if name not in holder:
            continue
        # What is not changed stays the very object, up to the top: by that the target knows that it can
        # send the recorded bytes, and bodies of megabytes are not written anew for nothing.
        value = rest = holder[name]
        if member.goes(value):
            reasons.add(str(member.reason))
            rest = None
        elif isinstance(value, dict) and member.inside:
            rest = pruned(value, member.inside, reasons)
        elif isinstance(value, list) and member.items:
            rest = _pruned_items(value, member.items, reasons)
        if rest is not value:
            copy = dict(holder) if copy is None else copy
            copy[name] = rest
            # What lost all that it held says nothing: who does not know it is not asked for `{}` either.
            if not rest:
                del copy[name]
    return holder if copy is None else copy


def _pruned_items(items: list[Any], kinds: Sequence[_Items], reasons: set[str]) -> list[Any]:
    """The list without the items that go, the others pruned; itself where nothing changes."""
    rest: list[Any] = []
    for item in items:
        new = item
        for kind in kinds:
            if not (kind.every or kind.fits(item)):
                continue
            if kind.reason is not None:
                reasons.add(kind.reason)
                break
            if isinstance(new, dict):
                new = pruned(new, kind.inside, reasons)
        else:
            rest.append(new)
    same = len(rest) == len(items) and all(map(is_, rest, items))
    return items if same else rest
