"""Filters: which exchanges of a trace are meant. One grammar for replay, ab and the verbs of `tbench trace`.

A word is a field, a comparison and a value (`status>=400`), or a bare endpoint, model or host. Words with `=`
of one field are alternatives; all else must hold together. FIELDS is the table of what can be asked.
"""

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import blake2b
from heapq import nsmallest
from math import isfinite
from typing import Any, Final, NamedTuple

from tbench.capture.arrival_order import FOREVER
from tbench.capture.errors import InputError
from tbench.capture.exchange import Exchange, Outcome
from tbench.capture.providers import ParsedRequest
from tbench.capture.sessions import Place, Sessions
from tbench.capture.terminal import named
from tbench.capture.trace_info import Facts
from tbench.capture.trace_reader import Trace


class Field(NamedTuple):
    """What can be asked of an exchange; a tuple holds several names of one thing, None is absent.

    `words` are all that it can be, where those are known.
    """

    value: Callable[[Facts], Any]
    answered: bool = False
    number: bool = False
    words: tuple[str, ...] = ()


BARE: Final = ""
"""The field of a word that names none."""
FIELDS: Final[dict[str, Field]] = {
    "endpoint": Field(lambda facts: facts.parsed.info.endpoint),
    "model": Field(lambda facts: facts.parsed.info.model),
    "host": Field(lambda facts: facts.request.host),
    "path": Field(lambda facts: facts.request.path),
    "client": Field(lambda facts: facts.request.client),
    "session": Field(lambda facts: facts.sessions),
    "turn": Field(lambda facts: facts.place and facts.place.turn, number=True),
    "stream": Field(lambda facts: str(facts.parsed.info.stream).lower(), words=("true", "false")),
    "messages": Field(lambda facts: facts.parsed.info.inputs, number=True),
    "images": Field(lambda facts: facts.parsed.info.images, number=True),
    "tools": Field(lambda facts: facts.tools, number=True),
    "max_tokens": Field(lambda facts: facts.parsed.info.max_tokens, number=True),
    "request_bytes": Field(lambda facts: facts.request.body_bytes, number=True),
    "status": Field(
        lambda facts: facts.exchange.response and facts.exchange.response.status,
        answered=True,
        number=True,
    ),
    "outcome": Field(lambda facts: facts.outcome, answered=True, words=tuple(Outcome)),
    "prompt_tokens": Field(lambda facts: facts.usage.prompt, answered=True, number=True),
    "output_tokens": Field(lambda facts: facts.usage.output, answered=True, number=True),
    "cached_tokens": Field(lambda facts: facts.usage.cached, answered=True, number=True),
    "ttft": Field(lambda facts: facts.ttft, answered=True, number=True),
    "e2e": Field(lambda facts: facts.e2e, answered=True, number=True),
    BARE: Field(
        lambda facts: (facts.parsed.info.endpoint, facts.parsed.info.model, facts.request.host)
    ),
}
TIMES: Final = ("from", "to", "last")
SAMPLE: Final = "sample"
OF_SESSIONS: Final = frozenset({"session", "turn", SAMPLE})

_FIELDS: Final = ", ".join([*filter(None, FIELDS), *TIMES, SAMPLE])
_WORD = re.compile(r"([a-z_0-9]+)(!=|>=|<=|=|>|<)(.*)", re.DOTALL)
_NEARLY = re.compile(r"\s*[\w-]+\s*[=!<>]")
"""A comparison that was meant: taken as a model's name it would be ignored beside another bare word."""
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)")
_UNITS: Final = {"ms": 1e6, "": 1e9, "s": 1e9, "m": 60e9, "h": 3600e9, "d": 86_400e9}
HASHES: Final = 2**64
"""A session's hash is below it."""


class Condition(NamedTuple):
    """One word: a field, how it compares, and the value."""

    name: str
    sign: str
    value: str

    def holds(self, facts: Facts) -> bool:
        """Whether an exchange is meant. What it does not have is unequal to everything but `none`."""
        value = FIELDS[self.name].value(facts)
        if self.sign in {"=", "!="}:
            names = value if isinstance(value, tuple) else (value,)
            return any(map(self._equals, names)) == (self.sign == "=")
        if value is None:
            return False
        wanted = float(self.value)
        return bool(value > wanted if ">" in self.sign else value < wanted) or (
            "=" in self.sign and bool(value == wanted)
        )

    def _equals(self, value: object) -> bool:
        if value is None:
            return self.value == "none"
        if isinstance(value, int | float) and _number(self.value) == value:
            return True
        pattern = re.sub(r"[\[?]", r"[\g<0>]", self.value)  # only the star stands for other text
        return fnmatchcase(str(value), pattern)


@dataclass(frozen=True, kw_only=True)
class Filter:
    """The words of a filter, understood for one trace.

    An exchange must hold one condition of each of `groups`, arrive from `from_ns` on and before `to_ns` (the
    trace's times), and belong to a session whose hash is below `below` (of 2**64; None: any).
    """

    words: tuple[str, ...] = ()
    groups: tuple[tuple[Condition, ...], ...] = ()
    from_ns: int = -FOREVER
    to_ns: int = FOREVER
    below: int | None = None

    @property
    def reads_answers(self) -> bool:
        """Whether it asks for what only responses tell: sessions are told by the tools that these call."""
        return self.sessions or any(FIELDS[group[0].name].answered for group in self.groups)

    @property
    def sessions(self) -> bool:
        """Whether it asks for sessions, which takes all requests before."""
        return self.below is not None or any(group[0].name in OF_SESSIONS for group in self.groups)

    def start(self) -> "Pass":
        """A new pass over the trace, from its first exchange on."""
        return Pass(self, sessions=self.sessions)


EVERYTHING: Final = Filter()


class Pass:
    """One pass of a filter over a trace, exchange by exchange in order of arrival.

    With `sessions` it knows each exchange's session: `hashes` holds a number below 2**64 for each, of its
    first request's id, so that a share of the sessions is the same in every pass and after other filters.
    """

    def __init__(self, filter_: Filter, *, sessions: bool) -> None:
        self._filter = filter_
        self._sessions = Sessions() if sessions else None
        self.hashes = array("Q")
        self.place: Place | None = None

    def keeps(self, exchange: Exchange, parsed: ParsedRequest | None = None) -> bool:
        """Whether the next exchange is meant; `parsed` is its body, where that has been read already."""
        wanted, request = self._filter, exchange.request
        if self._sessions is not None:
            self.place = self._sessions.assign(
                request, parsed=parsed, response=exchange.response, answer=exchange.answer
            )
            if self.place.number > len(self.hashes):
                name = blake2b(request.id.encode("utf-8", "replace"), digest_size=8).digest()
                self.hashes.append(int.from_bytes(name, "big"))
            if wanted.below is not None and self.hash >= wanted.below:
                return False
        if not wanted.from_ns <= request.arrive_ns < wanted.to_ns:
            return False
        if not wanted.groups:
            return True
        facts = Facts(exchange, self.place, parsed)
        return all(any(condition.holds(facts) for condition in group) for group in wanted.groups)

    @property
    def session(self) -> str:
        """The name of the latest exchange's session."""
        assert self.place is not None
        return self.place.session

    @property
    def hash(self) -> int:
        """The hash of the latest exchange's session."""
        assert self.place is not None
        return self.hashes[self.place.number - 1]


def bind(words: Sequence[str] | str, trace: Trace) -> Filter:
    """The filter of these words for a trace, whose clock says when `from=10m` is.

    Raises InputError for a word that is none. A sample of so many sessions takes a pass over the trace.
    """
    texts = (words,) if isinstance(words, str) else tuple(words)
    groups: dict[tuple[str, str], list[Condition]] = {}
    special: dict[str, str] = {}
    for number, word in enumerate(texts):
        condition = _condition(word)
        if condition.name in {*TIMES, SAMPLE}:
            if condition.name in special:
                raise InputError(f"--only {condition.name}=: given twice; give one")
            special[condition.name] = condition.value
        else:
            alternative = condition.sign if condition.sign == "=" else str(number)
            groups.setdefault((condition.name, alternative), []).append(condition)
    times = _times(special, trace)
    share = special.get(SAMPLE)
    known = Filter(words=texts, groups=tuple(map(tuple, groups.values())), **times)
    if share is None:
        return known
    return Filter(**{**vars(known), "below": _below(share, known, trace)})


def meant(trace: Trace, wanted: Filter, walk: Pass, *, answers: bool = False) -> Iterator[Exchange]:
    """The exchanges of a trace that are meant; responses only where one asks for them."""
    for exchange in trace.each(answers="whole" if answers or wanted.reads_answers else "none"):
        # Exchanges come by arrival: whatever follows is too late as well.
        if exchange.request.arrive_ns >= wanted.to_ns:
            return
        if walk.keeps(exchange):
            yield exchange


def none_left(source: object, words: Sequence[str]) -> InputError:
    """The error of a filter that leaves nothing."""
    if not words:
        return InputError(f"{source}: holds no request")
    shown = " ".join(f"--only {named(word)}" for word in words)
    return InputError(
        f"{source}: no request is left by {shown}; a word is an endpoint, a model or a host, or one of "
        f"{_FIELDS} with = (or != > >= < <=) and a value; 'tbench trace info' and 'head' show what there is"
    )


def _condition(word: str) -> Condition:
    """A word, taken apart and checked."""
    match = _WORD.fullmatch(word)
    if match is None:
        if not word:
            raise InputError("--only '': give an endpoint, a model, a host, or FIELD=VALUE")
        if _NEARLY.match(word):
            raise InputError(
                f"--only {named(word)}: no comparison of a field; write FIELD=VALUE without spaces (a model "
                f"of this name: model=NAME); the fields are {_FIELDS}"
            )
        return Condition(BARE, "=", word)
    condition = Condition(*match.groups())
    name, sign, value = condition
    if name in {*TIMES, SAMPLE}:
        if sign != "=":
            raise InputError(f"--only {named(word)}: write it as {name}=VALUE")
        return condition
    if name not in FIELDS:
        raise InputError(f"--only {named(word)}: no field {name}; the fields are {_FIELDS}")
    field, ordered = FIELDS[name], sign not in {"=", "!="}
    if ordered and not field.number:
        raise InputError(f"--only {named(word)}: {name} is no number; compare it by = or !=")
    absent = value == "none" and not field.words  # what has known words always has one
    if (ordered or not ("*" in value or absent)) and (objection := _objection(field, value)):
        # Beside other values it would be ignored, and behind != it would leave everything.
        raise InputError(f"--only {named(word)}: {named(value)} is {objection}")
    return condition


def _objection(field: Field, value: str) -> str | None:
    """Why a field is never this value; None: it may be."""
    if field.number:
        return "no number" if _number(value) is None else None
    if field.words and value not in field.words:
        return f"none of {', '.join(field.words)}"
    return None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) else None


def _times(special: dict[str, str], trace: Trace) -> dict[str, int]:
    """The window of arrivals that `from`, `to` and `last` leave, on the trace's clock."""
    if not special.keys() & set(TIMES):
        return {}
    from tbench.capture.importers.importer import moment  # noqa: PLC0415 (which loads every importer)

    first, last = trace.arrivals
    window = {"from_ns": -FOREVER, "to_ns": FOREVER}
    for name, text in special.items():
        if name not in TIMES:
            continue
        length, at = span_ns(text), moment(text)
        if length is None and (at is None or name == "last"):
            raise InputError(
                f"--only {name}={named(text)}: give a time such as 90s, 10m, 2h"
                + ("" if name == "last" else " after the first arrival, or 2026-01-31T12:00:00Z")
            )
        if length is None and not trace.header.wall_ns:
            raise InputError(
                f"--only {name}={named(text)}: the trace has no dates; give 90s or 10m"
            )
        if name == "last":
            window["from_ns"] = max(window["from_ns"], last - (length or 0))
        else:
            exact = (at or 0) - trace.header.wall(0) if length is None else first + length
            bound = f"{name}_ns"
            window[bound] = max(window[bound], exact) if name == "from" else exact
    if window["from_ns"] >= window["to_ns"]:
        raise InputError("--only from= is not before to=: nothing is left")
    return window


def span_ns(text: str) -> int | None:
    """A length of time (1.5h, 10m, 90s, 500ms; a bare number is seconds) in ns; None for anything else."""
    span = _SPAN.fullmatch(text)
    return round(float(span[1]) * _UNITS[span[2]]) if span else None


def _below(text: str, known: Filter, trace: Trace) -> int:
    """The hash that a share, or so many, of the sessions with an exchange of `known` are below."""
    number = _number(text.removesuffix("%"))
    if number is not None and text.endswith("%"):
        number /= 100
    elif text.isdecimal() and int(text) > 0:
        walk, hashes = Pass(known, sessions=True), set[int]()
        for _ in meant(trace, known, walk):
            hashes.add(walk.hash)
        chosen = nsmallest(int(text), hashes)
        return chosen[-1] + 1 if chosen else 0
    if number is None or not 0 < number <= 1:
        raise InputError(
            f"--only sample={named(text)}: give a share of the sessions (0.1, 10%), or how many (100)"
        )
    return round(number * HASHES)
