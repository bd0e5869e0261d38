"""Traffic of an imaginary application, sent with the unmodified openai SDK.

Conversations of several turns with think time, a few plain answers and embeddings: enough structure that
a trace of it has sessions, streams and a mix of endpoints. Seeded: the same seed plans the same calls.
"""

import asyncio
import random
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tbench.capture.errors import InputError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

SUBJECTS = (
    "a harbour",
    "our billing",
    "the night train",
    "a compiler",
    "the garden",
    "a telescope",
)
ASKS = ("Explain", "Summarise", "Question", "Compare", "Describe", "List the parts of")
SYSTEM = "You are the assistant of a small company. Answer briefly and to the point."


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """How much traffic, for how long. Times in seconds, rates in conversations per second."""

    model: str
    embedding_model: str | None = None
    rate: float
    duration: float
    turns: int = 4
    think: float = 0.8
    max_tokens: int = 32
    plain_share: float = 0.1
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One planned conversation: when it starts, what is asked, whether answers stream."""

    start: float
    questions: tuple[str, ...]
    thinks: tuple[float, ...]
    stream: bool
    embed: bool


def conversations(load: Workload) -> Iterator[Conversation]:
    """The plan, by arrival: Poisson starts, a random number of turns each."""
    rng = random.Random(load.seed)
    start = rng.expovariate(load.rate)
    number = 0
    while start < load.duration:
        turns = rng.randint(1, load.turns)
        yield Conversation(
            start=start,
            questions=tuple(_question(rng, number, turn) for turn in range(turns)),
            thinks=tuple(rng.expovariate(1 / load.think) for _ in range(turns)),
            stream=rng.random() >= load.plain_share,
            embed=load.embedding_model is not None and rng.random() < load.plain_share,
        )
        number += 1
        start += rng.expovariate(load.rate)


def _question(rng: random.Random, number: int, turn: int) -> str:
    details = " ".join(rng.choice(SUBJECTS) for _ in range(rng.randint(1, 12)))
    return f"{rng.choice(ASKS)} {rng.choice(SUBJECTS)} ({number}.{turn}): {details}."


def drive(base_url: str, load: Workload, *, api_key: str) -> int:
    """Send the whole plan to `base_url` and wait for the answers; returns the number of calls.

    Raises InputError where the SDK is not installed. A failed call is the server's business, not ours.
    """
    try:
        from openai import AsyncOpenAI  # noqa: PLC0415 (an extra: only this function needs it)
    except ImportError:
        raise InputError("this drives the openai SDK: pip install 'openai>=3'") from None

    async def everything() -> int:
        async with AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=1) as client:
            talks = [_converse(client, load, plan) for plan in conversations(load)]
            return sum(await asyncio.gather(*talks))

    return asyncio.run(everything())


async def _converse(client: "AsyncOpenAI", load: Workload, plan: Conversation) -> int:
    await asyncio.sleep(plan.start)
    calls = 0
    if plan.embed and load.embedding_model:
        await _quiet(client.embeddings.create(model=load.embedding_model, input=plan.questions[0]))
        calls += 1
    messages: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM}]
    for question, think in zip(plan.questions, plan.thinks, strict=True):
        messages.append({"role": "user", "content": question})
        answer = await _quiet(_ask(client, load, messages, stream=plan.stream))
        calls += 1
        if answer is None:
            break
        messages.append({"role": "assistant", "content": answer})
        await asyncio.sleep(think)
    return calls


async def _ask(
    client: "AsyncOpenAI", load: Workload, messages: list[dict[str, Any]], *, stream: bool
) -> str:
    ask: dict[str, Any] = {"model": load.model, "messages": list(messages), "temperature": 0}
    ask["max_tokens"] = load.max_tokens
    if not stream:
        whole = await client.chat.completions.create(**ask)
        return whole.choices[0].message.content or ""
    ask |= {"stream": True, "stream_options": {"include_usage": True}}
    events = await client.chat.completions.create(**ask)
    parts = [event.choices[0].delta.content or "" async for event in events if event.choices]
    return "".join(parts)


async def _quiet[T](call: Awaitable[T]) -> T | None:
    """The call's result, or None where the server failed it: the trace holds what happened."""
    from openai import OpenAIError  # noqa: PLC0415 (an extra)

    try:
        return await call
    except OpenAIError:
        return None
