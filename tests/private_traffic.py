"""Agent traffic with content worth hiding, in three dialects, and every string that is the application's."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from tbench.capture.exchange import Chunk, Exchange, Request, Response
from tbench.capture.records import TraceHeader
from tbench.capture.synthesis.images import generated
from tbench.capture.trace_writer import TraceWriter

S = 10**9
PROSE = (Path(__file__).parents[1] / "LICENSE").read_text()
"""A text that no change of ours changes."""
PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages", "responses": "/v1/responses"}
SCHEMA = {
    "type": "object",
    "properties": {
        "customer_reference": {
            "type": "string",
            "description": 'As printed on the "invoice".\nNo spaces.',
        },
        "region_of_delivery": {"type": "string", "enum": ["northern lowlands", "southern uplands"]},
        "days": {"type": "integer", "minimum": 1},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/order_line_entry"}},
    },
    "required": ["customer_reference"],
    "$defs": {
        "order_line_entry": {
            "type": "object",
            "properties": {"stock_keeping_unit": {"type": "string"}},
        }
    },
}
NAME, ABOUT = "lookup_customer_ledger", "Finds what a customer of Halvorsen & Sons still owes."


def strings(value: object) -> Iterator[str]:
    """Every string in JSON, names of members included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


@dataclass
class Conversation:
    """One agent's turns in one dialect; each turn is a body and the stream that answers it."""

    rng: Random
    dialect: str
    secret: list[str]
    history: list[dict[str, Any]] = field(default_factory=list)
    calls: int = 0

    def words(self, least: int, most: int) -> str:
        """A stretch of prose that nobody else has."""
        start = self.rng.randrange(len(PROSE) - most)
        # A number first: no text stands whole in another, as if one conversation had begun the other.
        text = f"{start} {PROSE[start : start + self.rng.randint(least, most)].strip()}"
        self.secret.append(text)
        return text

    def body(self, system: str) -> dict[str, Any]:
        function = {"name": NAME, "description": ABOUT}
        base = {
            "model": "acme-70b",
            "stream": True,
            "temperature": 0.7,
            "user": "user-of-halvorsen-17",
        }
        match self.dialect:
            case "chat":
                tools = [{"type": "function", "function": {**function, "parameters": SCHEMA}}]
                turns = [{"role": "system", "content": system}, *self.history]
                return {
                    **base,
                    "messages": turns,
                    "tools": tools,
                    "tool_choice": "auto",
                    "max_tokens": 90,
                }
            case "messages":
                tools = [
                    {**function, "input_schema": SCHEMA, "cache_control": {"type": "ephemeral"}}
                ]
                base.pop("user")
                base["metadata"] = {"user_id": "user-of-halvorsen-17"}
                return {
                    **base,
                    "system": system,
                    "messages": self.history,
                    "tools": tools,
                    "max_tokens": 90,
                }
        tools = [{"type": "function", **function, "parameters": SCHEMA, "strict": False}]
        return {
            **base,
            "instructions": system,
            "input": self.history,
            "tools": tools,
            "max_output_tokens": 90,
        }

    def ask(self) -> None:
        text, picture = self.words(40, 900), None
        if self.rng.random() < 0.3:
            picture = generated(self.rng, (self.rng.choice([200, 640, 1200]), 300))
            # Behind the tables that every JPEG begins with.
            self.secret.append(picture.partition(",")[2][1200:2200])
        kind, image = "text", {"type": "image_url", "image_url": {"url": picture, "detail": "high"}}
        if self.dialect == "messages" and picture:
            source = {
                "type": "base64",
                "media_type": "image/jpeg",
                "data": picture.partition(",")[2],
            }
            image = {"type": "image", "source": source}
        elif self.dialect == "responses":
            kind, image = (
                "input_text",
                {"type": "input_image", "image_url": picture, "detail": "auto"},
            )
        parts = [{"type": kind, "text": text}, *([image] if picture else [])]
        self.history.append({"role": "user", "content": parts if picture else text})

    def answer(self) -> list[dict[str, Any]]:
        """The events of an answer, which goes into the history as an SDK would put it there."""
        if self.calls < 2 and self.rng.random() < 0.5:
            return self.call()
        text = self.words(60, 700)
        pieces = [text[at : at + 5] for at in range(0, len(text), 5)]
        self.history.append({"role": "assistant", "content": text})
        self.secret += [text]
        match self.dialect:
            case "chat":
                deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
                deltas += [{"content": piece} for piece in pieces]
                return [
                    *({"id": "chatcmpl-halvorsen00001", "object": "chat.completion.chunk",
                       "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas),
                    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                     "usage": {"prompt_tokens": 321, "completion_tokens": len(pieces)}},
                ]  # fmt: skip
            case "messages":
                return [
                    {"type": "message_start", "message": {"id": "msg_halvorsen00002", "type": "message",
                     "role": "assistant", "content": [], "usage": {"input_tokens": 321, "output_tokens": 1}}},
                    {"type": "content_block_start", "index": 0,
                     "content_block": {"type": "text", "text": ""}},
                    *({"type": "content_block_delta", "index": 0,
                       "delta": {"type": "text_delta", "text": piece}} for piece in pieces),
                    {"type": "content_block_stop", "index": 0},
                    {"type": "message_delta", "delta": {"stop_reason": "end_turn"},
                     "usage": {"output_tokens": len(pieces)}},
                    {"type": "message_stop"},
                ]  # fmt: skip
        part = {"type": "output_text", "text": text, "annotations": []}
        item = {
            "id": "msg_halvorsen00003",
            "type": "message",
            "role": "assistant",
            "content": [part],
        }
        usage = {"input_tokens": 321, "output_tokens": len(pieces)}
        self.history[-1] = {key: value for key, value in item.items() if key != "id"}
        return [
            *({"type": "response.output_text.delta", "item_id": "msg_halvorsen00003", "output_index": 0,
               "content_index": 0, "delta": piece} for piece in pieces),
            {"type": "response.output_text.done", "item_id": "msg_halvorsen00003", "text": text},
            {"type": "response.completed",
             "response": {"status": "completed", "output": [item], "usage": usage}},
        ]  # fmt: skip

    def call(self) -> list[dict[str, Any]]:
        self.calls += 1
        given = {"customer_reference": self.words(20, 60), "days": self.calls, "lines": []}
        code, result = json.dumps(given), self.words(100, 400)
        ident = f"call_halvorsen{self.rng.randrange(10**6):06}"
        self.secret.append(ident)
        pieces = [code[at : at + 7] for at in range(0, len(code), 7)]
        match self.dialect:
            case "chat":
                function = {"name": NAME, "arguments": code}
                asked = {"id": ident, "type": "function", "function": function}
                self.history += [
                    {"role": "assistant", "content": None, "tool_calls": [asked]},
                    {"role": "tool", "tool_call_id": ident, "content": result},
                ]
                calls = [
                    {
                        "index": 0,
                        "id": ident,
                        "type": "function",
                        "function": {"name": NAME, "arguments": ""},
                    }
                ]
                calls += [{"index": 0, "function": {"arguments": piece}} for piece in pieces]
                return [
                    *({"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}
                      for call in calls),
                    {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
                ]  # fmt: skip
            case "messages":
                use = {"type": "tool_use", "id": ident, "name": NAME}
                back = {"type": "tool_result", "tool_use_id": ident, "content": result}
                self.history += [
                    {"role": "assistant", "content": [{**use, "input": given}]},
                    {"role": "user", "content": [back]},
                ]
                return [
                    {"type": "content_block_start", "index": 0, "content_block": {**use, "input": {}}},
                    *({"type": "content_block_delta", "index": 0,
                       "delta": {"type": "input_json_delta", "partial_json": piece}} for piece in pieces),
                    {"type": "message_delta", "delta": {"stop_reason": "tool_use"},
                     "usage": {"output_tokens": 9}},
                    {"type": "message_stop"},
                ]  # fmt: skip
        asked = {"type": "function_call", "call_id": ident, "name": NAME, "arguments": code}
        self.history += [
            asked,
            {"type": "function_call_output", "call_id": ident, "output": result},
        ]
        done = {
            "status": "completed",
            "output": [asked],
            "usage": {"input_tokens": 321, "output_tokens": 9},
        }
        return [
            *({"type": "response.function_call_arguments.delta", "output_index": 0, "delta": piece}
              for piece in pieces),
            {"type": "response.function_call_arguments.done", "output_index": 0, "arguments": code},
            {"type": "response.completed", "response": done},
        ]  # fmt: skip


def exchanges(seed: int, sessions: int) -> tuple[list[Exchange], list[str]]:
    """Conversations that interleave, and every string that is none of the protocols'."""
    rng, secret = Random(seed), [NAME, ABOUT, "user-of-halvorsen-17"]
    secret += [text for text in strings(SCHEMA) if len(text) > 11 and text != "description"]
    systems = [PROSE[at : at + 1500] for at in (0, 5000)]
    secret += systems
    made = []
    for number in range(sessions):
        talk = Conversation(rng, ["chat", "messages", "responses"][number % 3], secret)
        at = rng.randrange(20 * S)
        for _ in range(rng.randint(2, 6)):
            if not talk.history or talk.history[-1].get("role") == "assistant":
                talk.ask()
            body = json.dumps(talk.body(systems[number % 2])).encode()
            events = talk.answer()
            named = talk.dialect != "chat"
            stream = b"".join(
                (f"event: {event['type']}\n" if named else "").encode()
                + b"data: " + json.dumps(event).encode() + b"\n\n"
                for event in events
            )  # fmt: skip
            stream += b"" if named else b"data: [DONE]\n\n"
            made.append(
                _exchange(f"req-of-halvorsen-{len(made):05}", talk.dialect, at, body, stream)
            )
            at += rng.randint(4 * S, 9 * S)
    made.sort(key=lambda exchange: exchange.request.arrive_ns)
    return made, secret + [exchange.request.id for exchange in made]


def _exchange(name: str, dialect: str, at: int, body: bytes, stream: bytes) -> Exchange:
    edges = [*range(0, len(stream), 97), len(stream)]  # reads that heed no event
    chunks = tuple(
        Chunk(at + S + 1000_000 * number, end - start)
        for number, (start, end) in enumerate(pairwise(edges))
    )
    request = Request(
        id=name,
        seq=0,
        arrive_ns=at,
        end_ns=at + 1000,
        method="POST",
        scheme="https",
        host="llm.halvorsen-internal.example",
        path=f"/tenant-halvorsen{PATHS[dialect]}?trace=halvorsen-and-sons",
        headers=(("content-type", "application/json"), ("user-agent", "HalvorsenAssistant/2.1")),
        body=body,
        body_bytes=len(body),
        client="halvorsen-client",
        extra={"note": "written by Halvorsen & Sons"},
    )
    response = Response(
        head_ns=at + S - 1000,
        end_ns=at + S + 1000_000 * len(edges),
        status=200,
        headers=(("content-type", "text/event-stream"), ("x-request-id", "halvorsen-0001")),
        body=stream,
        body_bytes=len(stream),
        chunks=chunks,
    )
    return Exchange(request=request, response=response)


def write(path: Path, made: list[Exchange]) -> Path:
    """A trace of them."""
    extra = {"import": {"format": "map", "files": ["halvorsen-export.jsonl"]}}
    header = TraceHeader(
        wall_ns=1, mono_ns=0, upstream="https://llm.halvorsen-internal.example/v1",
        filters={"hosts": ["llm.halvorsen-internal.example"]}, extra=extra,
    )  # fmt: skip
    with TraceWriter(path, header, clock=lambda: 0.0) as writer:
        for exchange in made:
            writer.exchange(exchange)
    return path


def fingerprints(texts: list[str]) -> set[bytes]:
    """Every 12 bytes of them, as they are and as JSON writes them."""
    spelled = [text.encode() for text in texts]
    spelled += [json.dumps(text, ensure_ascii=False)[1:-1].encode() for text in texts]
    return {data[at : at + 12] for data in spelled for at in range(len(data) - 11)}
