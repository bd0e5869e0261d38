"""Other load generators beside tbench: the same server, the same load, one core each, in one run.

    make bench-peers
    python benchmarks/peers.py --venvs .venv-peers [--peers aiperf,...] [--loads closed,...] [--share 0.1]

The server (benchmarks/truthserver) has core 0; each client with all its processes has core 1, and its own
virtual environment. What a client reports is set against what the server saw: `truth` is the server's first
write less the kernel's stamp of the request's arrival. CPU is of the whole client, start and report included;
the numbers of requests are so large that the start decides little, and each client is also run with a
fiftieth of them, so that what a request costs after the start is known by itself. wrk, which only counts,
is what C needs for the same traffic. A client that cannot be run is a row that says so.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from engine import serving, write_trace

HERE = Path(__file__).parent
PATIENCE_S = 600.0
SMALL = 50
"""So many times fewer requests show what the start takes."""
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}
"""Every client is compiled once, as an installed program is, not at each start."""
QUIET = {"NO_COLOR": "1", "TERM": "dumb", "ENABLE_UI": "false", "CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True, kw_only=True)
class Load:
    """A closed loop: so many in flight, until so many requests have ended.

    `requests` are ours; a peer has as many as it ends in some minutes. genai-bench drops every answer of one
    token, so `tokens` is 2 for a short answer there, and a row by itself tells ours with 1.
    """

    concurrency: int
    requests: int
    peers: int
    tokens: int
    server: tuple[str, ...]


NO_DELAY = ("--ttft-ms", "0", "--itl-ms", "0", "--force-tokens")
PACED = ("--ttft-ms", "100", "--itl-ms", "20", "--force-tokens")
LOADS = {
    "64 x 1": Load(concurrency=64, requests=40_000, peers=8_000, tokens=1, server=NO_DELAY),
    "64 x 2": Load(concurrency=64, requests=40_000, peers=8_000, tokens=2, server=NO_DELAY),
    "64 x 50": Load(concurrency=64, requests=20_000, peers=4_000, tokens=50, server=NO_DELAY),
    "200 x 50 paced": Load(concurrency=200, requests=5_000, peers=3_000, tokens=50, server=PACED),
}
"""Name -> load: in flight x tokens, as fast as the server writes, or at 20 ms a token after 100 ms."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a client finds things: the server, its program, its tokenizer, and a folder for its results."""

    url: str
    bin: Path
    tokenizer: Path
    out: Path


Reported = dict[str, float]
"""The TTFT that a client reports: `mean`, `p50`, `p99`, milliseconds."""


def aiperf(load: Load, at: Place) -> list[str]:
    """Its command."""
    return [
        *(str(at.bin / "aiperf"), "profile", "-m", "sim", "--url", at.url),
        *("--endpoint-type", "chat", "--streaming", "--concurrency", str(load.concurrency)),
        *("--request-count", str(load.requests), "--isl", "32", "--osl", str(load.tokens)),
        *("--tokenizer", str(at.tokenizer), "--ui", "none", "--artifact-dir", str(at.out)),
        *("--no-gpu-telemetry", "--no-server-metrics", "--export-level", "records"),
    ]


def aiperf_said(out: Path) -> Reported:
    """From its export."""
    found = json.loads(next(out.rglob("profile_export_aiperf.json")).read_text())
    ttft = found["time_to_first_token"]
    return {"mean": ttft["avg"], "p50": ttft["p50"], "p99": ttft["p99"]}


def guidellm(load: Load, at: Place) -> list[str]:
    """Its command."""
    return [
        *(str(at.bin / "guidellm"), "run", "--backend"),
        f"kind=openai_http,target={at.url},model=sim",
        *("--profile", f"kind=concurrent,streams={load.concurrency}"),
        *("--constraint", f"kind=max_requests,count={load.requests}"),
        *("--tokenizer", f"kind=hf_auto,model={at.tokenizer}"),
        *("--data", f"kind=synthetic_text,prompt_tokens=32,output_tokens={load.tokens}"),
        *("--output", f"kind=json,path={at.out}/b.json", "--disable-console"),
    ]


def guidellm_said(out: Path) -> Reported:
    """From its export."""
    found = json.loads((out / "b.json").read_text())
    ttft = found["benchmarks"][0]["metrics"]["time_to_first_token_ms"]["successful"]
    spread = ttft["percentiles"]
    return {"mean": ttft["mean"], "p50": spread["p50"], "p99": spread["p99"]}


def genai_bench(load: Load, at: Place) -> list[str]:
    """Its command, with its Together backend."""
    return [
        *(str(at.bin / "genai-bench"), "benchmark", "--api-backend", "together"),
        *(
            "--api-base",
            at.url,
            "--api-key",
            "x",
            "--model-api-key",
            "x",
            "--api-model-name",
            "sim",
        ),
        *("--model-tokenizer", str(at.tokenizer), "--task", "text-to-text"),
        *("--traffic-scenario", f"D(32,{load.tokens})", "--num-concurrency", str(load.concurrency)),
        *("--max-time-per-run", "5", "--max-requests-per-run", str(load.requests)),
        *("--experiment-base-dir", str(at.out), "--experiment-folder-name", "x"),
        *("--spawn-rate", str(load.concurrency)),
    ]


def genai_bench_said(out: Path) -> Reported:
    """From its export, which is in seconds."""
    path = next(path for path in out.rglob("*.json") if "concurrency" in path.name)
    ttft = json.loads(path.read_text())["aggregated_metrics"]["stats"]["ttft"]
    return {name: ttft[name] * 1e3 for name in ("mean", "p50", "p99")}


def tbench(load: Load, at: Place) -> list[str]:
    """Ours."""
    trace = at.out / "t.msgpack"
    write_trace(trace, load.requests, load.tokens)
    return [
        *(sys.executable, "-m", "tbench", "replay", str(trace), "--base-url", at.url),
        *("--concurrency", str(load.concurrency), "--warmup", "none", "--workers", "1"),
        *("-o", str(at.out / "o.run"), "--json"),
    ]


def tbench_said(out: Path) -> Reported:
    """From what it prints."""
    ttft = json.loads((out / "log.txt").read_text().splitlines()[-1])["ttft_s"]
    return {name: ttft[name] * 1e3 for name in ("mean", "p50", "p99")}


def wrk(load: Load, at: Place) -> list[str]:
    """Its command: for a time, not for a number of requests."""
    script = at.out / "post.lua"
    body = '{"model":"m","stream":true,"messages":[{"role":"user","content":"%s"}]}' % (
        "word " * 40
    )
    script.write_text(
        f"wrk.method = 'POST'\nwrk.body = '{body}'\nwrk.headers['Content-Type'] = 'application/json'\n"
    )
    return [
        *("wrk", "-t1", f"-c{load.concurrency}", "-d10s", "--timeout", "30s", "-s", str(script)),
        f"{at.url}/v1/chat/completions",
    ]


def wrk_said(_out: Path) -> Reported:
    """It knows no tokens."""
    return {}


CLIENTS: Mapping[str, tuple[Callable[[Load, Place], list[str]], Callable[[Path], Reported]]] = {
    "tbench": (tbench, tbench_said),
    "wrk": (wrk, wrk_said),
    "aiperf": (aiperf, aiperf_said),
    "guidellm": (guidellm, guidellm_said),
    "genai-bench": (genai_bench, genai_bench_said),
}


def main() -> None:
    """Run every client on every load, and print a row for each."""
    options = _options()
    rows = []
    for load in options.loads.split(","):
        ours: dict[str, Any] | None = None
        for name in ["tbench", *options.peers.split(",")]:
            row = {"client": name, "load": load, **_both(name, load, options)}
            ours = ours or row
            rows.append({**row, **_against(ours, row)})
            print(json.dumps(rows[-1]), flush=True)
    print(table(rows))


def _both(name: str, load: str, options: argparse.Namespace) -> dict[str, Any]:
    """A client on a load, and what a request costs it once it is under way."""
    whole = measure(name, _sized(name, load, options.share), options)
    if name == "wrk" or not whole.get("answers"):
        return whole
    small = measure(name, _sized(name, load, options.share / SMALL), options)
    more = whole["answers"] - small.get("answers", whole["answers"])
    if more <= 0:
        return whole
    return {**whole, "after_start_us": (whole["cpu_s"] - small["cpu_s"]) / more * 1e6}


def _sized(name: str, load: str, share: float) -> Load:
    """A load with the client's own number of requests, and the server told its tokens."""
    found = LOADS[load]
    count = found.requests if name == "tbench" else found.peers
    return replace(
        found,
        requests=max(found.concurrency, round(count * share)),
        server=(*found.server, "--tokens", str(found.tokens)),
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--server", default=str(HERE / "truthserver"))
    parser.add_argument("--venvs", type=Path, default=Path(".venv-peers"))
    parser.add_argument("--peers", default="wrk,aiperf,guidellm,genai-bench")
    parser.add_argument("--loads", default=",".join(LOADS))
    parser.add_argument("--share", type=float, default=1.0, help="of the requests of each load")
    return parser.parse_args()


def measure(name: str, load: Load, options: argparse.Namespace) -> dict[str, Any]:
    """One client on one load."""
    command, said = CLIENTS[name]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        with serving(options.server, load.server, out, tls=False) as (url, _):
            at = Place(
                url=url,
                bin=(options.venvs / name / "bin").absolute(),
                tokenizer=(options.venvs / "tokenizer").absolute(),
                out=out,
            )
            try:
                used = _run(command(load, at), out, _environ(name))
            except (OSError, subprocess.TimeoutExpired) as error:
                return {"trouble": str(error)[:120]}
            seen = _truth(url)
        return {**used, **seen, **_reported(said, out)}


def _environ(name: str) -> dict[str, str]:
    offline = {} if name == "aiperf" else OFFLINE  # with these it refuses a local tokenizer
    return {**os.environ, **QUIET, **offline, **COMPILED}


def _run(command: list[str], out: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    before, began = os.times(), time.monotonic()
    with (out / "log.txt").open("w") as log:
        done = subprocess.run(
            ["taskset", "-c", "1", *command],
            stdout=log,
            stderr=subprocess.DEVNULL,
            cwd=out,
            env=environ,
            timeout=PATIENCE_S,
            check=False,
        )
    after = os.times()
    cpu = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return {"exit": done.returncode, "wall_s": time.monotonic() - began, "cpu_s": cpu}


def _reported(said: Callable[[Path], Reported], out: Path) -> dict[str, Any]:
    try:
        return {"reported_ttft_ms": said(out)}
    except (StopIteration, OSError, KeyError, ValueError, TypeError, IndexError) as error:
        return {"trouble": f"its report: {type(error).__name__} {error}"[:120]}


def _truth(url: str) -> dict[str, Any]:
    """What the server saw of a client."""
    with urllib.request.urlopen(f"{url}/_truth", timeout=60) as answer:
        rows = list(csv.DictReader(answer.read().decode().splitlines()))
    rows = [row for row in rows if row["status"] == "1" and row["kind"] == "c"]
    if not rows:
        return {"answers": 0}
    begun = np.array([int(row["arr_mono"]) for row in rows]) / 1e9
    ended = np.array([int(row["end_mono"]) for row in rows]) / 1e9
    ttft = np.array([(int(row["first_real"]) - int(row["arr_kern"])) / 1e6 for row in rows])
    span = float(ended.max() - begun.min())
    return {
        "answers": len(rows),
        "requests_per_s": len(rows) / span,
        "streams_held": float((ended - begun).sum() / span),
        "truth_ttft_ms": {
            "mean": float(ttft.mean()),
            "p50": float(np.quantile(ttft, 0.5)),
            "p99": float(np.quantile(ttft, 0.99)),
        },
    }


def _against(ours: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """How a client compares with tbench on the same load."""
    if "cpu_s" not in row or not row.get("answers"):
        return {}
    found: dict[str, Any] = {"requests_per_cpu_s": row["answers"] / row["cpu_s"]}
    if "cpu_s" in ours and ours.get("answers"):
        mine = ours["answers"] / ours["cpu_s"]
        found["times"] = mine / found["requests_per_cpu_s"]
    if "after_start_us" in ours:
        cost = row.get("after_start_us", row["cpu_s"] / row["answers"] * 1e6)
        found["times_after_start"] = cost / ours["after_start_us"]
    if row.get("reported_ttft_ms"):
        said, true = row["reported_ttft_ms"], row["truth_ttft_ms"]
        found["ttft_error_ms"] = {name: said[name] - true[name] for name in said}
    return found


HEADS = (
    "load", "client", "answers", "req/s at the server", "streams held", "CPU s", "req per CPU s",
    "tbench: times", "CPU us a request after the start", "tbench: times", "TTFT reported, ms (mean/p50/p99)",
    "truth",
    "error of the mean, ms",
)  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = ["| " + " | ".join(HEADS) + " |", "|---" * len(HEADS) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(_cells(row)) + " |" for row in rows)])


def _cells(row: dict[str, Any]) -> list[str]:
    three = ("reported_ttft_ms", "truth_ttft_ms")
    reported, truth = (
        " / ".join(f"{value:,.2f}" for value in row[key].values())
        if row.get(key)
        else row.get("trouble", "")
        for key in three
    )
    error = row.get("ttft_error_ms", {}).get("mean")
    return [
        row["load"],
        row["client"],
        str(row.get("answers", "")),
        _figure(row.get("requests_per_s")),
        _figure(row.get("streams_held")),
        _figure(row.get("cpu_s")),
        _figure(row.get("requests_per_cpu_s")),
        _figure(row.get("times")),
        _figure(row.get("after_start_us")),
        _figure(row.get("times_after_start")),
        reported,
        truth,
        "" if error is None else f"{error:,.3f}",
    ]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


if __name__ == "__main__":
    main()
