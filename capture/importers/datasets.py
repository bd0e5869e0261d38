"""What load tools and datasets hold: requests to send, mostly without times, and no answers.

OpenAI batch input, and Together's: a line for each request, `custom_id` and `body`. evalscope's workload
traces: `timestamp` is seconds or ISO 8601. genai-bench's results: the lengths of the requests of a point of a
sweep. ShareGPT: a JSON array, `from` and `value` of each turn. MLPerf's agentic inference: JSONL, a message a
row, the rows of a conversation together and in order; a tool's row has the results of all calls before it.

aiperf: its `inputs.json` has the bodies that were sent. Of its datasets single_turn, multi_turn,
mooncake_trace and raw_payload a row is a request or a conversation: `timestamp` in ms from the start, texts
and images, messages, or a body. Where a later turn's history is what the target will have answered, nobody
knows the request.
"""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any, Final

from tbench.capture.importers.importer import (
    CHAT,
    CUT_SHORT,
    NO_ARRIVAL,
    NO_BODY,
    NO_CONTENT,
    NO_REQUESTS,
    Call,
    Importer,
    LeftOut,
    Lengths,
    Row,
    count,
    dumped,
    is_cut,
    members,
    path_for,
    scaled,
    text,
    unpacked,
)
from tbench.capture.importers.mapping import SECONDS_OR_ISO, Place, mapped, parse_map
from tbench.capture.providers import Usage


def batch(row: Row) -> Call | LeftOut:
    """The request of one line; Together's lines name no endpoint, so the members of the body tell it."""
    body = unpacked(row.get("body"))
    if "response" in row and body is None:
        return LeftOut("of a batch's output: give its input file")
    if is_cut(row.get("body")):
        return CUT_SHORT
    if not isinstance(body, dict):
        return NO_BODY
    return Call(
        path=text(row.get("url")) or path_for(body) or CHAT,
        method=text(row.get("method")) or "POST",
        model=text(body.get("model")),
        body=dumped(body),
    )


ROLES: Final = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "assistant": "assistant", "system": "system",
}  # fmt: skip
NO_TURNS: Final = LeftOut("a conversation without a turn of its user")
BAD_TURN: Final = LeftOut("a conversation with a turn that is none")


def sharegpt(row: Row) -> Iterator[Call | LeftOut]:
    """A request for each turn of the user, with all the turns before it."""
    turns = row.get("conversations")
    messages: list[dict[str, str]] = []
    for turn in turns if isinstance(turns, list) else ():
        role = ROLES.get(str(turn.get("from"))) if isinstance(turn, dict) else None
        content = turn.get("value") if role else None
        if role is None or not isinstance(content, str):
            yield BAD_TURN
            return
        messages.append({"role": role, "content": content})
    asked = [place for place, message in enumerate(messages) if message["role"] == "user"]
    if not asked:
        yield NO_TURNS
    for place in asked:
        yield Call(body={"messages": messages[: place + 1]}, session=text(row.get("id")))


ANSWER: Final = LeftOut("an answer, which is in the history of the next request")
ABOUT: Final = LeftOut("about the dataset itself")
SCATTERED: Final = LeftOut("of a conversation whose rows do not stand together")
BAD_MESSAGE: Final = LeftOut("that are no message of a conversation, or follow such a one")


def histories(rows: Iterable[Row | LeftOut]) -> Iterator[Row | LeftOut]:
    """The rows of what MLPerf's client sends, each with the messages before it in `history`."""
    name: object = None
    history: list[Any] = []
    settings: dict[str, Any] = {}
    broken: LeftOut | None = None
    ended = set[bytes]()
    for row in rows:
        if isinstance(row, LeftOut):
            yield row
            continue
        if row.get("_type") == "dataset_metadata":
            yield ABOUT
            continue
        if not isinstance(row.get("conversation_id"), str | int) or row["conversation_id"] == "":
            yield BAD_MESSAGE
            continue
        if row["conversation_id"] != name:
            name, history, settings = row["conversation_id"], [], {}
            # Eight bytes of each name: what came before would be missing in a request of the rest.
            key = blake2b(str(name).encode("utf-8", "replace"), digest_size=8).digest()
            broken = SCATTERED if key in ended else None
            ended.add(key)
            if isinstance(row.get("system"), str) and row["system"]:
                history.append({"role": "system", "content": row["system"]})
        if isinstance(row.get("tools"), list) and row["tools"]:
            settings = {"tools": row["tools"]}
        messages = _mlperf_messages(row)
        if not messages:
            broken = broken or BAD_MESSAGE
        if broken:
            yield broken
            continue
        history += messages
        if row.get("role") == "assistant":
            yield ANSWER
        else:
            yield {**row, "history": list(history), "settings": settings}


def _mlperf_messages(row: Row) -> list[dict[str, Any]]:
    """The messages of a row; none of a row that is none."""
    role, results = row.get("role"), row.get("tool_results")
    if role == "tool" and isinstance(results, list) and results:
        if not all(isinstance(result, dict) for result in results):
            return []
        wanted = ("tool_call_id", "content")
        return [
            {"role": "tool", **{name: result.get(name) for name in wanted}} for result in results
        ]
    if role not in ("user", "assistant", "tool"):
        return []
    names = ("role", "content", "name", "tool_calls", "reasoning_content")
    message = {name: row[name] for name in names if row.get(name) is not None}
    return [message if "content" in message else {**message, "content": None}]


def mlperf(row: Row) -> Call:
    """The request of one message of a client."""
    limits = ("max_completion_tokens", "max_new_tokens")
    limit = next((row[name] for name in limits if row.get(name) is not None), None)
    limited = {} if limit is None else {"max_completion_tokens": limit}
    return Call(
        model=text(row.get("model")),
        session=str(row["conversation_id"]),
        body={"messages": row["history"], **row["settings"], **limited},
    )


LATER: Final = LeftOut("later turns, whose history is what the target answers")
UNTIMED_TURN: Final = LeftOut(
    "turns with a delay alone: it counts from an answer that is not there"
)
NO_IMAGE: Final = LeftOut("with images that are files of another machine")
OTHER_MEDIA: Final = LeftOut("with audio or video")
NO_REQUEST: Final = LeftOut("that are no body of a request")
TURN: Final = frozenset(
    {"type", "text", "texts", "image", "images", "image_uuids", "audio", "audios", "video", "videos",
     "timestamp", "delay", "role", "session_id", "output_length", "extra"}
)  # fmt: skip
"""Members of a turn of aiperf."""
TRACE: Final = frozenset(
    {"type", "input_length", "text_input", "messages", "tools", "payload", "message_mode", "context_mode",
     "output_length", "hash_ids", "timestamp", "delay", "session_id", "extra"}
)  # fmt: skip
"""Members of a row of its mooncake_trace."""


def aiperf(row: Row) -> Iterator[Call | LeftOut]:
    """The requests of one row."""
    session = row.get("session_id")
    name = None if session in (None, "") else str(session)
    turns, payloads = row.get("turns"), row.get("payloads")
    if [] in (turns, payloads):
        yield NO_REQUESTS
    elif isinstance(payloads, list):
        for payload in payloads:
            yield _sent(payload, Call(session=name))
    elif isinstance(turns, list):
        for number, turn in enumerate(turns):
            if number:
                yield LATER
            else:
                yield _turn(turn, name) if isinstance(turn, dict) else NO_REQUEST
    elif row.keys() <= TURN and row.keys() & {"text", "texts", "image", "images"}:
        yield _turn(row, name)
    elif row.keys() <= TRACE:
        yield _entry(row, name)
    else:
        yield _sent(dict(row), Call(session=name))


def _sent(body: object, call: Call) -> Call | LeftOut:
    """A body that goes as it is, where its members tell the endpoint."""
    if not isinstance(body, dict) or (path := path_for(body)) is None:
        return NO_REQUEST
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
    limit = {} if call.usage.output is None else {"max_tokens": call.usage.output}
    return {**limit, **members(row.get("extra"))}


def _entry(row: Row, session: str | None) -> Call | LeftOut:
    """A row of mooncake_trace."""
    call = _timed(row, session)
    if isinstance(call, LeftOut):
        return call
    if isinstance(row.get("payload"), dict):
        return _sent({**row["payload"], **members(row.get("extra"))}, call)
    complete = row.get("context_mode") in (None, "message_array_with_responses")
    if row.get("message_mode") == "delta" or not complete:
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
    call.body = Lengths(prompt, call.usage.output, numbers if len(numbers) == len(ids) else ())
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


def is_aiperf(row: Row) -> bool:
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


BATCH = Importer(
    calls=batch,
    matches=lambda row: "custom_id" in row and ("body" in row or "response" in row),
    trust={},
    cannot="arrivals, answers, latencies",
)
EVALSCOPE = mapped(
    {
        "arrival": Place("timestamp", SECONDS_OR_ISO),
        **parse_map(["body=body", "id=request_id", "output_tokens=completion_tokens"]),
    },
    lambda row: (
        {"body", "timestamp"}
        <= row.keys()
        <= {"body", "timestamp", "headers", "request_id", "completion_tokens"}
    ),
    "headers, answers, latencies",
)
GENAI_BENCH = mapped(
    parse_map(["prompt_tokens=num_input_tokens", "output_tokens=num_output_tokens"]),
    lambda row: {"num_input_tokens", "num_output_tokens", "e2e_latency"} <= row.keys(),
    "texts, models, arrivals (its points are closed loops), and so latencies; failures have no lengths",
    failed="error_code",
    documents=(("individual_request_metrics",),),
)
SHAREGPT = Importer(
    calls=sharegpt,
    matches=lambda row: isinstance(row.get("conversations"), list),
    trust={},
    cannot="arrivals, models, latencies; the answers are in the next turn's history only",
)
MLPERF = Importer(
    calls=mlperf,
    matches=lambda row: {"conversation_id", "turn", "role"} <= row.keys(),
    trust={},
    cannot="arrivals (its delays count from answers), models, latencies; the answers are in the next "
    "request's history only",
    joined=histories,
)
AIPERF = Importer(
    calls=aiperf,
    matches=is_aiperf,
    trust={"arrival": "reported"},
    cannot="answers, latencies, delays between turns; models, unless a body names one",
    documents=(("data",),),
)
