"""Secrets out, before a byte reaches the disk.

Header fields pass by allowlist, query values by allowlist, credentials that are echoed in a body are
masked in place, and identities become keyed pseudonyms: equal in, equal out, within one capture. The key
is random, per capture, and lives in memory only.
"""

import hashlib
import hmac
import json
import re
import secrets as entropy
from base64 import b64decode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple
from urllib.parse import quote, quote_plus, unquote_plus

from tbench.capture.exchange import Headers
from tbench.capture.members import Kind, Member, credentials, identities
from tbench.capture.providers import SENT_HEADERS, masked
from tbench.capture.sessions import SESSION_HEADERS

Fields = Iterable[tuple[str, str]]
"""Header fields as they came off the wire, any case."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


KEPT_HEADERS = SENT_HEADERS | _words(
    """
    age cache-control cf-cache-status cf-ray connection content-length date expect host keep-alive
    openai-model openai-processing-ms openai-version request-id retry-after retry-after-ms server
    server-timing transfer-encoding upgrade user-agent vary via x-api-call-end x-api-call-start
    x-api-received x-cache x-cluster x-engine-pod x-envoy-upstream-service-time x-generation-id x-hostname
    x-inference-version x-request-id x-should-retry x-stainless-arch x-stainless-async
    x-stainless-helper-method x-stainless-lang x-stainless-os x-stainless-package-version
    x-stainless-raw-response x-stainless-read-timeout x-stainless-retry-count x-stainless-runtime
    x-stainless-runtime-version x-stainless-timeout x-together-traceid x-total-time
    fireworks-prompt-tokens fireworks-server-processing-time fireworks-server-time-to-first-token
    """
)
"""Fields whose values say how a server or an SDK behaves, and never who is calling."""

KEPT_PREFIXES = ("anthropic-ratelimit-", "x-ratelimit-", "x-sim-", "x-tbench-", "x-tokenlimit-")

PSEUDONYM_HEADERS = frozenset(SESSION_HEADERS) | _words(
    """
    conversation-id helicone-session-id helicone-user-id idempotency-key openai-organization
    openai-project session-id x-client-session-id x-conversation-id x-end-user-id
    x-litellm-session-id x-session-affinity x-session-id x-thread-id x-user-id
    """
)
"""Fields that tell callers or sessions apart: kept as pseudonyms."""

KEPT_QUERY = _words(
    "after api-version before beta include limit model offset order page purpose stream timeout"
)

RAW = "surrogateescape"
"""How bytes that are no UTF-8 stand in texts."""

MIN_SECRET = 8
"""A shorter word is no credential ("EMPTY", "none"), and masking it would garble prompts."""

TAIL, HEAD = 8, 12
"""So many of its last, or first, characters are a credential's too, where they look drawn."""

LONGEST_SHAPE = 4096
"""A longer value of an unknown field is no credential."""

_SECRET_NAME = re.compile(
    r"auth|key|token|secret|passw|credential|cookie|session|signature|\bsig\b", re.IGNORECASE
)
_CREDENTIAL = re.compile(
    r"(?:^|[_-])(?:authorization|api[_-]?key|token|secret|password|credentials?)$", re.IGNORECASE
)
"""How a member within a field is called that is one: a schema has a "key" or an "author" that is none."""
_QUERY_NAME = re.compile(r"[A-Za-z][\w.\-\[\]]{0,31}")
_USERINFO = re.compile(r"//[^/?@]*@")
_KEY_SEGMENT = re.compile(
    r"(?<=/)(?:sk|pk|rk|gsk|tgp|fw|hf|r8|xai|key|AIza|eyJ)[-_]?(?=[^/]*\d)[\w.-]{16,}(?=/|$)"
)
_QUERY_VALUE = re.compile(r"([?&][\w.\-\[\]]+=)[^\s&\"']+")
_DRAWN = re.compile(rb".*\d|.*[a-z].*[A-Z]")
_WORDED = re.compile(rb"[\s.\"']|\d-\d")
"""In what is a version, a date or a sentence: no piece of a key."""
_PART_MASKED = re.compile(rb"[\w\-.]{2,16}\*{3,}[\w\-.]{1,8}")


@dataclass(frozen=True, slots=True)
class Secrets:
    """What a caller must never see written down: exact byte strings, each in every common spelling."""

    spellings: tuple[bytes, ...] = ()
    _parts: dict[bytes, tuple[bytes, int]] = field(init=False, repr=False, compare=False)
    """What tells that a part of a secret is there: its end or its beginning, and where that stands."""

    def __post_init__(self) -> None:
        parts = {
            spelling[at : at + size]: (spelling, at)
            for spelling in self.spellings
            for at, size in ((len(spelling) - TAIL, TAIL), (0, HEAD))
            if len(spelling) >= TAIL + HEAD and _is_drawn(spelling[at : at + size])
        }
        object.__setattr__(self, "_parts", parts)

    @staticmethod
    def of(words: Iterable[str]) -> "Secrets":
        """The secrets among `words`; short ones are not credentials."""
        spellings = {
            spelling for word in words if len(word) >= MIN_SECRET for spelling in _spell(word)
        }
        # The longest first: once a shorter one within it is asterisks, the rest of it would stay.
        return Secrets(tuple(sorted(spellings, key=len, reverse=True)))

    def found_in(self, data: bytes) -> bool:
        """Whether any of them occurs in `data`."""
        return any(spelling in data for spelling in self.spellings) or any(
            part in data for part in self._parts
        )

    def __or__(self, other: "Secrets") -> "Secrets":
        if not other.spellings:
            return self
        both = {*self.spellings, *other.spellings}
        return Secrets(tuple(sorted(both, key=len, reverse=True)))

    def mask(self, data: bytes) -> bytes:
        """`data` with every occurrence overwritten by as many asterisks: offsets stay valid."""
        for spelling in self.spellings:
            if spelling in data:
                data = data.replace(spelling, b"*" * len(spelling))
        for part, (spelling, offset) in self._parts.items():
            if part in data:
                data = _without_part(data, part, spelling, offset)
        return data

    def mask_text(self, text: str) -> str:
        """The same for text."""
        if not self.spellings and text.isascii():
            return text
        return self.mask(_bytes(text)).decode("utf-8", "replace")

    def mask_excerpt(self, text: str) -> str:
        """The same for a text that was cut off ("…"), perhaps in the middle of a secret."""
        text = self.mask_text(text)
        body = text.removesuffix("…").encode("utf-8", "replace")
        if body == text.encode("utf-8", "replace"):
            return text
        # The most bytes at the end of the text that are the beginning of a secret.
        overlaps = (
            size
            for spelling in self.spellings
            for size in range(1, min(len(body), len(spelling)) + 1)
            if body.endswith(spelling[:size])
        )
        longest = max(overlaps, default=0)
        return (body[: len(body) - longest] + b"*" * longest).decode("utf-8", "replace") + "…"


def _is_drawn(piece: bytes) -> bool:
    """Whether characters are no word, version or date, which a text may hold by itself."""
    return bool(_DRAWN.match(piece)) and not _WORDED.search(piece)


def _without_part(data: bytes, part: bytes, spelling: bytes, offset: int) -> bytes:
    """`data` without each `part`, and without as much of `spelling` as stands around it."""
    masked_data = bytearray(data)
    start = data.find(part)
    while start >= 0:
        begin, end, left, right = start, start + len(part), offset, offset + len(part)
        while left and begin and data[begin - 1] == spelling[left - 1]:
            begin, left = begin - 1, left - 1
        while right < len(spelling) and end < len(data) and data[end] == spelling[right]:
            end, right = end + 1, right + 1
        masked_data[begin:end] = b"*" * (end - begin)
        start = data.find(part, end)
    return bytes(masked_data)


def _spell(word: str) -> set[bytes]:
    """A word plainly, in JSON (three habits of escaping) and in a URL."""
    escaped = "".join(c if c.isalnum() or c in "-_." else f"\\u{ord(c):04x}" for c in word)
    spellings = {word, json.dumps(word)[1:-1], word.replace("/", "\\/"), escaped}
    spellings |= {kind(_bytes(word), safe="") for kind in (quote, quote_plus)}
    return set(map(_bytes, spellings))


def mask_lookalikes(text: str) -> str:
    """Text for a log or an error field, without anything in the shape of a credential."""
    return masked(_QUERY_VALUE.sub(r"\1***", text))


def mask_address(text: str) -> str:
    """What was given for a URL, without what may be a user and a password in it."""
    return mask_lookalikes(re.sub(r"^(\w+:/*)?.*@", r"\1***@", text, flags=re.DOTALL))


def mask_hints(data: bytes) -> bytes:
    """An error body without half-masked keys ("sk-ab****wxyz"): those bytes are a key's too."""
    return _PART_MASKED.sub(lambda hit: b"*" * len(hit[0]), data) if b"***" in data else data


def secrets_of(fields: Fields, path: str = "", *, also: Iterable[str] = ()) -> Secrets:
    """The credentials that a request carries, in its header fields and its query, and what is `also` one."""
    words = [*also]
    words += [word for name, value in fields for word in _credentials(name.lower(), value)]
    for part in re.split("[&;]", path.partition("#")[0].partition("?")[2]):
        name, mark, value = part.partition("=")
        if mark and name not in KEPT_QUERY:
            words.append(value)
    return Secrets.of(words + [unquote_plus(word, errors=RAW) for word in words])


def _credentials(name: str, value: str) -> list[str]:
    """What a field authenticates with: told by its name or, where that is unknown, by its shape."""
    if _kept(name) or name in PSEUDONYM_HEADERS:
        return []
    if not looks_secret(name, value):
        return []
    if "cookie" in name:
        return [part.partition("=")[2].strip() for part in value.split(";")]
    return _with_its_parts(value)


def _with_its_parts(value: str) -> list[str]:
    """A credential, and what stands after its scheme ("Bearer ...")."""
    scheme, *rest = value.split(maxsplit=1) or [""]
    inner = [_userpass(word) for word in rest if scheme.lower() == "basic"]
    return [value, *rest, *chain.from_iterable(inner)]


def looks_secret(name: str, value: str) -> bool:
    """Whether a value may be a credential, by what it is called or by its shape."""
    known = value[:LONGEST_SHAPE]
    return bool(_SECRET_NAME.search(name)) or masked(known) != known


def hides(name: str, value: object) -> bool:
    """Whether a field of a JSON body holds what may be a credential; a number (max_tokens) never is."""
    return any(True for _ in credentials_in(name, value))


def credentials_in(name: str, value: object) -> Iterator[str]:
    """The texts of a field that may be credentials, by the field's name, by their own, or by their shape."""
    if isinstance(value, str):
        if looks_secret(name, value):
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from credentials_in(name, item)
    elif isinstance(value, dict):
        for inner, item in value.items():
            yield from credentials_in(inner if _CREDENTIAL.search(inner) else "", item)


def _userpass(encoded: str) -> list[str]:
    """What HTTP basic authentication wraps: the pair, and the password alone."""
    try:
        pair = b64decode(encoded).decode("utf-8", RAW)
    except ValueError:
        return []
    return [pair, pair.partition(":")[2]]


def safe_path(path: str, secrets: Secrets) -> str:
    """A request target with only the query values that are on the allowlist, and no credential."""
    target, fragment, _ = path.partition("#")
    route, mark, query = target.partition("?")
    route = _KEY_SEGMENT.sub("***", _USERINFO.sub("//***@", secrets.mask_text(route)))
    pairs = "".join(_safe_pair(part, secrets) for part in re.split("([&;])", query))
    return route + mark + pairs + (fragment and "#***")


def _safe_pair(pair: str, secrets: Secrets) -> str:
    name, mark, _ = pair.partition("=")
    if pair in {"", "&", ";"}:
        return pair
    if name in KEPT_QUERY:
        return secrets.mask_text(pair)
    harmless = secrets.mask_text(name) == masked(name) == name
    return f"{name}=***" if mark and harmless and _QUERY_NAME.fullmatch(name) else "***"


def _kept(name: str) -> bool:
    return name in KEPT_HEADERS or name.startswith(KEPT_PREFIXES)


class Redactor:
    """The allowlists, and the pseudonyms of one capture. Safe to share between threads."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or entropy.token_bytes(32)

    def pseudonym(self, value: str | bytes, length: int = 16) -> str:
        """`length` hex digits (at most 64) that stand for `value` in this capture, and in no other."""
        data = _bytes(value) if isinstance(value, str) else value
        return hmac.new(self._key, data, hashlib.sha256).hexdigest()[:length]

    def digest(self, data: bytes) -> bytes:
        """A keyed fingerprint of a body, for telling repeats."""
        return hashlib.blake2b(data, key=self._key, digest_size=16).digest()

    def headers(self, fields: Fields, secrets: Secrets) -> tuple[Headers, int]:
        """The fields on the allowlist, names in lower case, and how many were withheld."""
        recorded: list[tuple[str, str]] = []
        withheld = 0
        for raw_name, value in fields:
            name = raw_name.lower()
            if _kept(name):
                shown = mask_lookalikes(value) if name == "user-agent" else value
                recorded.append((name, secrets.mask_text(shown)))
            elif name in PSEUDONYM_HEADERS:
                recorded.append((name, self.pseudonym(value)))
            else:
                withheld += 1
        return tuple(recorded), withheld

    def identities(self, body: bytes, *, exact: bool = False) -> bytes:
        """A JSON body with its identity fields pseudonymised in place, every other byte as it was.

        `exact` keeps the length too, so that short names may share a pseudonym. Anything that is not
        a JSON object comes back unchanged.
        """
        # From behind, so that spans before it stay right where lengths change.
        for member in reversed(identities(body)):
            literal = body[member.start : member.end]  # a string or a number
            inner = literal.strip(b'"')
            if not exact:
                literal = b'"' + self._digits(inner, min(max(len(inner), 12), 64)) + b'"'
            elif literal[:1] != b'"':
                number = str(int(self.pseudonym(literal, 64), 16)).encode()  # begins with no zero
                literal = (number * (len(literal) // len(number) + 1))[: len(literal)]
            elif len(literal) > 1:
                literal = literal[:1] + self._digits(inner, len(literal) - 2) + literal[-1:]
            body = body[: member.start] + literal + body[member.end :]
        return body

    def people(self, body: bytes) -> tuple[bytes, ...]:
        """The identities of a JSON body that an answer is searched for, in every spelling; not short ones."""
        named = (_value(body[member.start : member.end]) for member in identities(body))
        return Secrets.of(str(value) for value in named if value is not None).spellings

    def without_people(self, data: bytes, people: Iterable[bytes]) -> bytes:
        """`data` with each of them under the pseudonym that has its length."""
        for spelling in people:
            if spelling in data:
                data = data.replace(spelling, self._digits(spelling, len(spelling)))
        return data

    def _digits(self, value: bytes, length: int) -> bytes:
        name = self.pseudonym(value, 64).encode()
        return (name * (length // 64 + 1))[:length]


class Credentials(NamedTuple):
    """What a request body held for others than its caller's server: tools, data sources, ..."""

    body: bytes
    """The body with each of them overwritten by as many asterisks."""
    masked: int
    """How many values."""
    secrets: Secrets
    """Those long enough to be looked for in the answer."""


def without_credentials(body: bytes) -> Credentials:
    """Mask the credentials in a JSON body, by the names of its members; see `capture.members`."""
    pieces: list[bytes] = []
    words: list[str] = []
    masked_count = place = 0
    for member in credentials(body):
        literal = body[member.start : member.end]
        if (mask := _masked_literal(member, literal)) == literal:
            continue
        words += _told(member, literal)
        pieces += [body[place : member.start], mask]
        place = member.end
        masked_count += 1
    return Credentials(b"".join([*pieces, body[place:]]), masked_count, Secrets.of(words))


def masked_members(body: bytes) -> frozenset[str]:
    """The members of a body's own in which `without_credentials` has masked something."""
    return frozenset(
        member.top
        for member in credentials(body)
        if b"*" in (literal := body[member.start : member.end])
        and _masked_literal(member, literal) == literal
    )


def _masked_literal(member: Member, literal: bytes) -> bytes:
    """A JSON literal as long as this one, without what is secret in it."""
    if literal[:1] != b'"':  # a number, or what is no JSON
        return b"0".ljust(len(literal))
    inner = literal[1:-1]
    if member.kind is Kind.ADDRESS and b"\\" not in inner:
        parts = _url_parts(inner.decode("utf-8", RAW))
        masked_parts = ("*" * len(_bytes(text)) if secret else text for text, secret in parts)
        return b'"' + _bytes("".join(masked_parts)) + b'"'
    return b'"' + b"*" * len(inner) + b'"'


def _packed(value: str) -> Iterator[str]:
    """The credentials in a value that holds several: a connection string, or JSON in a string."""
    if "=" in value:
        yield from (part.partition("=")[2] for part in value.split(";"))
    data = _bytes(value)
    for member in credentials(data) if value[:1] == "{" else ():
        yield from _told(member, data[member.start : member.end])


def _url_parts(url: str) -> Iterator[tuple[str, bool]]:
    """An address in pieces, and whether each may be a credential.

    That is its user, the query values that are not on the allowlist, its fragment, and what in its path
    looks drawn.
    """
    target, hash_mark, fragment = url.partition("#")
    route, question_mark, query = target.partition("?")
    for part in re.split(r"((?<=//)[^/]*(?=@)|/)", route):
        user = part != "" and f"//{part}@" in route
        yield part, user or masked(part) != part
    yield question_mark, False
    for pair in re.split("([&;])", query):
        name, mark, value = pair.partition("=")
        yield name + mark, not mark and pair not in {"&", ";"}
        yield value, name not in KEPT_QUERY
    yield hash_mark, False
    yield fragment, True


def _bytes(text: str) -> bytes:
    """The bytes of a text, as they came; half a character, which only JSON can spell, is a question mark."""
    try:
        return text.encode("utf-8", RAW)
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def _value(literal: bytes) -> object:
    """What a JSON literal stands for; None for what is none."""
    try:
        return json.loads(literal)
    except ValueError:
        return None


def _told(member: Member, literal: bytes) -> list[str]:
    """The words in a masked value that a server may repeat, and that would be secret there, too."""
    value = _value(literal)
    if not isinstance(value, str):
        return []
    if member.kind is Kind.ADDRESS:
        words = [text for text, secret in _url_parts(value) if secret]
        words += [text.partition(":")[2] for text in words]  # a user's password alone
    else:
        harmless = _kept(member.name.lower()) or "user" in member.name.lower()
        words = [] if harmless else [*_with_its_parts(value), *_packed(value)]
    return words + [unquote_plus(word, errors=RAW) for word in words]
