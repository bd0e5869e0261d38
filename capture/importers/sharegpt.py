"""ShareGPT: a JSON array of conversations, `from` and `value` of each turn, without times."""

from collections.abc import Iterator
from typing import Final

from tbench.capture.importers.importer import Call, Importer, LeftOut, Row, text

ROLES: Final = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "assistant": "assistant", "system": "system",
}  # fmt: skip
NO_TURNS: Final = LeftOut("a conversation without a turn of its user")
BAD_TURN: Final = LeftOut("a conversation with a turn that is none")


def calls(row: Row) -> Iterator[Call | LeftOut]:
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


SHAREGPT = Importer(
    calls=calls,
    matches=lambda row: isinstance(row.get("conversations"), list),
    trust={},
    cannot="arrivals, models, latencies; the answers are in the next turn's history only",
)
