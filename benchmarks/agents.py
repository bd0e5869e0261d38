"""How well the graph of agents is found again, and kept: precision, recall, and turns that came too early.

    python benchmarks/agents.py [--replay] [--conversations 200] [--styles verbatim,trimmed,rewritten]

Conversations of 2 to 8 turns with tools and sub-agents go through the proxy by the makers' SDKs, which
know who waited for whom (tests/agents.py). `--replay` sends the verbatim trace again at each pace, to a
server slower than the recorded one, and asks that server's own log which requests had come before an answer
that they hold had begun to leave.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tbench.replay.api import replay
from tests.agents import World
from tests.answering import answering
from tests.test_agents import captured, found

PACES: dict[str, dict[str, Any]] = {
    **{f"--speed {speed:g}": {"speed": speed} for speed in (1.0, 4.0, 16.0)},
    "--concurrency-scale 2 --until trace": {"concurrency_scale": 2.0, "until": "trace"},
    "--clones 3 --speed 4": {"clones": 3.0, "speed": 4.0},
}
WORKERS = (1, 2)
LASTS_S = 0.005, 0.03
"""How long an answer takes when it is recorded, and when it is replayed."""


def replayed(world: World, trace: Path, pace: str, workers: int) -> str:
    """The row of a pace."""
    world.spans, world.lasts_s = {}, LASTS_S[1]
    out = trace.with_name(f"{len(list(trace.parent.iterdir()))}.run")
    with answering(world.answer) as server:
        run = replay(trace, base_url=server.url, out=out, workers=workers, **PACES[pace])
    totals, turns = run.totals, run.totals["turns"]
    holding = sum(len(world.spans[name]) for name, befores in world.before.items() if befores)
    return (
        f"| `{pace}` | {workers} | {totals['completed']:,} of {totals['planned']:,} | {holding:,} | "
        f"{turns['waited']:,} | {turns['severed'] + turns['forgotten']:,} | {world.too_early():,} |"
    )


def main() -> None:
    """Print a row for each style of history, and one for each pace."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--conversations", type=int, default=200)
    parser.add_argument("--styles", default="verbatim,trimmed,rewritten")
    parser.add_argument("--replay", action="store_true")
    arguments = parser.parse_args()
    verbatim: tuple[World, Path] | None = None
    with tempfile.TemporaryDirectory() as name:
        print(
            "| history | requests | edges | edges: precision, recall | sessions: precision, recall |"
        )
        print("|---|---|---|---|---|")
        for style in arguments.styles.split(","):
            world = World(lasts_s=LASTS_S[0])
            began = time.monotonic()
            trace = captured(world, Path(name), arguments.conversations, style, at_once=16)
            seen = found(world, trace)
            edges = sum(map(len, world.before.values()))
            rates = (
                f"{precision:.4f}, {recall:.4f}"
                for precision, recall in (seen.edges, seen.sessions)
            )
            print(
                f"| {style} | {len(world.before):,} | {edges:,} | {' | '.join(rates)} |", flush=True
            )
            print(f"# {style}: {time.monotonic() - began:.0f} s", file=sys.stderr)
            if style == "verbatim":
                verbatim = world, trace
        if arguments.replay and verbatim is not None:
            print(
                "\n| pace | workers | answered | that hold an answer | later than scheduled | did not wait |",
                end="",
            )
            print(" came too early |\n|---|---|---|---|---|---|---|")
            for pace in PACES:
                for workers in WORKERS:
                    began = time.monotonic()
                    print(replayed(*verbatim, pace, workers), flush=True)
                    print(f"# {pace}: {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
