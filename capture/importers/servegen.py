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
"""Length of the last window of a file, which no other ends, where there is no other."""


class Shares(NamedTuple):
    """Lengths in tokens, rising, and the share of requests up to each."""

    tokens: Sequence[int]
    up_to: Sequence[float]

    def at(self, share: float) -> int:
        """The length below which this share of the requests is."""
        return self.tokens[min(bisect_left(self.up_to, share), len(self.tokens) - 1)]


def windows(file: IO[bytes], path: Path, _inside: Sequence[str]) -> Iterator[Row | LeftOut]:
    """The windows of a client, each with its lengths."""
    lengths = _lengths(path)
    rows: list[Any] = []
    for line in file:
        match = WINDOW.fullmatch(line)
        if match is None:
            yield NO_WINDOW
            continue
        rows.append(match.groups())
        if len(rows) == 2:
            yield _window(rows, path, lengths)
            del rows[0]
    if rows:
        start = int(rows[0][0])
        before = [at for at in lengths if at < start]
        size = min(LAST_S, start - max(before)) if before else LAST_S
        yield _window([rows[0], (start + size,)], path, lengths)


def _window(rows: Sequence[Any], path: Path, lengths: Mapping[int, Mapping[str, Shares]]) -> Row:
    (start, rate, law, shape, scale), (end, *_) = rows
    known = [at for at in lengths if at <= int(start)]
    return {
        "client": path.name,
        "start": int(start),
        "seconds": int(end) - int(start),
        "rate": rate.decode(),
        "law": (law or b"").decode(),
        "shape": shape.decode(),
        "scale": scale.decode(),
        "lengths": lengths[max(known)] if known else {},
    }


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
        document = loads(beside.read_bytes())
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
    rate, shape, scale = (_positive(row.get(name)) for name in ("rate", "shape", "scale"))
    number = round(rate * row["seconds"])
    if not number or not row["law"]:
        return
    lengths: Mapping[str, Shares] = row["lengths"]
    prompts = lengths.get("input_tokens") or lengths.get("text_tokens")
    if number > MOST:
        yield CROWDED
    elif prompts is None or not shape or not scale:
        yield from [NO_LENGTHS] * number
    else:
        random = Random(f"{row['client']} {row['start']}")
        law = random.gammavariate if row["law"] == "Gamma" else random.weibullvariate
        first, second = (shape, scale) if row["law"] == "Gamma" else (scale, shape)
        ends = list(accumulate(law(first, second) for _ in range(number + 1)))
        for at in ends[:-1]:
            share = random.random()
            prompt = max(1, prompts.at(share))
            outputs = lengths.get("output_tokens")
            output = (outputs.at(share) or None) if outputs else None
            arrive = row["start"] + row["seconds"] * (at / ends[-1] if ends[-1] else 0)
            yield Call(
                arrive_ns=round(arrive * NS["s"]),
                lengths=Lengths(prompt, output),
                usage=Usage(prompt=prompt, output=output),
            )


def _positive(value: object) -> float:
    """A number above 0 that is no giant; 0 for anything else."""
    number = scaled(value, "s")
    return number / NS["s"] if number is not None and number > 0 else 0.0


SERVEGEN = Importer(
    calls=calls,
    matches=lambda row: {"client", "start", "law", "lengths"} <= row.keys(),
    trust={"arrival": "derived"},
    cannot="texts, images, audio, video, models, sessions, answers, latencies: requests are drawn of rates "
    "and shares of lengths",
)
