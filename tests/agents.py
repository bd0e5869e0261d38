"""Agents that talk to a scripted server through the makers' SDKs: who waits for whom is known.

In a turn of a conversation the assistant may call a plain tool, or several sub-agents at once, each of them a
conversation of its own that may call a plain tool before it answers. Each request names its node in a header
that a capture keeps and a replay sends again.
"""

import json
import random
import re
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

from tests.answering import EVENTS, Given, Received

SDKS = [name for name in ("together", "openai", "anthropic") if find_spec(name)]
NODE = "x-sim-node"
KEY = "sk-agents-0123456789abcdef"
Style = Literal["verbatim", "trimmed", "rewritten"]
Json = dict[str, Any]
WORDS = (
    "river",
    "stone",
    "amber",
    "field",
    "cedar",
    "north",
    "winter",
    "signal",
    "harbour",
    "meadow",
)
SCHEMA = {"type": "object", "properties": {"prompt": {"type": "string"}}}


@dataclass
class Said:
    """What the server answers: a text, calls of tools as (id, name, arguments), and what it thought."""

    text: str
    calls: Sequence[tuple[str, str, Json]] = ()
    thinking: str = ""


@dataclass
class World:
    """The script, and what came of it.

    `before` has of each node those whose answers its client had waited for, `home` its conversation.
    `spans` are the server's own log, for each clone or round of a replay: when a node's request had come, and
    when its answer began to leave.
    """

    lasts_s: float = 0.0
    answers: dict[str, Said] = field(default_factory=dict)
    before: dict[str, set[str]] = field(default_factory=dict)
    home: dict[str, int] = field(default_factory=dict)
    spans: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)

    lock: threading.Lock = field(default_factory=threading.Lock)

    def too_early(self) -> int:
        """How many requests had come before one whose answer they hold was answered."""
        return sum(
            came < self.spans[before][copy][1]
            for name, befores in self.before.items()
            for copy, (came, _) in self.spans[name].items()
            for before in befores
        )

    def answer(self, received: Received) -> Given:
        """The answer of a node, in the dialect of its path, whole or as a stream."""
        came, said = time.monotonic(), self.answers[received.headers[NODE]]
        time.sleep(self.lasts_s)
        copy = received.headers.get("x-request-id", "").partition(".")[2]
        with self.lock:
            self.spans.setdefault(received.headers[NODE], {})[copy] = came, time.monotonic()
        stream = bool(received.json.get("stream"))
        if received.path.endswith("/messages"):
            pieces = message(said, stream=stream)
        else:
            together = received.headers.get("user-agent", "").startswith("Together")
            pieces = completion(said, stream=stream, together=together)
        return Given(pieces, headers=EVENTS) if stream else Given(pieces)


def completion(said: Said, *, stream: bool = False, together: bool = False) -> list[bytes]:
    """A chat's answer; Together has another name for thoughts, and counts the calls of complete answers."""
    thinking = "reasoning" if together else "reasoning_content"
    calls = [
        {
            "index": at,
            "id": id_,
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(given)},
        }
        for at, (id_, name, given) in enumerate(said.calls)
    ]
    about = {"id": "chatcmpl-1", "created": 1, "model": "m"}
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    end = "tool_calls" if calls else "stop"
    if not stream:
        spoken: Json = {"role": "assistant", "content": said.text or None}
        if said.thinking:
            spoken[thinking] = said.thinking
        if calls:
            spoken["tool_calls"] = [
                {k: v for k, v in call.items() if together or k != "index"} for call in calls
            ]
        choice = {"index": 0, "message": spoken, "finish_reason": end}
        return [
            json.dumps(
                {**about, "object": "chat.completion", "choices": [choice], "usage": usage}
            ).encode()
        ]
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    deltas += [{thinking: said.thinking}] if said.thinking else []
    deltas += [{"content": word} for word in re.findall(r"\S+\s*", said.text)]
    for call in calls:
        function = call["function"]
        assert isinstance(function, dict)
        deltas.append({"tool_calls": [{**call, "function": {**function, "arguments": ""}}]})
        half = len(function["arguments"]) // 2
        for part in (function["arguments"][:half], function["arguments"][half:]):
            deltas.append(
                {"tool_calls": [{"index": call["index"], "function": {"arguments": part}}]}
            )
    chunks = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    chunks.append({"index": 0, "delta": {}, "finish_reason": end})
    events = [{**about, "object": "chat.completion.chunk", "choices": [chunk]} for chunk in chunks]
    events[-1]["usage"] = usage
    return [
        *(b"data: %s\n\n" % json.dumps(event).encode() for event in events),
        b"data: [DONE]\n\n",
    ]


DELTAS: dict[str, tuple[str, str, Json]] = {
    "thinking": ("thinking", "thinking", {"thinking": "", "signature": ""}),
    "text": ("text", "text", {"text": ""}),
    "tool_use": ("input", "input_json", {"input": {}}),
}
"""Of each block: the member that grows, the kind of its deltas, and how it begins."""
DELTA_MEMBERS = {"input_json": "partial_json"}


def message(said: Said, *, stream: bool = False) -> list[bytes]:
    """An answer of Messages."""
    blocks: list[Json] = []
    if said.thinking:
        blocks.append({"type": "thinking", "thinking": said.thinking, "signature": "c2lnbmVk"})
    blocks += [{"type": "text", "text": said.text}] if said.text else []
    blocks += [
        {"type": "tool_use", "id": id_, "name": name, "input": given}
        for id_, name, given in said.calls
    ]
    about: Json = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "stop_sequence": None,
    }
    usage, end = {"input_tokens": 9, "output_tokens": 3}, "tool_use" if said.calls else "end_turn"
    if not stream:
        return [
            json.dumps({**about, "content": blocks, "stop_reason": end, "usage": usage}).encode()
        ]
    events: list[Json] = [
        {
            "type": "message_start",
            "message": {**about, "content": [], "stop_reason": None, "usage": usage},
        }
    ]
    for at, block in enumerate(blocks):
        kind, member, bare = DELTAS[block["type"]]
        begun = {"type": "content_block_start", "index": at, "content_block": {**block, **bare}}
        whole = block[kind] if isinstance(block[kind], str) else json.dumps(block[kind])
        deltas: list[Json] = [
            {"type": f"{member}_delta", DELTA_MEMBERS.get(member, member): part}
            for part in (whole[: len(whole) // 2], whole[len(whole) // 2 :])
        ]
        if "signature" in block:
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        events.append(begun)
        events += [{"type": "content_block_delta", "index": at, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": at})
    events.append(
        {
            "type": "message_delta",
            "delta": {"stop_reason": end, "stop_sequence": None},
            "usage": usage,
        }
    )
    events.append({"type": "message_stop"})
    return [
        b"event: %s\ndata: %s\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in events
    ]


class Agent:
    """The client of one conversation, which it holds by `sdk` (one of SDKS) at `url`."""

    def __init__(
        self, world: World, number: int, url: str, sdk: str, style: Style, seed: int
    ) -> None:
        self.world, self.number, self.sdk, self.style = world, number, sdk, style
        self.random = random.Random(seed * 100_003 + number)
        self.ids = 0
        self.lock = threading.Lock()
        name, base_url = {
            "together": ("Together", url),
            "openai": ("OpenAI", f"{url}/v1"),
            "anthropic": ("Anthropic", url),
        }[sdk]
        make = getattr(import_module(sdk), name)
        self.client = make(base_url=base_url, api_key=KEY, max_retries=0)

    def words(self, n: int) -> str:
        """Words of which no other text has all, with breaks as people and models make them."""
        with self.lock:
            words = [*self.random.choices(WORDS, k=n), f"{self.random.getrandbits(48):x}"]
            gaps = self.random.choices((" ", " ", " ", "  ", "\n"), k=n)
        return words[0] + "".join(map("".join, zip(gaps, words[1:], strict=True)))

    def thoughts(self) -> str:
        """What every other answer thinks before it speaks."""
        with self.lock:
            thinks = self.random.random() < 0.5
        return self.words(5) if thinks else ""

    def new(self, said: Said, before: set[str]) -> str:
        """A node that answers so, and waits for those."""
        with self.lock:
            self.ids += 1
            node = f"c{self.number}.{self.ids}"
        self.world.answers[node], self.world.before[node] = said, before
        self.world.home[node] = self.number
        return node

    def run(self, turns: int, pause_s: float = 0.0) -> None:
        """Talk for so many turns."""
        history: list[Json] = [{"role": "system", "content": f"You are agent {self.words(3)}"}]
        last: set[str] = set()
        for _ in range(turns):
            history.append({"role": "user", "content": self.words(6)})
            last = self.turn(history, last, deep=True)
            time.sleep(pause_s)
        self.client.close()

    def turn(self, history: list[Json], last: set[str], *, deep: bool) -> set[str]:
        """Ask, do what tools are called for, until there is a text. The node that gave it."""
        kinds = ["text", "plain", "agents"] if deep else ["text", "plain"]
        with self.lock:
            kind, many, stream = (
                self.random.choice(kinds),
                self.random.randint(2, 3),
                self.random.random() < 0.5,
            )
        if kind != "text":
            name, many = ("task", many) if kind == "agents" else ("look_up", 1)
            calls = []
            for _ in range(many):
                with self.lock:
                    id_ = f"call_{self.random.getrandbits(64):x}"
                calls.append((id_, name, {"prompt": f"Find {self.words(5)}"}))
            text = "" if many > 1 else self.words(2)
            node = self.new(Said(text, calls, self.thoughts()), last)
            self.ask(node, history, stream=stream)
            last = {node}
            if kind == "agents":
                with ThreadPoolExecutor(many) as pool:
                    outcomes = list(pool.map(lambda call: self.delegate(call, node), calls))
                last |= {leaf for leaf, _ in outcomes}
                results = [
                    json.dumps({"report": text}) if at % 2 else text
                    for at, (_, text) in enumerate(outcomes)
                ]
            else:
                results = [json.dumps({"place": self.words(3), "at": [1, 2], "unit": "°"})]
            self.bring(history, calls, results)
        node = self.new(Said(self.words(12), (), self.thoughts()), last)
        self.ask(node, history, stream=stream)
        return {node}

    def delegate(self, call: tuple[str, str, Json], caller: str) -> tuple[str, str]:
        """What a sub-agent does for a call: its last node, and that one's text."""
        history = [
            {"role": "system", "content": "You help another agent."},
            {"role": "user", "content": call[2]["prompt"]},
        ]
        (leaf,) = self.turn(history, {caller}, deep=False)
        return leaf, self.world.answers[leaf].text.strip()

    def sent(self, history: list[Json]) -> list[Json]:
        """What a client sends of its history: all, the first and last words, or these written anew.

        Then a summary stands for the rest, and of what it had sent before only the news is as it was.
        """
        if self.style == "rewritten":
            news = next(
                (at for at in range(len(history), 0, -1) if history[at - 1]["role"] == "assistant"),
                0,
            )
            history = [*map(tidied, history[:news]), *history[news:]]
        if self.style == "verbatim" or len(history) <= 6:
            return history
        start = len(history) - 4
        while history[start]["role"] == "tool" or "tool_result" in json.dumps(history[start]):
            start -= 1  # a result stays with its call
        opening = (
            history[0]
            if self.style == "trimmed"
            else {"role": "system", "content": f"So far: {start} messages"}
        )
        return [opening, *history[start:]]

    def ask(self, node: str, history: list[Json], *, stream: bool) -> None:
        """Send the history for a node, and put the answer behind it as the SDK gives it."""
        sent, headers = self.sent(history), {NODE: node}
        if self.sdk != "anthropic":
            tools = [
                {"type": "function", "function": {"name": n, "parameters": SCHEMA}}
                for n in ("look_up", "task")
            ]
            answer = self.client.chat.completions.create(
                model="m",
                messages=sent,
                tools=tools,
                stream=stream,
                extra_headers=headers,
                max_tokens=64,
            )
            history.append(
                from_chunks(answer)
                if stream
                else answer.choices[0].message.model_dump(exclude_unset=True)
            )
            return
        tools = [{"name": name, "input_schema": SCHEMA} for name in ("look_up", "task")]
        arguments: Json = {"model": "m", "max_tokens": 64, "tools": tools, "extra_headers": headers}
        arguments |= {"system": sent[0]["content"], "messages": sent[1:]}
        if stream:
            with self.client.messages.stream(**arguments) as events:
                answer = events.get_final_message()
        else:
            answer = self.client.messages.create(**arguments)
        blocks = [
            block.model_dump(exclude_unset=True, exclude={"parsed_output"})
            for block in answer.content
        ]
        history.append({"role": "assistant", "content": blocks})

    def bring(
        self, history: list[Json], calls: Sequence[tuple[str, str, Json]], results: Iterable[str]
    ) -> None:
        """Put what the tools gave behind the history."""
        pairs = [(id_, text) for (id_, _, _), text in zip(calls, results, strict=True)]
        if self.sdk != "anthropic":
            history += [
                {"role": "tool", "tool_call_id": id_, "content": text} for id_, text in pairs
            ]
        else:
            parts = [
                {"type": "tool_result", "tool_use_id": id_, "content": text} for id_, text in pairs
            ]
            history.append({"role": "user", "content": parts})


def tidied(turn: Json) -> Json:
    """A message as a client keeps it that stores no thinking, trims texts, and writes JSON its own way."""
    content = turn["content"]
    turn = {name: value for name, value in turn.items() if name not in THOUGHTS}
    if isinstance(content, str):
        return {**turn, "content": tidy(content)}
    if isinstance(content, list):
        parts = [
            {
                name: tidy(value) if name in {"text", "content"} else value
                for name, value in part.items()
            }
            for part in content
            if part["type"] != "thinking"
        ]
        return {**turn, "content": parts}
    return turn


def tidy(text: str) -> str:
    """Words one space apart; of JSON the same value, otherwise spaced and spelled."""
    if text[:1] in {"{", "["}:
        return json.dumps(json.loads(text), indent=1, sort_keys=True, ensure_ascii=False)
    return " ".join(text.split())


THOUGHTS = ("reasoning_content", "reasoning")


def from_chunks(chunks: Iterable[Any]) -> Json:
    """The message of a chat's stream, as clients put it together."""
    text, thinking, member, calls = "", "", "", dict[int, Json]()
    for chunk in chunks:
        delta = chunk.choices[0].delta
        text += delta.content or ""
        known = delta.model_dump(exclude_unset=True)
        member = next((name for name in THOUGHTS if name in known), member)
        thinking += known.get(member) or ""
        for part in delta.tool_calls or ():
            empty = {
                "id": part.id,
                "type": "function",
                "function": {"name": part.function.name, "arguments": ""},
            }
            calls.setdefault(int(part.index), empty)["function"]["arguments"] += (
                part.function.arguments or ""
            )
    spoken: Json = {"role": "assistant", "content": text or None}
    spoken |= {member: thinking} if thinking else {}
    return {**spoken, "tool_calls": list(calls.values())} if calls else spoken


def talk(
    world: World,
    url: str,
    conversations: int,
    style: Style,
    *,
    at_once: int = 8,
    pause_s: float = 0.0,
    seed: int = 1,
) -> None:
    """Hold so many conversations of 2 to 8 turns, some at once, by turns with each SDK that is there."""
    source = random.Random(seed)
    lengths = [source.randint(2, 8) for _ in range(conversations)]
    for sdk in SDKS:  # before the threads, which would import httpx from several sides at once
        import_module(sdk)

    def hold(number: int) -> None:
        agent = Agent(world, number, url, SDKS[number % len(SDKS)], style, seed)
        agent.run(lengths[number], pause_s)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(hold, range(conversations)))
