"""The engine against a server that knows the truth: a real trace replayed, its run file held against it.

    make benchmarks/truthserver benchmarks/truthserver-tls
    python benchmarks/engine.py [--cases closed,streams200,...] [--repeats 5] [--senders engine] [--table]

The server has core 0, `tbench replay` with all its processes core 1. Everything counts: reading the trace,
building the requests, parsing the answers, writing the run. One JSON line for each repeat, and at the end a
line of medians for each case (`--table`: as Markdown). With `--turns 5` the requests are those of
conversations, each turn of which waits for the one before (`--causal max`); with `--edited 1` each but the
first words what the user said before anew, so that the answers of the trace are read to tell whose it is (of
`--edited 16` from the 17th turn on, those of all turns at once). TTFT error is our stamp of the
first token less the server's of its first write; the chunk error is the same for every token.
`cpu_us_per_request` is of the sending process while it sends; `whole_cpu_us` of all processes from start to
end.
"""

import argparse
import csv
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import trustme

from tbench.capture.exchange import Chunk, Exchange, Request, Response
from tbench.capture.records import TraceHeader
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.runfile import Run, read_run

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Case:
    """A load: what the server does, and what the replay is told. `ideal` is in requests/s."""

    name: str
    server: tuple[str, ...]
    pacing: tuple[str, ...]
    requests: int
    tokens: int = 1
    ideal: float | None = None
    tls: bool = False


def streams(number: int, seconds: float, *, tls: bool = False) -> Case:
    """`number` streams of 50 tokens at 20 ms in a closed loop, for about that long."""
    took = 0.100 + 49 * 0.020
    return Case(
        name=f"{number:,} streams x 50 tokens at 20 ms" + (", TLS" if tls else ""),
        server=("--ttft-ms", "100", "--itl-ms", "20", "--tokens", "50"),
        pacing=("--concurrency", str(number)),
        requests=number * round(seconds / took),  # whole rounds
        tokens=50,
        ideal=number / took,
        tls=tls,
    )


def lockstep(number: int, rounds: int) -> Case:
    """The same, begun together and equally long: the tokens of all come at once, and so do the ends."""
    return replace(
        streams(number, 0), name=f"{number:,} streams in lockstep", requests=number * rounds
    )


NO_DELAY = ("--ttft-ms", "0", "--itl-ms", "0", "--tokens", "1")
CASES = {
    "closed": Case(
        name="64 in flight, 1 token",
        server=NO_DELAY,
        pacing=("--concurrency", "64"),
        requests=30_000,
    ),
    "streams200": streams(200, 10),
    "streams1000": streams(1000, 10),
    "minutes": streams(1000, 300),
    "lockstep1000": lockstep(1000, 12),
    "lockstep2000": lockstep(2000, 6),
    "streams5000": Case(
        name="5,000 streams x 50 tokens at 100 ms",
        server=("--ttft-ms", "100", "--itl-ms", "100", "--tokens", "50"),
        pacing=("--constant", "1000"),
        requests=5000,
        tokens=50,
    ),
    "tls": streams(200, 10, tls=True),
    "open": Case(
        name="open loop, 1,000 requests/s, 1 token",
        server=NO_DELAY,
        pacing=("--constant", "1000"),
        requests=10_000,
        ideal=1000.0,
    ),
}
WIDTH = 1_000
USUAL = "closed,streams200,streams1000,lockstep1000,lockstep2000,streams5000,tls,open"


def main() -> None:
    """Run every case with every sender and print a row for each."""
    options = _options()
    print(f"# load average before: {os.getloadavg()[0]:.2f}", file=sys.stderr)
    medians = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.cases.split(","):
            for sender in options.senders.split(","):
                rows = []
                for _ in range(1 if name == "minutes" else options.repeats):
                    rows.append(measure(CASES[name], sender, options, Path(folder)))
                    print(json.dumps({"case": name, "sender": sender, **rows[-1]}), flush=True)
                medians.append({"case": CASES[name].name, "sender": sender, **median(rows)})
    print(table(medians) if options.table else "\n".join(map(json.dumps, medians)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--server", default=str(HERE / "truthserver"), help="the server's binary")
    parser.add_argument("--senders", default="engine")
    parser.add_argument("--cases", default=USUAL, help=f"of {', '.join(CASES)}")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--share", type=float, default=1.0, help="of the requests of each case")
    parser.add_argument("--workers", default="1")
    parser.add_argument("--turns", type=int, default=1, help="of each conversation of the trace")
    parser.add_argument(
        "--edited", type=int, help="turns that quote the user as it was, before those that do not"
    )
    parser.add_argument("--table", action="store_true", help="the medians as a Markdown table")
    return parser.parse_args()


def measure(case: Case, sender: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Replay one case; what `replay --json`, the run file and the server say about it."""
    count = max(64, round(case.requests * options.share))
    trace = folder / f"{count}-{case.tokens}.msgpack"
    out, log = folder / "o.run", folder / "log"
    if not trace.exists():
        write_trace(trace, count, case.tokens, options.turns, options.edited)
    for old in (out, Path(f"{out}.part")):
        old.unlink(missing_ok=True)
    flags = [*case.pacing, "--sender", sender, "--workers", options.workers]
    with serving(
        options.server, (*case.server, "--chunk-log", str(log)), folder, tls=case.tls
    ) as at:
        url, trusted = at
        said, cost = replayed(trace, url, out, [*flags, *trusted])
        truth = read_truth(url, folder / "ca.pem")
    found = figures(case, said, cost, read_run(out), truth)
    errors = chunk_errors(read_run(out), truth, log) if case.tokens > 1 else np.array([])
    return {**found, **quantiles("chunk_error_us", errors)}


def replayed(
    trace: Path, url: str, out: Path, flags: list[str]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Run `tbench replay` on core 1; its JSON, and what it cost from start to end."""
    command = ["taskset", "-c", "1", sys.executable, "-m", "tbench", "replay", str(trace)]
    command += ["--base-url", url, "--warmup", "none", "--json", "-o", str(out), *flags]
    before, began = os.times(), time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},  # compiled once, as if installed
    )
    memory = Memory(process.pid)
    text, errors = process.communicate()
    after = os.times()
    memory.stop()
    if not text:
        sys.exit(errors)
    used = after.children_user + after.children_system
    cost = {
        "cpu_s": used - before.children_user - before.children_system,
        "wall_s": time.monotonic() - began,
        "rss_mb": memory.peak / 2**20,
        "rss_slope_mb_per_min": memory.slope / 2**20 * 60,
    }
    return json.loads(text), cost


class Memory:
    """The resident memory of a process and its children, sampled four times a second."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._seen: list[tuple[float, int]] = []
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    @property
    def peak(self) -> int:
        """Bytes."""
        return max((size for _, size in self._seen), default=0)

    @property
    def slope(self) -> float:
        """Bytes per second over the second half of the time."""
        late = self._seen[len(self._seen) // 2 : -8]
        if len(late) < 20:
            return 0.0
        times, sizes = zip(*late, strict=True)
        return float(np.polyfit(times, sizes, 1)[0])

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            with suppress(OSError):
                self._seen.append((time.monotonic(), resident(self._pid)))


def resident(pid: int) -> int:
    """Bytes of a process and its children; pages that they share count in each."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(resident(int(child)) for child in children)


def figures(
    case: Case,
    said: dict[str, Any],
    cost: dict[str, float],
    run: Run,
    truth: dict[str, tuple[int, int]],
) -> dict[str, Any]:
    """One row, but for the chunks."""
    client = run.totals["client"]
    done = max(1, said["completed"])
    sending = (client["cpu_share"] or 0.0) * said["duration_s"]
    return {
        "completed": said["completed"],
        "failed": said["failed"],
        "lost": said["lost_in_flight"] + said["never_sent"],
        "requests_per_s": said["requests_per_s"],
        "of_ideal": case.ideal and said["requests_per_s"] / case.ideal,
        "cpu_us_per_request": sending / done * 1e6,
        "whole_cpu_us": cost["cpu_s"] / done * 1e6,
        "wall_s": cost["wall_s"],
        "rss_mb": cost["rss_mb"],
        "rss_slope_mb_per_min": cost["rss_slope_mb_per_min"],
        **quantiles("ttft_error_us", first_errors(run, truth)),
        **{f"lag_us_{k}": v * 1e6 for k, v in said["lag_s"].items() if v and k in {"p50", "p99"}},
        "clock": said["clock"],
        "coalesced_share": run.totals["coalesced_share"],
        "cpu_share": client["cpu_share"],
        "valid": said["valid"],
        **{name: run.totals["turns"][name] for name in ("continued", "waited", "early", "severed")},
    }


def first_errors(run: Run, truth: dict[str, tuple[int, int]]) -> np.ndarray:
    """Our stamp of each first token less the server's of its first write, us."""
    rows = zip(run.columns["id"], run.columns["first_wall_ns"], strict=True)
    found = [(at - truth[key][1]) / 1e3 for key, at in rows if at > 0 and key in truth]
    return np.array(found)


def chunk_errors(run: Run, truth: dict[str, tuple[int, int]], log: Path) -> np.ndarray:
    """The same for every token, us."""
    writes = np.fromfile(log, dtype=[("seq", "u8"), ("token", "u8"), ("at", "i8")])
    writes = writes[np.lexsort((writes["token"], writes["seq"]))]
    known, edges = np.unique(writes["seq"], return_index=True)
    ends = [*edges[1:], len(writes)]
    spans = dict(zip(known.tolist(), zip(edges, ends, strict=True), strict=True))
    offsets, gaps = run.token_gaps
    errors = []
    for row, (key, first) in enumerate(
        zip(run.columns["id"], run.columns["first_wall_ns"], strict=True)
    ):
        if first <= 0 or key not in truth:
            continue
        start, end = spans[truth[key][0]]
        own = gaps[offsets[row] : offsets[row + 1]]
        if end - start == len(own) + 1:
            mine = first + np.concatenate(([0.0], np.cumsum(own.astype(float)))) * 1e9
            errors.append((mine - writes["at"][start:end]) / 1e3)
    return np.concatenate(errors) if errors else np.array([])


def quantiles(name: str, errors: np.ndarray) -> dict[str, float]:
    """Median, p99 and maximum."""
    if not len(errors):
        return {}
    levels = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {f"{name}_{key}": float(np.quantile(errors, level)) for key, level in levels.items()}


def median(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each figure over the repeats; of what is no figure, the worst."""
    found: dict[str, Any] = {"repeats": len(rows)}
    for key, first in rows[0].items():
        values = [row[key] for row in rows if row.get(key) is not None]
        if isinstance(first, bool):
            found[key] = all(values)
        elif isinstance(first, int | float) and values:
            found[key] = statistics.median(values)
        else:
            found[key] = first
    return found


COLUMNS = {
    "case": "case",
    "requests_per_s": "requests/s",
    "of_ideal": "of ideal",
    "ttft_error_us_p50": "TTFT error p50, us",
    "ttft_error_us_p99": "p99, us",
    "chunk_error_us_p50": "chunk error p50, us",
    "chunk_error_us_p99": "p99, us",
    "lag_us_p50": "lag p50, us",
    "lag_us_p99": "p99, us",
    "cpu_us_per_request": "CPU us/request, sending",
    "whole_cpu_us": "all in all",
    "rss_mb": "RSS MB",
    "lost": "lost",
    "failed": "failed",
    "continued": "turns",
    "early": "early",
}


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of the medians."""
    lines = ["| " + " | ".join(COLUMNS.values()) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(_cell(key, row.get(key)) for key in COLUMNS) + " |" for row in rows]
    return "\n".join(lines)


def _cell(key: str, value: object) -> str:
    if value is None:
        return ""
    if key == "of_ideal":
        return f"{value:.1%}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}"
    return str(value)


def write_trace(
    path: Path, requests: int, tokens: int, turns: int = 1, edited: int | None = None
) -> None:
    """A trace of that many streamed chat completions, 1 ms apart, of conversations of so many `turns`.

    WIDTH conversations take turns; a user thinks for 1 ms. From the turn `edited` on what the user said
    before is worded anew in each.
    """
    edited = turns if edited is None else edited
    took_ns = (WIDTH - 1) * 10**6 if turns > 1 else 0
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq in range(requests):
            turn, first = seq // WIDTH % turns, seq // (WIDTH * turns) * turns * WIDTH + seq % WIDTH
            anew = f", as of turn {turn}" if turn >= edited else ""
            messages = [{"role": "user", "content": f"request {first}{anew}: " + "word " * 40}]
            for place in range(turn):
                messages.append({"role": "assistant", "content": answer_of(first, place)})
                messages.append({"role": "user", "content": f"turn {place}{anew}: " + "word " * 40})
            fields = {"model": "m", "messages": messages, "stream": True, "max_tokens": tokens}
            answer = streamed(answer_of(first, turn), tokens) if turns > 1 else b""
            writer.exchange(chat(seq, fields, seq * 10**6, took_ns, answer))


def answer_of(conversation: int, turn: int) -> str:
    """What was answered; long enough to tell whose it is."""
    return f"the answer of conversation {conversation} to turn {turn}"


def streamed(text: str, tokens: int) -> bytes:
    """An answer as a stream of so many events: the text, and words behind it that are empty."""
    deltas = [text, *[""] * (tokens - 1)]
    events = [
        {"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant", "content": delta}}]}
        for delta in deltas
    ]
    return (
        b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in events)
        + b"data: [DONE]\n\n"
    )


def chat(
    seq: int, fields: Mapping[str, Any], at_ns: int, took_ns: int = 0, answer: bytes = b""
) -> Exchange:
    """A recorded chat completion with this JSON, arrived at that time and answered so much later."""
    body = json.dumps(fields).encode()
    request = Request(
        id=f"{seq:032x}",
        seq=seq,
        arrive_ns=at_ns,
        end_ns=at_ns,
        method="POST",
        scheme="http",
        host="recorded",
        path="/v1/chat/completions",
        headers=(("content-type", "application/json"),),
        body=body,
        body_bytes=len(body),
    )
    response = Response(head_ns=at_ns, end_ns=at_ns + took_ns, status=200)
    if answer:
        response.body, response.body_bytes = answer, len(answer)
        response.chunks = (Chunk(at_ns + took_ns, len(answer)),)
    return Exchange(request=request, response=response)


@contextmanager
def serving(
    binary: str, flags: tuple[str, ...], folder: Path, *, tls: bool
) -> Iterator[tuple[str, list[str]]]:
    """The server on core 0 and a free port; gives its base URL, and what makes it trusted."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    trusted: list[str] = []
    if tls:
        binary, sealed = f"{binary}-tls", _certified(folder)
        flags, trusted = (*flags, *sealed), ["--ca", str(folder / "ca.pem")]
    command = ["taskset", "-c", "0", binary, "--port", str(port), *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}", trusted
    finally:
        process.terminate()
        process.wait()


def _certified(folder: Path) -> tuple[str, ...]:
    """A throw-away authority and certificate."""
    ca = trustme.CA()
    own = ca.issue_cert("127.0.0.1")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    own.private_key_and_cert_chain_pem.write_to_path(folder / "own.pem")
    return ("--cert", str(folder / "own.pem"), "--key", str(folder / "own.pem"))


def read_truth(url: str, ca: Path) -> dict[str, tuple[int, int]]:
    """By id: the server's number of each request, and when it began to answer, CLOCK_REALTIME ns."""
    if url.startswith("https"):
        context = ssl.create_default_context(cafile=str(ca))
        with httpx.Client(verify=context) as client:
            text = client.get(f"{url}/_truth", timeout=60).text
    else:
        with urllib.request.urlopen(f"{url}/_truth", timeout=60) as answer:
            text = answer.read().decode()
    rows = csv.DictReader(text.splitlines())
    return {
        row["id"]: (int(row["seq"]), int(row["first_real"])) for row in rows if row["first_real"]
    }


if __name__ == "__main__":
    main()
