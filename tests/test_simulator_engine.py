"""The modelled engine, run without a clock: order, limits, conservation, the prefix cache."""

import asyncio
import math
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.simulator.driver import Driver
from tbench.simulator.engine import Engine, EngineSpec, QueueFullError, Work
from tbench.simulator.prompt import BLOCK_TOKENS, PrefixCache, text_prompt

QUIET = EngineSpec(
    max_batch=4,
    prefill_tokens_per_s=1000,
    chunk_tokens=100,
    step_s=0.01,
    step_per_sequence_s=0.001,
    noise=0,
)

arrivals = st.lists(
    st.tuples(
        st.floats(0, 2),  # seconds after the one before
        st.integers(1, 500),  # prompt tokens
        st.integers(0, 40),  # output tokens
    ),
    min_size=1,
    max_size=25,
)


def work(engine: Engine, plan: list[tuple[float, int, int]]) -> list[Work]:
    """Submit everything with its arrival, then step until nothing is left."""
    at, sequences = 0.0, []
    for gap, prompt, output in plan:
        at += gap
        sequences.append(engine.submit(at, prompt, output))
    drain(engine)
    return sequences


def drain(engine: Engine) -> list[tuple[float, list[Work]]]:
    steps = []
    while step := engine.begin():
        assert step.end > step.start
        steps.append((step.end, engine.finish(step)))
    return steps


def test_one_request_takes_the_time_that_the_numbers_say() -> None:
    """250 prompt tokens in chunks of 100 at 1000/s, then a token per step of 10 ms plus 1 ms each."""
    (one,) = work(Engine(QUIET, 0), [(5.0, 250, 3)])

    assert one.admitted == one.prefill_began == 5.0
    assert one.prefill_ended == pytest.approx(5.0 + 3 * 0.010 + 0.250)  # the first token
    assert one.ended == pytest.approx(5.28 + 2 * 0.011)  # two more


def test_a_batch_of_decoding_sequences_slows_each_step() -> None:
    """Four sequences at once decode in steps of 14 ms."""
    sequences = work(Engine(QUIET, 0), [(0, 1, 11)] * 4)

    first, last = sequences[0].prefill_ended, sequences[3].ended
    assert first is not None
    assert last is not None
    assert last - first == pytest.approx(10 * 0.014)


@given(plan=arrivals, seed=st.integers(0, 3))
def test_every_token_comes_out_and_times_are_in_order(
    plan: list[tuple[float, int, int]], seed: int
) -> None:
    """Each sequence gets exactly its tokens, and arrives, is admitted, prefilled and ended in turn."""
    engine = Engine(EngineSpec(max_batch=3, chunk_tokens=64, noise=0.3), seed)
    done = work(engine, plan)

    assert engine.waiting == engine.running == 0
    for one, (_, _, output) in zip(done, plan, strict=True):
        assert one.tokens == output
        times = (one.arrived, one.admitted, one.prefill_began, one.prefill_ended, one.ended)
        assert all(a <= b for a, b in pairwise(t for t in times if t is not None))
        assert None not in times


@given(plan=arrivals)
def test_first_come_is_first_admitted(plan: list[tuple[float, int, int]]) -> None:
    """Nobody is admitted before somebody who came earlier."""
    admitted = [one.admitted for one in work(Engine(QUIET, 0), plan)]

    assert admitted == sorted(admitted, key=lambda at: at if at is not None else math.inf)


@given(plan=arrivals)
def test_the_batch_never_exceeds_its_limit(plan: list[tuple[float, int, int]]) -> None:
    """At most `max_batch` sequences are between admission and end at any time."""
    spans = [(one.admitted, one.ended) for one in work(Engine(QUIET, 0), plan)]

    for start, _ in spans:
        assert start is not None
        inside = sum(1 for a, b in spans if a is not None and b is not None and a <= start < b)
        assert inside <= QUIET.max_batch


@given(plan=arrivals, seed=st.integers(0, 9))
def test_the_same_seed_gives_the_same_times(plan: list[tuple[float, int, int]], seed: int) -> None:
    """The engine's noise comes from its seed and nothing else."""
    spec = EngineSpec(noise=0.5)

    def ends() -> list[float | None]:
        return [one.ended for one in work(Engine(spec, seed), plan)]

    assert ends() == ends()


def test_noise_has_mean_one() -> None:
    """Over 4,000 steps the mean step is the nominal one within 2 %."""
    (one,) = work(
        Engine(EngineSpec(noise=0.3, step_s=0.01, step_per_sequence_s=0), 1), [(0, 1, 4000)]
    )

    assert one.ended == pytest.approx(40, rel=0.02)


def test_a_full_queue_refuses() -> None:
    """Beyond `max_queue` waiting sequences the engine takes no more."""
    engine = Engine(EngineSpec(max_queue=2), 0)
    engine.submit(0, 1, 1)
    engine.submit(0, 1, 1)

    with pytest.raises(QueueFullError):
        engine.submit(0, 1, 1)


def test_a_refused_request_leaves_nothing_in_the_queue() -> None:
    """Of three branches for two places none is computed: the client has its 503 and waits for none."""

    async def submit() -> Engine:
        engine = Engine(EngineSpec(max_queue=2), 0)
        with pytest.raises(QueueFullError):
            Driver(engine, lambda _late: None).submit([text_prompt(b"hello", "m")], [5, 5, 5])
        return engine

    engine = asyncio.run(submit())

    assert engine.waiting == 0
    assert engine.begin() is None


def test_a_token_that_nobody_lives_to_see_holds_up_no_other() -> None:
    """A time beyond what a timer holds is a time that does not come."""

    async def next_token() -> int | None:
        driver = Driver(Engine(EngineSpec(), 0), lambda _late: None)
        running = asyncio.create_task(driver.run())
        driver.script([1], 1e300, 0)
        token = await driver.script([2], 0, 1e300).get()
        running.cancel()
        return token

    assert asyncio.run(next_token()) == 0


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_cancelled_sequence_leaves_the_batch(steps: int) -> None:
    """Waiting, prefilling or decoding: once cancelled it gets no token and holds no place."""
    engine = Engine(QUIET, 0)
    gone, stays = engine.submit(0, 150, 50), engine.submit(0, 1, 5)
    for _ in range(steps):
        step = engine.begin()
        assert step
        engine.finish(step)
    had = gone.tokens
    engine.cancel(gone)
    drain(engine)

    assert gone.tokens == had
    assert stays.tokens == 5
    assert engine.running == engine.waiting == 0


def test_a_sequence_cancelled_during_a_step_gets_no_token_from_it() -> None:
    """The step in progress goes on, but not for the one who left."""
    engine = Engine(QUIET, 0)
    gone = engine.submit(0, 1, 5)
    step = engine.begin()
    assert step
    engine.cancel(gone)

    assert engine.finish(step) == []
    assert gone.tokens == 0


def test_a_repeated_prompt_is_cached_but_for_what_must_be_computed() -> None:
    """The second time, all whole blocks of the prompt are cached, and prefill is shorter."""
    engine = Engine(QUIET, 0)
    blocks = [bytes([n]) for n in range(10)]
    first = engine.submit(0, 10 * BLOCK_TOKENS + 7, 1, blocks)
    drain(engine)
    again = engine.submit(engine.free_at, 10 * BLOCK_TOKENS + 7, 1, blocks)
    drain(engine)

    assert (first.cached_tokens, again.cached_tokens) == (0, 160)
    assert again.prefill_ended is not None
    assert again.prefill_ended - again.arrived == pytest.approx(0.010 + 7 / 1000)


def test_prompts_that_come_together_share_what_one_of_them_computes() -> None:
    """In one step, behind the chunks of a long one, and when only a part of it is there yet."""
    engine = Engine(QUIET, 0)  # chunks of 100 tokens
    blocks = [bytes([n]) for n in range(10)]
    prompts = 3 * [10 * BLOCK_TOKENS + 7]
    long, *others = [engine.submit(0, tokens, 1, blocks) for tokens in prompts]
    half = engine.submit(0, 5 * BLOCK_TOKENS, 1, [*blocks[:4], b"x"])
    drain(engine)

    assert (long.cached_tokens, *(other.cached_tokens for other in others)) == (0, 160, 160)
    assert half.cached_tokens == 4 * BLOCK_TOKENS
    assert others[0].admitted == pytest.approx(0.110), "when the first chunk was computed"


def test_a_prompt_of_which_a_part_is_computed_shares_that_part() -> None:
    """Six whole blocks of 100 tokens, though the one who asked for them went away."""
    engine = Engine(QUIET, 0)
    blocks = [bytes([n]) for n in range(10)]
    gone = engine.submit(0, 10 * BLOCK_TOKENS, 1, blocks)
    step = engine.begin()
    assert step
    engine.cancel(gone)
    engine.finish(step)
    again = engine.submit(engine.free_at, 10 * BLOCK_TOKENS, 1, blocks)
    drain(engine)

    assert again.cached_tokens == 6 * BLOCK_TOKENS


def test_a_prompt_that_is_cached_whole_still_computes_one_token() -> None:
    """A hit on every block leaves the last token to compute."""
    cache = PrefixCache(100)
    cache.insert([b"a", b"b"])

    assert cache.cached_tokens([b"a", b"b"], 32) == 31
    assert cache.cached_tokens([b"a", b"x"], 40) == 16
    assert cache.cached_tokens([b"x", b"b"], 40) == 0


def test_the_least_recently_used_blocks_go_first_and_tails_before_heads() -> None:
    """Of an older prompt the tail is forgotten first; touching a prompt keeps it."""
    cache = PrefixCache(4)
    cache.insert([b"a1", b"a2"])
    cache.insert([b"b1", b"b2"])
    cache.cached_tokens([b"a1", b"a2"], 99)
    cache.insert([b"c1"])

    assert len(cache) == 4
    assert cache.cached_tokens([b"a1", b"a2"], 99) == 32
    assert cache.cached_tokens([b"b1", b"b2"], 99) == 16


def test_a_long_prompt_is_put_into_the_cache_twice_at_most() -> None:
    """And not as often as it has chunks, which would take the square of its length; its tail goes first."""
    inserted = 0

    class Counting(PrefixCache):
        def insert(self, blocks: Iterable[bytes]) -> None:
            nonlocal inserted
            blocks = list(blocks)
            inserted += len(blocks)
            super().insert(blocks)

    engine = Engine(EngineSpec(chunk_tokens=160, cache_blocks=300), seed=1)
    engine.cache = Counting(300)
    blocks = [str(k).encode() for k in range(1000)]
    engine.submit(0.0, 16_000, 1, blocks)
    drain(engine)

    assert inserted <= 2 * len(blocks)
    assert engine.cache.cached_tokens(blocks, 16_000) == 16 * 300
