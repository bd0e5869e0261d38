"""Conversion: files of one format, read twice: once to count and to judge the clock, once to write the trace.

Every row becomes exchanges or is left out with its reason. Both passes decide alike: a rule looks at the call
and at the ids before it, never at a clock or a random number. The header of the trace holds the counts, and
where each time comes from.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from heapq import heappush, heapreplace
from itertools import batched, islice, pairwise
from math import gcd
from pathlib import Path
from typing import Any, Final

from tbench.capture.errors import InputError
from tbench.capture.importers import IMPORTERS
from tbench.capture.importers.exchanges import ExchangeMaker, Writer
from tbench.capture.importers.importer import (
    NO_ARRIVAL,
    NO_CONTENT,
    NS,
    Call,
    Importer,
    LeftOut,
    Lengths,
    Row,
    Unwritable,
    dumped,
    text,
)
from tbench.capture.importers.mapping import certain_units, is_dated, mapped, parse_map, unread
from tbench.capture.importers.rows import Shape, rows, shape
from tbench.capture.records import TraceHeader
from tbench.capture.synthesis.generate import MOST_BYTES, Arrivals
from tbench.capture.synthesis.tokens import Tokens
from tbench.capture.terminal import named, plural
from tbench.capture.trace_writer import TraceWriter

SAMPLE: Final = 200
"""Rows of each file that tell the format, the units and the kind of clock."""
FOREIGN: Final = 100 * SAMPLE
"""Rows among which they are looked for: a server's own words may stand before its log."""
LONGEST_RELATIVE: Final = 10 * 366 * 86_400 * NS["s"]
"""Ten years: no log that counts from its own start is longer, so a larger number has another unit."""
MOST_TOKENS: Final = 2**22
"""Of a written prompt: a longer one fits no trace."""
COARSE_NS: Final = 100 * NS["ms"]
"""A clock is coarse where every gap is a multiple of so much, or of more."""
SHARED_TICK_NS: Final = 10 * NS["ms"]
"""Or where a fifth of the arrivals share an instant, and no gap is smaller than this."""
FEW: Final = 20
"""The clock of fewer arrivals is not judged."""
MOST_INSTANTS: Final = 2**16
"""Different instants that are remembered to judge the clock."""

BACKWARDS: Final = LeftOut("that end before they arrive, or years later")
OUT_OF_RANGE: Final = LeftOut("with an arrival far from the others': check the unit")
TOO_LARGE: Final = LeftOut("with a body too large for a trace")
REPEATED: Final = LeftOut("that stand in the log twice")

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes of all files."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A conversion, with every choice made.

    `files` come with their layout. `timed` is whether the log says when requests came, `wall` whether its
    times are of a calendar. `model` stands in bodies that the log gives no model for; `rate` (requests/s)
    spaces requests whose log has no times, `prompt_tokens` is the length of those whose log has neither
    content nor a size. With `spread` the arrivals of one tick of a coarse clock are drawn within it, by
    `seed`.
    """

    format: str
    importer: Importer
    files: Sequence[tuple[Path, Shape]]
    tokens: Tokens
    model: str
    timed: bool
    wall: bool
    rate: float = 1.0
    block_tokens: int
    prompt_tokens: int | None = None
    spread: bool = False
    seed: int = 0
    notices: Sequence[str] = ()


class Ticks:
    """How coarse the clock of arrivals is, whatever their order in the file.

    Of all arrivals their common step is known; who shares an instant with whom, and how near instants are to
    each other, of the first MOST_INSTANTS of them in time.
    """

    def __init__(self) -> None:
        self._origin: int | None = None
        self._common = 0
        self._counts: dict[int, int] = {}
        self._latest: list[int] = []
        """The instants, negated: a heap with the last one on top."""
        self._last: int | None = None
        self.arrivals = 0
        self.backward = 0
        """Arrivals before that of the row above."""

    def add(self, at_ns: int) -> None:
        """Count one arrival."""
        self.arrivals += 1
        self.backward += self._last is not None and at_ns < self._last
        self._last = at_ns
        self._origin = at_ns if self._origin is None else self._origin
        self._common = gcd(self._common, at_ns - self._origin)
        if at_ns in self._counts:
            self._counts[at_ns] += 1
        elif len(self._counts) < MOST_INSTANTS:
            self._counts[at_ns] = 1
            heappush(self._latest, -at_ns)
        elif at_ns < -self._latest[0]:
            self._counts[at_ns] = 1
            # The latest instant makes room: what is remembered are
            # the first in time, whatever their order in the file.
            del self._counts[-heapreplace(self._latest, -at_ns)]

    @property
    def together(self) -> int:
        """Arrivals at the instant of an earlier one."""
        return sum(self._counts.values()) - len(self._counts)

    @property
    def tick_ns(self) -> int | None:
        """The tick of a coarse clock, ns; None where the clock is fine enough, or too little is known."""
        if self.arrivals < FEW or not self._common:
            return None
        if self._common >= COARSE_NS:
            return self._common
        if self.together < 0.2 * (self.together + len(self._counts)):
            return None
        least = min(later - earlier for earlier, later in pairwise(sorted(self._counts)))
        return least if least >= SHARED_TICK_NS else None


@dataclass(kw_only=True)
class Survey:
    """What the first pass counted; `rows` = `exchanges` + the sum of `left_out`.

    `places` has where the first row of a reason stands. `refused` counts first-token times that cannot be,
    by reason, `unnamed` requests whose log names no model,
    `undated_answers` answers that are not in the trace, as nobody knows when they ended.
    """

    rows: int = 0
    exchanges: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    places: dict[str, str] = field(default_factory=dict)
    bodies: Counter[str] = field(default_factory=Counter)
    times: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    unnamed: int = 0
    undated_answers: int = 0
    first_ns: int = 0
    last_ns: int = 0
    ticks: Ticks = field(default_factory=Ticks)


def resolve(
    paths: Sequence[Path],
    *,
    tokens: Tokens,
    model: str,
    format_name: str | None = None,
    fields: Sequence[str] = (),
    block_tokens: int | None = None,
    prompt_tokens: int | None = None,
    rate: float = 1.0,
    spread: bool = False,
    seed: int = 0,
) -> Job:
    """A job; the rows tell its format unless it is named, or `fields` are mapped.

    Raises InputError where the format is unknown, the files are of several, or a unit is not certain.
    """
    if again := next((path for path, times in Counter(paths).items() if times > 1), None):
        raise InputError(f"{again}: given twice; its rows would be in the trace twice")
    documents = [members for importer in IMPORTERS.values() for members in importer.documents]
    named_importer = IMPORTERS.get(format_name or "")
    files = [(path, _layout(path, documents, named_importer)) for path in paths]
    samples = {
        path: list(
            islice(
                (
                    row
                    for row in islice(rows(path, layout), FOREIGN)
                    if not isinstance(row, LeftOut)
                ),
                SAMPLE,
            )
        )
        for path, layout in files
    }
    sample = [row for first_rows in samples.values() for row in first_rows]
    if not sample and not any(True for path, layout in files for _ in rows(path, layout)):
        raise InputError(f"{', '.join(map(str, paths))}: no row: only a header, or an empty list")
    notices: list[str] = []
    if fields:
        if format_name is not None:
            raise InputError(f"--format {format_name} and --map: give one")
        given = parse_map(fields)
        places = certain_units(given, sample)
        notices = [
            f"{name}={place.path}: read as {place.unit}, by its range; to state it: --map "
            f"{name}={place.path}:{place.unit}"
            for name, place in places.items()
            if place != given[name]
        ] + unread(places, sample)
        format_name, importer = "map", mapped(places)
    else:
        format_name = format_name or _detected(samples)
        if format_name not in IMPORTERS:
            raise InputError(
                f"--format {format_name}: choose one of {', '.join(IMPORTERS)}, or --map"
            )
        importer = IMPORTERS[format_name]
    arrivals = [
        at
        for path, layout in files
        for at in islice(
            (
                call.arrive_ns
                for _, call in islice(_placed_calls(importer, path, layout), FOREIGN)
                if isinstance(call, Call)
            ),
            SAMPLE,
        )
    ]
    dated = [is_dated(at) for at in arrivals if at is not None]
    job = Job(
        format=format_name,
        importer=importer,
        files=files,
        tokens=tokens,
        model=model,
        # aiperf's inputs may have times.
        timed="arrival" in importer.trust and bool(dated or not arrivals),
        wall=sum(dated) * 2 > len(dated),
        rate=rate,
        block_tokens=block_tokens or importer.block_tokens,
        prompt_tokens=prompt_tokens,
        spread=spread,
        seed=seed,
        notices=notices,
    )
    if spread and not job.timed:
        raise InputError(f"--spread: {format_name} has no arrivals to spread; --rate spaces them")
    return job


def _layout(path: Path, documents: Sequence[tuple[str, ...]], importer: Importer | None) -> Shape:
    """How a file is laid out; text that nothing tells is what the named format makes of it."""
    layout = shape(path, documents)
    if layout.kind != "csv" or importer is None or importer.plain == "csv":
        return layout
    with suppress(InputError):  # no CSV
        first_rows = (row for row in islice(rows(path, layout), SAMPLE) if isinstance(row, dict))
        if any(map(importer.matches, first_rows)):
            return layout
    return Shape(importer.plain)


def _detected(samples: Mapping[Path, Sequence[Row]]) -> str:
    """The one format of all files, each told by its first row that is of any."""
    formats: dict[str, Path] = {}
    for path, sample in samples.items():
        told = (name for row in sample for name in IMPORTERS if IMPORTERS[name].matches(row))
        if name := next(told, None):
            formats.setdefault(name, path)
    if len(formats) > 1:
        told_apart = ", ".join(f"{path} is {name}" for name, path in formats.items())
        raise InputError(f"{told_apart}: import each format by itself")
    if not formats:
        path, sample = next(iter(samples.items()))
        names = ", ".join(named(str(name)) for row in sample[:1] for name in islice(row, 12))
        raise InputError(
            f"{path}: no known format (its fields: {names or 'none'}); say where each thing stands, as in "
            "--map arrival=ts:ms --map messages=request.messages, or name a --format of "
            f"{', '.join(IMPORTERS)}"
        )
    return next(iter(formats))


# The rules that hold for every format.


def _results(job: Job, progress: Progress, counts: Survey) -> Iterator[Call | LeftOut]:
    """What becomes of each row; `counts` has where rows were left out, and first-token times refused."""
    total = sum(path.stat().st_size for path, _ in job.files)
    before, seen = 0, set[bytes]()
    for path, layout in job.files:
        done = before

        def at(size: int, done: int = done) -> None:
            progress(done + size, total)

        for place, call in _placed_calls(job.importer, path, layout, at):
            if job.importer.repeats and isinstance(call, Call) and call.id:
                # Eight bytes of each id: a log may hold more ids than memory does.
                name = blake2b(call.id.encode("utf-8", "replace"), digest_size=8).digest()
                if name in seen:
                    call = REPEATED  # noqa: PLW2901
                seen.add(name)
            result = call if isinstance(call, LeftOut) else _ruled(job, call, counts.refused)
            if isinstance(result, LeftOut):
                counts.places.setdefault(result.reason, place)
            yield result
        before += path.stat().st_size


def _placed_calls(
    importer: Importer, path: Path, layout: Shape, progress: Callable[[int], object] = bool
) -> Iterator[tuple[str, Call | LeftOut]]:
    """The calls of a file's rows, each with where it stands. A defect of an importer says so, too."""
    name, number = named(path.name), 0

    def counted() -> Iterator[Row | LeftOut]:
        nonlocal number
        for row in rows(path, layout, progress):
            number += 1
            yield row

    try:
        for row in importer.joined(counted()):
            for call in _row_calls(importer, row):
                yield f"{name} row {number:,}", call
    except InputError:
        raise
    except Exception as error:
        error.add_note(f"{name} row {number:,}")
        raise


def _row_calls(importer: Importer, row: Row | LeftOut) -> Sequence[Call | LeftOut]:
    """The calls of a row, if they can be written."""
    if isinstance(row, LeftOut):
        return [row]
    try:
        made = importer.calls(row)
        calls = [made] if isinstance(made, Call | LeftOut) else list(made)
        for call in calls:
            if isinstance(call, Call):
                written = [part for part in (call.body, call.answer) if isinstance(part, Mapping)]
                # A rebuilt answer holds the log's message four levels deep.
                dumped([[[[written]]]])
    except Unwritable as error:
        return [error.reason]
    return calls


def _ruled(job: Job, call: Call, refused: Counter[str]) -> Call | LeftOut:
    """The call, without a first token that cannot be true; or why it is left out."""
    arrive, end, first = call.arrive_ns, call.end_ns, call.first_token_ns
    if job.timed:
        if arrive is None:
            return NO_ARRIVAL
        if not (is_dated(arrive) if job.wall else 0 <= arrive < LONGEST_RELATIVE):
            return OUT_OF_RANGE
        if end is not None and not arrive <= end < arrive + LONGEST_RELATIVE:
            return BACKWARDS
    else:  # where the arrival is made up, no other time says anything
        call = replace(call, arrive_ns=None, end_ns=None, first_token_ns=None)
        arrive = first = None
    sized = _sized(job, call)
    if isinstance(sized, LeftOut) or first is None or arrive is None:
        return sized
    # Loggers write the start or the end where they have no first token.
    if end is None:
        reason = "without an end"
    elif first in (arrive, end):
        reason = f"equal to the {'arrival' if first == arrive else 'end'}"
    elif not arrive < first < end:
        reason = "outside of the call"
    else:
        return sized
    refused[reason] += 1
    return replace(sized, first_token_ns=None)


def _sized(job: Job, call: Call) -> Call | LeftOut:
    """The call with what is to be sent, of a size that fits a trace; or why it is left out."""
    body = call.body
    if isinstance(body, Lengths):
        if not body.prompt and body.body_bytes is None:
            if job.prompt_tokens is None:
                return NO_CONTENT
            body = Lengths(job.prompt_tokens, body.output)
        if body.prompt > MOST_TOKENS or (body.body_bytes or 0) > MOST_BYTES:
            return TOO_LARGE
        if body.blocks and len(body.blocks) != -(-body.prompt // job.block_tokens):
            return LeftOut(
                f"whose hash ids do not cover the tokens by blocks of {job.block_tokens:,}: state "
                "--block-tokens"
            )
        return replace(call, body=body)
    if isinstance(body, Mapping):
        call = replace(call, model=call.model or text(body.get("model")))
        body = {"model": call.model or job.model, **body}
    data = dumped(body) if isinstance(body, Mapping) else body
    return TOO_LARGE if len(data) > MOST_BYTES else replace(call, body=body)


def survey(job: Job, progress: Progress) -> Survey:
    """The first pass. Raises InputError where nothing is left to import."""
    counts = Survey()
    first: int | None = None
    for call in _results(job, progress, counts):
        counts.rows += 1
        if isinstance(call, LeftOut):
            counts.left_out[call.reason] += 1
            continue
        counts.exchanges += 1
        rebuilt = "rebuilt" if isinstance(call.body, Mapping) else "recorded"
        counts.bodies["written" if isinstance(call.body, Lengths) else rebuilt] += 1
        counts.unnamed += call.model is None and not isinstance(call.body, bytes)
        counts.undated_answers += call.end_ns is None and call.answer is not None
        counts.times["end"] += call.end_ns is not None
        counts.times["first_token"] += call.first_token_ns is not None
        if call.arrive_ns is not None:
            counts.ticks.add(call.arrive_ns if call.stamp_ns is None else call.stamp_ns)
            first = call.arrive_ns if first is None else min(first, call.arrive_ns)
            counts.last_ns = max(counts.last_ns, call.arrive_ns)
    counts.first_ns = first or 0
    if not counts.exchanges:
        why = f": {reasons(counts)}" if counts.rows else ""
        files = ", ".join(str(path) for path, _ in job.files)
        raise InputError(
            f"{files}: nothing to import as {job.format}; {plural(counts.rows, 'row')}{why}"
        )
    return counts


def reasons(counts: Survey) -> str:
    """What is left out, in words, commonest first, and where the first of each stands."""
    return "; ".join(
        f"{number:,} {reason} ({'first: ' * (number > 1)}{counts.places[reason]})"
        for reason, number in counts.left_out.most_common()
    )


def described(job: Job, counts: Survey) -> dict[str, Any]:
    """What the trace says of itself: the header's `import` (docs/trace-format.md)."""
    tick = counts.ticks.tick_ns
    trust = {name: word for name, word in job.importer.trust.items() if counts.times.get(name, 1)}
    if not job.timed or (job.spread and tick):
        trust["arrival"] = "derived"
    return {
        "format": job.format,
        "files": [path.name for path, _ in job.files],
        "rows": counts.rows,
        "exchanges": counts.exchanges,
        "left_out": dict(counts.left_out.most_common()),
        "trust": trust,
        "clock": ("calendar" if job.wall else "from its start") if job.timed else "none",
        "tick_ns": tick,
        "spread": bool(job.spread and tick),
        "rate": None if job.timed else job.rate,
        "bodies": dict(counts.bodies),
        "first_tokens_refused": dict(counts.refused),
        "tokens": job.tokens.source if counts.bodies["written"] else None,
    }


# The second pass.


def write(job: Job, counts: Survey, path: Path, progress: Progress) -> None:
    """Write the trace (mode 0600; nothing is replaced). Without success no file is left.

    Raises InputError where a file has changed since the survey.
    """
    wall = counts.first_ns if job.timed and job.wall else 0
    header = TraceHeader(
        wall_ns=wall,
        mono_ns=0,
        tokens_source=job.tokens.source if counts.bodies["written"] else None,
        extra={"import": described(job, counts)},
    )
    writer = TraceWriter(path, header)
    try:
        maker = ExchangeMaker(
            Writer(job.tokens, job.block_tokens, job.seed),
            Arrivals(job.rate),
            model=job.model,
            name=header.capture_id,
            origin_ns=counts.first_ns,
            tick_ns=counts.ticks.tick_ns if job.spread else None,
            seed=job.seed,
        )
        calls = (call for call in _results(job, progress, Survey()) if isinstance(call, Call))
        written = 0
        for group in batched(calls, 64):
            for exchange in maker.exchanges(group):
                writer.exchange(exchange)
                written += 1
        if written != counts.exchanges:
            files = ", ".join(str(path) for path, _ in job.files)
            raise InputError(f"{files}: changed while it was read; import a copy of it")
        writer.close()
    except BaseException:
        writer.discard()
        raise
