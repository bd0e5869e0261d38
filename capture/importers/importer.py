"""The seam of an importer: what one format of logs tells of each call of a model.

An importer is one file that makes an Importer, and one row in IMPORTERS (capture/importers/__init__.py).
Nothing here trusts a type: whatever a row holds, it becomes a Call, or is left out with its reason.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple

import orjson

from tbench.capture.endings import named_outcome
from tbench.capture.exchange import Headers, Outcome
from tbench.capture.frames import FARTHEST
from tbench.capture.jsontext import loads
from tbench.capture.providers import Usage

Row = Mapping[str, Any]
Trust = Literal["measured_here", "reported", "derived"]
"""Where a time comes from: this machine's clock, the log, or a sum of what the log says."""

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RESPONSES = "/v1/responses"


class LeftOut(NamedTuple):
    """A row that cannot be used, and why: words that stand after a number of rows."""

    reason: str


NOT_JSON: Final = LeftOut("not a JSON object")
NO_ARRIVAL: Final = LeftOut("without a readable arrival")
NO_CONTENT: Final = LeftOut("with neither content nor a size: --prompt-tokens states one")
CUT_SHORT: Final = LeftOut("whose body is cut short or no JSON")
CACHED: Final = LeftOut("answered from a cache, never sent to a model")
NO_PROMPT: Final = LeftOut("without prompt tokens")
NO_BODY: Final = LeftOut("without a body")
NO_REQUESTS: Final = LeftOut("a conversation without a request")
OTHER: Final = LeftOut("not a request to a model")


LONGEST: Final = 128 * 2**20
"""Bytes of a row: a longer one fits no trace."""
TOO_LONG: Final = LeftOut("longer than 128 MiB")


class Unwritable(Exception):  # noqa: N818 (a fact about a row, not a defect)
    """A row holds what is no JSON: it is read four times as deep as it can be written, and Parquet has more.

    `reason` says what.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.reason = next(
            (reason for words, reason in UNWRITABLE.items() if words in str(error)), NO_JSON
        )


UNWRITABLE: Final[Mapping[str, LeftOut]] = {
    "ecursion limit": LeftOut("nested too deeply"),
    "64-bit": LeftOut("with a whole number of over 64 bits"),
    "UTF-8": LeftOut("with half a character"),
}
"""Words in the error of orjson -> why a row is left out."""
NO_JSON: Final = LeftOut("with a value that JSON does not have")


class Lengths(NamedTuple):
    """A request of which nothing but its size is known.

    In tokens, 0 where not even that is known; `blocks` are the hash ids of its prefix, `body_bytes` what the
    body took, where the log has that instead.
    """

    prompt: int
    output: int | None = None
    blocks: tuple[int, ...] = ()
    body_bytes: int | None = None


UNSIZED: Final = Lengths(0)


@dataclass(slots=True, kw_only=True)
class Call:
    """One call of a model as a log tells it; None is what the log does not say.

    Times are ns since 1970 or, where the log has a clock of its own, since its start. `body` is what to send:
    bytes as the application sent them, a JSON object that is put together from what the log says, or for want
    of both the length of a prompt to write. `answer` is what came back: bytes as they came, a JSON object, or
    a text alone. `finish_reason` is why it ended. `stamp_ns` is the time in the log that an arrival is
    reckoned from: it tells how coarse the clock is. `failure` is one line on what went wrong, `outcome` what
    broke, where the log tells that. `id` tells repeated rows apart.
    """

    arrive_ns: int | None = None
    stamp_ns: int | None = None
    end_ns: int | None = None
    first_token_ns: int | None = None
    method: str = "POST"
    scheme: str = "https"
    host: str | None = None
    path: str = CHAT
    headers: Headers = ()
    model: str | None = None
    body: bytes | Mapping[str, Any] | Lengths = UNSIZED
    answer: bytes | Mapping[str, Any] | str | None = None
    answer_type: str = "application/json"
    finish_reason: str | None = None
    usage: Usage = field(default=Usage())
    status: int | None = None
    failure: str | None = None
    outcome: Outcome | None = None
    session: str | None = None
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Importer:
    """A format: `calls` makes a call of a row, several, or says why none; `matches` tells a row of it.

    `documents` are files that are one JSON object: for each the members on the way to its rows. `trust` says
    for each time that the format has where it comes from. `repeats` is whether rows may stand twice. `cannot`
    is what a trace of it never holds. `block_tokens` is what a hash id stands for, unless the user says.
    `joined` makes the rows of calls that a file tells of in several rows; it holds a bounded number of them.
    `plain` is the layout of its files where nothing in them tells it.
    """

    calls: Callable[[Row], Call | LeftOut | Iterable[Call | LeftOut]]
    matches: Callable[[Row], bool]
    trust: Mapping[str, Trust]
    cannot: str
    documents: Sequence[tuple[str, ...]] = ()
    repeats: bool = False
    block_tokens: int = 512
    joined: Callable[[Iterable[Row | LeftOut]], Iterator[Row | LeftOut]] = iter
    plain: Literal["csv", "access"] = "csv"


# Values: what a log writes where a time, a count or JSON belongs.

NS: Final[Mapping[str, int]] = {"s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}
"""Units of time in ns."""
_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(?::(\d\d)(?:[.,](\d{1,9})\d*)?)?"
    r"\s*(?:([+-]\d\d)(?::?(\d\d))?|Z)?(?: ?(?:UTC|GMT))?",
    re.ASCII | re.IGNORECASE,
)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d{1,4})?", re.ASCII | re.IGNORECASE)


def moment(value: object) -> int | None:
    """ISO 8601 as databases, Go and Python write it, or Parquet's timestamp, as ns since 1970.

    Without a zone it is UTC; digits after the ninth of a second are cut off.
    """
    if isinstance(value, datetime):
        value = value.isoformat()
    match = _ISO.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return None
    day, clock, second, fraction, hours, minutes = match.groups()
    try:
        zone = f"{hours or '+00'}:{minutes or '00'}"
        at = datetime.fromisoformat(f"{day}T{clock}:{second or '00'}{zone}")
        seconds = int(at.astimezone(UTC).timestamp())
    except (ValueError, OverflowError):
        return None
    return seconds * NS["s"] + int((fraction or "").ljust(9, "0"))


def scaled(value: object, unit: str) -> int | None:
    """A number of `unit`, or a text of one, as ns; None for anything else and for a time out of range.

    Decimals are taken as they are written: a float of today's seconds is .24 us from its neighbours, and its
    shortest text is what the log has, up to six decimals of a second.
    """
    if isinstance(value, float):
        value = repr(value)
    if isinstance(value, str):
        value = value.strip()
        if not _NUMBER.fullmatch(value):
            return None
        value = Decimal(value)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    if isinstance(value, Decimal) and not value.is_finite():  # one of Parquet's
        return None
    if not -FARTHEST <= value <= FARTHEST:
        return None
    at = round(value * NS[unit])
    return at if abs(at) <= FARTHEST else None


def count(value: object) -> int | None:
    """A number of tokens; None for anything else, a fraction too."""
    billionths = scaled(value, "s")
    if billionths is None or billionths % NS["s"]:
        return None
    number = billionths // NS["s"]
    return number if 0 <= number < 2**31 else None


def text(value: object) -> str | None:
    """A text that is not blank; None for anything else."""
    return value if isinstance(value, str) and value.strip() else None


def identity(value: object) -> str | None:
    """What names a session: a text, or a whole number as one."""
    return str(value) if type(value) is int else text(value)


def prompt_of(usage: Usage) -> Lengths:
    """The size of a prompt to write where the log has no content."""
    return Lengths(usage.prompt or 0, usage.output or None)


def path_for(body: Mapping[str, Any]) -> str | None:
    """The endpoint that takes such a body, where nothing else tells it; None for the body of none."""
    if "messages" in body:
        return CHAT
    if "prompt" in body:
        return COMPLETIONS
    given = body.get("input")
    if isinstance(given, list) and any(isinstance(item, dict) for item in given):
        return RESPONSES
    spoken = body.keys() & {
        "instructions",
        "max_output_tokens",
        "reasoning",
        "previous_response_id",
    }
    return None if given is None else RESPONSES if spoken else EMBEDDINGS


CLIENT_CLOSED: Final = 499
"""What logs write where a client left before its answer; nobody was sent it."""


def http_status(value: object) -> int | None:
    """The HTTP status of an answer; None for anything else."""
    status = count(value)
    return status if status is not None and 100 <= status <= 999 else None


def error_status(value: object) -> int | None:
    """The HTTP status of a failure; None for an error's name, and for a status that is none of an error."""
    status = count(value)
    return status if status is not None and 400 <= status <= 599 else None


_REFUSED = re.compile(r"Error code: ([45]\d\d)\b")


def told(words: str | None) -> tuple[int | None, Outcome | None]:
    """The status and the outcome that an error's words tell, as SDKs of Python and Node write them.

    `Error code: 429 - {...}` is what OpenAI's and Anthropic's say; `APITimeoutError('...')` and `AbortError:
    ...` are forms of exceptions, which a trace of the stack may follow.
    """
    line = (words or "").strip().partition("\n")[0]
    status = error_status(match[1]) if (match := _REFUSED.search(line[:400])) else None
    names = (line, *re.split(r"\(|: ", line, maxsplit=1))
    return status, None if status else next(filter(None, map(named_outcome, names)), None)


def dumped(value: object) -> bytes:
    """A value as JSON; a type that JSON lacks (a Decimal of Parquet) as its text."""
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError as error:  # which is TypeError itself, as a defect raises it
        raise Unwritable(error) from None


def unpacked(value: object) -> Any:  # noqa: ANN401 (whatever it holds)
    """JSON inside a string, parsed; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return loads(value)
        except ValueError:
            return value
    return value


def members(value: object) -> Mapping[str, Any]:
    """An object, or the one that is JSON inside a string; empty for anything else."""
    value = unpacked(value)
    return value if isinstance(value, Mapping) else {}


def first[Value](read: Callable[[object], Value | None], row: Row, *names: str) -> Value | None:
    """What `read` makes of the first of several members, spellings mostly, that it can read."""
    return next((value for name in names if (value := read(row.get(name))) is not None), None)


def is_cut(value: object) -> bool:
    """Whether a text begins as JSON and does not parse: some logs keep only its first characters."""
    return (
        isinstance(value, str)
        and value.lstrip()[:1] in ("{", "[")
        and isinstance(unpacked(value), str)
    )
