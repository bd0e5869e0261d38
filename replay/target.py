"""The target: where requests go, and what is changed in them on the way. Keys stay in memory.

A recorded request is sent with its own body bytes unless a model or a field is replaced; then the body is
written again by orjson, without the content-encoding that it was recorded in: servers that undo one are
rare, and none needs it. Only the headers below are taken over from the recording.
"""

import math
import os
import re
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from ipaddress import ip_address
from string import punctuation
from typing import Any, Final, NamedTuple
from urllib.parse import quote_from_bytes

import orjson

from tbench.capture.errors import InputError
from tbench.capture.exchange import Exchange, Headers, Request
from tbench.capture.providers import (
    COMMON_HEADERS,
    CREDENTIAL_HEADERS,
    GENERATIVE,
    LIMITS,
    PROVIDERS,
    SENT_HEADERS,
    ParsedRequest,
    Provider,
    RequestInfo,
    describe,
    one_line,
    provider_of,
)
from tbench.capture.redact import (
    Secrets,
    credentials_in,
    mask_address,
    mask_lookalikes,
    masked_members,
    secrets_of,
)
from tbench.capture.runtime import version
from tbench.replay.bounds import most_cost
from tbench.replay.cost import Price
from tbench.replay.dialects import DIALECTS, Mute, translated
from tbench.replay.makers import Level, Portable, changes_hands, levels, maker, refused
from tbench.replay.options import MatchLength
from tbench.replay.plan import NOTHING, Planned, Turn, recorded_usage
from tbench.replay.portability import BONDS, carried, has_functions, left_out, renamed, unread
from tbench.replay.request import ID, SLOT, Outgoing, Shape, Template, address, origin_at, template
from tbench.replay.sender import NOWHERE, Call, Label, Origin, frame

STEERING: Final = "x-sim-"
"""Recorded headers that steer simulators go to the target, beside those that an API needs."""
KEYS: Final = frozenset(CREDENTIAL_HEADERS)
"""Headers that carry a credential: given by hand, they take the place of the key from the environment."""

LIMIT_NAMES: Final = frozenset().union(*LIMITS.values())
"""All names of the limit: set by hand, it goes only where it is the endpoint's."""
EXACT: Final = frozenset({"min_tokens", "ignore_eos"})
"""What `--match-length exact` sets beside the limit."""
MOST_REMEMBERED: Final = 512
"""Shapes of heads, and issuers with their models: traffic has few, and a head may hold 16 KiB thrice."""

_ODD = re.compile(r"[^!-~]")
_VERSION_SEGMENT = re.compile(r"/v\d+[a-z]*\d*(?=/|$)")
_LEADING_V1 = re.compile(r"^(/v1)+(?=/|\?|$)")


Counts = Sequence[Sequence[Mapping[str, int]]]


@dataclass(frozen=True, kw_only=True)
class Target:
    """An endpoint and the changes made for it.

    `base_url` has no trailing slash. `salt` keeps prompts from what a cache held before this run, `cold` also
    conversations from each other (`salted`), `as_is` only clones from the recording and each other; it goes
    into texts, or into the member `salt_field` of a body whose API has one. `model` replaces the model of
    each request to the endpoints `serves` (None: to any), `models` single ones, `fields` sets top-level
    members of a JSON body (None removes one), after what is not `portable` (replay.portability) was dropped.
    `to` is the dialect that requests are put into (replay.dialects; None: as recorded). `portability` counts
    the calls built without what was dropped for either, by its name. `unchanged` counts those that `model`,
    `fields` and `lengths` could not be put into: `not_json`, `no_model`, `no_limit` (another API's limit
    was set), `no_length` or `thinking` (the recorded length is not known, or below the budget), or
    the endpoint that `model` is not for; `masked` those with what a capture masked, by the member of the body
    that holds it. `headers` are added to each request, in lower case. `key` is sent in the header that the
    recorded one came in, as a bearer token where that is `authorization`, and appears in no file or message.
    `lengths` says whether answers are limited to their recorded length (`no`, `cap`, `exact`). `prices`
    are what models cost there.
    """

    base_url: str
    model: str | None = None
    serves: frozenset[str] | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    headers: Headers = field(default=(), repr=False)
    key: str | None = field(default=None, repr=False)
    salt: str | None = None
    salt_field: str | None = None
    as_is: bool = False
    cold: bool = False
    lengths: MatchLength = "no"
    prices: Mapping[str, Price] = field(default_factory=dict)
    portable: Portable = "auto"
    to: str | None = None
    portability: Counter[str] = field(
        default_factory=Counter, init=False, repr=False, compare=False
    )
    unchanged: Counter[str] = field(default_factory=Counter, init=False, repr=False, compare=False)
    masked: Counter[str] = field(default_factory=Counter, init=False, repr=False, compare=False)
    _templates: dict[Any, Template] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _acting: dict[Any, frozenset[Level]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def origin(self) -> Origin:
        """Where its connections lead."""
        return origin_at(address(self.base_url))

    @property
    def keyless(self) -> bool:
        """Whether requests go out without a credential."""
        return self.key is None and KEYS.isdisjoint(name for name, _ in self.headers)

    @property
    def secrets(self) -> Secrets:
        """The key, the values of `headers` and of secret `fields`, which must not be written anywhere."""
        values = [value for _, value in self.headers]
        values += [
            text for name, value in self.fields.items() for text in credentials_in(name, value)
        ]
        return secrets_of([*self.headers, ("authorization", self.key or "")], also=values)

    def call(
        self, planned: Planned, due: float | None = None, arm: int = 0, speed: float = 1.0
    ) -> Call:
        """The request as it goes on the wire, complete; `due` and `arm` are passed on.

        Recorded think times go by at `speed`.
        """
        recorded = planned.exchange.request
        refusal: str | None = None
        try:
            path, body, info, dropped, unmatched = self._changed(planned)
            gone = [name for why in dropped if why in BONDS for name in BONDS[why].headers]
            rewritten = bool(body) and body is not recorded.body
            shape = self._template(recorded, path, gone, bodied=bool(body), rewritten=rewritten)
            id_ = request_id(recorded.id, planned.cycle)
            head = shape.pattern % ((id_, len(body)) if body else id_)
        except (ValueError, TypeError) as error:
            origin, head, body, info = NOWHERE, b"", b"", planned.info
            refusal, size = one_line(str(error)), len(recorded.body or b"")
        else:
            origin, size = shape.origin, len(body)
            if dropped:
                self.portability.update(dropped)
            if self.rewrites and (reason := self.unchanged_because(planned) or unmatched):
                self.unchanged[reason] += 1
            if recorded.extra and (masked := self.masked_in(planned)):
                self.masked.update(masked)
        label = Label(
            recorded.id,
            planned.cycle,
            info.endpoint,
            info.model,
            info.stream,
            size,
            planned.session,
        )
        return Call(
            index=planned.index,
            due=due,
            origin=origin,
            head=head,
            body=body,
            label=label.pack(),
            arm=arm,
            refusal=refusal,
            after=planned.after,
            opening=planned.opening,
            history=planned.history,
            uses=planned.uses,
            think=planned.think / speed,
        )

    def outgoing(self, planned: Planned) -> Outgoing:
        """The request as it will be sent; as recorded where it cannot be."""
        try:
            return self._changed(planned)
        except TypeError:
            recorded = planned.exchange.request
            return Outgoing(recorded.path, recorded.body or b"", planned.info)

    def refuses(self, exchange: Exchange, parsed: ParsedRequest) -> str | None:
        """Why a request would lose its meaning here (docs/portability.md); None where it keeps it."""
        endpoint, acting = parsed.info.endpoint, self._levels(exchange.request, parsed.info)
        payload: Mapping[str, Any] = parsed.payload or NOTHING
        provider = parsed.provider
        if reason := left_out(payload, endpoint, acting):
            return reason
        if self.to not in (None, endpoint):
            if endpoint not in DIALECTS:
                return "no_dialect"
            if not parsed.exact:
                return "not_json"
            try:
                ported = carried(payload, endpoint, acting)[0]
                payload, _ = translated(ported, endpoint, str(self.to))
            except Mute as mute:
                return str(mute)
            provider = provider_of("POST", DIALECTS[str(self.to)].path)
        if self.salt is None or endpoint not in GENERATIVE:
            return None
        placed = parsed.exact and self._with_salt(payload, provider, self.salt)
        return None if placed else "unsalted"

    def _levels(self, recorded: Request, info: RequestInfo) -> frozenset[Level]:
        """What acts on a request, by who issued it and who is asked now."""
        key = recorded.host, info.endpoint, info.model
        acting = self._acting.get(key)
        if acting is None:
            if len(self._acting) >= MOST_REMEMBERED:
                self._acting.clear()
            acting = self._acting[key] = self._levels_of(recorded.host, info)
        return acting

    def _levels_of(self, issuer: str, info: RequestInfo) -> frozenset[Level]:
        if self.to not in (None, info.endpoint):  # a translation cannot take it along
            return levels("auto" if self.portable == "off" else self.portable, foreign=True)
        if self.portable != "auto":
            return levels(self.portable, foreign=True)
        model = self._asked(info)
        host = address(self.base_url).host
        foreign = changes_hands(issuer, info.model, host, model)
        return levels(self.portable, foreign=foreign)

    def _asked(self, info: RequestInfo) -> str | None:
        """The name of the model that is asked in the end; None where what `fields` sets is none."""
        model = self._added.get("model", self._model_for(info))
        return model if isinstance(model, str) else None

    def _model_for(self, info: RequestInfo) -> str | None:
        """The model that is asked for in place of a recorded one."""
        served = self.serves is None or info.endpoint in self.serves
        mapped = None if info.model is None else self.models.get(info.model)
        return mapped or (self.model if served else None) or info.model

    def _spoken(self, info: RequestInfo) -> str:
        """The endpoint that a request goes to: its own, or that of the dialect that it is put into."""
        return info.endpoint if self.to is None or info.endpoint not in DIALECTS else self.to

    def _limits(self, planned: Planned) -> frozenset[str]:
        """What the limit of the output is called where a request goes; empty where there is none."""
        spoken = self._spoken(planned.info)
        names = LIMITS.get(spoken, frozenset())
        if not self._particular:
            return names
        # One that is put in now was not in what may have gone to that very model.
        return names - renamed(spoken, self._refused(planned, issuer=""))

    def _refused(self, planned: Planned, issuer: str) -> frozenset[Level]:
        """What acts on a request, recorded at the host `issuer`, by who is asked."""
        if not self._particular:
            return frozenset()
        info, body = planned.info, planned.payload or NOTHING
        effort, thinking = (
            self._added.get(name, body.get(name)) for name in ("reasoning_effort", "reasoning")
        )
        if isinstance(thinking, dict) and "responses" in (info.endpoint, self._spoken(info)):
            effort = thinking.get("effort", effort)
        return refused(
            self.portable,
            host=issuer,
            model=info.model,
            to_host=address(self.base_url).host,
            to_model=self._asked(info),
            effort=None if effort is None else str(effort),
            functions=self._spoken(info) == "chat" and has_functions(body),
        )

    @cached_property
    def rewrites(self) -> bool:
        """Whether bodies are to be changed in any case: a model or a field replaced, all made portable."""
        changed = self.model or self.models or self.fields or self.to
        return bool(changed) or self.portable == "strict" or self.lengths != "no"

    def unchanged_because(self, planned: Planned) -> str | None:
        """Why a request keeps a model or fields that are to be replaced; None when it does not."""
        if not (self.rewrites and planned.exchange.request.body):
            return None
        if planned.payload is None:
            return "not_json"
        limits = self._limits(planned)
        if limits and limits.isdisjoint(self._added) and not LIMIT_NAMES.isdisjoint(self._added):
            return "no_limit"
        if self.model is None or planned.info.model in self.models:
            return None
        if self.serves is not None and planned.info.endpoint not in self.serves:
            return planned.info.endpoint
        return None if "model" in planned.payload else "no_model"

    def masked_in(self, planned: Planned) -> frozenset[str]:
        """The members of a request's body that go out with asterisks for credentials."""
        request = planned.exchange.request
        if not request.extra.get("body_masked"):
            return frozenset()
        return masked_members(request.body or b"") - self.fields.keys()

    def _changed(self, planned: Planned) -> Outgoing:
        """The body made portable and put into the dialect, with model and fields replaced.

        The recorded object when there is nothing to change; else it is plain, whatever the recorded
        content-encoding was. Raises TypeError for one that orjson reads
        and does not write: JSON within JSON 255 deep.
        """
        recorded, payload, info = planned.exchange.request, planned.payload, planned.info
        path = recorded.path
        acting = self._levels(recorded, info)
        if self._faithful and not acting:  # as it would come out below
            return Outgoing(path, recorded.body or b"", info)
        dropped = unread(recorded.headers, acting)
        if payload is None:
            return Outgoing(path, recorded.body or b"", info, dropped)
        ported, bonds = carried(payload, info.endpoint, acting)
        dropped += bonds
        spoken = self._spoken(info)
        if spoken != info.endpoint:
            path = DIALECTS[spoken].path
            ported, lost = translated(ported, info.endpoint, spoken)
            dropped += lost
        ported, bonds = carried(ported, spoken, self._refused(planned, recorded.host))
        dropped += bonds
        wanted = self._rewritten(ported, planned)
        unmatched = None
        if self.lengths != "no" and info.endpoint in GENERATIVE:
            wanted, unmatched = self._matched(planned, wanted)
        bare = self.salt is None or (self.as_is and not planned.clone)
        if not bare and info.endpoint in GENERATIVE:
            wanted = self._salted(planned, wanted, provider_of(recorded.method, path))
        if wanted is payload:
            return Outgoing(path, recorded.body or b"", info, dropped, unmatched)
        described = describe(recorded.method, path, wanted)
        return Outgoing(path, orjson.dumps(wanted), described, dropped, unmatched)

    def _matched(
        self, planned: Planned, payload: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], str | None]:
        """The payload with its output limited to the recorded length, reasoning and all; why it is not.

        The limit keeps the name that it has; where there is none it is max_tokens, which chat servers know.
        """
        output, thinking = recorded_usage(planned.exchange).output, payload.get("thinking")
        budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
        if not output:
            return payload, "no_length"
        # The server counts all answers of a request together, and the limit is for each.
        length = math.ceil(output / max(1, planned.info.n))
        # Anthropic refuses a limit that is not above the budget for thinking.
        if isinstance(budget, int) and budget >= length:
            return payload, "thinking"
        names = self._limits(planned)
        limits = names & payload.keys() or names & {"max_tokens"} or names
        exact = {"min_tokens": length, "ignore_eos": True} if self.lengths == "exact" else {}
        return {**payload, **dict.fromkeys(limits, length), **exact}, None

    def _rewritten(self, payload: Mapping[str, Any], planned: Planned) -> Mapping[str, Any]:
        """The payload with its model and fields replaced; itself when there is nothing to change."""
        if not (self.fields or self.model or self.models):
            return payload
        added = self._added
        if limits := self._limits(planned) if added else None:
            foreign = LIMIT_NAMES - limits
            if limits <= added.keys():  # of two names it has the one that all chat servers know
                foreign |= limits - {max(limits)}
            added = {name: value for name, value in added.items() if name not in foreign}
        if "model" in payload and (self.model or self.models):
            added = {"model": self._model_for(planned.info) or payload["model"], **added}
        removed = self.fields.keys() - self._added.keys()
        if limits and not limits.isdisjoint(added):  # the recorded limit may have the other name
            removed |= limits - added.keys()
        if payload.keys().isdisjoint(removed) and added.items() <= payload.items():
            return payload
        wanted = {**payload, **added}
        return {name: value for name, value in wanted.items() if name not in removed}

    def _salted(
        self, planned: Planned, payload: Mapping[str, Any], provider: Provider
    ) -> Mapping[str, Any]:
        """The payload so that of a server's cache only what it may share is open to it.

        In the first round the run's salt stands before all, so that its requests share what was recorded as
        shared. A further round or clone is more of the same traffic: it may share the system's words, and
        has a second salt after them; `as_is` only clones have that. In a field there is room for one alone,
        which tells all of it apart.
        """
        assert self.salt is not None
        copy, salt = (planned.cycle, planned.clone), self.salt
        if self.cold:
            salt = derived_salt(salt, planned.session, *copy)
        elif any(copy):
            second = derived_salt(salt, *copy)
            opened = None
            if self.salt_field is None:
                opened = provider.before_turns(payload, f"{second}\n")
            if opened is not None and self.as_is:
                return opened
            if opened is not None:
                payload = opened
            else:
                salt = second if self.as_is or self.salt_field else f"{salt}\n{second}"
        return self._with_salt(payload, provider, salt) or payload

    def _with_salt(
        self, payload: Mapping[str, Any], provider: Provider, salt: str
    ) -> dict[str, Any] | None:
        """The payload with a salt where this target has it; None where that API has no place for it."""
        if self.salt_field is None:
            return provider.with_prefix(payload, f"{salt}\n")
        return (
            {**payload, self.salt_field: salt} if self.salt_field in provider.salt_fields else None
        )

    @cached_property
    def _particular(self) -> bool:
        """Whether the server may refuse more than others do: OpenAI's, or what may be a gateway to it."""
        return self.portable == "strict" or maker(address(self.base_url).host) == "openai"

    @cached_property
    def _faithful(self) -> bool:
        """Whether a request goes as it was recorded, unless it changes hands."""
        changes = self.rewrites or self._particular or self.salt is not None
        return not changes

    @cached_property
    def _agent(self) -> str:
        return f"tbench/{version('tbench')}"

    @cached_property
    def _added(self) -> dict[str, Any]:
        return {name: value for name, value in self.fields.items() if value is not None}

    def _template(
        self,
        recorded: Request,
        path: str,
        without: Sequence[str] = (),
        *,
        bodied: bool,
        rewritten: bool = False,
    ) -> Template:
        """The template of a request's head `without` some headers, kept for the next of its shape.

        A request in another dialect has the headers of that one, its key among them.
        """
        translated = path != recorded.path
        sent = COMMON_HEADERS if translated else SENT_HEADERS
        recorded_fields = tuple(
            [
                (name, value)
                for name, value in recorded.headers
                if (name in sent and not (rewritten and name == "content-encoding"))
                or name.startswith(STEERING)
                if name not in without
            ]
        )
        if translated:
            recorded_fields += DIALECTS[str(self.to)].headers
        carrier = "" if translated else str(recorded.extra.get("credential_header"))
        key = recorded.method, path, recorded_fields, bodied, carrier
        known = self._templates.get(key)
        if known is None:
            # Emptied, not trimmed: traffic that has so many shapes would miss in a cache of any order.
            if len(self._templates) >= MOST_REMEMBERED:
                self._templates.clear()
            if carrier not in KEYS:  # an older trace, or there was none
                carrier = provider_of(recorded.method, path).credential_header
            ours = [("user-agent", self._agent), (ID.decode(), SLOT.decode())]
            given = {name for name, _ in self.headers}
            if self.key and KEYS.isdisjoint(given):
                scheme = "Bearer " if carrier == "authorization" else ""
                ours.append((carrier, scheme + self.key))
            fields = [field for field in (*recorded_fields, *ours) if field[0] not in given]
            shape = Shape(
                method=recorded.method,
                url=rebased(self.base_url, printable(path)),
                fields=tuple(
                    (_wire(name), _wire(value)) for name, value in (*fields, *self.headers)
                ),
                bodied=bodied,
            )
            known = self._templates[key] = template(shape)
        return known


# How the steps of a plan become calls, in the command or beside a worker (replay.workers.carrier).


class Step(NamedTuple):
    """A request of the plan, when it is due (seconds from the start; None in a closed loop), and its arm."""

    planned: Turn
    due: float | None
    arm: int = 0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How calls are made: `targets` are those of the arms, recorded think times go by `speed`.

    `priced` says that a budget asks what each may cost.
    """

    targets: Sequence[Target]
    speed: float
    priced: bool

    def call(self, step: Step) -> Call:
        """The request of a step, built for its target."""
        planned, due, arm = step
        assert isinstance(planned, Planned)
        target = self.targets[arm]
        call = target.call(planned, due, arm, self.speed)
        if self.priced:
            most = most_cost(planned, target.outgoing(planned), target.prices)
            call.cost = math.inf if isinstance(most, str) else most  # such a plan is not begun
        return call

    def frame(self, step: Step) -> bytes:
        """The call of a step, as bytes for a worker."""
        return frame(self.call(step))

    @property
    def counts(self) -> Counts:
        """For each arm: portability, unchanged and masked (replay.target), of the calls that were made."""
        return [
            [dict(target.portability), dict(target.unchanged), dict(target.masked)]
            for target in self.targets
        ]


# Salts: words before what a prompt begins with, so that a cache that knows it without them does not know it
# with them. Without any the second of two replays finds the prompts of the first in a server's prefix cache.
# All are equally long, so that they cost about the same number of tokens.

DIGITS: Final = 8


def new_salt() -> str:
    """A salt that no run had."""
    return "".join(secrets.choice("0123456789") for _ in range(DIGITS))


def derived_salt(salt: str, *parts: int) -> str:
    """The salt of a part of that run, the same whenever it is asked for."""
    words = b"%s %s" % (salt.encode(), " ".join(map(str, parts)).encode())
    # A hash and no counter: salts of neighbours must not
    # begin alike, or a cache would know their first tokens.
    return f"{int.from_bytes(blake2b(words, digest_size=8).digest()) % 10**DIGITS:0{DIGITS}d}"


def request_id(exchange: str, cycle: int) -> bytes:
    """What `x-request-id` says: the exchange's id, with the round after the first; a header's characters."""
    plain = exchange if exchange.isalnum() and exchange.isascii() else _ODD.sub("_", exchange)
    return (plain[:128] if cycle == 0 else f"{plain[:128]}.{cycle}").encode("ascii")


def printable(path: str) -> str:
    """A recorded path with whatever a URL cannot hold in percent escapes, byte by byte."""
    if path.isascii() and path.isprintable():
        return path
    return quote_from_bytes(_wire(path), safe=punctuation)


def _wire(text: str) -> bytes:
    """The bytes that a recorded text was read from, where it was no UTF-8, too."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character: no client's, but a foreign trace may hold it
        return text.encode("utf-8", "surrogatepass")


def rebased(base_url: str, path: str) -> str:
    """A recorded path on another base.

    A base with a version in its path (`/v1`, `/v1beta/openai`) is the root of an API, as SDKs have it:
    the recorded `/v1` is dropped. Any other base gets the recorded path, with `/v1` once. Query values
    that the capture masked are left out.
    """
    base = base_url.rstrip("/")
    tail = _LEADING_V1.sub("", path)
    route, _, query = tail.partition("?")
    pairs = [pair for pair in query.split("&") if pair and not pair.endswith("***")]
    rooted = _VERSION_SEGMENT.search(address(base).path)
    root = "" if rooted or tail == path else "/v1"
    return base + root + route + ("?" + "&".join(pairs) if pairs else "")


def checked_base_url(
    text: str, flag: str = "--base-url", credential: str = "--api-key-env or --header"
) -> str:
    """A base URL without trailing slash, or InputError saying what is wrong with it.

    `flag` named it, `credential` is how a verb takes a key.
    """
    shown = mask_address(text)
    try:
        url = address(text)
    except ValueError:
        raise InputError(f"{flag} {shown!r}: not a URL") from None
    if url.scheme not in {"http", "https"} or not re.fullmatch(r"[\w.:-]+", url.host):
        raise InputError(f"{flag} {shown!r}: needs http:// or https:// and a host")
    if not url.bare:
        raise InputError(
            f"{flag}: has a user name, query or fragment; give the address alone, and a credential "
            f"by {credential}"
        )
    path = url.path.rstrip("/")
    tails = (tail for provider in PROVIDERS.values() for _, tail in provider.endpoints)
    if tail := max((tail for tail in tails if path.endswith(tail)), key=len, default=""):
        base = url.text.rstrip("/").removesuffix(tail)
        raise InputError(f"{flag} {shown!r}: is a whole endpoint; give the API's address, {base}")
    return url.text.rstrip("/")


def parse_headers(lines: list[str]) -> Headers:
    """`Name: value` lines as header fields, names in lower case."""
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]+", name):
            raise InputError("--header: write it as 'Name: value'")
        if not value.isascii() or not value.isprintable():
            raise InputError(f"--header {name}: the value has characters that a header cannot hold")
        if name in {"host", "content-length", "transfer-encoding", "connection"}:
            raise InputError(f"--header {name}: this one is made from the request itself")
        headers.append((name, value))
    return tuple(headers)


def parse_fields(words: list[str]) -> dict[str, Any]:
    """`key=JSON` words as members for the body."""
    fields = {}
    for word in words:
        name, mark, value = word.partition("=")
        shown = mask_lookalikes(word)
        if not (name and mark):
            raise InputError(f"--set {shown!r}: write it as key=JSON, such as max_tokens=64")
        if name in fields:
            raise InputError(f"--set {shown!r}: {mask_lookalikes(name)} is set twice")
        try:
            fields[name] = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise InputError(
                f"--set {shown!r}: the value is no JSON; a text needs quotes: --set '{name}=\"...\"'"
            ) from None
    return fields


def parse_models(words: list[str], flag: str = "--map-model") -> dict[str, str]:
    """`OLD=NEW` words as a map; OLD may hold `=` when NEW does not."""
    models = {}
    for word in words:
        old, mark, new = word.rpartition("=")
        if not (old and mark and new):
            raise InputError(f"{flag} {word!r}: write it as OLD=NEW")
        if old in models:
            raise InputError(f"{flag} {word!r}: {old} is mapped twice")
        models[old] = new
    return models


CURE: Final = (
    "export it, name another variable with --api-key-env, or use "
    "--api-key-env '' for a target without keys"
)
"""What to do about a key that is not there."""


def host_variable(base_url: str) -> str:
    """The variable that the maker of this host reads its key from; TOGETHER_API_KEY where nobody knows it."""
    host = address(base_url).host
    hosts = (row for provider in PROVIDERS.values() for row in provider.hosts.items())
    named = (variable for pattern, variable in hosts if re.fullmatch(pattern, host, re.IGNORECASE))
    return next(named, "TOGETHER_API_KEY")


def find_key(name: str | None, base_url: str, headers: Headers, cure: str = CURE) -> str | None:
    """The API key from the environment variable `name` (None: see `host_variable`; empty: no key).

    A missing variable is an error unless a header carries a credential, or the target is this machine and
    no variable was asked for.
    """
    if name == "":
        return None
    variable = host_variable(base_url) if name is None else name
    # Stripped: a file that was read into a variable ends with a new line, which no header may hold.
    if key := os.environ.get(variable, "").strip():
        if not (key.isascii() and key.isprintable()):
            raise InputError(f"{variable}: holds characters that no key has")
        return key
    local = False
    if name is None:
        host = address(base_url).host
        with suppress(ValueError):
            local = host == "localhost" or ip_address(host).is_loopback
    if local or KEYS & {given for given, _ in headers}:
        return None
    shown = mask_lookalikes(variable)  # it may be the key itself
    raise InputError(f"{shown} is not set; {cure}")
