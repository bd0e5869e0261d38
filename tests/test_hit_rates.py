"""Hit rates as planned, served and recorded agree where the cache is known: the simulator's."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench import CaptureTransport
from tbench.capture.providers import Usage, provider_of
from tbench.replay.closing import departures
from tbench.replay.hit_rates import (
    BLOCK_TOKENS,
    HEADER_BYTES,
    TOKEN_BYTES,
    Prefixes,
    Reading,
    hit_rates,
    pieces_of,
)
from tbench.replay.plan import Plan
from tbench.replay.runfile import read_run
from tbench.replay.target import Target
from tbench.simulator.prompt import PrefixCache, chat_prompt
from tests.conftest import PATIENCE_S, Done, Server
from tests.test_salt import exchange

MODEL = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
KEY = {"authorization": "Bearer k"}
CLOSE = 0.02
"""Two points: the bar."""
SYSTEM = "You answer in one sentence, and you look up what you do not know. " * 30
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a word up in the encyclopedia. " * 10,
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}},
    },
}


def chat(number: int, turn: int, history: list[dict[str, Any]]) -> dict[str, Any]:
    """One turn of a conversation; some have tools, and those of four begin with one document."""
    document = (
        f"Document {number // 4}. " + "It was the best of times, it was the worst of times. " * 25
    )
    words = document if turn == 0 else f"And what of {number} then, in turn {turn}? " * (3 + number)
    system = {"role": "system", "content": SYSTEM}
    if not history:
        history.append(system)
    history.append({"role": "user", "content": words + f" Question {number}.{turn}?"})
    body: dict[str, Any] = {"model": MODEL, "messages": history, "max_tokens": 4}
    return body | ({"tools": [TOOL]} if number % 2 else {})


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory, simulator: Server) -> Iterator[Path]:
    """Twelve conversations of two to five turns, one call at a time, as their client saw them."""
    path = tmp_path_factory.mktemp("traffic") / "agents.msgpack"
    histories: dict[int, list[dict[str, Any]]] = {number: [] for number in range(12)}
    with (
        CaptureTransport(path) as transport,
        httpx.Client(transport=transport, headers=KEY, timeout=PATIENCE_S) as client,
    ):
        for turn in range(5):
            for number, history in histories.items():
                if turn < 2 + number % 4:
                    body = chat(number, turn, history)
                    answer = client.post(f"{simulator.url}/v1/chat/completions", json=body)
                    message = answer.raise_for_status().json()["choices"][0]["message"]
                    history.append({"role": "assistant", "content": message["content"] or "-"})
    yield path


def test_planned_served_and_recorded_agree(
    tbench: Callable[..., Done], simulator: Server, traffic: Path, tmp_path: Path
) -> None:
    """Together and for each turn, where nothing of an earlier run is left; else that is seen."""
    arguments = ("--base-url", simulator.url, "--concurrency", 1)
    done = {
        cache: tbench("replay", traffic, *arguments, "--cache", cache, "-o", f"{cache}.run")
        for cache in ("structure", "cold", "as-is")
    }
    structure, cold, as_is = (
        read_run(tmp_path / f"{cache}.run").totals["hit_rates"] for cache in done
    )

    for row in (structure, *structure["turns"]):
        assert abs(row["planned"] - row["served"]) <= CLOSE, row
        assert abs(row["planned"] - row["recorded"]) <= CLOSE, row
    for row in (cold, *cold["turns"]):
        assert abs(row["planned"] - row["served"]) <= CLOSE, row
    assert cold["turns"][0]["served"] < CLOSE, (
        "each conversation begins anew, but for a tool's name"
    )
    assert as_is["planned"] == pytest.approx(structure["planned"], abs=CLOSE)
    assert as_is["served"] > as_is["planned"] + 2 * CLOSE, "the recorded prompts were still there"
    assert [row["turn"] for row in structure["turns"]] == [1, 2, 3, 4, 5]
    assert sum(row["requests"] for row in structure["turns"]) == structure["requests"] == 42
    planned, served, recorded = (structure[name] for name in ("planned", "served", "recorded"))
    (line,) = (line for line in done["structure"].out.splitlines() if line.startswith("cache  "))
    assert line.startswith(f"cache       hit rate of 42 requests: planned {planned:.1%}")
    assert line.endswith(f", served {served:.1%}, recorded {recorded:.1%} of prompt tokens")
    assert "it seems to know prompts of an earlier run (--cache structure" in done["as-is"].out


@pytest.mark.parametrize(
    "pacing",
    [
        ("--clones", 3, "--concurrency", 1),
        ("--sessions", 1),
        ("--speed", 1),
        ("--speed", 4),
        ("--speed", 16),
        ("--speed", 16, "--workers", 2),
        ("--clones", 3, "--speed", 16),
        ("--concurrency", 42),
    ],
    ids=lambda pacing: " ".join(map(str, pacing)),
)
def test_the_cache_that_was_planned_is_met_at_every_pace(
    pacing: tuple[object, ...],
    tbench: Callable[..., Done],
    simulator: Server,
    traffic: Path,
    tmp_path: Path,
) -> None:
    """One at a time or all at once, and with copies, which share tools and system prompt with the others."""
    arguments = ("--base-url", simulator.url, "--cache", "structure", "-o", "r.run")
    tbench("replay", traffic, *arguments, *pacing)
    rates = read_run(tmp_path / "r.run").totals["hit_rates"]

    for row in (rates, *rates["turns"]):
        assert abs(row["planned"] - row["served"]) <= CLOSE, row
        assert row["planned_least"] <= row["planned"]
    if "--clones" not in pacing:
        assert abs(rates["recorded"] - rates["served"]) <= CLOSE


@pytest.mark.parametrize(
    ("prompt", "recorded", "knew"),
    [
        pytest.param(126, 0.55, False, id="short prompts, where one block is 13 points"),
        pytest.param(126, None, False, id="short prompts, nothing recorded"),
        pytest.param(5_000, 0.55, False, id="as it was recorded"),
        pytest.param(5_000, 0.40, True, id="more than planned, and more than recorded"),
        pytest.param(5_000, None, True, id="more than planned, nothing recorded"),
    ],
)
def test_a_target_knows_other_prompts_only_where_the_plan_is_that_exact(
    prompt: int, recorded: float | None, *, knew: bool
) -> None:
    rates = {
        "requests": 40,
        "prompt_tokens": 40 * prompt,
        "planned": 0.488,
        "served": 0.55,
        "recorded": recorded,
    }
    (line,) = departures({"hit_rates": rates}, "http://h")

    assert ("of an earlier run" in line) == knew
    assert ("planned 48.8% (± 12.7, a block of 16 tokens a request)" in line) == (prompt == 126)


def test_of_prompts_of_a_few_tokens_no_planned_rate_is_told() -> None:
    """A block of 16 tokens is more than two prompts of 7."""
    rates = {"requests": 6, "prompt_tokens": 46, "planned": 0.0, "served": 0.0, "recorded": None}
    (line,) = departures({"hit_rates": rates}, "http://h")

    assert line.endswith(
        "planned not told: prompts are too short, served 0.0%, recorded not known of prompt tokens"
    )


def test_a_probe_tells_whether_cached_tokens_are_named(
    tbench: Callable[..., Done], simulator: Server, traffic: Path, tmp_path: Path
) -> None:
    """By two requests besides those of the run, whose prompts the run does not meet; the cost has them."""
    arguments = (
        "replay",
        traffic,
        "--base-url",
        simulator.url,
        "--concurrency",
        4,
        "--cache",
        "cold",
    )
    dry = tbench(*arguments, "--dry-run")
    bare = tbench(*arguments, "--probe", "off", "--dry-run")
    done = tbench(*arguments, "--requests", 12, "-o", "a.run")
    run = read_run(tmp_path / "a.run")
    told = run.header["cache"]["probe"]

    assert "probe       two equal requests" in dry.out
    assert "probe  " not in bare.out
    assert (told["completed"], len(run.columns["index"])) == (2, 12)
    assert told["prompt"] - BLOCK_TOKENS <= told["cached"] < told["prompt"]
    assert f"the second had {told['cached']:,} of {told['prompt']:,} prompt tokens" in done.out
    assert (
        f"{told['cached']:,} of {told['prompt']:,} prompt tokens" in tbench("report", "a.run").out
    )
    assert run.totals["cost"]["usd"] > told["usd"] > 0


WORDS = st.binary(max_size=300).map(lambda text: bytes(byte % 3 for byte in text))


@given(st.lists(st.lists(WORDS, max_size=4), max_size=8))
def test_what_a_perfect_cache_serves_is_the_longest_earlier_prefix(
    prompts: list[list[bytes]],
) -> None:
    """By comparison with every earlier prompt, byte by byte."""
    cache = Prefixes()
    for number, prompt in enumerate(prompts):
        longest = max((alike(prompt, earlier) for earlier in prompts[:number]), default=0)
        assert cache.shared("one model", prompt) == longest
        cache.add("one model", prompt)
    assert cache.shared("another model", prompts[0] if prompts else []) == 0


def alike(prompt: list[bytes], earlier: list[bytes]) -> int:
    """Bytes of a prompt's beginning that another has, message by message."""
    count = 0
    for piece, other in zip(prompt, earlier, strict=False):
        if piece != other:
            return count + next(
                (at for at, (a, b) in enumerate(zip(piece, other, strict=False)) if a != b),
                min(len(piece), len(other)),
            )
        count += len(piece)
    return count


TEXTS = st.lists(
    st.sampled_from(["Explain ", "a harbour ", "the night train", "é", "?\n"]), max_size=40
)
ROLES = st.sampled_from(["user", "assistant", "tool"])


@given(st.lists(st.lists(st.tuples(ROLES, TEXTS.map("".join)), min_size=1, max_size=4), max_size=8))
def test_what_is_planned_is_what_the_simulator_serves(chats: list[list[tuple[str, str]]]) -> None:
    """To the token, as it cuts texts into the tokens that are assumed: one for four bytes."""
    plan, readings, cache, hit = [], dict[int, Reading](), PrefixCache(10_000), 0
    for number, chat_ in enumerate(chats):
        messages = [{"role": role, "content": text} for role, text in chat_]
        (planned,) = Plan(trace=[exchange({"model": "m", "messages": messages})])
        plan.append(replace(planned, index=number, session=number))
        prompt = chat_prompt(messages, [], "m")
        # All of a prompt is held where it came before; the simulator still computes its last token.
        held = cache.cached_tokens(prompt.blocks, prompt.tokens + 1)
        cache.insert(prompt.blocks)
        hit += held
        readings[number] = Reading(number, number + 0.5, Usage(prompt=prompt.tokens))
    rates = hit_rates(plan, Target(base_url="http://h"), readings)

    assert (rates["planned"] * rates["prompt_tokens"] if rates else 0) == pytest.approx(hit)


def test_prompts_of_one_completion_are_each_looked_for() -> None:
    """Each goes on with its own, as in a completion with one; token ids are one prompt, or several lists."""
    letters, ids = ["a" * 640, "b" * 640], [[1_000] * 100, [2_000] * 100]
    target = Target(base_url="http://h")
    for prompts in (letters, ids):
        bodies = [
            {"model": "m", "prompt": prompts},
            {"model": "m", "prompt": prompts[::-1]},
            {"model": "m", "prompt": prompts[0]},
        ]
        plan = [
            replace(planned, index=index, session=index)
            for index, body in enumerate(bodies)
            for planned in Plan(trace=[exchange(body, "/v1/completions")])
        ]
        readings = {at: Reading(at, at + 0.5, Usage(prompt=320)) for at in range(3)}
        rates = hit_rates(plan, target, readings)

        assert rates
        assert rates["planned"] == pytest.approx(2 / 3)


def test_a_picture_counts_as_its_tokens_and_not_as_its_bytes() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    body = {
        "messages": [
            {"role": "user", "content": [picture, {"type": "text", "text": "What is it?"}]}
        ]
    }
    sizes = [len(piece) for piece in pieces_of(body, provider_of("POST", "/v1/chat/completions"))]

    assert sum(sizes) == 1_600 * TOKEN_BYTES + len("What is it? ") + 2 * HEADER_BYTES


def test_a_target_that_names_no_cached_tokens_has_no_rate() -> None:
    """Servers leave the count out where it would be 0, so one answer that has it is enough."""
    target = Target(base_url="http://h")
    body = json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "Hello. " * 64}]}
    ).encode()
    plan = [
        replace(planned, index=index, session=index)
        for index, planned in enumerate([*Plan(trace=[exchange(body)])] * 3)
    ]

    def rates(*counted: Usage) -> dict[str, Any] | None:
        return hit_rates(
            plan, target, {at: Reading(at, at + 0.5, usage) for at, usage in enumerate(counted)}
        )

    silent = rates(*[Usage(prompt=100)] * 3)
    telling = rates(Usage(prompt=100), Usage(prompt=100, cached=96), Usage())

    assert silent and telling
    assert (silent["planned"], silent["served"], silent["recorded"]) == (192 / 300, None, None)
    assert (telling["planned"], telling["served"], telling["requests"]) == (0.48, 0.48, 2)
    assert hit_rates(plan, target, {}) is None


def test_what_overlaps_is_told_apart_from_what_was_read() -> None:
    """Of equal prompts one is left out, others find it when it was sent, or not before it was read."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello. " * 64}]}
    (planned,) = Plan(trace=[exchange(json.dumps(body).encode())])
    plan = [replace(planned, index=index, session=index) for index in range(5)]
    counted, hit = Usage(prompt=100, cached=0), 0.96
    readings = {
        4: Reading(0.0, math.inf, None),  # failed
        2: Reading(1.0, 3.0, counted),
        1: Reading(2.0, 3.5, counted),
        0: Reading(3.0, 4.0, counted),  # 3 was never sent
    }
    rates = hit_rates(plan, Target(base_url="http://h"), readings)

    assert rates
    assert rates["requests"] == 3
    assert rates["planned"] == pytest.approx(hit)
    assert rates["planned_least"] == pytest.approx(hit / 3)


@pytest.mark.parametrize(("least", "shown"), [(0.85, False), (0.75, True), (None, False)])
def test_overlap_is_said_where_it_matters(least: float | None, *, shown: bool) -> None:
    rates = {"requests": 40, "prompt_tokens": 200_000, "planned": 0.86, "served": 0.8}
    (line,) = departures({"hit_rates": rates | {"planned_least": least}}, "http://h")

    assert ("planned 86.0% (75.0% without what was still being read)" in line) == shown
