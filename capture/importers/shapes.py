"""Public traces that give lengths and no texts: Mooncake, Bailian, Azure, BurstGPT, TraceLab, Weka.

Mooncake: JSONL, `timestamp` in ms from the start, `hash_ids` of the prompt's blocks of 512 tokens, where an
id stands for its block and all before it. Azure: CSV, `TIMESTAMP` in UTC with up to seven digits of a second.
BurstGPT: CSV, `Timestamp` in whole seconds from the start, 0 response tokens for a failure. Bailian: as
Mooncake, but seconds and blocks of 16 tokens. TraceLab: CSV, a round of an agent in each row. Weka: an object
for each conversation, with times from its own start and hash ids of its own.
"""

from collections.abc import Iterator
from functools import partial
from hashlib import blake2b

from tbench.capture.importers.importer import (
    NO_ARRIVAL,
    NO_PROMPT,
    NOT_JSON,
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
NO_REQUESTS = LeftOut("a conversation without a request")
SUBAGENT = LeftOut("of a sub-agent, whose times count from nobody knows where")


def mooncake(unit: str, row: Row) -> Iterator[Call | LeftOut]:
    """One request of a trace of Mooncake's form, `timestamp` in this unit."""
    arrive, prompt = scaled(row.get("timestamp"), unit), count(row.get("input_length"))
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


def tracelab(row: Row) -> Iterator[Call | LeftOut]:
    """One round of an agent: `input_len` is what it appends to the `prefix_len` tokens before it."""
    prefix, appended = count(row.get("prefix_len")), count(row.get("input_len"))
    output = count(row.get("output_len")) or None
    if prefix is None or appended is None or not prefix + appended:
        yield NO_PROMPT
    else:
        yield Call(
            lengths=Lengths(prefix + appended, output),
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
        arrive, prompt = scaled(request.get("t"), "s"), count(request.get("in"))
        ids = request.get("hash_ids") or ()
        if arrive is None:
            yield NO_ARRIVAL
        elif not prompt:
            yield NO_PROMPT
        elif not isinstance(ids, list | tuple) or not all(type(number) is int for number in ids):
            yield BAD_IDS
        else:
            took, waited = scaled(request.get("api_time"), "s"), scaled(request.get("ttft"), "s")
            output = count(request.get("out")) or None
            if block and ids and len(ids) == prompt // block < -(-prompt // block):
                ids = [
                    *ids,
                    f"end {prompt} {ids[-1]}",
                ]  # the last block, which is not full, has no id
            yield Call(
                arrive_ns=arrive,
                end_ns=None if took is None else arrive + took,
                first_token_ns=None if waited is None else arrive + waited,
                model=text(request.get("model")),
                lengths=Lengths(prompt, output, tuple(_local(name, number) for number in ids)),
                usage=Usage(prompt=prompt, output=output),
                session=None if name is None else str(name),
            )


def _local(conversation: object, block: object) -> int:
    """A hash id that no other conversation has, of one that is only of this conversation."""
    word = f"{conversation} {block}".encode("utf-8", "replace")
    return int.from_bytes(blake2b(word, digest_size=7).digest())


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
