"""ServeGen: rates and lengths of production clients, of which requests are drawn, the same ones each time.

A client is two files: `chunk-N-trace.csv`, without a head, has for each window its start (s), rate
(requests/s), coefficient of variation, the law of its gaps (Gamma or Weibull) and that law's shape and
scale; `chunk-N-dataset.json` beside it has for each longer window the shares of lengths, each as a text of a
dict. As in ServeGen's own generator one draw decides all lengths of a request, and gaps are stretched to fill
their window. Here a window has exactly its rate times its length of requests.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from math import inf
from pathlib import Path
from random import Random
from typing import IO, Any, Final, NamedTuple

from tbench.capture.errors import InputError
from tbench.capture.importers.importer import (
    LONGEST,
    NS,
    Call,
    Importer,
    LeftOut,
    Lengths,
    Row,
    scaled,
)
from tbench.capture.jsontext import loads
from tbench.capture.providers import Usage
from tbench.capture.synthesis.dataset_files import BOM

WINDOW: Final = re.compile(
    rb"(\d{1,9}),([\d.eE+-]+),[\d.eE+-]+,(Gamma|Weibull)?,([\d.eE+-]+),([\d.eE+-]+)\s*"
)
"""A line of a client's trace; a window without requests names no law."""
_SHARE = re.compile(r"(\d{1,9}): ([\d.eE+-]+)")
NO_WINDOW: Final = LeftOut("that are no window of ServeGen")
NO_LENGTHS: Final = LeftOut("of a window without lengths")
CROWDED: Final = LeftOut("of a window with more than 200,000 requests")
MOST: Final = 200_000
"""Requests of a window: the busiest of ServeGen's has 50,750."""
LAST_S: Final = 600
"""Length of a file's only window."""


class Shares(NamedTuple):
    """Lengths in tokens, rising, and the share of requests up to each."""

    tokens: Sequence[int]
    up_to: Sequence[float]

    def at(self, share: float) -> int:
        """The length below which this share of the requests is."""
        return self.tokens[min(bisect_left(self.up_to, share), len(self.tokens) - 1)]


class Window(NamedTuple):
    """A window of a client: s and requests/s; `lengths` by what they are of."""

    client: str
    start: int
    seconds: int
    rate: float
    law: str
    shape: float
    scale: float
    lengths: Mapping[str, Shares]


def windows(file: IO[bytes], path: Path, _inside: Sequence[str]) -> Iterator[Row | LeftOut]:
    """The windows of a client, each with its lengths: what no JSON can hold."""
    lengths = _lengths(path)
    before: list[Any] | None = None
    size = LAST_S
    for line in file:
        match = WINDOW.fullmatch(line)
        if match is None:
            yield NO_WINDOW
            continue
        words = [word.decode() for word in match.groups(default=b"")]
        if before is not None:
            size = int(words[0]) - int(before[0])
            yield _window(before, size, path, lengths)
        before = words
    if before is not None:  # nothing ends the last one: it is as long as that before it
        yield _window(before, size, path, lengths)


def _window(
    words: Sequence[str], size: int, path: Path, lengths: Mapping[int, Mapping[str, Shares]]
) -> Row | LeftOut:
    start, rate, law, shape, scale = words
    known = [at for at in lengths if at <= int(start)]
    numbers = [_number(word) for word in (rate, shape, scale)]
    if size <= 0 or any(number is None for number in numbers):
        return NO_WINDOW
    per_second, first, second = (number or 0.0 for number in numbers)
    of = lengths[max(known)] if known else {}
    return {"window": Window(path.name, int(start), size, per_second, law, first, second, of)}


def _lengths(path: Path) -> dict[int, Mapping[str, Shares]]:
    """The shares of lengths by the start of their window. Raises InputError where the file is not beside."""
    beside = path.with_name(path.name.replace("-trace", "-dataset")).with_suffix(".json")
    if beside == path or not beside.is_file():
        raise InputError(
            f"{path}: a client of ServeGen has its lengths in {beside.name} beside it, which is missing"
        )
    try:
        if beside.stat().st_size > LONGEST:
            raise ValueError("it is larger than 128 MiB")
        document = loads(beside.read_bytes().removeprefix(BOM))
        return {int(start): _fields(fields) for start, fields in document.items()}
    except OSError as error:
        raise InputError(f"{beside}: cannot be read: {error.strerror}") from None
    except (ValueError, AttributeError) as error:
        raise InputError(f"{beside}: no lengths of ServeGen: {error}") from None


def _fields(fields: Mapping[str, str]) -> Mapping[str, Shares]:
    """The kinds of tokens that have shares; a window of ServeGen may have none."""
    made: dict[str, Shares] = {}
    for name, words in fields.items():
        pairs = sorted((int(n), float(share)) for n, share in _SHARE.findall(str(words)))
        if pairs:
            made[name] = Shares(
                [tokens for tokens, _ in pairs], list(accumulate(share for _, share in pairs))
            )
    return made


def calls(row: Row) -> Iterator[Call | LeftOut]:
    """The requests of a window, drawn anew each time as they were before."""
    window = row.get("window")
    if not isinstance(window, Window):
        yield NO_WINDOW
        return
    number = round(window.rate * window.seconds)
    prompts = window.lengths.get("input_tokens") or window.lengths.get("text_tokens")
    outputs = window.lengths.get("output_tokens")
    if not number or not window.law:
        return
    if number > MOST:
        yield CROWDED
    elif prompts is None or not window.shape or not window.scale:
        yield from [NO_LENGTHS] * number
    else:
        random = Random(f"{window.client} {window.start}")
        for at in _arrivals(window, number, random):
            share = random.random()
            prompt = max(1, prompts.at(share))
            output = (outputs.at(share) or None) if outputs else None
            yield Call(
                arrive_ns=round(at * NS["s"]),
                lengths=Lengths(prompt, output),
                usage=Usage(prompt=prompt, output=output),
            )


def _arrivals(window: Window, number: int, random: Random) -> Iterator[float]:
    """So many arrivals, s: gaps by the window's law, stretched to fill it."""
    gaps = (
        random.gammavariate(window.shape, window.scale)
        if window.law == "Gamma"
        else random.weibullvariate(window.scale, window.shape)
        for _ in range(number + 1)
    )
    try:
        ends = list(accumulate(gaps))
    except OverflowError:  # a law with a longer tail than numbers have
        ends = [0.0] * (number + 1)
    length = ends[-1] if 0 < ends[-1] < inf else 0.0
    for place, at in enumerate(ends[:-1]):
        yield window.start + window.seconds * (at / length if length else place / number)


def _number(word: str) -> float | None:
    """A number from 0 on; None for anything else."""
    billionths = scaled(word, "s")
    return None if billionths is None or billionths < 0 else billionths / NS["s"]


SERVEGEN = Importer(
    calls=calls,
    matches=lambda row: isinstance(row.get("window"), Window),
    trust={"arrival": "derived"},
    cannot="texts, images, audio, video, models, sessions, answers, latencies: requests are drawn of rates "
    "and shares of lengths",
)
