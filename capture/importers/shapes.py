"""Public traces that give lengths and no texts: Mooncake, Bailian, Azure, BurstGPT, TraceLab, Weka, ServeGen.

Mooncake: JSONL, `timestamp` in ms from the start, `hash_ids` of the prompt's blocks of 512 tokens, where an
id stands for its block and all before it. Azure: CSV, `TIMESTAMP` in UTC with up to seven digits of a second.
BurstGPT: CSV, `Timestamp` in whole seconds from the start, 0 response tokens for a failure. Bailian: as
Mooncake, but seconds and blocks of 16 tokens. TraceLab: CSV, a round of an agent in each row. Weka: an object
for each conversation, with times from its own start and hash ids of its own.

ServeGen: rates and lengths of production clients, of which requests are drawn, the same ones each time. A
client is two files: `chunk-N-trace.csv`, without a head, has for each window its start (s), rate
(requests/s), coefficient of variation, the law of its gaps (Gamma or Weibull) and that law's shape and scale;
`chunk-N-dataset.json` beside it has for each longer window the shares of lengths, each as a text of a dict.
As in ServeGen's own generator one draw decides all lengths of a request, and gaps are stretched to fill their
window. Here a window has exactly its rate times its length of requests.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from itertools import accumulate
from math import inf
from pathlib import Path
from random import Random
from typing import IO, Any, Final, NamedTuple

from tbench.capture.errors import InputError
from tbench.capture.importers.importer import (
    LONGEST,
    NO_ARRIVAL,
    NO_PROMPT,
    NO_REQUESTS,
    NOT_JSON,
    NS,
    Call,
    Importer,
    LeftOut,
    Lengths,
    Row,
    count,
    moment,
    scaled,
    text,
)
from tbench.capture.jsontext import BOM, loads
from tbench.capture.providers import Usage

FAILED = LeftOut("that failed at their source (0 response tokens)")
BAD_IDS = LeftOut("with hash ids that are no numbers")
SUBAGENT = LeftOut("of a sub-agent, whose times count from nobody knows where")


def _sized(
    arrive: int | None,
    prompt: int | None,
    output: int | None,
    ids: object = (),
    **others: Any,  # noqa: ANN401 (members of Call)
) -> Call | LeftOut:
    """A request of so many tokens, with the ids of its blocks; or why it is none."""
    if arrive is None:
        return NO_ARRIVAL
    if not prompt:
        return NO_PROMPT
    if not isinstance(ids, list | tuple) or not all(type(number) is int for number in ids):
        return BAD_IDS
    lengths, usage = Lengths(prompt, output, tuple(ids)), Usage(prompt=prompt, output=output)
    return Call(arrive_ns=arrive, body=lengths, usage=usage, **others)


def mooncake(unit: str, row: Row) -> Call | LeftOut:
    """One request of a trace of Mooncake's form, `timestamp` in this unit."""
    session = row.get("session_id")
    return _sized(
        scaled(row.get("timestamp"), unit),
        count(row.get("input_length")),
        count(row.get("output_length")) or None,
        row.get("hash_ids") or (),
        session=None if session is None else str(session),
    )


def azure(row: Row) -> Call | LeftOut:
    """One request of an Azure trace of text models."""
    prompt, output = count(row.get("ContextTokens")), count(row.get("GeneratedTokens"))
    return _sized(moment(row.get("TIMESTAMP")), prompt, output or None)


def burstgpt(row: Row) -> Call | LeftOut:
    """One request of BurstGPT; `Elapsed time` is to the whole response, and older files lack it."""
    arrive, elapsed = scaled(row.get("Timestamp"), "s"), scaled(row.get("Elapsed time"), "s")
    output = count(row.get("Response tokens"))
    if arrive is not None and output == 0:
        return FAILED
    return _sized(
        arrive,
        count(row.get("Request tokens")),
        output,
        end_ns=None if arrive is None or elapsed is None else arrive + elapsed,
        model=text(row.get("Model")),
        session=text(row.get("Session ID")),
    )


def tracelab(row: Row) -> Call | LeftOut:
    """One round of an agent: `input_len` is what it appends to the `prefix_len` tokens before it."""
    prefix, appended = count(row.get("prefix_len")), count(row.get("input_len"))
    output = count(row.get("output_len")) or None
    if prefix is None or appended is None or not prefix + appended:
        return NO_PROMPT
    return Call(
        body=Lengths(prefix + appended, output),
        usage=Usage(prompt=prefix + appended, output=output),
        session=text(row.get("session_id")) or text(row.get("id")),
    )


def weka(row: Row) -> Iterator[Call | LeftOut]:
    """The requests of one conversation, less those of its sub-agents."""
    name, block, requests = row.get("id"), count(row.get("block_size")), row.get("requests")
    if not requests:
        yield NO_REQUESTS
    for request in requests if isinstance(requests, list) else ():
        if not isinstance(request, dict):
            yield NOT_JSON
            continue
        if request.get("type") == "subagent":
            nested = request.get("requests")
            yield from [SUBAGENT] * (len(nested) if isinstance(nested, list) else 1)
            continue
        arrive, took, waited = (scaled(request.get(at), "s") for at in ("t", "api_time", "ttft"))
        call = _sized(
            arrive,
            count(request.get("in")),
            count(request.get("out")) or None,
            request.get("hash_ids") or (),
            end_ns=None if arrive is None or took is None else arrive + took,
            first_token_ns=None if arrive is None or waited is None else arrive + waited,
            model=text(request.get("model")),
            session=None if name is None else str(name),
        )
        if isinstance(call, Call) and isinstance(call.body, Lengths) and call.body.blocks:
            prompt, ids = call.body.prompt, list[object](call.body.blocks)
            if block and len(ids) == prompt // block < -(-prompt // block):
                ids.append(
                    f"end {prompt} {ids[-1]}"
                )  # the last block, which is not full, has no id
            # Ids that no other conversation has, of those that are only of this one.
            words = (f"{name} {number}".encode("utf-8", "replace") for number in ids)
            digests = (blake2b(word, digest_size=7).digest() for word in words)
            call.body = call.body._replace(blocks=tuple(map(int.from_bytes, digests)))
        yield call


# ServeGen.

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
    lengths = _shares(path)
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
    billionths = [scaled(word, "s") for word in (rate, shape, scale)]
    if size <= 0 or any(number is None or number < 0 for number in billionths):
        return NO_WINDOW
    per_second, first, second = ((number or 0) / NS["s"] for number in billionths)
    of = lengths[max(known)] if known else {}
    return {"window": Window(path.name, int(start), size, per_second, law, first, second, of)}


def _shares(path: Path) -> Mapping[int, Mapping[str, Shares]]:
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
        shares: dict[int, dict[str, Shares]] = {}
        for start, fields in document.items():
            of = shares[int(start)] = {}
            for name, words in fields.items():
                pairs = sorted((int(n), float(share)) for n, share in _SHARE.findall(str(words)))
                if pairs:  # a window of ServeGen may have none
                    tokens, parts = zip(*pairs, strict=True)
                    of[name] = Shares(tokens, list(accumulate(parts)))
        return shares
    except OSError as error:
        raise InputError(f"{beside}: cannot be read: {error.strerror}") from None
    except (ValueError, AttributeError) as error:
        raise InputError(f"{beside}: no lengths of ServeGen: {error}") from None


def servegen(row: Row) -> Iterator[Call | LeftOut]:
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
        # By names, not by place: the same window gives the
        # same requests, whichever files are read beside it.
        random = Random(f"{window.client} {window.start}")
        for at in _arrivals(window, number, random):
            # One draw for both lengths: who asks much is answered
            # much, and shares drawn apart would lose that.
            share = random.random()
            prompt = max(1, prompts.at(share))
            output = (outputs.at(share) or None) if outputs else None
            yield _sized(round(at * NS["s"]), prompt, output)


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


MOONCAKE = Importer(
    calls=partial(mooncake, "ms"),
    matches=lambda row: {"timestamp", "input_length"} <= row.keys(),
    trust={"arrival": "reported"},
    cannot="texts, models, answers, latencies",
)
AZURE = Importer(
    calls=azure,
    matches=lambda row: {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= row.keys(),
    trust={"arrival": "reported"},
    cannot="texts, images, models, sessions, answers, latencies",
)
BURSTGPT = Importer(
    calls=burstgpt,
    matches=lambda row: {"Timestamp", "Request tokens", "Response tokens"} <= row.keys(),
    trust={"arrival": "reported", "end": "derived"},
    cannot="texts, first tokens; requests that failed are left out",
)
BAILIAN = Importer(
    calls=partial(mooncake, "s"),
    matches=lambda row: {"chat_id", "parent_chat_id", "timestamp", "input_length"} <= row.keys(),
    trust={"arrival": "reported"},
    cannot="texts, models, sessions (a row names only the chat before it), answers, latencies",
    block_tokens=16,
)
TRACELAB = Importer(
    calls=tracelab,
    matches=lambda row: {"round_idx", "prefix_len", "input_len", "output_len"} <= row.keys(),
    trust={},
    cannot="texts, shared prefixes, models, answers, tool waits, arrivals (its `arrival_time` is made up)",
)
WEKA = Importer(
    calls=weka,
    matches=lambda row: isinstance(row.get("requests"), list) and "block_size" in row,
    trust={"arrival": "reported", "end": "derived", "first_token": "derived"},
    cannot="texts, answers, sub-agents, when conversations began: the times of each are from its own start",
    block_tokens=64,
)
SERVEGEN = Importer(
    calls=servegen,
    matches=lambda row: isinstance(row.get("window"), Window),
    trust={"arrival": "derived"},
    cannot="texts, images, audio, video, models, sessions, answers, latencies: requests are drawn of rates "
    "and shares of lengths",
)
