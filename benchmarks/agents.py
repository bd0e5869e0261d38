"""How well the graph of agents is found again, and kept: precision, recall, and turns that came too early.

Conversations of 2 to 8 turns with tools and sub-agents go through the proxy by the makers' SDKs, which
know who waited for whom (tests/agents.py). `--replay` sends each trace again at several paces and workers and
asks the server's own log.
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

PACES: list[dict[str, Any]] = [
    *({"speed": speed, "workers": workers} for speed in (1.0, 4.0, 16.0) for workers in (1, 2)),
    {"concurrency_scale": 2.0, "until": "trace"},
    {"clones": 3.0, "speed": 4.0},
]


def main() -> None:
    """Print a line for each style of history and each pace."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conversations", type=int, default=200)
    parser.add_argument("--replay", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for style in ("verbatim", "trimmed", "rewritten"):
            world = World(lasts_s=0.005)
            began = time.monotonic()
            trace = captured(world, folder, arguments.conversations, style)
            seen = found(world, trace)
            edges = sum(map(len, world.before.values()))
            print(
                f"{style:<10} {len(world.before):,} requests, {edges:,} edges: precision and recall "
                f"{seen.edges[0]:.4f} {seen.edges[1]:.4f}, sessions {seen.sessions[0]:.4f} "
                f"{seen.sessions[1]:.4f} ({time.monotonic() - began:.0f} s)",
                flush=True,
            )
            if arguments.replay and style == "verbatim":
                for pace in PACES:
                    world.spans, world.lasts_s = {}, 0.03
                    with answering(world.answer) as server:
                        out = folder / f"{len(list(folder.iterdir()))}.run"
                        run = replay(trace, base_url=server.url, out=out, **pace)
                    early = world.too_early()
                    print(
                        f"  {pace}: {run.totals['completed']:,} sent, {early} too early", flush=True
                    )


if __name__ == "__main__":
    main()
