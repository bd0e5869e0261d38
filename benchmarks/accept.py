"""The acceptance run against servers that nobody here wrote.

    make accept

First an SDK, a capture, two replays and a comparison against a real model server: every token count of ours
is held against the server's own, which are the `usage` of each answer in the trace (read here with json
alone), and the server's counters, which know nothing of us. Then the captured trace against every server of
PEERS, by each pacing and each sender: no request may fail, and a first token whose time is known must be seen
so. Last chat, Messages and Responses, all of which llama.cpp's server speaks: asked by their makers' SDKs
through a capture and replayed, all counts are those that the SDKs were told, and no SDK saw its first token
before the capture did. Ends with 1 where that is not so.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import anthropic
import openai
import wsgi_app

from tbench.demo import Arm, Job, Workload, drive, main_job, server

HERE = Path(__file__).parent
MODEL = "smollm2-135m"
COUNTERS = re.compile(
    r"^llamacpp:(tokens_predicted_total|prompt_tokens_total) ([\d.e+]+)", re.MULTILINE
)
CASES = ("--concurrency 1", "--concurrency 2", "--concurrency 4", "--speed 4")
SENDERS = ("engine", "httpx")
SLOWEST_S = 1.0
"""No first token of a server that has a worker for each request may take so long."""
NGINX = """
error_log stderr; pid {folder}/pid; worker_processes 1; daemon off;
events {{}}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    keepalive_requests 5; keepalive_timeout 1s; proxy_http_version 1.1; proxy_buffering off;
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {upstream}; }} }}
}}
"""
"""Passes streams on as they come; closes a connection after five requests, or a second without one."""


@contextmanager
def started(command: Sequence[str], port: int) -> Iterator[str]:
    """A server process while the block runs; yields its address. It is ended by SIGKILL."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_healthy(address, process, command)
        yield address
    finally:
        process.kill()
        process.wait()


@contextmanager
def llama(python: str) -> Iterator[str]:
    """llama.cpp's own server with a small model; it closes the connection after each stream."""
    port = free_port()
    with started([python, str(HERE / "model_server.py"), str(port)], port) as address:
        yield address


@contextmanager
def gunicorn(python: str, *flags: str) -> Iterator[str]:
    """One of gunicorn's workers under wsgi_app.py: a process or a thread for each connection."""
    port = free_port()
    command = [
        python,
        "-m",
        "gunicorn",
        "--bind",
        f"127.0.0.1:{port}",
        "--chdir",
        str(HERE),
        *flags,
    ]
    with started([*command, "wsgi_app:application"], port) as address:
        yield address


@contextmanager
def nginx(python: str) -> Iterator[str]:
    """Nginx in front of gunicorn."""
    port, program = free_port(), shutil.which("nginx") or sys.exit("nginx is not installed")
    with (
        gunicorn(python, "-k", "gthread", "--threads", "8") as upstream,
        tempfile.TemporaryDirectory() as folder,
    ):
        config = Path(folder) / "nginx.conf"
        config.write_text(NGINX.format(folder=folder, port=port, upstream=upstream))
        with started([program, "-p", folder, "-c", str(config)], port) as address:
            yield address


@dataclass(frozen=True)
class Peer:
    """A server by what it is called; `first_s` is when its first token comes, None where nobody knows."""

    name: str
    start: Callable[[str], AbstractContextManager[str]]
    first_s: float | None = wsgi_app.FIRST_S


PEERS = (
    Peer("llama.cpp", llama, None),
    Peer("gunicorn sync, 4 workers", lambda python: gunicorn(python, "-k", "sync", "-w", "4")),
    Peer("gunicorn gthread, 8", lambda python: gunicorn(python, "-k", "gthread", "--threads", "8")),
    Peer("nginx, closes after 5", nginx),
)


def main() -> None:
    """The main job and its counts, then every peer by every case and sender."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.trace:
        _main_job(options)
    trace = options.trace or options.out / "trace.msgpack"
    missed = [line for peer in PEERS for line in accepted(peer, trace, options)]
    if missed := [*missed, *dialects(options)]:
        sys.exit("\n".join(["", "not accepted:", *missed]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model-python", required=True, help="python that has xllamacpp, gunicorn")
    parser.add_argument("--out", type=Path, default=Path("accept-output"))
    parser.add_argument("--seconds", type=float, default=60, help="how long the application talks")
    parser.add_argument("--trace", type=Path, help="skip the main job; replay this trace")
    return parser.parse_args()


def accepted(peer: Peer, trace: Path, options: argparse.Namespace) -> Iterator[str]:
    """Replay the trace by every case and sender, a line each; yields those that miss the bar."""
    with peer.start(options.model_python) as address, tempfile.TemporaryDirectory() as folder:
        for number, (case, sender) in enumerate(product(CASES, SENDERS)):
            found = tbench_json(
                *("replay", str(trace), "--base-url", address, "--api-key-env", "", *case.split()),
                *("--sender", sender, "--warmup", "none", "-o", f"{folder}/{number}.run"),
            )
            missed, ttft = _missed(peer, found), found["ttft_s"]
            line = (
                f"{peer.name:<26}{case:<17}{sender:<8}{found['completed']:>4} of "
                f"{found['planned']:<4} TTFT p50 {_ms(ttft['p50'])} max {_ms(ttft['max'])}"
                f"  {missed or 'ok'}{'' if found['valid'] else ' (INVALID: a busy machine)'}"
            )
            say(line)
            if missed:
                yield line


QUESTION = [{"role": "user", "content": "Name three rivers of Europe."}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "The weather of a city."}
DIALECTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "chat": (
        {"messages": [{"role": "system", "content": "Be brief."}, *QUESTION], "max_tokens": 16},
        {"tools": [{"type": "function", "function": {**WEATHER, "parameters": CITY}}]},
    ),
    "messages": (
        {"messages": QUESTION, "system": "Be brief.", "max_tokens": 16},
        {"tools": [{**WEATHER, "input_schema": CITY}]},
    ),
    "responses": (
        {"input": QUESTION, "instructions": "Be brief.", "max_output_tokens": 16},
        {"tools": [{"type": "function", **WEATHER, "parameters": CITY}]},
    ),
}
"""A question in each, and the tool that is offered with it."""


def dialects(options: argparse.Namespace) -> Iterator[str]:
    """Ask in each dialect whole, streamed and with a tool; capture, replay, and yield what is not as told."""
    trace = options.out / "dialects.msgpack"
    trace.unlink(missing_ok=True)
    with llama(options.model_python) as address:
        words = ["capture", "--upstream", address, "--port", "0", "-o", str(trace)]
        with server(words, os.environ, say) as capture:
            told = [
                told_by_sdk(capture, api, {**question, **more})
                for api, (question, tool) in DIALECTS.items()
                for more in ({"stream": False}, {"stream": True}, {"stream": True, **tool})
            ]
        prompts, outputs = [each.prompt for each in told], sum(each.output for each in told)
        report = tbench_json("report", str(trace), "--samples")
        yield from _differing("capture", report, prompts, outputs)
        yield from _later(report["samples"]["ttft_s"], told)
        for sender in SENDERS:
            run, before = options.out / f"dialects-{sender}.run", predicted(address)
            run.unlink(missing_ok=True)
            target = ("--base-url", address, "--api-key-env", "", "--sender", sender)
            tbench_json("replay", str(trace), *target, "--concurrency", "1", "-o", str(run))
            served = predicted(address) - before
            yield from _differing(
                sender, tbench_json("report", str(run), "--samples"), prompts, served
            )


class Told(NamedTuple):
    """What an SDK was told: tokens, and seconds to the first of a stream (text, thinking or arguments)."""

    prompt: int
    output: int
    first_s: float | None


def told_by_sdk(address: str, api: str, request: dict[str, Any]) -> Told:
    """Send a request by its maker's SDK."""
    asked: dict[str, Any] = {"model": MODEL, **request}
    claude = anthropic.Anthropic(base_url=address, api_key="none-needed", max_retries=0)
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none-needed", max_retries=0)
    if api == "chat" and asked["stream"]:
        asked["stream_options"] = {"include_usage": True}
    create: Callable[..., Any] = {
        "chat": client.chat.completions.create,
        "messages": claude.messages.create,
        "responses": client.responses.create,
    }[api]
    began = time.perf_counter()
    answer = create(**asked)
    if not asked["stream"]:
        usage = answer.usage
        return Told(*_tokens(usage.model_dump()), None)
    first_s, usage_told = None, dict[str, Any]()
    for event in answer:
        if first_s is None and _is_content(api, event):
            first_s = time.perf_counter() - began
        holders = (event, *(getattr(event, name, None) for name in ("message", "response")))
        for usage in (getattr(holder, "usage", None) for holder in holders):
            told = usage.model_dump() if usage else {}
            usage_told |= {name: count for name, count in told.items() if count is not None}
    return Told(*_tokens(usage_told), first_s)


def _is_content(api: str, event: Any) -> bool:  # noqa: ANN401 (of any SDK)
    """Whether an event of a stream holds text, thinking or arguments."""
    if api != "chat":
        return str(event.type).endswith(("content_block_delta", "text.delta", "arguments.delta"))
    deltas = [choice.delta.model_dump() for choice in event.choices]
    names = ("content", "reasoning_content", "tool_calls")
    return any(delta.get(name) for delta in deltas for name in names)


def _tokens(usage: dict[str, Any]) -> tuple[int, int]:
    """Prompt and output tokens in the words of any dialect; Messages counts what is cached apart."""
    prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
    cached = [usage.get(f"cache_{kind}_input_tokens") or 0 for kind in ("read", "creation")]
    return prompt + sum(cached), usage.get("completion_tokens", usage.get("output_tokens"))


def _later(captured: Sequence[float | None], told: Sequence[Told]) -> Iterator[str]:
    """First tokens that an SDK saw before the capture, which stands between it and the server."""
    pairs = [(ours, each.first_s) for ours, each in zip(captured, told, strict=True)]
    behind = [theirs - ours for ours, theirs in pairs if ours is not None and theirs is not None]
    say(
        f"first tokens: the SDKs saw them {_ms(min(behind))} to {_ms(max(behind))} after the capture"
    )
    if min(behind) < 0 or len(behind) < 2 * len(DIALECTS):
        yield f"dialects, first tokens: captured and told {pairs}"


def _differing(
    place: str, report: dict[str, Any], prompts: Sequence[int], outputs: int
) -> Iterator[str]:
    """What of outcomes, tokens and first tokens is not as told; the first of three answers is no stream."""
    samples = report["samples"]
    streamed = [ttft is not None for ttft in samples["ttft_s"]]
    facts = {
        "outcomes": (set(samples["outcome"]), {"ok"}),
        "prompt tokens": (samples["prompt_tokens"], list(prompts)),
        "output tokens": (sum(samples["output_tokens"]), outputs),
        "first tokens": (streamed, [False, True, True] * len(DIALECTS)),
    }
    wrong = [
        f"{name} {ours}, not {theirs}" for name, (ours, theirs) in facts.items() if ours != theirs
    ]
    say(f"{', '.join(DIALECTS)}: {place:<8}{len(prompts)} requests  {'; '.join(wrong) or 'ok'}")
    if wrong:
        yield f"dialects, {place}: {'; '.join(wrong)}"


def _missed(peer: Peer, found: dict[str, Any]) -> str | None:
    """Which bar a replay misses; None where it keeps to all."""
    if found["completed"] < found["planned"] or not found["planned"]:
        return f"FAILED {found['errors']}"
    ttft = found["ttft_s"]
    if peer.first_s is None or not found["valid"]:
        return None  # nobody knows, or the run itself says that this machine was too busy to tell
    if not peer.first_s <= ttft["p50"] <= 2 * peer.first_s or ttft["max"] > SLOWEST_S:
        return f"SLOW: its first token comes after {_ms(peer.first_s)}"
    return None


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:,.0f} ms"


def _main_job(options: argparse.Namespace) -> None:
    """An SDK's traffic captured, replayed twice, compared; its counts are the server's."""
    with llama(options.model_python) as address:
        warm_up(address)
        before = predicted(address)
        job = Job(
            upstream=address,
            drive=lambda base_url: _drive(base_url, options.seconds),
            baseline=Arm(name="first", base_url=address),
            candidate=Arm(name="second", base_url=address),
            out=options.out,
            environ={"TOGETHER_API_KEY": "none-needed"},
        )
        page = main_job(job, say)
        served = predicted(address) - before
    check(options.out, served)
    say(f"\nThe report: {page.resolve()}\n")


def _drive(base_url: str, seconds: float) -> None:
    load = Workload(model=MODEL, rate=0.3, duration=seconds, max_tokens=16, think=2.0)
    say(f"  {drive(base_url, load, api_key='none-needed')} calls made")


def free_port() -> int:
    """A port that nobody listens at, for now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_healthy(
    address: str, process: subprocess.Popen[bytes], command: Sequence[str]
) -> None:
    """Wait up to a minute for a server to answer."""
    for _ in range(120):
        if process.poll() is not None:
            sys.exit(f"{' '.join(command)} ended with {process.returncode}; run it by hand")
        with contextlib.suppress(OSError):
            get(f"{address}/health")
            return
        time.sleep(0.5)
    sys.exit(f"{' '.join(command)} did not answer within a minute")


def warm_up(address: str) -> None:
    """One round whose times nobody keeps: the first answers of a fresh server are slower."""
    _load = Workload(model=MODEL, rate=1, duration=4, turns=1, max_tokens=8, seed=2)
    drive(f"{address}/v1", _load, api_key="none-needed")


def predicted(address: str) -> int:
    """Tokens that the server says it has generated since its start."""
    counters = dict(COUNTERS.findall(get(f"{address}/metrics").decode()))
    return int(float(counters["tokens_predicted_total"]))


def get(url: str) -> bytes:
    """The body of a local page."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        body: bytes = answer.read()
        return body


def check(out: Path, served: int) -> None:
    """Hold our counts against the server's; ends the process where they differ."""
    trace = tbench_json("trace", "info", str(out / "trace.msgpack"))
    runs = [
        tbench_json("report", str(out / f"{name}.run"), "--samples") for name in ("first", "second")
    ]
    replayed = [sum(n or 0 for n in run["samples"]["output_tokens"]) for run in runs]
    usage = usage_by_hand(out / "trace.msgpack")
    ours = trace["output_tokens"] + sum(replayed)
    say(f"\noutput tokens: trace {trace['output_tokens']}, replays {replayed}, all {ours}")
    say(f"the server's:  usage in the trace {usage}, its counter {served}")
    if (trace["prompt_tokens"], trace["output_tokens"]) != usage or ours != served:
        sys.exit("token counts differ from the server's")
    say("equal")


def tbench_json(*arguments: str) -> dict[str, Any]:
    """What a `tbench` command prints with --json."""
    command = [sys.executable, "-m", "tbench", *arguments, "--json"]
    done = subprocess.run(command, check=False, capture_output=True)
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.decode()}")
    return answer


def usage_by_hand(trace: Path) -> tuple[int, int]:
    """Prompt and output tokens summed over the trace's answers, by json alone."""
    from tbench.capture import read_trace  # noqa: PLC0415 (only the container is ours, not the parsing)

    found = [one for exchange in read_trace(trace) if (one := _usage(exchange.response))]
    return sum(one["prompt_tokens"] for one in found), sum(
        one["completion_tokens"] for one in found
    )


def _usage(response: object) -> dict[str, int] | None:
    body = getattr(response, "body", None) or b""
    pieces = re.findall(rb'"usage":(\{(?:[^{}]|\{[^{}]*\})*\})', body)
    return json.loads(pieces[-1]) if pieces else None


def say(line: str) -> None:
    """Progress goes to stderr."""
    print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
