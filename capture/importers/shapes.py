"""Public traces that give lengths and no texts: Mooncake, Azure 2023 and 2024, BurstGPT.

Mooncake: JSONL, `timestamp` in ms from the start, `hash_ids` of the prompt's blocks of 512 tokens, where an
id stands for its block and all before it. Azure: CSV, `TIMESTAMP` in UTC with up to seven digits of a second.
BurstGPT: CSV, `Timestamp` in whole seconds from the start, 0 response tokens for a failure.
"""

from collections.abc import Iterator

from tbench.capture.importers.importer import (
    NO_ARRIVAL,
    NO_PROMPT,
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
from tbench.capture.providers import Usage

FAILED = LeftOut("that failed at their source (0 response tokens)")
BAD_IDS = LeftOut("with hash ids that are no numbers")


def mooncake(row: Row) -> Iterator[Call | LeftOut]:
    """One request of a Mooncake trace."""
    arrive, prompt = scaled(row.get("timestamp"), "ms"), count(row.get("input_length"))
    ids = row.get("hash_ids") or ()
    if arrive is None:
        yield NO_ARRIVAL
    elif not prompt:
        yield NO_PROMPT
    elif not isinstance(ids, list | tuple) or not all(type(number) is int for number in ids):
        yield BAD_IDS
    else:
        session = row.get("session_id")
        output = count(row.get("output_length")) or None
        yield Call(
            arrive_ns=arrive,
            lengths=Lengths(prompt, output, tuple(ids)),
            usage=Usage(prompt=prompt, output=output),
            session=None if session is None else str(session),
        )


def azure(row: Row) -> Iterator[Call | LeftOut]:
    """One request of an Azure trace of text models."""
    arrive, prompt = moment(row.get("TIMESTAMP")), count(row.get("ContextTokens"))
    output = count(row.get("GeneratedTokens")) or None
    if arrive is None:
        yield NO_ARRIVAL
    elif not prompt:
        yield NO_PROMPT
    else:
        yield Call(
            arrive_ns=arrive,
            lengths=Lengths(prompt, output),
            usage=Usage(prompt=prompt, output=output),
        )


def burstgpt(row: Row) -> Iterator[Call | LeftOut]:
    """One request of BurstGPT; `Elapsed time` is to the whole response, and older files lack it."""
    arrive, prompt = scaled(row.get("Timestamp"), "s"), count(row.get("Request tokens"))
    output = count(row.get("Response tokens"))
    if arrive is None:
        yield NO_ARRIVAL
    elif output == 0:
        yield FAILED
    elif not prompt:
        yield NO_PROMPT
    else:
        elapsed = scaled(row.get("Elapsed time"), "s")
        yield Call(
            arrive_ns=arrive,
            end_ns=None if elapsed is None else arrive + elapsed,
            model=text(row.get("Model")),
            lengths=Lengths(prompt, output),
            usage=Usage(prompt=prompt, output=output),
            session=text(row.get("Session ID")),
        )


MOONCAKE = Importer(
    calls=mooncake,
    matches=lambda row: {"timestamp", "input_length"} <= row.keys(),
    trust={"arrival": "reported"},
    cannot="texts, models, answers, latencies",
)
AZURE = Importer(
    calls=azure,
    matches=lambda row: {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= row.keys(),
    trust={"arrival": "reported"},
    cannot="texts, models, sessions, answers, latencies",
)
BURSTGPT = Importer(
    calls=burstgpt,
    matches=lambda row: {"Timestamp", "Request tokens", "Response tokens"} <= row.keys(),
    trust={"arrival": "reported", "end": "derived"},
    cannot="texts, first tokens; requests that failed are left out",
)
