"""What is private inside a JSON body, told by the names of its members: where it lies, no byte changed.

The lists of names are here and nowhere else (docs/capture.md, "What is never written", repeats them).
Prompts and schemas are not looked into: that they mention a password makes nothing in them one.
"""

import re
from collections.abc import Iterator
from enum import Enum, auto
from functools import lru_cache
from typing import NamedTuple

IDENTITIES = frozenset({"user", "safety_identifier", "prompt_cache_key", "metadata.user_id"})
"""Members, by their path from the top, whose values name a person or an account."""
DEEPEST_IDENTITY = 2
_IDENTITY = re.compile(
    r'"(?:{})"\s*:'.format(
        "|".join(path.rpartition(".")[2] for path in sorted(IDENTITIES))
    ).encode()
)

_CREDENTIAL = re.compile(
    r"(?:api|access|secret|private|account|subscription|shared|master)keys?$"
    r"|(?:access|refresh|session|auth|authorization|bearer|api|oauth2?|security|azuread|github|gitlab"
    r"|slack|bot|user|service|^id|^hf|^sas|^jwt)tokens?$"
    r"|secrets?$|passw(?:or)?d$|passphrase$|authorization$|credentials?$|connectionstring$|cookies?$"
)
"""Names, without `-`, `_` and capitals, whose values authenticate: `api_key`, `clientSecret`, ..."""

_HOLDER = re.compile(r"headers$|^(?:auth|oauth2?|authentication|authorization|credentials?)$")
"""Names of objects that hold nothing but credentials and what goes with them."""

_ADDRESS = re.compile(r"(?:server|base|webhook|callback|proxy)ur[li]$|apibase$|^endpoint$")
"""Names of addresses, whose user, query and long random parts may be credentials."""

_SERVERS = "mcpservers"
"""The array, in the Messages API, in which `url` is the address of a server."""

_PLAIN_IN_HOLDER = frozenset({"type", "scheme", "method", "granttype", "name"})

_PROMPTS = frozenset(
    {
        *("messages", "input", "prompt", "system", "instructions", "documents", "query", "suffix"),
        *("prediction", "contents"),
    }
)
"""Members of the body itself that hold what the model is told."""

_SCHEMAS = frozenset({"properties", "$defs", "definitions", "patternproperties"})
"""Members of a JSON schema whose members are names that an application chose."""

_LONGEST_NAME = 64
_WINDOW = 1 << 20
"""Bytes that are searched in one go: the search does not let go of the interpreter."""

_NAME = re.compile(rb'"([\w$.-]{1,64})"\s*:')
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s"{}\[\],:]+', re.DOTALL)
_NOTHING = (b"null", b"true", b"false", b'""')
_NUMBER = re.compile(rb"-?\d[\d.eE+-]*")


class Kind(Enum):
    """In which way a value is private."""

    IDENTITY = auto()
    CREDENTIAL = auto()
    ADDRESS = auto()


class Member(NamedTuple):
    """A private value: the name of its member, its literal's span, and the body's own member around it."""

    kind: Kind
    name: str
    start: int
    end: int
    top: str


class _Zone(Enum):
    """What the objects around a value say about it."""

    OPEN = auto()
    HOLDER = auto()
    SERVERS = auto()
    CLOSED = auto()


class _Level:
    """An object or an array under way; `member` is whose value comes next."""

    __slots__ = ("array", "member", "zone")

    def __init__(self, *, array: bool, zone: _Zone, member: str) -> None:
        self.array = array
        self.zone = zone
        self.member = member


def identities(body: bytes) -> list[Member]:
    """The values of a JSON body that name someone, in order. Of what is no JSON object: none, or a guess."""
    if not _IDENTITY.search(body):  # as most
        return []
    return [member for member in _walk(body) if member.kind is Kind.IDENTITY]


def credentials(body: bytes) -> list[Member]:
    """Those that authenticate, or are addresses that may, in order."""
    names = (
        name
        for start in range(0, len(body), _WINDOW)
        for name in set(_NAME.findall(body, start, start + _WINDOW + 2 * _LONGEST_NAME))
    )
    if not any(map(_may_authenticate, names)):
        return []
    return [member for member in _walk(body) if member.kind is not Kind.IDENTITY]


@lru_cache(maxsize=4096)
def _may_authenticate(name: bytes) -> bool:
    plain = _plain(name.decode("utf-8", "replace"))
    return plain == _SERVERS or any(
        names.search(plain) for names in (_CREDENTIAL, _HOLDER, _ADDRESS)
    )


def _walk(body: bytes) -> Iterator[Member]:
    levels: list[_Level] = []
    expect_name = False
    for token in _TOKEN.finditer(body):
        text = token[0]
        if text in b"{[":
            array = text == b"["
            zone, member = _Zone.OPEN, ""
            if levels:
                above = levels[-1]
                zone = above.zone
                if zone is not _Zone.CLOSED:
                    zone = _zone(above.member, top=len(levels) == 1) or zone
                member = above.member if array else ""  # an array's items go by its name
            levels.append(_Level(array=array, zone=zone, member=member))
            expect_name = not array
        elif text in b"}]":
            del levels[-1:]
            expect_name = False
        elif text == b",":
            expect_name = bool(levels) and not levels[-1].array
        elif text == b":":
            expect_name = False
        elif expect_name:
            levels[-1].member = text[1:-1].decode("utf-8", "replace")
        elif levels and text not in _NOTHING and (kind := _kind(levels, text)):
            yield Member(kind, levels[-1].member, *token.span(), levels[0].member)


@lru_cache(maxsize=1024)
def _zone(name: str, *, top: bool) -> _Zone | None:
    plain = _plain(name)
    if plain in _SCHEMAS or (top and plain in _PROMPTS):
        return _Zone.CLOSED
    if _HOLDER.search(plain):
        return _Zone.HOLDER
    return _Zone.SERVERS if plain == _SERVERS else None


def _kind(levels: list[_Level], text: bytes) -> Kind | None:
    """How the value `text` that stands at this place is private."""
    last = levels[-1]
    if len(levels) <= DEEPEST_IDENTITY and not any(level.array for level in levels):
        path = ".".join(level.member for level in levels)
        if path in IDENTITIES:
            return Kind.IDENTITY
    if last.zone is _Zone.CLOSED:
        return None
    number = text[:1] != b'"' and bool(_NUMBER.fullmatch(text))
    return _named(last.member, last.zone, number=number, top=len(levels) == 1)


@lru_cache(maxsize=4096)
def _named(name: str, zone: _Zone, *, number: bool, top: bool) -> Kind | None:
    plain = _plain(name)
    if top and plain in _PROMPTS:
        return None
    if _CREDENTIAL.search(plain) and not (number and plain.endswith(("token", "tokens"))):
        return Kind.CREDENTIAL
    if number:
        return None
    if zone is _Zone.HOLDER and plain not in _PLAIN_IN_HOLDER:
        return Kind.CREDENTIAL
    if _ADDRESS.search(plain) or (zone is _Zone.SERVERS and plain == "url"):
        return Kind.ADDRESS
    return None


def _plain(name: str) -> str:
    """A name in the spelling of the lists; one too long for any of them is none."""
    if len(name) > _LONGEST_NAME:
        return ""
    return name.lower().replace("-", "").replace("_", "")
