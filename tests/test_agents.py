"""Agents with tools and sub-agents, captured from real SDKs: their DAG found again, and kept by a replay."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tbench.capture.trace_reader import read_trace
from tbench.replay.api import replay
from tbench.replay.closing import summary
from tbench.replay.plan import Plan, Planned
from tbench.replay.totals import numbers
from tests.agents import NODE, Said, Style, World, talk
from tests.answering import answering
from tests.conftest import Server

pytest.importorskip("openai", reason="the SDKs are extras of the tests")


@dataclass(frozen=True)
class Found:
    """Precision and recall of edges, and of pairs of requests that share a session."""

    edges: tuple[float, float]
    sessions: tuple[float, float]


def captured(
    world: World,
    folder: Path,
    conversations: int,
    style: Style,
    *,
    at_once: int = 8,
    pause_s: float = 0.0,
) -> Path:
    """A trace of agents at work, so many conversations at once, through tbench's own proxy."""
    trace = folder / f"{style}.msgpack"
    with answering(world.answer) as server:
        capture = Server("capture", "--upstream", server.url, "--port", 0, "-o", trace)
        try:
            talk(world, capture.url, conversations, style, at_once=at_once, pause_s=pause_s)
        finally:
            assert capture.stop() == 0
    world.spans.clear()
    return trace


def node(planned: Planned) -> str:
    return planned.exchange.request.header(NODE) or ""


def compared(true: set[Any], claimed: set[Any]) -> tuple[float, float]:
    right = len(true & claimed)
    return right / max(len(claimed), 1), right / max(len(true), 1)


def found(world: World, trace: Path) -> Found:
    """What a plan makes of a trace, beside what its agents did."""
    plan = list(Plan(trace=read_trace(trace).ends))
    names = [node(planned) for planned in plan]
    claimed = {
        (names[index], name)
        for planned, name in zip(plan, names, strict=True)
        for index in planned.after
    }
    true = {(before, name) for name, befores in world.before.items() for before in befores}
    assert Counter(names) == Counter(world.before.keys())
    homes = pairs((world.home[name], name) for name in names)
    sessions = pairs((planned.session, name) for planned, name in zip(plan, names, strict=True))
    return Found(compared(true, claimed), compared(homes, sessions))


def pairs(placed: Iterable[tuple[int, str]]) -> set[tuple[str, str]]:
    members: dict[int, list[str]] = {}
    for home, name in placed:
        members.setdefault(home, []).append(name)
    return {(a, b) for names in members.values() for a in names for b in names if a < b}


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Path]:
    """What agents did who send all of their history, and its trace."""
    world = World(lasts_s=0.005)
    return world, captured(world, tmp_path_factory.mktemp("agents"), 6, "verbatim")


@pytest.mark.parametrize(
    ("style", "least"), [("verbatim", 1.0), ("trimmed", 0.98), ("rewritten", 0.98)]
)
def test_the_graph_of_agents_is_found_again(
    agents: tuple[World, Path], style: Style, least: float, tmp_path: Path
) -> None:
    if style == "verbatim":
        world, trace = agents
    else:
        world = World(lasts_s=0.005)
        trace = captured(world, tmp_path, 6, style)
    seen = found(world, trace)

    assert min(*seen.edges, *seen.sessions) >= least, seen


@pytest.mark.parametrize(
    "options",
    [
        {"speed": 16.0, "workers": 2},
        {"concurrency_scale": 2.0, "until": "trace"},
        {"speed": 4.0, "clones": 3.0},
    ],
    ids=str,
)
def test_a_join_reaches_the_server_after_all_that_it_holds(
    agents: tuple[World, Path], options: dict[str, Any], tmp_path: Path
) -> None:
    """By the server's own log, though it is slower than it was when the trace was recorded."""
    world, trace = agents
    world.spans, world.lasts_s = {}, 0.03
    with answering(world.answer) as server:
        run = replay(trace, base_url=server.url, out=tmp_path / "r.run", **options)

    turns, clones = run.totals["turns"], options.get("clones", 1)
    assert run.totals["completed"] == len(world.before) * clones
    assert turns["continued"] == sum(map(bool, world.before.values())) * clones
    assert (turns["early"], turns["severed"], world.too_early()) == (0, 0, 0)


def test_a_live_history_is_the_targets_own(agents: tuple[World, Path], tmp_path: Path) -> None:
    """A target that says other words, and gives calls other ids, finds them in every later turn."""
    world, trace = agents
    live = World(before=world.before)
    for name, said in world.answers.items():
        calls = [(f"live_{id_}", tool, given) for id_, tool, given in said.calls]
        live.answers[name] = Said(f"live {said.text}" if said.text else "", calls)
    with answering(live.answer) as server:
        run = replay(
            trace,
            base_url=server.url,
            out=tmp_path / "r.run",
            speed=8.0,
            workers=2,
            live_history=True,
        )

    histories = [
        [turn for turn in each.json["messages"] if turn["role"] == "assistant"]
        for each in {
            each.headers[NODE]: each for each in server.received
        }.values()  # each once, if sent again
    ]
    threaded = sum(map(bool, histories))
    recorded = {f'"{id_}"' for said in world.answers.values() for id_, _, _ in said.calls}
    assert all("live" in json.dumps(turn) for history in histories for turn in history)
    assert not any(id_ in each.body.decode() for each in server.received for id_ in recorded)
    assert run.totals["turns"]["live"] == {"threaded": threaded}
    assert run.totals["completed"] == len(world.before)
    lines = "\n".join(summary(run, numbers(run)))
    assert f"{threaded:,} turns hold the target's own answer" in lines
