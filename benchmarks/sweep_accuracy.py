"""`tbench benchmark` against a server that knows the truth, and beside genai-bench on the same server.

    make benchmarks/truthserver
    python benchmarks/sweep_accuracy.py [--repeats 3] [--answers long,short]
    make .venv-peers/.ok && python benchmarks/sweep_accuracy.py --venvs .venv-peers     # genai-bench, too

The server has core 0, each client with all its processes core 1. A client's figures of a point (TTFT, TPOT,
end-to-end latency: mean, p50, p99; tokens/s and requests/s) are held against what the server's own notes of
the same requests give: times from the kernel's stamp of a request's arrival, rates over the time from the
first arrival to the last end. Clients take turns; a figure is the median of the repeats.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from engine import serving
from peers import OFFLINE, QUIET

from tbench.replay.runfile import read_run

HERE = Path(__file__).parent
POINTS = (1, 64, 256)
LEVELS = ("mean", "p50", "p99")
LATENCIES = ("ttft", "tpot", "e2e_latency")
RATES = ("mean_output_throughput_tokens_per_s", "requests_per_second")

Figures = dict[str, float]
"""`ttft.mean` and so on in seconds; rates by their names in the results."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the server says to every request: its first token, and the others at a distance, ms."""

    tokens: int
    ttft_ms: float
    itl_ms: float

    @property
    def seconds(self) -> float:
        return (self.ttft_ms + self.itl_ms * (self.tokens - 1)) / 1e3


ANSWERS = {
    "long": Answer(tokens=100, ttft_ms=100, itl_ms=20),
    "short": Answer(tokens=10, ttft_ms=20, itl_ms=20),
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One point for one client: where the server is, what to ask for, and where results go."""

    url: str
    answer: Answer
    concurrency: int
    requests: int
    venv: Path
    tokenizer: Path | None
    out: Path

    @property
    def flags(self) -> list[str]:
        """The same for both: they are genai-bench's."""
        named = ("--model-tokenizer", str(self.tokenizer)) if self.tokenizer else ()
        return [
            *("benchmark", "--api-backend", "together", "--api-base", self.url, *named),
            *("--api-model-name", "sim", "--task", "text-to-text"),
            *("--traffic-scenario", f"D(100,{self.answer.tokens})"),
            *("--num-concurrency", str(self.concurrency), "--max-time-per-run", "5"),
            *("--max-requests-per-run", str(self.requests)),
            *("--experiment-base-dir", str(self.out), "--experiment-folder-name", "x"),
        ]


def tbench(job: Job) -> list[str]:
    """Our command."""
    return [sys.executable, "-m", "tbench", *job.flags, "--no-summary", "--num-workers", "1"]


def genai_bench(job: Job) -> list[str]:
    """Its command."""
    keys = ("--api-key", "x", "--model-api-key", "x", "--spawn-rate", str(job.concurrency))
    return [str(job.venv / "bin/genai-bench"), *job.flags, *keys]


CLIENTS: Mapping[str, Callable[[Job], list[str]]] = {"tbench": tbench, "genai-bench": genai_bench}


def main() -> None:
    """Every answer at every point by every client in turns; a table for each client."""
    options = _options()
    clients = ["tbench", *(["genai-bench"] if options.venvs else [])]
    print(f"# load average before: {os.getloadavg()[0]:.2f}", file=sys.stderr)
    rows = []
    for name in options.answers.split(","):
        for concurrency in map(int, options.points.split(",")):
            rows += list(_turns(name, concurrency, clients, options))
    print(table(rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--server", default=str(HERE / "truthserver"))
    parser.add_argument("--venvs", type=Path, help="where make bench-peers put genai-bench")
    parser.add_argument("--answers", default=",".join(ANSWERS))
    parser.add_argument("--points", default=",".join(map(str, POINTS)), help="requests in flight")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="about, of each point")
    return parser.parse_args()


def _turns(
    name: str, concurrency: int, clients: list[str], options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """One row for each client: medians over the repeats, in which the clients take turns."""
    seen: dict[str, list[tuple[Figures, Figures]]] = {client: [] for client in clients}
    for _ in range(options.repeats):
        for client in clients:
            seen[client].append(measure(client, ANSWERS[name], concurrency, options))
    for client, pairs in seen.items():
        said, true = (_medians([pair[side] for pair in pairs]) for side in (0, 1))
        off = _medians([errors(*pair) for pair in pairs])
        row = {"client": client, "answer": name, "concurrency": concurrency}
        yield {**row, "said": said, "true": true, "off": off}
        print(json.dumps({**row, "said": said, "true": true, "off": off}), flush=True)


def _medians(rows: list[Figures]) -> Figures:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def errors(said: Figures, true: Figures) -> Figures:
    """What was said over what is true, less 1."""
    return {key: said[key] / true[key] - 1 for key in true}


def measure(
    client: str, answer: Answer, concurrency: int, options: argparse.Namespace
) -> tuple[Figures, Figures]:
    """One point by one client: what it says, and what is true."""
    rounds = max(3, round(options.seconds / answer.seconds))
    flags = ("--ttft-ms", str(answer.ttft_ms), "--itl-ms", str(answer.itl_ms))
    venvs = options.venvs or Path()
    tokenizer = (venvs / "tokenizer").absolute()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        with serving(options.server, flags, out, tls=False) as (url, _):
            job = Job(
                url=url,
                answer=answer,
                concurrency=concurrency,
                requests=rounds * concurrency,
                venv=(venvs / client).absolute(),
                tokenizer=tokenizer if tokenizer.exists() else None,
                out=out,
            )
            _run(CLIENTS[client](job), out)
            return reported(out), truth(_notes(url), _asked(out))


def _run(command: list[str], out: Path) -> None:
    environ = {**os.environ, **QUIET, **OFFLINE, "TOGETHER_API_KEY": "x"}
    log = out / "log.txt"
    with log.open("w") as file:
        done = subprocess.run(
            ["taskset", "-c", "1", *command],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=out,
            env=environ,
            check=False,
        )
    if done.returncode:
        sys.exit(f"{command[0]} ended with {done.returncode}:\n{log.read_text()[-2000:]}")


def reported(out: Path) -> Figures:
    """From the result of the point, whose schema is the same for both."""
    path = next(path for path in (out / "x").glob("*_time_*s.json"))
    found = json.loads(path.read_text())["aggregated_metrics"]
    times = {f"{of}.{level}": found["stats"][of][level] for of in LATENCIES for level in LEVELS}
    return {**times, **{name: found[name] for name in RATES}}


def _asked(out: Path) -> set[str] | None:
    """The requests of the point itself, where a client names them; else all are."""
    runs = [read_run(path) for path in (out / "x").glob("runs/*.run")]
    return {str(one) for run in runs for one in run.columns["id"].tolist()} or None


def _notes(url: str) -> list[dict[str, str]]:
    """What the server noted of every answer that it gave to the end."""
    with urllib.request.urlopen(f"{url}/_truth", timeout=60) as answer:
        rows = csv.DictReader(answer.read().decode().splitlines())
    return [row for row in rows if row["status"] == "1" and row["kind"] == "c"]


def truth(notes: list[dict[str, str]], asked: set[str] | None) -> Figures:
    """The same figures from the server's notes."""
    rows = [row for row in notes if asked is None or row["id"] in asked]
    came, first, ended, tokens = (
        np.array([int(row[name]) for row in rows], dtype=float)
        for name in ("arr_kern", "first_real", "end_mono", "tokens")
    )
    ended += np.array([int(row["arr_real"]) - int(row["arr_mono"]) for row in rows])
    spread = {
        "ttft": (first - came) / 1e9,
        "tpot": (ended - first) / 1e9 / (tokens - 1),
        "e2e_latency": (ended - came) / 1e9,
    }
    span = float(ended.max() - came.min()) / 1e9
    times = {f"{of}.{level}": LEVEL[level](spread[of]) for of in LATENCIES for level in LEVELS}
    return {**times, RATES[0]: float(tokens.sum()) / span, RATES[1]: len(rows) / span}


LEVEL: Mapping[str, Callable[[np.ndarray], float]] = {
    "mean": lambda values: float(values.mean()),
    "p50": lambda values: float(np.percentile(values, 50)),
    "p99": lambda values: float(np.percentile(values, 99)),
}


SHOWN = {
    "ttft.mean": ("TTFT mean, ms", 1e3),
    "ttft.p99": ("p99", 1e3),
    "tpot.mean": ("TPOT mean, ms", 1e3),
    "tpot.p99": ("p99", 1e3),
    "e2e_latency.mean": ("e2e mean, ms", 1e3),
    "e2e_latency.p99": ("p99", 1e3),
    RATES[0]: ("tokens/s", 1.0),
    RATES[1]: ("requests/s", 1.0),
}
"""Figure -> its heading and scale in the table."""


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown: what is said, and in brackets how far that is from the truth of the same requests."""
    heads = ["answer", "in flight", "client", *(head for head, _ in SHOWN.values())]
    heads += ["furthest from the truth", "furthest from tbench"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        ours = next(one for one in rows if _same(one, row) and one["client"] == "tbench")
        lines.append("| " + " | ".join(_cells(row, ours)) + " |")
    return "\n".join(lines)


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[key] == other[key] for key in ("answer", "concurrency"))


def _cells(row: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    answer = ANSWERS[row["answer"]]
    what = f"{answer.tokens} tokens, {answer.ttft_ms:g} + {answer.itl_ms:g} ms"
    cells = [
        f"{row['said'][key] * scale:,.2f} ({row['off'][key]:+.2%})"
        for key, (_, scale) in SHOWN.items()
    ]
    beside = "" if row is ours else _furthest(errors(row["said"], ours["said"]))
    return [what, str(row["concurrency"]), row["client"], *cells, _furthest(row["off"]), beside]


def _furthest(off: Figures) -> str:
    """Of all figures, those that are not shown included."""
    name = max(off, key=lambda key: abs(off[key]))
    return f"{name} {off[name]:+.2%}"


if __name__ == "__main__":
    main()
