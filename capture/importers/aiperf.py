"""Inputs of aiperf: its `inputs.json`, and its datasets single_turn, multi_turn, mooncake_trace, raw_payload.

`inputs.json` has the bodies that were sent. Of the datasets a row is a request or a conversation: `timestamp`
in ms from the start, texts and images, messages, or a body. Where a later turn's history is what the target
will have answered, nobody knows the request.
"""

from collections.abc import Iterator
from typing import Any, Final

from tbench.capture.importers.importer import (
    CHAT,
    NO_ARRIVAL,
    NO_CONTENT,
    Call,
    Importer,
    LeftOut,
    Lengths,
    Row,
    count,
    path_for,
    scaled,
)
from tbench.capture.providers import Usage

LATER: Final = LeftOut("later turns, whose history is what the target answers")
UNTIMED_TURN: Final = LeftOut(
    "turns with a delay alone: it counts from an answer that is not there"
)
NO_IMAGE: Final = LeftOut("with images that are files of another machine")
OTHER_MEDIA: Final = LeftOut("with audio or video")
NO_BODY: Final = LeftOut("that are no body of a request")
NO_TURNS: Final = LeftOut("a conversation without a request")
TURN: Final = frozenset(
    {"type", "text", "texts", "image", "images", "image_uuids", "audio", "audios", "video", "videos",
     "timestamp", "delay", "role", "session_id", "output_length", "extra"}
)  # fmt: skip
"""Members of a turn."""
TRACE: Final = frozenset(
    {"type", "input_length", "text_input", "messages", "tools", "payload", "message_mode", "context_mode",
     "output_length", "hash_ids", "timestamp", "delay", "session_id", "extra"}
)  # fmt: skip
"""Members of a row of aiperf's mooncake_trace."""


def calls(row: Row) -> Iterator[Call | LeftOut]:
    """The requests of one row."""
    session = row.get("session_id")
    name = None if session in (None, "") else str(session)
    turns, payloads = row.get("turns"), row.get("payloads")
    if [] in (turns, payloads):
        yield NO_TURNS
    elif isinstance(payloads, list):
        for payload in payloads:
            yield _sent(payload, Call(session=name))
    elif isinstance(turns, list):
        for number, turn in enumerate(turns):
            if number:
                yield LATER
            else:
                yield _turn(turn, name) if isinstance(turn, dict) else NO_BODY
    elif row.keys() <= TURN and row.keys() & {"text", "texts", "image", "images"}:
        yield _turn(row, name)
    elif row.keys() <= TRACE:
        yield _entry(row, name)
    else:
        yield _sent(dict(row), Call(session=name))


def _sent(body: object, call: Call) -> Call | LeftOut:
    """A body that goes as it is, where its members tell the endpoint."""
    path = path_for(body) if isinstance(body, dict) else None
    if not isinstance(body, dict) or path is None:
        return NO_BODY
    call.body, call.path = body, path
    return call


def _timed(row: Row, session: str | None) -> Call | LeftOut:
    """A call with what every row may say: when, in which session, how long the answer may be."""
    at = scaled(row.get("timestamp"), "ms")
    if at is None and row.get("delay") is not None:
        return UNTIMED_TURN
    if at is None and row.get("timestamp") is not None:
        return NO_ARRIVAL
    output = count(row.get("output_length")) or None
    return Call(arrive_ns=at, session=session, usage=Usage(output=output))


def _limits(row: Row, call: Call) -> dict[str, Any]:
    """The members that a row adds to its body."""
    extra = row.get("extra")
    limit = {} if call.usage.output is None else {"max_tokens": call.usage.output}
    return {**limit, **(extra if isinstance(extra, dict) else {})}


def _entry(row: Row, session: str | None) -> Call | LeftOut:
    """A row of mooncake_trace."""
    call = _timed(row, session)
    if isinstance(call, LeftOut):
        return call
    if isinstance(row.get("payload"), dict):
        return _sent({**row["payload"], **_limits({"extra": row.get("extra")}, Call())}, call)
    if row.get("message_mode") == "delta" or row.get("context_mode") not in (
        None,
        "message_array_with_responses",
    ):
        return LATER
    messages, words = row.get("messages"), row.get("text_input")
    if isinstance(words, str) and words:
        messages = [{"role": "user", "content": words}]
    if isinstance(messages, list) and messages:
        tools = {"tools": row["tools"]} if isinstance(row.get("tools"), list) else {}
        call.body = {"messages": messages, **tools, **_limits(row, call)}
        return call
    prompt, ids = count(row.get("input_length")), row.get("hash_ids") or ()
    if not prompt or not isinstance(ids, list | tuple):
        return NO_CONTENT
    numbers = tuple(number for number in ids if type(number) is int)
    call.lengths = Lengths(prompt, call.usage.output, numbers if len(numbers) == len(ids) else ())
    call.usage = Usage(prompt=prompt, output=call.usage.output)
    return call


def _turn(row: Row, session: str | None) -> Call | LeftOut:
    """A turn of texts and images, which become one message."""
    call = _timed(row, session)
    if isinstance(call, LeftOut):
        return call
    if any(row.get(name) for name in ("audio", "audios", "video", "videos")):
        return OTHER_MEDIA
    texts, images = _contents(row, "text"), _contents(row, "image")
    if not all(image.startswith(("http://", "https://", "data:")) for image in images):
        return NO_IMAGE
    if not texts and not images:
        return NO_CONTENT
    parts: list[Any] = [{"type": "text", "text": words} for words in texts]
    parts += [{"type": "image_url", "image_url": {"url": url}} for url in images]
    role = row.get("role") if isinstance(row.get("role"), str) else "user"
    content = texts[0] if len(parts) == len(texts) == 1 else parts
    call.path = CHAT
    call.body = {"messages": [{"role": role, "content": content}], **_limits(row, call)}
    return call


def _contents(row: Row, kind: str) -> list[str]:
    """The texts, or the addresses of images: one, several, or named lists of them."""
    several = row.get(f"{kind}s")
    values: list[Any] = [row.get(kind), *(several if isinstance(several, list) else ())]
    contents = [
        inner
        for value in values
        for inner in (value.get("contents") or () if isinstance(value, dict) else (value,))
    ]
    return [value for value in contents if isinstance(value, str) and value]


def _matches(row: Row) -> bool:
    """By its members: a file of inputs, a conversation of turns, a turn, or an entry with content."""
    turns = row.get("turns")
    return (
        (isinstance(row.get("payloads"), list) and "session_id" in row)
        or (isinstance(turns, list) and row.keys() <= {"type", "session_id", "turns"})
        or (row.keys() <= TURN and bool(row.keys() & {"text", "texts", "images"}))
        or (
            row.keys() <= TRACE
            and bool(row.keys() & {"messages", "text_input", "payload", "input_length"})
        )
    )


AIPERF = Importer(
    calls=calls,
    matches=_matches,
    trust={"arrival": "reported"},
    cannot="answers, latencies, delays between turns; models, unless a body names one",
    documents=(("data",),),
)
