"""Any log with a column for each thing: `--map FIELD=PATH[:UNIT]` says where each stands, and in which unit.

A unit is stated. Where it is not, it is taken only from a range that leaves no doubt: ISO 8601, or a number
that is a time of this century in one unit alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tbench.capture.endings import named_outcome
from tbench.capture.errors import InputError
from tbench.capture.exchange import Outcome
from tbench.capture.importers.importer import (
    CHAT,
    CLIENT_CLOSED,
    COMPLETIONS,
    CUT_SHORT,
    NO_ARRIVAL,
    NS,
    Call,
    Importer,
    LeftOut,
    Lengths,
    Row,
    Trust,
    count,
    dumped,
    error_status,
    http_status,
    is_cut,
    moment,
    prompt_of,
    scaled,
    text,
    unpacked,
)
from tbench.capture.providers import Usage
from tbench.capture.terminal import named, plural

INSTANTS: Final = ("arrival", "end", "first_token")
SPANS: Final = ("duration", "ttft")
FIELDS: Final = (
    *INSTANTS, *SPANS, "body", "messages", "prompt", "answer", "path", "model", "prompt_tokens",
    "output_tokens", "session", "status", "outcome", "error", "id",
)  # fmt: skip
NO_ERROR: Final = ("none", "null", "nan", "-")
"""What loggers write in the column of an error where there was none."""
TOKENS: Final = ("prompt_tokens", "output_tokens")
UNITS: Final = (*NS, "iso")
SECONDS_OR_ISO: Final = "s or iso"
"""The unit of a format that allows both; no user can state it, as no user has to."""
CENTURY: Final = (978_307_200, 4_102_444_800)
"""From 2001 to 2100, seconds since 1970: in no two units does a number mean a time of these years."""


class Place(NamedTuple):
    """Where a field stands in a row, and the unit of a time."""

    path: str
    unit: str | None = None


def parse_map(words: Iterable[str]) -> dict[str, Place]:
    """The fields of `--map`. Raises InputError for one that is unknown, twice there, or has a wrong unit."""
    places: dict[str, Place] = {}
    for word in words:
        name, mark, path = word.partition("=")
        if not mark or not path or name not in FIELDS:
            raise InputError(f"--map {word}: give FIELD=PATH, FIELD one of {', '.join(FIELDS)}")
        if name in places:
            raise InputError(f"--map {word}: {name} is mapped twice")
        stem, colon, unit = path.rpartition(":")
        if colon and unit in UNITS and (name in INSTANTS or name in SPANS):
            places[name] = Place(stem, unit)
        else:
            places[name] = Place(path)
        if name in SPANS and (unit := places[name].unit or "") not in NS:
            raise InputError(
                f"--map {word}: say its unit, as in {name}={path}:ms (s, ms, us or ns)"
            )
    return places


def at(row: Row, path: str) -> Any:  # noqa: ANN401 (whatever it holds)
    """What stands at a path: names and numbers joined by dots, a name with dots too; None for nothing."""
    if path in row:
        return row[path]
    names = path.split(".")
    for size in range(len(names) - 1, 0, -1):
        value = row.get(".".join(names[:size]))
        if value is not None:
            return _below(unpacked(value), ".".join(names[size:]))
    return None


def _below(value: object, path: str) -> Any:  # noqa: ANN401
    if isinstance(value, list):
        index, _, rest = path.partition(".")
        value = (
            value[int(index)]
            if index.isdecimal() and len(index) < 10 and int(index) < len(value)
            else None
        )
        return _below(value, rest) if rest else value
    return at(value, path) if isinstance(value, dict) else None


def certain_units(places: Mapping[str, Place], sample: Iterable[Row]) -> dict[str, Place]:
    """The places with the units that are certain by the range of the sample's values.

    Raises InputError where one is not: nothing is guessed.
    """
    rows, sure = list(sample), dict(places)
    for name in INSTANTS:
        path, unit = places.get(name, Place("", "s"))
        if unit is not None:
            continue
        # An empty cell of a table is no time of any unit: an answer that never came.
        values = [value for row in rows if (value := at(row, path)) not in (None, "")]
        if not values:
            raise InputError(f"--map {name}={path}: no row of the first has it; check the path")
        instants = {unit: [scaled(value, unit) for value in values] for unit in NS}
        instants["iso"] = [moment(value) for value in values]
        # A date leaves no doubt, of whatever century it is.
        fits = [
            unit
            for unit, times in instants.items()
            if all(time is not None and (unit == "iso" or is_dated(time)) for time in times)
        ]
        if len(fits) != 1:
            raise InputError(
                f"--map {name}={path}: the unit of {named(str(values[0]))} is not certain; state it: "
                f"{name}={path}:s, :ms, :us, :ns or :iso"
            )
        sure[name] = Place(path, fits[0])
    return sure


def unread(places: Mapping[str, Place], sample: Sequence[Row]) -> list[str]:
    """What the sample does not hold at a place, or holds and cannot be read: a line for each field."""
    lines: list[str] = []
    for name, place in places.items():
        values = [value for row in sample if (value := at(row, place.path)) not in (None, "")]
        if name in TOKENS:
            bad = [value for value in values if count(value) is None]
        elif name == "status":
            bad = [
                value for value in values if _code(value) != 0 and http_status(_code(value)) is None
            ]
        elif name == "outcome":
            bad = [
                word
                for word in map(str, values)
                if word not in {*Outcome} and not named_outcome(word)
            ]
        elif place.unit is not None:
            bad = [value for value in values if _time(value, place.unit) is None]
        else:
            bad = []
        where = f"{name}={place.path}: "
        if not values:
            lines.append(f"{where}none of the first {plural(len(sample), 'row')} has it")
        elif bad:
            lines.append(
                f"{where}{len(bad):,} of the first {plural(len(sample), 'row')} cannot be read, as "
                f"{named(str(bad[0]))}"
            )
    return lines


def _code(value: object) -> object:
    """A status without its phrase; 0 is what clients write where no answer came."""
    word = value.strip().partition(" ")[0] if isinstance(value, str) else value
    return 0 if count(word) == 0 else word


def _time(value: object, unit: str) -> int | None:
    if unit == SECONDS_OR_ISO:
        instant = moment(value)
        return scaled(value, "s") if instant is None else instant
    return moment(value) if unit == "iso" else scaled(value, unit)


def is_dated(at_ns: int) -> bool:
    """Whether this is a time of this century, in ns since 1970."""
    return CENTURY[0] <= at_ns / NS["s"] < CENTURY[1]


FAILED: Final = LeftOut("that failed, of which the log has no request")


def mapped(
    places: Mapping[str, Place],
    matches: Callable[[Row], bool] | None = None,
    cannot: str = "",
    *,
    repeats: bool = False,
    failed: str = "",
    documents: Sequence[tuple[str, ...]] = (),
) -> Importer:
    """An importer of rows whose fields stand at `places`, all units known.

    `matches`, `cannot`, `repeats` and `documents` are those of Importer; a row with anything in its member
    `failed` is left out.
    """
    trust: dict[str, Trust] = {"arrival": "reported"} if "arrival" in places else {}
    for name, source, span in (("end", "end", "duration"), ("first_token", "first_token", "ttft")):
        if source in places or span in places:
            trust[name] = "reported" if source in places else "derived"
    return Importer(
        calls=lambda row: FAILED if failed and row.get(failed) else mapped_call(places, row),
        matches=matches
        or (lambda row: any(at(row, place.path) is not None for place in places.values())),
        trust=trust,
        cannot=cannot,
        repeats=repeats,
        documents=documents,
    )


def mapped_call(places: Mapping[str, Place], row: Row) -> Call | LeftOut:
    """The call of one row."""
    values = {name: at(row, place.path) for name, place in places.items()}
    units = {name: place.unit or "s" for name, place in places.items()}
    times = {name: _time(values[name], units[name]) for name in INSTANTS if name in places}
    arrive = times.get("arrival")
    if "arrival" in places and arrive is None:
        return NO_ARRIVAL
    for span, name in (("duration", "end"), ("ttft", "first_token")):
        length = scaled(values[span], units[span]) if span in places else None
        if times.get(name) is None and arrive is not None and length is not None:
            times[name] = arrive + length
    usage = Usage(
        prompt=count(values.get("prompt_tokens")), output=count(values.get("output_tokens"))
    )
    # What to send: a body as it was, one put together, or the length alone.
    messages, prompt = unpacked(values.get("messages")), text(values.get("prompt"))
    sent: bytes | dict[str, Any] | Lengths = prompt_of(usage)
    if any(is_cut(values.get(name)) for name in ("body", "messages")):
        return CUT_SHORT
    if isinstance(body := unpacked(values.get("body")), dict) and body:
        raw = values["body"]
        sent = raw.encode() if isinstance(raw, str) else dumped(body)
    elif isinstance(messages, list) and messages:
        sent = {"messages": messages}
    elif prompt:
        sent = {"prompt": prompt}
    prompted = isinstance(sent, dict) and "prompt" in sent
    answer = unpacked(values.get("answer"))
    code = _code(values.get("status"))
    status, error = http_status(code), text(values.get("error"))
    if error and error.strip().lower() in NO_ERROR:
        error = None
    word = values.get("outcome")
    outcome = named_outcome(word)
    if str(word) not in {*Outcome} and not error_status(status):
        outcome = outcome or named_outcome(error)
    if status == CLIENT_CLOSED:
        status, outcome = None, Outcome.CLIENT_ABORT
    elif code == 0 and not outcome:
        error, outcome = error or "no answer", Outcome.RESET
    session, identity = values.get("session"), values.get("id")
    return Call(
        arrive_ns=arrive,
        end_ns=times.get("end"),
        first_token_ns=times.get("first_token"),
        path=text(values.get("path")) or (COMPLETIONS if prompted else CHAT),
        model=text(values.get("model")),
        body=sent,
        answer=answer if isinstance(answer, dict | str) else None,
        usage=usage,
        status=status,
        failure=error,
        outcome=outcome,
        session=None if session in (None, "") else str(session),
        id=None if identity in (None, "") else str(identity),
    )
