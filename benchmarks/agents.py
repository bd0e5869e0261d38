"""How well the graph of agents is found again, and kept: precision, recall, and turns that came too early.

    python benchmarks/agents.py [--replay] [--conversations 200] [--styles verbatim,...] [--folder FOLDER]

Conversations of 2 to 8 turns with tools and sub-agents go through the proxy by the makers' SDKs, which
know who waited for whom (tests/agents.py); their user thinks for 0.3 s between turns. `--replay` sends the
verbatim trace again at each pace, to a server slower than the recorded one, and asks that server's own log
which requests had come before an answer that they hold had begun to leave. FOLDER keeps what was captured and
each row: a run that was broken off goes on where it was.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tbench.replay.api import replay
from tests.agents import Said, Style, World
from tests.answering import answering
from tests.test_agents import captured, found

PACES: dict[str, dict[str, Any]] = {
    **{f"--speed {speed:g}": {"speed": speed} for speed in (1.0, 4.0, 16.0)},
    "--concurrency-scale 2 --until trace": {"concurrency_scale": 2.0, "until": "trace"},
    "--clones 3 --speed 4": {"clones": 3.0, "speed": 4.0},
    "--speed 4 --causal strict": {"speed": 4.0, "causal": "strict"},
}
"""The last one is what the log shows where nothing waits."""
WORKERS = (1, 2)
LASTS_S = 0.005, 0.03
"""How long an answer takes when it is recorded, and when it is replayed."""
THINKS_S = 0.3
STYLE_ROWS = """\
| history | requests | edges | edges: precision, recall | sessions: precision, recall |
|---|---|---|---|---|"""
PACE_ROWS = """
| pace | workers | answered | that hold an answer | later than scheduled | did not wait | came too early |
|---|---|---|---|---|---|---|"""


def conversations(folder: Path, style: Style, number: int) -> tuple[World, Path]:
    """What agents did, and its trace: captured once for each folder."""
    script = folder / f"{style}-{number}.json"
    trace = folder / f"{style}-{number}" / f"{style}.msgpack"
    world = World(lasts_s=LASTS_S[0])
    if script.exists():
        known = json.loads(script.read_text())
        world.answers = {node: Said(**said) for node, said in known["answers"].items()}
        world.before = {node: set(befores) for node, befores in known["before"].items()}
        world.home = known["home"]
        return world, trace
    trace.parent.mkdir(exist_ok=True)
    for part in trace.parent.iterdir():  # of a capture that was broken off
        part.unlink()
    captured(world, trace.parent, number, style, at_once=24, pause_s=THINKS_S)
    known = {
        "answers": {node: asdict(said) for node, said in world.answers.items()},
        "before": {node: sorted(befores) for node, befores in world.before.items()},
        "home": world.home,
    }
    script.write_text(json.dumps(known))
    return world, trace


def graph(style: str, world: World, trace: Path) -> str:
    """The row of a style."""
    seen = found(world, trace)
    edges = sum(map(len, world.before.values()))
    rates = " | ".join(
        f"{precision:.4f}, {recall:.4f}" for precision, recall in (seen.edges, seen.sessions)
    )
    return f"| {style} | {len(world.before):,} | {edges:,} | {rates} |"


def replayed(world: World, trace: Path, pace: str, workers: int, out: Path) -> str:
    """The row of a pace."""
    world.spans, world.lasts_s = {}, LASTS_S[1]
    out.unlink(missing_ok=True)
    with answering(world.answer) as server:
        run = replay(trace, base_url=server.url, out=out, workers=workers, **PACES[pace])
    totals, turns = run.totals, run.totals["turns"]
    if totals["ended_by"] == "interrupt":
        raise SystemExit(130)
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
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        folder.mkdir(exist_ok=True)
        print(STYLE_ROWS)
        for style in arguments.styles.split(","):
            began = time.monotonic()
            world, trace = conversations(folder, style, arguments.conversations)
            print(graph(style, world, trace), flush=True)
            print(f"# {style}: {time.monotonic() - began:.0f} s", file=sys.stderr)
        if not arguments.replay:
            return
        world, trace = conversations(folder, "verbatim", arguments.conversations)
        print(PACE_ROWS)
        for number, pace in enumerate(PACES):
            for workers in WORKERS:
                row = folder / f"{arguments.conversations}-{number}-{workers}.row"
                began = time.monotonic()
                if not row.exists():
                    line = replayed(world, trace, pace, workers, row.with_suffix(".run"))
                    row.write_text(line)
                print(row.read_text(), flush=True)
                print(f"# {pace}: {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
