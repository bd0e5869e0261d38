"""The acceptance run: an SDK, a capture, two replays and a comparison against a real model server.

    make accept

Afterwards every token count of ours is held against the server's own: the `usage` of each answer in the
trace (read here with json alone), and the server's counters, which know nothing of us. Ends with 1 where
they differ.
"""

import argparse
import contextlib
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tbench.mainjob import Arm, Job, main_job
from tbench.traffic import Workload, drive

MODEL = "smollm2-135m"
COUNTERS = re.compile(
    r"^llamacpp:(tokens_predicted_total|prompt_tokens_total) ([\d.e+]+)", re.MULTILINE
)


def main() -> None:
    """Run the job, then check the counts."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    with model_server(options.model_python) as address:
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
    say(f"\nThe report: {page.resolve()}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model-python", required=True, help="python that has xllamacpp")
    parser.add_argument("--out", type=Path, default=Path("accept-output"))
    parser.add_argument("--seconds", type=float, default=60, help="how long the application talks")
    return parser.parse_args()


def _drive(base_url: str, seconds: float) -> None:
    load = Workload(model=MODEL, rate=0.3, duration=seconds, max_tokens=16, think=2.0)
    say(f"  {drive(base_url, load, api_key='none-needed')} calls made")


@contextlib.contextmanager
def model_server(python: str) -> Iterator[str]:
    """The model server while the block runs; yields its address. It is ended by SIGKILL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("model_server.py")
    command = [python, str(script), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_healthy(address, process)
        yield address
    finally:
        process.kill()
        process.wait()


def wait_until_healthy(address: str, process: subprocess.Popen[bytes]) -> None:
    """Wait up to a minute for the model to be loaded."""
    for _ in range(120):
        if process.poll() is not None:
            sys.exit(
                f"the model server ended with {process.returncode}; run model_server.py by hand"
            )
        with contextlib.suppress(OSError):
            get(f"{address}/health")
            return
        time.sleep(0.5)
    sys.exit("the model server did not become healthy within a minute")


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
    whole = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    answer: dict[str, Any] = json.loads(whole.stdout)
    return answer


def usage_by_hand(trace: Path) -> tuple[int, int]:
    """Prompt and output tokens summed over the trace's answers, by json alone."""
    from capture import read_trace  # noqa: PLC0415 (only the container is ours, not the parsing)

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
