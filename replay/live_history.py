"""The live history: in later turns the target's answers take the place of those that were recorded.

A worker keeps the answers of its calls, and writes the bodies of those that continue them anew. Results of
tools name the calls that they are of: where the target called the same tools in the same order, they get the
ids of its calls. Where it did not, or gave no answer, the recorded one stays, and is counted by reason.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from tbench.capture.providers import parse_response
from tbench.capture.recent import Recent
from tbench.capture.spoken import Spoken, spoken
from tbench.replay.request import Label
from tbench.replay.sender import Call, Reply

MOST_BYTES: Final = 64 * 2**20
"""Answers of so many bytes are kept by a worker; the oldest go first."""
REMEMBERED: Final = 30_000
_LENGTH: Final = re.compile(rb"(\r\ncontent-length: )\d+", re.IGNORECASE)
_CALL_IDS: Final = frozenset({"tool_call_id", "tool_use_id", "call_id"})
_OWN: Final = frozenset({"id", "status"})
"""Members of an item of Responses by which only its server knows it."""

Key = tuple[int, int]
"""A call: its arm and its place in the plan."""


class LiveHistory:
    """The answers of a worker's calls, for the turns that continue them."""

    def __init__(self) -> None:
        self._bodies: Recent[Key, tuple[bytes, str, str]] = Recent(REMEMBERED)
        self._weight = 0
        self._counts: dict[int, Counter[str]] = defaultdict(Counter)

    def counts(self, arm: int = 0) -> dict[str, int]:
        """Turns of an arm by what became of the answer that they continue: `threaded`, or why it was not."""
        return dict(self._counts[arm])

    def keep(self, call: Call, reply: Reply) -> None:
        """Keep what a call was answered."""
        body = b"".join(piece for _, piece in reply.chunks)
        headers = reply.header("content-encoding"), reply.header("content-type")
        self._bodies.keep((call.arm, call.index), (body, *headers))
        self._weight += len(body)
        while self._weight > MOST_BYTES:
            self._weight -= len(self._bodies.popitem(last=False)[1][0])

    def thread(self, call: Call) -> None:
        """Put the target's answers into the body of a call that continues them."""
        if not call.after:
            return
        try:
            payload = orjson.loads(call.body)
        except orjson.JSONDecodeError:
            payload = None
        if not isinstance(payload, dict):
            self._counts[call.arm]["not_json"] += 1
            return
        member = "messages" if "messages" in payload else "input"
        turns: list[Any] = items if isinstance(items := payload.get(member), list) else []
        if runs := assistant_runs(turns):  # a sub-agent's first words hold no answer yet
            reason = "rewritten"
            if call.history and call.history[-1][1] < len(runs):
                reason, payload[member] = self._threaded(call, turns, runs)
                call.body = orjson.dumps(payload)
                call.head = _LENGTH.sub(b"\\g<1>%d" % len(call.body), call.head)
                label = Label.unpack(call.label)._replace(request_bytes=len(call.body))
                call.label = label.pack()
            self._counts[call.arm][reason] += 1

    def _threaded(
        self, call: Call, turns: list[Any], runs: Sequence[tuple[int, int]]
    ) -> tuple[str, list[Any]]:
        """The conversation with live answers, and what became of the last, which the call continues."""
        fresh: list[Any] = []
        ids: dict[str, str] = {}
        reason, at = "", 0
        for index, place in call.history:
            start, end = runs[place]
            body = self._bodies.get((call.arm, index))
            fresh += _renamed(turns[at:start], ids)
            reason, turn, ids = _taken(turns[start:end], body and _whole(*body))
            fresh += turn
            at = end
        return reason, [*fresh, *_renamed(turns[at:], ids)]


def assistant_runs(turns: Sequence[Any]) -> list[tuple[int, int]]:
    """Where in the list of a conversation the assistant speaks: from, and up to before."""
    runs: list[tuple[int, int]] = []
    for at, turn in enumerate(turns):
        if not isinstance(turn, dict):
            continue
        kind = str(turn.get("type"))
        role = turn.get("role")
        if role == "assistant" or (
            role is None and (kind == "reasoning" or kind.endswith("_call"))
        ):
            start = runs.pop()[0] if runs and runs[-1][1] == at else at
            runs.append((start, at + 1))
    return runs


def _whole(body: bytes, encoding: str, kind: str) -> Spoken | None:
    """What an answer says; None of a stream that was cut or holds an error, and of half a tool's call."""
    answer = parse_response([(0.0, body)], content_type=kind, content_encoding=encoding)
    if not (answer.readable and answer.done) or answer.error is not None:
        return None
    speech = spoken(body, encoding)
    try:
        for call in speech.calls if speech and speech.provider.spoken_in == "messages" else ():
            orjson.loads(call.arguments)
    except orjson.JSONDecodeError:
        return None
    return speech


def _taken(recorded: list[Any], answer: Spoken | None) -> tuple[str, list[Any], dict[str, str]]:
    """What stands for a recorded answer and why, and the ids of its calls with those in their place."""
    if answer is None:
        return "no_answer", recorded, {}
    before = answer._replace(turn=recorded).calls
    if [call.name for call in before] != [call.name for call in answer.calls]:
        return "other_tools", recorded, {}
    ids = {old.id: new.id for old, new in zip(before, answer.calls, strict=True)}
    turn = list(answer.turn)
    if answer.provider.spoken_in == "input":
        turn = [
            {name: value for name, value in item.items() if name not in _OWN}
            for item in turn
            if item.get("type") != "reasoning" or item.get("encrypted_content")
        ]
    return "threaded", turn, ids


def _renamed(value: Any, ids: Mapping[str, str]) -> Any:  # noqa: ANN401 (JSON)
    """JSON with the ids of calls replaced, wherever a result names one."""
    if not ids:
        return value
    if isinstance(value, list):
        return [_renamed(item, ids) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: ids.get(item, item)
        if name in _CALL_IDS and isinstance(item, str)
        else _renamed(item, ids)
        for name, item in value.items()
    }
