"""Logs as their makers write them: a few rows of each format, for the tests of importers."""

import json
from base64 import b64encode
from typing import Any

CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "a"}]}

NGINX = (
    '10.0.0.1 - - [28/Nov/2026:10:00:01 +0000] "POST /v1/chat/completions HTTP/1.1" 200 396 "-" "py/1"\n'
    '10.0.0.1 - bob [28/Nov/2026:11:00:03 +0100] "POST /v1/messages?beta=true HTTP/1.1" 429 51 "-" "b"\n'
    '10.0.0.1 - - [28/Nov/2026:10:00:04 +0000] "GET /v1/models HTTP/1.1" 200 12 "-" "py/1"\n'
    '10.0.0.1 - - [28/Nov/2026:10:00:05 +0000] "\\x16\\x03\\x01" 400 157 "-" "-"\n'
    '10.0.0.1 - - [28/Nov/2026:10:00:09 +0000] "POST /v1/embeddings HTTP/2.0" 200 9 "-" "py/1" rt=0.2\n'
)
NGINX_JSON = [
    {"msec": "1795860001.250", "remote_addr": "10.0.0.1", "request": f"POST {CHAT} HTTP/1.1", "status": "200",
     "body_bytes_sent": "396", "request_time": "1.250", "content_length": "700", "http_host": "llm.example"},
    {"time_iso8601": "2026-11-28T10:00:07+00:00", "request_method": "POST", "uri": CHAT, "status": 499,
     "request_time": 2.0, "content_length": "-", "request_body": json.dumps(ASK)},
    {"time_local": "28/Nov/2026:10:00:08 +0000", "request": "GET / HTTP/1.1", "status": "200"},
]  # fmt: skip
ENVOY = (
    '[2026-11-28T10:00:00.250Z] "POST /v1/chat/completions HTTP/1.1" 200 - 900 154 1500 1499 "-" "curl/8" '
    '"cc21d9b0" "llm.example:8080" "127.0.0.1:80"\n'
    '[2026-11-28T10:00:01.000Z] "GET /health HTTP/2" 200 - 0 2 1 1 "-" "k" "c" "h" "127.0.0.1:80"\n'
    '[2026-11-28T10:00:02.500Z] "POST /v1/chat/completions HTTP/2" 503 UF upstream_reset - "reset" 300 91 12 '
    '- "10.0.0.2" "curl/8" "84961386" "llm.example" "-" outbound|8000||llm 10.44.1.23:37652 - default\n'
)
ENVOY_JSON = [
    {"start_time": "2026-11-28T10:00:00.250Z", "method": "POST", "path": CHAT, "protocol": "HTTP/1.1",
     "response_code": "200", "response_flags": "-", "bytes_received": "800", "bytes_sent": "178",
     "duration": "18", "authority": "llm.example", "request_id": "6df0", "upstream_service_time": "17"},
    {"start_time": "2026-11-28T10:00:03.000Z", "method": None, "path": None, "response_code": 0,
     "bytes_received": 1095, "bytes_sent": 73232, "duration": 665017, "authority": None},
    {"start_time": "2026-11-28T10:00:04.000Z", ":authority": "llm.example", "method": "POST",
     "x-envoy-origin-path": CHAT, "response_code": 0, "bytes_received": 494, "bytes_sent": 0, "duration": 74},
]  # fmt: skip


def lc(kind: str, **members: Any) -> dict[str, Any]:
    """A message as langchain-core 1.8 writes it into a run."""
    names = {
        "human": "HumanMessage",
        "ai": "AIMessage",
        "system": "SystemMessage",
        "tool": "ToolMessage",
    }
    return {
        "lc": 1,
        "type": "constructor",
        "id": ["langchain", "schema", "messages", names[kind]],
        "kwargs": {"type": kind, **members},
    }


LANGCHAIN = [
    lc("system", content="be brief"),
    lc("human", content="weather?"),
    lc("ai", content="", invalid_tool_calls=[],
       tool_calls=[{"name": "get", "args": {"city": "Bern"}, "id": "c1", "type": "tool_call"}]),
    lc("tool", content="rain", tool_call_id="c1", status="success"),
    lc("human", content=[{"type": "text", "text": "see"},
                         {"type": "image_url", "image_url": {"url": "https://x/y.png"}}]),
]  # fmt: skip
TOOL = {"type": "function", "function": {"name": "get", "parameters": {}}}
LANGSMITH = [
    {"id": "r1", "trace_id": "t1", "name": "ChatOpenAI", "run_type": "llm", "parent_run_id": "r0",
     "start_time": "2026-11-28T10:00:00.250000", "end_time": "2026-11-28T10:00:02.250000",
     "first_token_time": "2026-11-28T10:00:00.750000", "status": "success", "error": None,
     "inputs": {"messages": [LANGCHAIN]},
     "outputs": {"generations": [[{"text": "it rains", "type": "ChatGeneration", "message": lc(
         "ai", content="it rains", usage_metadata={"input_tokens": 30, "output_tokens": 4})}]],
         "llm_output": None, "type": "LLMResult"},
     "extra": {"invocation_params": {"model": "gpt-x", "model_name": "gpt-x", "temperature": 0.5,
                                     "tools": [TOOL], "stop": None},
               "metadata": {"thread_id": "s1", "ls_model_name": "gpt-x"}}},
    {"id": "r0", "trace_id": "t1", "name": "agent", "run_type": "chain", "inputs": {}, "total_tokens": 34,
     "start_time": "2026-11-28T10:00:00", "end_time": "2026-11-28T10:00:03"},
    {"id": "r2", "trace_id": "t2", "name": "ChatOpenAI", "run_type": "llm",
     "start_time": "2026-11-28T10:00:05+00:00", "end_time": "2026-11-28T10:00:06+00:00",
     "inputs": json.dumps({**ASK, "stream": True}), "prompt_tokens": 12, "completion_tokens": 6,
     "outputs": json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": "yo"}}],
                            "usage_metadata": {"input_tokens": 12, "output_tokens": 6}}),
     "events": [{"name": "new_token", "time": "2026-11-28T10:00:05.500000+00:00"}], "extra": "{}"},
    {"id": "r2", "trace_id": "t2", "run_type": "llm", "start_time": "2026-11-28T10:00:05+00:00",
     "inputs": {**ASK}},
    {"id": "r3", "trace_id": "t3", "name": "FakeLLM", "run_type": "llm", "inputs": {"prompts": ["say"]},
     "start_time": "2026-11-28T10:00:09", "end_time": "2026-11-28T10:00:10", "error": "Timeout('x')\n at y"},
]  # fmt: skip

USED = {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 5}}
SAGEMAKER = [
    {"captureData": {
        "endpointInput": {"observedContentType": "application/json", "mode": "INPUT", "encoding": "JSON",
                          "data": json.dumps({"messages": ASK["messages"], "max_tokens": 16})},
        "endpointOutput": {"observedContentType": "application/json", "mode": "OUTPUT", "encoding": "BASE64",
                           "data": b64encode(json.dumps(USED).encode()).decode()}},
     "eventMetadata": {"eventId": "e0", "inferenceTime": "2026-07-20T00:00:00Z"}, "eventVersion": "0"},
    {"captureData": {"endpointInput": {"observedContentType": "text/csv", "mode": "INPUT", "data": "1.5,2.3",
                                       "encoding": "CSV"}},
     "eventMetadata": {"eventId": "e1", "inferenceTime": "2026-07-20T00:00:05Z"}, "eventVersion": "0"},
    {"captureData": {"endpointInput": {"mode": "INPUT", "encoding": "JSON",
                                       "data": json.dumps({"prompt": "say", "model": "p"})}},
     "eventMetadata": {"eventId": "e2", "inferenceTime": "2026-07-20T00:00:07Z"}, "eventVersion": "0"},
]  # fmt: skip
DATABRICKS = [
    {"databricks_request_id": "d1", "request_date": "2026-11-28", "client_request_id": None,
     "request_time": "2026-11-28T10:00:00.250Z", "status_code": 200, "sampling_fraction": 1.0,
     "execution_duration_ms": 1500, "request": json.dumps(ASK), "response": json.dumps(USED),
     "logging_error_codes": [], "served_entity_id": "x", "requester": "me@x"},
    {"databricks_request_id": "d2", "date": "2026-11-28", "client_request_id": None,
     "timestamp_ms": 1795860003000, "status_code": 429, "sampling_fraction": 1.0, "execution_time_ms": 50,
     "request": json.dumps({"messages": ASK["messages"]}), "response": '{"error":"slow"}',
     "request_metadata": {"endpoint_name": "e", "model_name": "llama", "model_version": "1"}},
    {"databricks_request_id": "d3", "timestamp_ms": 1795860004000, "status_code": 200,
     "execution_time_ms": 50, "request": '{"dataframe_records":[{"age":42}]}', "response": "{}"},
]  # fmt: skip

AIPERF_INPUTS = {
    "data": [
        {"session_id": "a", "payloads": [ASK, {**ASK, "max_tokens": 5}]},
        {"session_id": "b", "payloads": [{"model": "e", "input": ["x"]}, {"colour": "red"}]},
    ]
}
AIPERF = [
    {"text": "hello", "timestamp": 0, "output_length": 7},
    {"texts": ["see", "and say"], "images": ["https://x/y.png"], "timestamp": 1500.5, "session_id": "s"},
    {"text": "next", "delay": 20, "session_id": "s"},
    {"text": "look", "image": "/data/cat.png", "timestamp": 1600},
    {"session_id": "t", "turns": [{"text": "one", "timestamp": 1700}, {"text": "two", "delay": 5}]},
    {"messages": ASK["messages"], "tools": [TOOL], "output_length": 30, "timestamp": 2000,
     "extra": {"seed": 1}},
    {"session_id": "d", "message_mode": "delta", "messages": ASK["messages"], "timestamp": 2500},
    {"payload": {"model": "p", "prompt": "hi", "max_tokens": 5}, "timestamp": 3000},
    {"text_input": "raw", "output_length": 4, "timestamp": 3100},
]  # fmt: skip
MLPERF = [
    {"_type": "dataset_metadata", "conversation_id": None, "turn": 0, "role": None},
    {"conversation_id": "c1", "turn": 1, "role": "user", "system": "sys", "content": "fix", "tools": [TOOL],
     "delay_seconds": 0.4},
    {"conversation_id": "c1", "turn": 2, "role": "assistant", "reasoning_content": "think", "tool_calls": [
        {"id": "f:0", "type": "function", "function": {"name": "get", "arguments": "{}"}}]},
    {"conversation_id": "c1", "turn": 3, "role": "tool", "delay_seconds": 1.2, "tool_results": [
        {"tool_call_id": "f:0", "content": "0"}, {"tool_call_id": "f:1", "content": "1"}]},
    {"conversation_id": "c1", "turn": 4, "role": "assistant", "content": "done"},
    {"conversation_id": "c2", "turn": 1, "role": "user", "content": "hi", "max_completion_tokens": 9},
]  # fmt: skip
GENAI_BENCH = {
    "aggregated_metrics": {"scenario": "D(100,100)", "num_concurrency": 2, "stats": {"ttft": {"min": 1}}},
    "individual_request_metrics": [
        {"ttft": 0.1, "e2e_latency": 2.0, "num_input_tokens": 100, "num_output_tokens": 90,
         "error_code": None, "error_message": None},
        {"ttft": 0.1, "e2e_latency": 2.0, "num_input_tokens": 101, "num_output_tokens": 80,
         "error_code": None, "error_message": None},
        {"ttft": None, "e2e_latency": None, "num_input_tokens": None, "num_output_tokens": None,
         "error_code": 429, "error_message": "slow down"},
    ],
    "_time_unit": "s",
}  # fmt: skip
SERVEGEN = (
    "0,0.05,1.9,Gamma,0.2603694287774268,0.0453\n600,0,0,,0,0\n1200,0.01,1.02,Weibull,0.98,0.98\n"
    "1800,0.02,8.6,Weibull,0.3753486140101707,0.3967677807107179\n"
)
SERVEGEN_LENGTHS = {
    "0": {"input_tokens": "{224: 1.0}", "output_tokens": "{7: 1.0}"},
    "1200": {"input_tokens": "{30: 0.5, 31: 0.5}", "output_tokens": "{3: 0.5, 9: 0.5}"},
    "1800": {"input_tokens": "{}", "output_tokens": "{}"},
}
DOUBLED = json.dumps(ASK).replace('"', '""').replace('"', '""')
HELICONE_CSV = (
    "response_id,response_created_at,response_status,request_created_at,request_body,request_properties,"
    "request_user_id,model,prompt_tokens,completion_tokens,latency,cost_usd\n"
    '"h1","2026-05-12T10:00:01.100Z","200","2026-05-12T10:00:00Z","'
    f'{DOUBLED}","","u","m","12","8","1100","0.1"\n'
)
"""As Helicone's exporter writes it: the quotes of JSON are doubled twice."""
LOGS: dict[str, Any] = {
    "nginx": NGINX, "envoy": ENVOY, "langsmith": LANGSMITH, "sagemaker": SAGEMAKER, "databricks": DATABRICKS,
    "aiperf": AIPERF, "mlperf-agentic": MLPERF, "genai-bench": GENAI_BENCH, "servegen": SERVEGEN,
}  # fmt: skip
"""Of each format that stands here one, by its name."""
BESIDE = {"servegen": json.dumps(SERVEGEN_LENGTHS)}
"""What must stand beside a log, as FILE.json."""
