"""Make a synthetic run file of any size: log-normal latencies, seeded.

    python benchmarks/make_run.py OUT --samples 1000000 --seed 1 [--factor 1.05]

Latencies are log-normal, so that every quantile is known; `--factor` multiplies them all, so that two files
make a known ratio. With `--tokens N` every stream has N output tokens and N events, whose stamps are written
as well. Requests have the ids of one trace, whatever the seed. A million samples take some 5 s.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from tbench.replay import columns as blocks
from tbench.replay.runfile import BLOCK_SAMPLES, RunWriter

TTFT_S, TTFT_SPREAD = 0.2, 0.5
TPOT_S, TPOT_SPREAD = 0.02, 0.25
"""Medians, times --factor, and the standard deviations of the logarithms; TTFT is from when it was sent."""


def block(first: int, n: int, args: argparse.Namespace, rng: np.random.Generator) -> dict[str, Any]:
    """The numbers of `n` samples from index `first` on."""
    due = (first + np.arange(n)) / args.rate
    sent = due + rng.exponential(0.0005, n)
    ttft = args.factor * rng.lognormal(np.log(TTFT_S), TTFT_SPREAD, n)
    tpot = args.factor * rng.lognormal(np.log(TPOT_S), TPOT_SPREAD, n)
    last = sent + ttft + tpot * (args.tokens - 1)
    failed = rng.random(n) < args.failures
    index = first + np.arange(n)
    absent = {
        name: np.full(n, blocks.ABSENT[np.dtype(kind).kind], dtype=kind)
        for name, kind in blocks.NUMBERS.items()
    }
    return absent | {
        "due": due,
        "sent": sent,
        "first_byte": sent + ttft,
        "first_token": np.where(failed, np.nan, sent + ttft),
        "first_answer": np.where(failed, np.nan, sent + ttft),
        "last_token": np.where(failed, np.nan, last),
        "end": np.where(failed, sent + 0.01, last + 0.0001),
        "sent_wall_ns": (1_750_000_000 + sent) * 1e9,
        "first_wall_ns": (1_750_000_000 + sent + ttft) * 1e9,
        "index": index,
        "cycle": np.zeros(n),
        "session": index // 6000 * 1000 + rng.integers(0, 1000, n),
        "status": np.where(failed, 503, 200),
        "prompt_tokens": rng.integers(20, 2000, n),
        "output_tokens": np.where(failed, -1, args.tokens),
        "coalesced": np.zeros(n),
        "token_events": np.where(failed, 0, args.tokens),
        "request_bytes": np.full(n, 1200),
        "response_bytes": np.full(n, 250 * args.tokens),
        "held": np.zeros(n),
        "waited": np.zeros(n),
        "connect": np.zeros(n),
        "stream": np.ones(n),
        "conn_reused": np.ones(n),
    }


def record(columns: dict[str, Any], model: str, rng: np.random.Generator) -> dict[str, Any]:
    """The record of a block; `columns.pack` takes words and names one by one, here they are arrays."""
    n, failed = len(columns["index"]), columns["status"] == 503
    either = {
        "endpoint": ("chat", "chat"),
        "model": (model, model),
        "outcome": ("ok", "http_error"),
    }
    either |= {"error": (None, "overloaded"), "finish_reason": ("stop", None)}
    words = {}
    for name, pair in either.items():
        table = [word for word in dict.fromkeys(pair) if word is not None]
        codes = [blocks.ABSENT_CODE if word is None else table.index(word) for word in pair]
        words[name] = {"codes": np.where(failed, codes[1], codes[0]).astype("<u2").tobytes()}
        words[name]["table"] = table
    ids = np.random.default_rng(int(columns["index"][0])).bytes(16 * n)
    names = {"id": ids, "request_id": rng.bytes(16 * n)}
    return {
        "type": "samples",
        "n": n,
        "numbers": {
            name: columns[name].astype(kind).tobytes() for name, kind in blocks.NUMBERS.items()
        },
        "words": words,
        "names": {
            name: {"width": 32, "bytes": data.hex().encode()} for name, data in names.items()
        },
    }


def tokens(columns: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The token stamps of a block: gaps of the sample's mean, give or take a fifth."""
    gaps = np.maximum(columns["token_events"] - 1, 0).astype(np.int64)
    mean_us = (columns["last_token"] - columns["first_token"]) * 1e6 / np.maximum(gaps, 1)
    each = np.repeat(np.nan_to_num(mean_us), gaps) * rng.normal(1, 0.2, gaps.sum()).clip(0.1, 2)
    return blocks.tokens_record(columns["index"], gaps, each)


def make(args: argparse.Namespace) -> Path:
    """Write the file; returns its path."""
    rng = np.random.default_rng(args.seed)
    header = {
        "run_id": f"synthetic-{args.seed}",
        "wall_ns": 1_750_000_000 * 10**9,
        "clock": "user",
        "trace": {"path": "synthetic", "capture_id": "synthetic", "requests": args.samples},
        "pacing": {
            "mode": "constant",
            "value": args.rate,
            "open_loop": True,
            "meaning": f"open loop: one request every {1 / args.rate:g} s",
        },
        "target": {"base_url": "http://synthetic", "model": args.model},
        "deadlines": {"total": 600.0},
    }
    writer = RunWriter(args.out, header, clock=time.monotonic)
    failed = 0
    for first in range(0, args.samples, BLOCK_SAMPLES):
        columns = block(first, min(BLOCK_SAMPLES, args.samples - first), args, rng)
        failed += int((columns["status"] == 503).sum())
        writer.append(record(columns, args.model, rng), first=first)
        writer.append(tokens(columns, rng))
    totals = {
        "planned": args.samples,
        "completed": args.samples - failed,
        "failed": failed,
        "cancelled": 0,
        "lost_in_flight": 0,
        "never_sent": 0,
        "skipped": {},
        "warmup_s": 0.0,
        "ended_by": "plan",
    }
    return writer.close(totals)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--factor", type=float, default=1.0, help="multiplies every latency")
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second")
    parser.add_argument("--tokens", type=int, default=50, help="output tokens of each stream")
    parser.add_argument("--failures", type=float, default=0.01, help="share of 503s")
    parser.add_argument("--model", default="synthetic-model")
    print(make(parser.parse_args()))


if __name__ == "__main__":
    main()
