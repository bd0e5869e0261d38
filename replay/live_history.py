"""The live history: in later turns the target's answers take the place of those that were recorded.

A worker keeps those answers of its calls that are in the history of others, until the last of these has left
or is not to leave, and writes the bodies of those that continue them anew. Results of
tools name the calls that they are of: where the target called the same tools, they get the ids of its calls.
Where it called others the recorded answer stays. A call whose predecessor gave nothing to go on with is not
sent, as after a failure. All are counted by reason.
"""

import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from tbench.capture.providers import parse_response
from tbench.capture.providers.provider import Provider, items_of, word_of
from tbench.capture.spoken import Spoken, spoken
from tbench.replay.sender import Call, Label, Reply

MOST_BYTES: Final = 256 * 2**20
"""Answers of so many bytes are kept by a worker; the oldest go first."""
ANSWER_BYTES: Final = 400
"""About what an answer weighs in memory beside its turn."""
_LENGTH: Final = re.compile(rb"(\r\ncontent-length: )\d+", re.IGNORECASE)
_CALL_IDS: Final = frozenset({"tool_call_id", "tool_use_id", "call_id"})
_OWN: Final = frozenset({"id", "status"})
"""Members of an item of Responses by which only its server knows it."""

Key = tuple[int, int]
"""A call: its arm and its place in the plan."""


@dataclass(slots=True)
class _Answer:
    """What so many more calls hold: a turn as JSON, much less than its stream, or why it is of no use."""

    uses: int
    provider: Provider | None
    words: bytes

    @property
    def weight(self) -> int:
        return len(self.words) + ANSWER_BYTES

    def read(self) -> Spoken | str:
        if self.provider is None:
            return self.words.decode()
        return Spoken(self.provider, "", orjson.loads(self.words))


class LiveHistory:
    """The answers of a worker's calls, for the turns that continue them: `most` bytes of them."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._answers: OrderedDict[Key, _Answer] = OrderedDict()
        self._weight = 0
        self._counts: dict[int, Counter[str]] = defaultdict(Counter)

    def counts(self, arm: int = 0) -> dict[str, int]:
        """Turns of an arm by what became of the answer that they continue: `threaded`, or why it was not."""
        return dict(self._counts[arm])

    def keep(self, call: Call, reply: Reply) -> None:
        """Keep what a call was answered, where others hold it."""
        if not call.uses:
            return
        answer: Spoken | str = FAILED
        if reply.failure is None and (reply.status or 0) < 300:
            body = b"".join(piece for _, piece in reply.chunks)
            answer = _whole(body, reply.header("content-encoding"), reply.header("content-type"))
        if isinstance(answer, str):
            noted = _Answer(call.uses, None, answer.encode())
        else:
            # orjson's bytes keep the buffer they were written to, 4 KB for a short turn: hence the copy.
            words = bytes(memoryview(orjson.dumps(answer.turn)))
            noted = _Answer(call.uses, answer.provider, words)
        self._answers[call.arm, call.index] = noted
        self._weight += noted.weight
        while self._weight > self._most:
            self._weight -= self._answers.popitem(last=False)[1].weight

    def let_go(self, call: Call) -> None:
        """A call holds its answers no longer, as it has left or is not to leave: once for each call."""
        for index, _ in call.history:
            key = call.arm, index
            if (answer := self._answers.get(key)) is None:
                continue
            answer.uses -= 1
            if not answer.uses:
                self._weight -= self._answers.pop(key).weight

    def forgo(self, call: Call) -> None:
        """The same of a call that is not to leave; notes why, where the answer that it continues says it."""
        last = self._answers.get((call.arm, call.history[-1][0])) if call.history else None
        if last is not None and last.provider is None and (reason := str(last.read())) != FAILED:
            self._counts[call.arm][reason] += 1
        self.let_go(call)

    def thread(self, call: Call) -> bool:
        """Put the target's answers into the body of a call that continues them; whether it can be sent.

        Then they are let go; who does not send it has it forgo them.
        """
        sends = self._thread(call)
        if sends:
            self.let_go(call)
        return sends

    def _thread(self, call: Call) -> bool:
        if not call.after:
            return True
        try:
            payload = orjson.loads(call.body)
        except orjson.JSONDecodeError:
            payload = None
        if not isinstance(payload, dict):
            self._counts[call.arm]["not_json"] += 1
            return True
        member = "messages" if "messages" in payload else "input"
        turns: list[Any] = items if isinstance(items := payload.get(member), list) else []
        if not (runs := assistant_runs(turns)):  # a sub-agent's first words hold no answer yet
            return True
        reason = "rewritten"
        if call.history and call.history[-1][1] < len(runs):
            reason, payload[member] = self._threaded(call, turns, runs)
        if reason in UNUSABLE:
            return False
        self._counts[call.arm][reason] += 1
        if reason != "rewritten":
            call.body = orjson.dumps(payload)
            call.head = _LENGTH.sub(b"\\g<1>%d" % len(call.body), call.head)
            label = Label.unpack(call.label)._replace(request_bytes=len(call.body))
            call.label = label.pack()
        return True

    def _threaded(
        self, call: Call, turns: list[Any], runs: Sequence[tuple[int, int]]
    ) -> tuple[str, list[Any]]:
        """The conversation with live answers, and what became of the last, which the call continues.

        One that is threaded, but misses an earlier answer, is said to be forgotten.
        """
        fresh: list[Any] = []
        ids: dict[str, str] = {}
        reason, at, missing = "", 0, False
        for index, place in call.history:
            start, end = runs[place]
            answer = self._answers.get((call.arm, index))
            fresh += _renamed(turns[at:start], ids)
            missing |= answer is None
            live = "forgotten" if answer is None else answer.read()
            reason, turn, ids = _taken(turns[start:end], live)
            fresh += turn
            at = end
        if missing and reason == "threaded":
            reason = "forgotten"
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


FAILED: Final = "failed"
UNUSABLE: Final = frozenset({FAILED, "unreadable", "cut", "empty"})
"""Answers after which a client has nothing to go on with. What failed is told by its sample."""


def _whole(body: bytes, encoding: str, kind: str) -> Spoken | str:
    """What an answer says, or why that is of no use.

    It is `cut` where it has no end, holds an error or half a tool's call, `empty` where it has neither words
    nor calls; its blocks without words are left out, which no API takes.
    """
    answer = parse_response([(0.0, body)], content_type=kind, content_encoding=encoding)
    if not answer.readable:
        return "unreadable"
    if not answer.done or answer.error is not None:
        return "cut"
    speech = spoken(body, encoding)
    if speech is None:
        return "empty"
    if not all(map(_complete, speech.turn)):
        return "cut"
    turn = [
        {
            **item,
            "content": [
                part
                for part in items_of(content)
                if "text" not in part or word_of(part, "text").strip()
            ],
        }
        if isinstance(content := item.get("content"), list)
        else item
        for item in speech.turn
    ]
    speech = speech._replace(turn=[item for item in turn if item.get("content") != []])
    return speech if speech.calls or speech.text.strip() else "empty"


def _complete(item: Mapping[str, Any]) -> bool:
    """Whether the arguments of the tools that a turn calls are whole JSON, or nothing at all."""
    texts = [
        word_of(call.get("function") or {}, "arguments")
        for call in items_of(item.get("tool_calls"))
    ]
    if item.get("type") == "function_call":
        texts.append(word_of(item, "arguments"))
    try:
        for text in filter(None, texts):
            orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    blocks = items_of(item.get("content"))
    return all(isinstance(b.get("input"), dict) for b in blocks if b.get("type") == "tool_use")


def _taken(recorded: list[Any], answer: Spoken | str) -> tuple[str, list[Any], dict[str, str]]:
    """What became of a recorded answer, what stands for it, and which ids of calls with which instead."""
    if isinstance(answer, str):
        return answer, recorded, {}
    ids, live = dict[str, str](), list(answer.calls)
    for old in answer._replace(turn=recorded).calls:
        new = next((call for call in live if call.name == old.name), None)
        if new is None:
            return "other_tools", recorded, {}
        live.remove(new)
        ids[old.id] = new.id
    if live:
        return "other_tools", recorded, {}
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
