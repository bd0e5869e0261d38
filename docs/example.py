"""tbench from a program: read a trace, replay it against two targets, compare.

python docs/example.py TRACE BASELINE_URL CANDIDATE_URL
"""

import sys
from collections import Counter

import tbench


def main(trace: str, baseline_url: str, candidate_url: str) -> None:
    """Print what the trace holds and how the second target compares with the first."""
    outcomes = Counter(exchange.outcome for exchange in tbench.read_trace(trace))
    print("captured:", *(f"{outcome} {count}" for outcome, count in outcomes.items()))

    runs = [
        tbench.replay(trace, base_url=url, speed=2, warmup="none")
        for url in (baseline_url, candidate_url)
    ]
    found = tbench.compare(runs[0].path, runs[1].path, metrics=["ttft"], quantiles=[0.5])
    for row in found.rows:
        print(
            f"{row.metric} p{row.quantile * 100:g}: candidate/baseline {row.ratio:.2f}, "
            f"interval {row.low} to {row.high} ({row.confidence}), n {row.n_candidate}"
        )


if __name__ == "__main__":
    try:
        main(*sys.argv[1:4])
    except tbench.TbenchError as error:
        sys.exit(str(error))
