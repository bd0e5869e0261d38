"""Session logs of coding agents: Claude Code and Codex (JSONL). They hold no requests, only their sizes.

An answer is logged when it is there, so arrivals are derived: when its prompt's last part was logged. Claude
Code writes a row for each block of an answer, with a usage that may not be the last: the fullest counts.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, Final

from tbench.capture.importers.importer import (
    NO_ARRIVAL,
    NO_PROMPT,
    Call,
    Importer,
    LeftOut,
    Row,
    count,
    members,
    moment,
    prompt_of,
    text,
)
from tbench.capture.providers import Usage
from tbench.capture.sessions import Recent

NO_ANSWER: Final = LeftOut("not an answer of a model")
BLOCK: Final = LeftOut("of an answer that another row began")
AGAIN: Final = LeftOut("that repeat the counts before them")
OPEN: Final = 64
"""Answers whose other blocks may still come: agents answer side by side, if at all, in such numbers."""
REMEMBERED: Final = 4096
"""Rows whose time is kept: an answer names the row that it answers."""
PROMPTS: Final = frozenset({"function_call_output", "custom_tool_call_output"})


def claude_answers(rows: Iterable[Row | LeftOut]) -> Iterator[Row | LeftOut]:
    """A row for each answer, and a reason for every other row of a session of Claude Code."""
    logged: Recent[str, object] = Recent(REMEMBERED)
    answers: OrderedDict[str, dict[str, Any]] = OrderedDict()
    for row in rows:
        if isinstance(row, LeftOut):
            yield row
            continue
        logged.keep(str(row.get("uuid")), row.get("timestamp"))
        message = members(row.get("message"))
        usage = members(message.get("usage"))
        if row.get("type") != "assistant" or not usage:
            yield NO_ANSWER
            continue
        read, created, rest = (
            count(usage.get(name)) or 0
            for name in ("cache_read_input_tokens", "cache_creation_input_tokens", "input_tokens")
        )
        counts = Usage(
            prompt=read + created + rest,
            output=count(usage.get("output_tokens")),
            cached=read,
            created=created,
        )
        name = f"{message.get('id') or row.get('uuid')} {row.get('requestId')}"
        if name in answers:
            answers[name]["end"] = row.get("timestamp")
            if (counts.prompt, counts.output or 0) > (
                answers[name]["usage"].prompt,
                answers[name]["usage"].output or 0,
            ):
                answers[name]["usage"] = counts
            yield BLOCK
            continue
        if len(answers) == OPEN:
            yield answers.popitem(last=False)[1]
        agent, session = text(row.get("agentId")), text(row.get("sessionId"))
        answers[name] = {
            "id": name,
            "arrival": logged.get(str(row.get("parentUuid"))),
            "end": row.get("timestamp"),
            "model": message.get("model"),
            "session": f"{session} {agent}" if agent else session,
            "usage": counts,
        }
    yield from answers.values()


def codex_answers(rows: Iterable[Row | LeftOut]) -> Iterator[Row | LeftOut]:
    """A row for each answer, and a reason for every other row of a session of Codex."""
    model: object = None
    session: object = None
    asked: object = None
    before: object = None
    for row in rows:
        if isinstance(row, LeftOut):
            yield row
            continue
        payload = members(row.get("payload"))
        kind, info = text(payload.get("type")), members(payload.get("info"))
        usage = members(info.get("last_token_usage"))
        if row.get("type") == "session_meta":
            session = payload.get("id") or session
        elif row.get("type") == "turn_context":
            model = payload.get("model") or model
        elif kind in PROMPTS or (kind == "message" and payload.get("role") == "user"):
            asked = row.get("timestamp")
        if kind != "token_count" or not usage:
            yield NO_ANSWER
            continue
        total = info.get("total_token_usage")
        if total is not None and total == before:
            yield AGAIN
            continue
        before = total
        yield {
            "arrival": asked,
            "end": row.get("timestamp"),
            "model": model,
            "session": session,
            "usage": Usage(
                prompt=count(usage.get("input_tokens")),
                output=count(usage.get("output_tokens")),
                cached=count(usage.get("cached_input_tokens")),
                reasoning=count(usage.get("reasoning_output_tokens")),
            ),
        }
        asked = None


def call(row: Row) -> Call | LeftOut:
    """One answer, as the joined rows have it."""
    usage, arrive = row["usage"], moment(row["arrival"])
    if not usage.prompt:
        return NO_PROMPT
    if arrive is None:
        return NO_ARRIVAL
    return Call(
        arrive_ns=arrive,
        end_ns=moment(row["end"]),
        model=text(row["model"]),
        body=prompt_of(usage),
        usage=usage,
        session=text(row["session"]),
        id=row.get("id"),
    )


CLAUDE_CODE = Importer(
    calls=call,
    matches=lambda row: {"uuid", "parentUuid", "sessionId", "type"} <= row.keys(),
    trust={"arrival": "derived", "end": "derived"},
    cannot="texts, first tokens, shared prefixes; an arrival is when the prompt's last part was logged",
    repeats=True,
    joined=claude_answers,
)
CODEX = Importer(
    calls=call,
    matches=lambda row: (
        {"timestamp", "type", "payload"} <= row.keys()
        and row["type"] in ("session_meta", "turn_context", "response_item", "event_msg")
    ),
    trust={"arrival": "derived", "end": "derived"},
    cannot="texts, first tokens, shared prefixes; an arrival is when the prompt's last part was logged",
    joined=codex_answers,
)
