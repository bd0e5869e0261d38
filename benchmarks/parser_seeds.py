"""Inputs that the parsers take, and words of their grammars: where benchmarks/fuzz_parsers.py begins."""
# ruff: noqa: E501 (data)

import json
from collections.abc import Iterable
from typing import Final

from fuzz import BODY, LOGS, STREAM

KEY: Final = "sk-Fuzz0123456789abcdefWXYZ"
TOOLS = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
}
CHATS: Final = [
    {"model": "m", "stream": True, "stream_options": {"include_usage": True}, "n": 2, "max_tokens": 5,
     "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]},
    {"model": "m", "max_completion_tokens": 9, "tools": [TOOLS], "tool_choice": "auto", "user": "ada",
     "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
     "messages": [
        {"role": "developer", "content": [{"type": "text", "text": "x"}]},
        {"role": "user", "content": [{"type": "text", "text": "see"},
                                     {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"}]},
    {"model": "m", "prompt": ["a", "b"], "functions": [{"name": "f", "parameters": {}}], "logprobs": 5},
]  # fmt: skip
MESSAGES: Final = [
    {"model": "m", "max_tokens": 5, "system": "Be brief.", "stream": True,
     "messages": [{"role": "user", "content": "Hi"}], "metadata": {"user_id": "ada"}},
    {"model": "m", "max_tokens": 5, "thinking": {"type": "enabled", "budget_tokens": 1024},
     "system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}],
     "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}], "tool_choice": {"type": "any"},
     "mcp_servers": [{"type": "url", "url": "https://u:p@h/x?key=1", "authorization_token": KEY}],
     "messages": [
        {"role": "user", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png",
                                                                  "data": "AA=="}}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "t", "signature": "s"},
                                          {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [
            {"type": "text", "text": "42"}]}]}]},
]  # fmt: skip
RESPONSES: Final = [
    {"model": "m", "input": "Hi", "instructions": "Be brief.", "max_output_tokens": 9, "stream": True},
    {"model": "m", "previous_response_id": "resp_1", "store": False, "reasoning": {"effort": "low"},
     "tools": [{"type": "function", "name": "f", "parameters": {}}, {"type": "web_search"}],
     "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}},
     "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "x"},
                                     {"type": "input_image", "image_url": "https://h/i.png"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "e"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "42"},
        {"type": "item_reference", "id": "msg_1"}]},
]  # fmt: skip


def packed(values: Iterable[object]) -> list[bytes]:
    """Each as JSON."""
    return [json.dumps(value).encode() for value in values]


def events(*payloads: object, named: bool = False, end: bytes = b"") -> bytes:
    """An event stream of payloads, with their types as names where the dialect has them."""
    lines = []
    for payload in payloads:
        kind = payload["type"] if named and isinstance(payload, dict) else None
        lines.append((f"event: {kind}\n" if kind else "") + f"data: {json.dumps(payload)}\n\n")
    return "".join(lines).encode() + end


CHAT_ANSWERS: Final = [
    STREAM,
    events({"choices": [{"index": 0, "delta": {"role": "assistant", "reasoning": "hm"}}]},
           {"choices": [{"index": 0, "delta": {"tool_calls": [
               {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}]}}]},
           {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {
               "cached_tokens": 2}, "completion_tokens_details": {"reasoning_tokens": 1}}}, end=b"data: [DONE]\n\n"),
    json.dumps({"object": "chat.completion", "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "hi", "reasoning_content": "x"},
         "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}).encode(),
    b'{"error":{"message":"slow down","code":429}}',
    b'data: {"choices":[{"index":0,"text":"Hi","finish_reason":"length"}]}\r\n\r\n: ping\r\n\r\ndata: {"error":"x"}\r\n\r\n',
]  # fmt: skip
MESSAGE_ANSWERS: Final = [
    events({"type": "message_start", "message": {"usage": {"input_tokens": 5, "cache_read_input_tokens": 2,
                                                           "cache_creation_input_tokens": 1, "output_tokens": 1}}},
           {"type": "ping"},
           {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
           {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
           {"type": "content_block_stop", "index": 0},
           {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "name": "f"}},
           {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
           {"type": "content_block_delta", "index": 2, "delta": {"type": "text_delta", "text": "hi"}},
           {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
           {"type": "message_stop"}, named=True),
    json.dumps({"type": "message", "role": "assistant", "stop_reason": "end_turn",
                "content": [{"type": "text", "text": "hi"}, {"type": "tool_use", "name": "f"}],
                "usage": {"input_tokens": 5, "output_tokens": 2}}).encode(),
    events({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, named=True),
]  # fmt: skip
RESPONSE_ANSWERS: Final = [
    events({"type": "response.created", "response": {"status": "in_progress", "output": []}},
           {"type": "response.output_item.added", "output_index": 0, "item": {"type": "reasoning"}},
           {"type": "response.reasoning_text.delta", "output_index": 0, "content_index": 0, "delta": "hm"},
           {"type": "response.output_item.added", "item": {"type": "function_call", "name": "f"}},
           {"type": "response.function_call_arguments.delta", "delta": "{}"},
           {"type": "response.output_text.delta", "output_index": 1, "delta": "hi"},
           {"type": "response.refusal.delta", "delta": "no"},
           {"type": "response.completed", "response": {"status": "completed", "usage": {
               "input_tokens": 4, "input_tokens_details": {"cached_tokens": 1}, "output_tokens": 3,
               "output_tokens_details": {"reasoning_tokens": 1}}}}, named=True),
    json.dumps({"object": "response", "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"},
                "output": [{"type": "message", "content": [{"type": "output_text", "text": "hi"}]}],
                "usage": {"input_tokens": 4, "output_tokens": 3}}).encode(),
    events({"type": "response.failed", "response": {"status": "failed", "error": {"message": "x"}}}, named=True),
]  # fmt: skip
TURNS: Final = b"\n".join(
    packed(
        {"model": "m", "messages": [
            {"role": "user" if at % 2 == 0 else "assistant", "content": "Hi" if at == 1 else f"word {at}"}
            for at in range(2 * turns + 1)]}
        for turns in range(4)
    )
)  # fmt: skip
BINARY_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
ANSWERS: Final = [
    BINARY_HEAD + b"content-length: 5\r\n\r\nhello",
    BINARY_HEAD
    + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nx-trailer: 1\r\n\r\n",
    BINARY_HEAD + b"connection: close\r\n\r\nuntil the end",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.0 304 Not Modified\r\nconnection: keep-alive\r\netag: x\r\n\r\n",
    BINARY_HEAD + b"content-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
]
HTTP_WORDS: Final = (
    b"\r\n", b"\n", b"\r\n\r\n", b"transfer-encoding: chunked\r\n", b"content-length: 3\r\n", b"0\r\n\r\n",
    b"connection: close\r\n", b"HTTP/1.1 ", b"HTTP/1.0 200 \r\n", b"HTTP/2.0 ", b"101 ", b"204 ", b"100 ", b"ffffffff",
    b"upgrade: x\r\n", b" \r\n", b"\t", b"\x00", b";", b",",
)  # fmt: skip
SSE_WORDS: Final = (
    b"data:", b"data: ", b"\n\n", b"\r\n\r\n", b"\r", b"\n", b"event: x\n", b"id: 1\n", b"id:\x00\n", b": ping\n",
    b"\xef\xbb\xbf", b"[DONE]", b"data\n", b"retry: 5\n", b"\xff",
)  # fmt: skip
JSON_WORDS: Final = (
    b"null", b"NaN", b"Infinity", b"1e999", b"-0", b"[[[[", b'{"a":', b'"\\ud800"', b'"\\u0000"', b"18446744073709551616",
    b"true", b",", b":", b"\\", b'"', b"1E-400", b"\xed\xa0\x80", b"{}", b"[]",
)  # fmt: skip
SETTINGS: Final = (
    b'[defaults]\nmodel = "m"\nconcurrency = 4\nset = { a = 1 }\ntarget = "t"\n'
    b'[targets.t]\nbase_url = "http://127.0.0.1:1"\napi_key_env = "KEY"\nheader = { x-a = "b" }\n'
)
PLAN: Final = (
    b'trace = "t.msgpack"\nrepeats = 3\nmargin = "10%"\nschedule = "random"\nseed = 1\nspeed = 2.0\ngate = ["ttft:p50:5%"]\n'
    b'[[arm]]\nname = "A"\nbase_url = "http://127.0.0.1:1"\nset = { max_tokens = 5 }\n'
    b'[[arm]]\nname = "B"\nmodel = "n"\nheader = { x-a = "b" }\nprice = { n = "1/2" }\n'
)
TOML_WORDS: Final = (
    b"1979-05-27T07:32:00Z", b"nan", b"-inf", b"[[arm]]\n", b"[defaults]\n", b'"""', b"0x", b"= {}", b"= []", b"= [[]]",
    b"\nname = 1\n", b"true", b"9" * 30, b'"\\u0000"',
)  # fmt: skip
LOG_ROWS: Final = {
    "jsonl": [LOGS[name].encode() for name in ("evalscope.jsonl", "bailian.jsonl", "claude.jsonl")] + packed([
        {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": CHATS[0]},
        {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}], "id": "q"},
        {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]},
        {"model": "m", "messages": CHATS[0]["messages"], "response": {"choices": []}, "startTime": "2026-06-01 10:00:00",
         "call_type": "acompletion", "spend": 0.1, "prompt_tokens": 5, "completion_tokens": 6},
        {"resourceSpans": [{"scopeSpans": [{"spans": [{"startTimeUnixNano": "1764350000000000000", "attributes": [
            {"key": "gen_ai.request.model", "value": {"stringValue": "m"}},
            {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "5"}}]}]}]}]},
        {"schemaType": "ModelInvocationLog", "timestamp": "2026-06-01T10:00:00Z", "modelId": "m",
         "input": {"inputBodyJson": CHATS[0], "inputTokenCount": 3}, "output": {"outputTokenCount": 4}},
        {"timestamp": "2026-06-01T10:00:00Z", "type": "event_msg", "payload": {"type": "token_count", "info": {
            "last_token_usage": {"input_tokens": 4, "output_tokens": 2}}}},
    ]),
    "json": packed([{"log": {"entries": [
        {"startedDateTime": "2026-06-01T10:00:00.000Z", "time": 12.5, "request": {
            "method": "POST", "url": "https://h/v1/chat/completions", "headers": [{"name": "x", "value": "y"}],
            "postData": {"text": BODY.decode()}}, "response": {"status": 200, "content": {"text": STREAM.decode()}},
         "timings": {"wait": 3}}]}}, [{"prompt": "x", "answer": [1, {"a": None}]}, 5, "x"]]),
    "csv": [LOGS["rounds.csv"].encode(), b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n",
            b'Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,"Conv, log"\n'],
    "goreplay": [LOGS["log.gor"].encode()],
    "flows": [b"52:7:request,27:4:path;1:/;6:method;4:POST;}7:version,2:21#}", b"4:true!0:~5:12345#3:abc,"],
    "cassette": [LOGS["cassette.yaml"].encode()],
}  # fmt: skip
SECRET_BODIES: Final = packed([
    MESSAGES[1], {"user": "ada@example.com", "api_key": KEY, "tools": [{"headers": {"x": KEY}, "server_url": "https://u:p@h"}]},
    {"extra_body": {"connection_string": f"Server=h;Password={KEY}", "auth": [KEY, 5, None]}, "messages": [KEY]},
])  # fmt: skip
TEXTS: Final = [
    b'{"a": "mail ada@example.com, call +1 555 123 4567, 4111 1111 1111 1111", "b": ["10.1.2.3", "\\u0041da"]}',
    b'data: {"choices":[{"index":0,"delta":{"content":"ada@exa"}}]}\n\ndata: {"choices":[{"index":0,"delta":{"content":"mple.com"}}]}\n\n',
]

STREAMS: Final = [
    STREAM,
    b": hi\r\n\r\nevent: a\rid: 7\rdata: x\rdata: y\r\r",
    b"\xef\xbb\xbfdata:x\n\n",
]
JSONS: Final = [*packed(CHATS), b'[1.5, -7, 1e3, "\\u00e9", null, NaN]']
FILTERS: Final = [
    b"status>=400\nchat",
    b"from=10m\nto=1h",
    b"sample=0.5",
    b"model=m*\nttft<0.5\nsession=s1",
    b"last=5s",
]
FILTER_WORDS: Final = (b"!=", b">=", b"none", b"*", b"[", b"turn", b"e2e", b"1e9")
MAPS: Final = [
    b"arrival=timestamp:s\nbody=body",
    b"arrival=at\nduration=took:ms\nprompt_tokens=usage.in",
    b"arrival=at\nprompt=list.1.x\noutput_tokens=usage.out",
]
MAP_WORDS: Final = (b":iso", b":ns", b"=", b".", b"first_token=", b"end=", b"a.b", b"99999999999")
OPTIONS: Final = [
    b'set\nmax_tokens=5\nstop=["x"]',
    b"header\nx-a: b",
    b"model\na=b=c",
    b"price\nm=1/2/0.5",
    b"gate\nttft:p95:5%\nerrors:0.5pp",
    b"slo\nttft<500ms,tpot<50ms,e2e<3s",
    b"arm\nname=A,model=m,set.a=1\nname=B,header.x-a=b,price.m=1/2",
]
OPTION_WORDS: Final = (b"=", b",", b"set.", b"p99", b"%", b"ms", b"inf", b"nan", b"name=")
SCENARIOS: Final = [
    b"D(100,100)",
    b"N(480,240)/(300,150)",
    b"U(50,100)/(200,250)",
    b"E(256)",
    b"R(5,6)",
    b"I(512,512,2)",
    b"dataset",
]
SCENARIO_WORDS: Final = (b"(", b")", b",", b"/", b"-1", b"9" * 20, b" ", b"\xd9\xa3")
REDACT_WORDS: Final = (*JSON_WORDS, KEY.encode(), b"Bearer ", b'"api_key":', b"?key=", b"//u:p@")
ANSWER_WORDS: Final = (*SSE_WORDS, *JSON_WORDS)
LOG_WORDS: Final = {
    "jsonl": JSON_WORDS,
    "json": JSON_WORDS,
    "csv": (b",", b'"', b"\n"),
    "goreplay": HTTP_WORDS,
    "flows": (b"0:~", b"}", b"]", b"9:"),
    "cassette": (b"&a ", b"*a", b"!!", b"- ", b": "),
}
