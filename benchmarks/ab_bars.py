"""What `tbench ab` decides where the truth is known: equal arms, a slower arm, and an arm with a longer tail.

    python benchmarks/ab_bars.py                                    # the simulator, and a server of its own
    python benchmarks/ab_bars.py --model-python .venv-model/bin/python     # equal arms of a real model, too

Bars: of 20 experiments with equal arms none is FAIL; +20 % of TTFT is found by 3 + 3 runs; p99 + 30 % with
the same median is a change at p99 and none at p50. Ends with 1 where one is missed.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from accept import MODEL, model_server, warm_up
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from tbench.capture.synthesis.generate import write
from tbench.capture.synthesis.scenario import parse
from tbench.capture.synthesis.workload import Workload
from tbench.demo import server as tbench_server

MEDIAN_S, SIGMA = 0.030, 0.25
"""The first token of our own server's baseline: lognormal."""
TAIL_FROM, TAIL = 1.6, 1.3
"""Beyond so many sigmas the longer tail begins; from 2.3 sigmas (the p99) on it is 1.3 times as far."""


def slower(seconds: float) -> float:
    """A fifth more, for everybody."""
    return seconds * 1.2


def longer_tail(seconds: float) -> float:
    """The same up to 1.6 sigmas above the median, times 1.3 from the p99 on, and in between bit by bit."""
    z = math.log(seconds / MEDIAN_S) / SIGMA
    share = min(1.0, max(0.0, (z - TAIL_FROM) / (2.3 - TAIL_FROM)))
    return seconds * TAIL**share


ARMS = {"equal": lambda seconds: seconds, "slower": slower, "tail": longer_tail}


async def answer(request: Request) -> StreamingResponse:
    """Four tokens, the first after a time drawn anew for each request."""
    await request.body()
    change = ARMS[request.path_params["arm"]]
    wait = change(MEDIAN_S * math.exp(random.gauss(0, SIGMA)))

    async def events() -> AsyncIterator[str]:
        await asyncio.sleep(wait)
        for number in range(4):
            choice = {"index": 0, "delta": {"content": "word "}, "finish_reason": None}
            last = number == 3
            payload: dict[str, Any] = {
                "choices": [{**choice, "finish_reason": "stop" if last else None}]
            }
            if last:
                payload["usage"] = {"prompt_tokens": 20, "completion_tokens": 4}
            yield f"data: {json.dumps(payload)}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@contextlib.contextmanager
def own_server() -> Iterator[str]:
    """Our own server on a free port, while the block runs."""
    app = Starlette(routes=[Route("/{arm}/v1/chat/completions", answer, methods=["POST"])])
    config = uvicorn.Config(app, port=0, log_level="error", access_log=False)
    one = uvicorn.Server(config)
    thread = threading.Thread(target=one.run, daemon=True)
    thread.start()
    while not one.started:
        thread.join(0.05)
    port = one.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        one.should_exit = True
        thread.join(10)


def experiment(trace: Path, arms: dict[str, str], out: Path, *more: str) -> dict[str, Any]:
    """One `tbench ab` from the command line, as its JSON says."""
    words = [
        sys.executable,
        "-m",
        "tbench",
        "ab",
        str(trace),
        "--repeats",
        "3",
        "-o",
        str(out),
        "--json",
    ]
    for name, url in arms.items():
        words += ["--arm", f"name={name},base_url={url}"]
    environ = {**os.environ, "TOGETHER_API_KEY": "none-needed"}
    whole = [*words, *more]
    done = subprocess.run(whole, capture_output=True, text=True, check=False, env=environ)
    if not done.stdout.startswith("{"):
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout))


def equal_arms(url: str, trace: Path, folder: Path, plans: int, *more: str) -> Counter[str]:
    """The verdicts of so many experiments with one server as both arms."""
    found: Counter[str] = Counter()
    for number in range(plans):
        out = folder / f"equal-{number}-{trace.stem}"
        found[
            experiment(trace, {"A": url, "B": url}, out, "--seed", str(number), *more)["verdict"]
        ] += 1
        print(f"  {number + 1}/{plans}: {dict(found)}", file=sys.stderr, flush=True)
    return found


def rows(found: dict[str, Any]) -> dict[str, Any]:
    """The rows of a result by their gates."""
    return {row["gate"]: row for row in found["comparisons"]}


def said(row: dict[str, Any]) -> str:
    """A row in words."""
    low, high = row["ci"]
    return f"{row['gate']} ratio {row['ratio']:.3f} [{low:.3f}, {high:.3f}] {row['verdict']}"


def synthesised(folder: Path, requests: int, model: str, scenario: str = "D(20,4)") -> Path:
    """A trace of so many small requests."""
    path = folder / f"{requests}-{model.rsplit('/', 1)[-1]}.msgpack"
    write(
        Workload(task="text-to-text", model=model, scenario=parse(scenario), requests=requests),
        path,
    )
    return path


def main() -> None:
    """Run what was asked for; print a line for each bar."""
    options = _options()
    missed = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checks = [_simulator, _slower, _tail] + ([_model] if options.model_python else [])
        for check in checks:
            line, held = check(folder, options)
            print(f"{'ok    ' if held else 'MISSED'} {line}", flush=True)
            missed += [] if held else [line]
    sys.exit(bool(missed))


Outcome = tuple[str, bool]


def _simulator(folder: Path, options: argparse.Namespace) -> Outcome:
    trace = synthesised(folder, 420, "openai/gpt-oss-20b")
    with tbench_server(["serve", "--port", "0"], {}, lambda _: None) as url:
        found = equal_arms(
            url, trace, folder, options.plans, "--constant", "150", "--margin", "10%"
        )
    return f"equal arms, simulator, {options.plans} plans of 3 + 3: {dict(found)}", not found[
        "FAIL"
    ]


def _slower(folder: Path, _options: argparse.Namespace) -> Outcome:
    trace = synthesised(folder, 450, "m")
    with own_server() as url:
        arms = {"A": f"{url}/equal/v1", "B": f"{url}/slower/v1"}
        found = experiment(
            trace, arms, folder / "slower", "--constant", "100", "--gate", "ttft:p50:5%"
        )
    row = rows(found)["ttft:p50:5%"]
    return f"TTFT + 20 %, 3 + 3 runs: {said(row)}", row["verdict"] == "FAIL"


def _tail(folder: Path, _options: argparse.Namespace) -> Outcome:
    trace = synthesised(folder, 2400, "m")
    gates = ("--gate", "ttft:p50:10%", "--gate", "ttft:p99:10%")
    with own_server() as url:
        arms = {"A": f"{url}/equal/v1", "B": f"{url}/tail/v1"}
        found = rows(experiment(trace, arms, folder / "tail", "--constant", "150", *gates))
    middle, tail = found["ttft:p50:10%"], found["ttft:p99:10%"]
    held = middle["verdict"] == "PASS" and tail["ratio"] > 1.15 and tail["ci"][0] > 1
    return f"p99 + 30 %, p50 the same: {said(middle)}; {said(tail)}", held


def _model(folder: Path, options: argparse.Namespace) -> Outcome:
    trace = synthesised(folder, 44, MODEL, "D(12,2)")
    gates = ("--concurrency", "2", "--gate", "ttft:p50:10%", "--gate", "e2e:p50:10%")
    with model_server(options.model_python) as address:
        warm_up(address)
        found = equal_arms(address, trace, folder, options.plans, *gates)
    line = f"equal arms, SmolLM2 on this CPU, {options.plans} plans of 3 + 3: {dict(found)}"
    return line, not found["FAIL"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--plans", type=int, default=20, help="experiments with equal arms")
    parser.add_argument("--model-python", help="python that has xllamacpp (make accept makes one)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
