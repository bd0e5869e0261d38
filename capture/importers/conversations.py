"""Datasets of conversations without times: ShareGPT, and MLPerf's agentic inference.

ShareGPT: a JSON array, `from` and `value` of each turn. MLPerf: JSONL, a message a row, the rows of a
conversation together and in order; a tool's row has the results of all calls before it.
"""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any, Final

from tbench.capture.importers.importer import Call, Importer, LeftOut, Row, text

ROLES: Final = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "assistant": "assistant", "system": "system",
}  # fmt: skip
NO_TURNS: Final = LeftOut("a conversation without a turn of its user")
BAD_TURN: Final = LeftOut("a conversation with a turn that is none")
ANSWER: Final = LeftOut("an answer, which is in the history of the next request")
ABOUT: Final = LeftOut("about the dataset itself")
SCATTERED: Final = LeftOut("of a conversation whose rows do not stand together")
BAD_MESSAGE: Final = LeftOut("that are no message of a conversation, or follow such a one")


def sharegpt(row: Row) -> Iterator[Call | LeftOut]:
    """A request for each turn of the user, with all the turns before it."""
    turns = row.get("conversations")
    if not isinstance(turns, list):
        yield NO_TURNS
        return
    messages: list[dict[str, str]] = []
    for turn in turns:
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


def histories(rows: Iterable[Row | LeftOut]) -> Iterator[Row | LeftOut]:
    """The rows of what a client sends, each with the messages before it in `history`."""
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
        messages = _messages(row)
        if messages is None:
            broken = broken or BAD_MESSAGE
        if broken or messages is None:
            yield broken or BAD_MESSAGE
            continue
        history += messages
        if row.get("role") == "assistant":
            yield ANSWER
        else:
            yield {**row, "history": list(history), "settings": settings}


def _messages(row: Row) -> list[dict[str, Any]] | None:
    """The messages of a row; None for a row that is none."""
    role, results = row.get("role"), row.get("tool_results")
    if role == "tool" and isinstance(results, list) and results:
        if not all(isinstance(result, dict) for result in results):
            return None
        return [
            {
                "role": "tool",
                "tool_call_id": result.get("tool_call_id"),
                "content": result.get("content"),
            }
            for result in results
        ]
    if role not in ("user", "assistant", "tool"):
        return None
    names = ("role", "content", "name", "tool_calls", "reasoning_content")
    message = {name: row[name] for name in names if row.get(name) is not None}
    return [message if "content" in message else {**message, "content": None}]


def mlperf(row: Row) -> Iterator[Call | LeftOut]:
    """The request of one message of a client."""
    limits = ("max_completion_tokens", "max_new_tokens")
    limit = next((row[name] for name in limits if row.get(name) is not None), None)
    yield Call(
        model=text(row.get("model")),
        session=str(row["conversation_id"]),
        body={
            "messages": row["history"],
            **row["settings"],
            **({} if limit is None else {"max_completion_tokens": limit}),
        },
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
