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
from dataclasses import dataclass
from itertools import chain
from urllib.parse import quote, quote_plus, unquote_plus

from capture.exchange import Headers
from capture.providers import masked
from capture.sessions import SESSION_HEADERS

Fields = Iterable[tuple[str, str]]
"""Header fields as they came off the wire, any case."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


KEPT_HEADERS = _words(
    """
    accept accept-encoding age anthropic-beta anthropic-version cache-control cf-cache-status cf-ray
    connection content-encoding content-length content-type date expect host keep-alive openai-beta
    openai-model openai-processing-ms openai-version retry-after retry-after-ms server server-timing
    transfer-encoding user-agent vary via x-api-call-end x-api-call-start x-api-received x-cache
    x-cluster x-engine-pod x-envoy-upstream-service-time x-generation-id x-hostname x-inference-version
    x-request-id x-should-retry x-stainless-arch x-stainless-async x-stainless-helper-method
    x-stainless-lang x-stainless-os x-stainless-package-version x-stainless-raw-response
    x-stainless-read-timeout x-stainless-retry-count x-stainless-runtime x-stainless-runtime-version
    x-stainless-timeout x-together-debug x-together-traceid x-total-time
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

IDENTITY_FIELDS = frozenset({"user", "safety_identifier", "prompt_cache_key", "metadata.user_id"})
"""JSON members, by their path from the top, whose values name a person or an account."""

MIN_SECRET = 8
"""A shorter word is no credential ("EMPTY", "none"), and masking it would garble prompts."""

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
_PART_MASKED = re.compile(rb"[\w\-.]{2,16}\*{3,}[\w\-.]{1,8}")
_JSON_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s"{}\[\],:]+', re.DOTALL)
_IDENTITY_KEY = re.compile(rb'"(?:user|safety_identifier|prompt_cache_key|user_id)"\s*:')


@dataclass(frozen=True, slots=True)
class Secrets:
    """What a caller must never see written down: exact byte strings, each in every common spelling."""

    spellings: tuple[bytes, ...] = ()

    @staticmethod
    def of(words: Iterable[str]) -> "Secrets":
        """The secrets among `words`; short ones are not credentials."""
        found = {spelling for word in words if len(word) >= MIN_SECRET for spelling in _spell(word)}
        return Secrets(tuple(sorted(found, key=len, reverse=True)))

    def found_in(self, data: bytes) -> bool:
        """Whether any of them occurs in `data`."""
        return any(spelling in data for spelling in self.spellings)

    def mask(self, data: bytes) -> bytes:
        """`data` with every occurrence overwritten by as many asterisks: offsets stay valid."""
        for spelling in self.spellings:
            if spelling in data:
                data = data.replace(spelling, b"*" * len(spelling))
        return data

    def mask_text(self, text: str) -> str:
        """The same for text."""
        if not self.spellings and text.isascii():
            return text
        try:
            data = text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # half a character, which JSON can spell
            data = text.encode("utf-8", "replace")
        return self.mask(data).decode("utf-8", "replace")

    def mask_excerpt(self, text: str) -> str:
        """The same for a text that was cut off ("…"), perhaps in the middle of a secret."""
        text = self.mask_text(text)
        body = text.removesuffix("…").encode("utf-8", "replace")
        if body == text.encode("utf-8", "replace"):
            return text
        longest = max((_overlap(body, spelling) for spelling in self.spellings), default=0)
        return (body[: len(body) - longest] + b"*" * longest).decode("utf-8", "replace") + "…"


def _overlap(body: bytes, spelling: bytes) -> int:
    """How many bytes at the end of `body` are the beginning of `spelling`."""
    sizes = range(min(len(body), len(spelling)), 0, -1)
    return next((size for size in sizes if body.endswith(spelling[:size])), 0)


def _spell(word: str) -> set[bytes]:
    """A word plainly, in JSON (three habits of escaping) and in a URL."""
    escaped = "".join(c if c.isalnum() or c in "-_." else f"\\u{ord(c):04x}" for c in word)
    spellings = {word, json.dumps(word)[1:-1], word.replace("/", "\\/"), escaped}
    spellings |= {quote(word, safe=""), quote_plus(word)}
    return {spelling.encode("utf-8", "surrogateescape") for spelling in spellings}


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
    words += [value for name, value in _query(path) if name not in KEPT_QUERY]
    return Secrets.of(words + [unquote_plus(word) for word in words])


def _credentials(name: str, value: str) -> list[str]:
    """What a field authenticates with: told by its name or, where that is unknown, by its shape."""
    if _kept(name) or name in PSEUDONYM_HEADERS:
        return []
    if not looks_secret(name, value):
        return []
    if "cookie" in name:
        return [part.partition("=")[2].strip() for part in value.split(";")]
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
        for one in value:
            yield from credentials_in(name, one)
    elif isinstance(value, dict):
        for inner, one in value.items():
            yield from credentials_in(inner if _CREDENTIAL.search(inner) else "", one)


def _userpass(encoded: str) -> list[str]:
    """What HTTP basic authentication wraps: the pair, and the password alone."""
    try:
        pair = b64decode(encoded).decode("utf-8", "surrogateescape")
    except ValueError:
        return []
    return [pair, pair.partition(":")[2]]


def _query(path: str) -> list[tuple[str, str]]:
    parts = re.split("[&;]", path.partition("#")[0].partition("?")[2])
    return [(name, value) for name, mark, value in (part.partition("=") for part in parts) if mark]


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
    return f"{name}=***" if mark and _QUERY_NAME.fullmatch(name) else "***"


def _kept(name: str) -> bool:
    return name in KEPT_HEADERS or name.startswith(KEPT_PREFIXES)


class Redactor:
    """The allowlists, and the pseudonyms of one capture. Safe to share between threads."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or entropy.token_bytes(32)

    def pseudonym(self, value: str | bytes, length: int = 16) -> str:
        """`length` hex digits (at most 64) that stand for `value` in this capture, and in no other."""
        data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        return hmac.new(self._key, data, hashlib.sha256).hexdigest()[:length]

    def digest(self, data: bytes) -> bytes:
        """A keyed fingerprint of a body, for telling repeats."""
        return hashlib.blake2b(data, key=self._key, digest_size=16).digest()

    def headers(self, fields: Fields, secrets: Secrets) -> tuple[Headers, int]:
        """The fields on the allowlist, names in lower case, and how many were withheld."""
        kept: list[tuple[str, str]] = []
        withheld = 0
        for raw_name, value in fields:
            name = raw_name.lower()
            if _kept(name):
                shown = mask_lookalikes(value) if name == "user-agent" else value
                kept.append((name, secrets.mask_text(shown)))
            elif name in PSEUDONYM_HEADERS:
                kept.append((name, self.pseudonym(value)))
            else:
                withheld += 1
        return tuple(kept), withheld

    def identities(self, body: bytes, *, exact: bool = False) -> bytes:
        """A JSON body with its identity fields pseudonymised in place, every other byte as it was.

        `exact` keeps the length too, so that short names may share a pseudonym. Anything that is not
        a JSON object comes back unchanged.
        """
        if not _IDENTITY_KEY.search(body):
            return body
        spans = _identity_spans(body)
        for start, end in reversed(spans):
            body = body[:start] + self._stand_in(body[start:end], exact=exact) + body[end:]
        return body

    def _stand_in(self, literal: bytes, *, exact: bool) -> bytes:
        """A JSON string for a JSON string or number; as long, or else within 12 to 64 digits."""
        inner = literal.strip(b'"')
        if exact:
            return literal[:1] + self._digits(inner, len(literal) - 2) + literal[-1:]
        return b'"' + self._digits(inner, min(max(len(inner), 12), 64)) + b'"'

    def _digits(self, value: bytes, length: int) -> bytes:
        name = self.pseudonym(value, 64).encode()
        return (name * (length // 64 + 1))[:length]


def _identity_spans(body: bytes) -> list[tuple[int, int]]:
    """Where the values of the identity fields lie, in one pass over the tokens."""
    spans: list[tuple[int, int]] = []
    path: list[str | None] = []  # the member name at each open object, None for an array
    expect_key = False
    for token in _JSON_TOKEN.finditer(body):
        text = token[0]
        if text in b"{[":
            path.append("" if text == b"{" else None)
            expect_key = text == b"{"
        elif text in b"}]":
            del path[-1:]
            expect_key = False
        elif text == b",":
            expect_key = bool(path) and path[-1] is not None
        elif text == b":":
            expect_key = False
        elif expect_key:
            path[-1] = text[1:-1].decode("utf-8", "replace")
        elif _names_someone(path) and text not in (b"null", b"true", b"false", b'""'):
            spans.append(token.span())
    return spans


def _names_someone(path: list[str | None]) -> bool:
    return 1 <= len(path) <= 2 and ".".join(part or "[]" for part in path) in IDENTITY_FIELDS
