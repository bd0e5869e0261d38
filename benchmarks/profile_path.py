"""What the parent does for each request, before it is sent and after it has ended, in us of CPU by step.

    python benchmarks/profile_path.py [--requests 500] [--repeats 40]

The least of several repeats counts, as everything else is other work on the machine. Answers are those of
benchmarks/truthserver: a token by itself in a read, and at the end the finish, the usage and `[DONE]`.
"""

import argparse
import gc
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import msgpack
import orjson
import trio
from engine import write_trace

from tbench.capture.trace_reader import Lookup, read_trace, together
from tbench.replay import columns
from tbench.replay.cost import Bill
from tbench.replay.job import refused_by
from tbench.replay.measure import to_sample
from tbench.replay.plan import Plan, Turn
from tbench.replay.run_recorder import Tally
from tbench.replay.sample import Sample
from tbench.replay.sender import NOWHERE, Call, Label, Reply, frame
from tbench.replay.target import Recipe, Step, Target
from tbench.replay.workers.calls import SpoolReader, SpoolWriter
from tbench.replay.workers.carrier import Entries, step_of

HEADERS = [
    (b"Content-Type", b"text/event-stream"),
    (b"Transfer-Encoding", b"chunked"),
    (b"X-Request-Id", b"0" * 32),
]
TOKENS = (1, 2, 50)
Ended = tuple[Call, Reply]
ROUNDS = 20


def main() -> None:
    """Measure every step, and print a row for each."""
    options = _options()
    print("| step | us a request |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "t.msgpack"
        write_trace(trace, options.requests, 1)
        for name, work in {**_before(trace), **_after(Path(folder), options.requests)}.items():
            sent = options.requests * (ROUNDS if name.endswith("rounds") else 1)
            print(f"| {name} | {_least(work, options.repeats) / sent * 1e6:.1f} |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=40)
    return parser.parse_args()


def _least(work: Callable[[], object], repeats: int) -> float:
    """CPU seconds."""
    took = []
    for _ in range(repeats):
        gc.collect()
        gc.disable()
        began = time.process_time()
        work()
        took.append(time.process_time() - began)
        gc.enable()
    return min(took)


def _before(trace: Path) -> dict[str, Callable[[], object]]:
    """The steps before a request is sent; each begins where the one before it ends."""
    opened = read_trace(trace)
    target = Target(base_url="http://127.0.0.1:8000")
    plan = Plan(trace=opened.ends, refuses=refused_by([target]))
    recipe = Recipe(targets=[target], speed=1.0, priced=False)
    again = replace(plan, rounds=ROUNDS)
    entry = Entries(recipe)
    steps = [Step(planned, None) for planned in plan]
    calls = [recipe.call(step) for step in steps]
    entry(steps[0])  # the recipe goes with it
    entries = [msgpack.unpackb(entry(step), use_list=False) for step in steps]

    def each(turns: Iterable[Turn]) -> Iterator[Step]:
        return (Step(turn, None) for turn in together(turns, lambda _: 300))

    def beside() -> None:
        lookup = Lookup(opened)
        deque((recipe.frame(step_of(each, lookup)) for each in entries), maxlen=0)

    return {
        "read the trace": lambda: deque(opened.ends, maxlen=0),
        "read the trace and plan": lambda: deque(plan, maxlen=0),
        "build the call": lambda: [recipe.call(step) for step in steps],
        "pack the call": lambda: [frame(call) for call in calls],
        "read, plan, build and pack": lambda: deque(map(recipe.frame, each(plan)), maxlen=0),
        "where machines read: read, plan, make entries": lambda: deque(
            map(entry, each(plan.turns())), maxlen=0
        ),
        f"the same for {ROUNDS} rounds": lambda: deque(map(entry, each(again.turns())), maxlen=0),
        "beside a worker: read again, build and pack": beside,
    }


def _after(folder: Path, requests: int) -> dict[str, Callable[[], object]]:
    """The steps after an answer has ended, for each number of tokens."""
    steps: dict[str, Callable[[], object]] = {}
    for tokens in TOKENS:
        attempts = [_attempt(index, tokens) for index in range(requests)]
        samples = [to_sample(*each, 0.0) for each in attempts]
        steps[f"spool, {tokens} tokens"] = _spooling(folder, attempts)
        steps[f"answer to sample, {tokens} tokens"] = _reading(attempts)
        steps[f"tally, {tokens} tokens"] = _tallying(samples)
        steps[f"columns, {tokens} tokens"] = _packing(samples)
    return steps


def _spooling(folder: Path, attempts: list[Ended]) -> Callable[[], object]:
    """Through the file, both sides."""

    def work() -> None:
        with (folder / "spool").open("w+b") as file:
            writer = SpoolWriter(file.fileno())
            writer.begin(0.0)
            for each in attempts:
                writer.add(*each)
            writer.finish()
            trio.run(writer.run)
            deque(SpoolReader(file.fileno()).ended(), maxlen=0)

    return work


def _reading(attempts: list[Ended]) -> Callable[[], object]:
    return lambda: [to_sample(*each, 0.0) for each in attempts]


def _tallying(samples: list[Sample]) -> Callable[[], object]:
    def work() -> None:
        Tally(bill=Bill()).add(samples)

    return work


def _packing(samples: list[Sample]) -> Callable[[], object]:
    def work() -> None:
        for start in range(0, len(samples), 1000):
            block = samples[start : start + 1000]
            columns.pack(columns.from_samples(block))
            columns.pack_tokens(block)

    return work


def _attempt(index: int, tokens: int) -> Ended:
    """As it comes out of the spool: every event in a chunk of its own, the last ones read together."""
    label = Label(
        id=f"{index:032x}", endpoint="chat", model="m", stream=True, request_bytes=300
    ).pack()
    pieces = [_event(place, delta={"content": "hello "}) for place in range(tokens)]
    pieces.append(_event(tokens, delta={}, finish="stop"))
    usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}
    pieces.append(_data({**_head(tokens), "choices": [], "usage": usage}))
    pieces.append(b"data: [DONE]\n\n")
    times = [index + 0.1 + 0.02 * min(place, tokens - 1) for place in range(len(pieces))]
    reply = Reply(
        reused=True,
        sent=float(index),
        sent_wall_ns=index * 10**9,
        status=200,
        headers=HEADERS,
        chunks=list(zip(times, pieces, strict=True)),
        received=sum(map(len, pieces)),
        end=times[-1],
    )
    return Call(index, None, NOWHERE, b"", b"", label=label), reply


def _event(place: int, *, delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _data({**_head(place), "choices": [choice]})


def _head(place: int) -> dict[str, object]:
    """What every event of a stream begins with."""
    return {
        "id": "chatcmpl-000000000000",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "sim",
        "t": 1_795_645_549_838_638_443 + place,
    }


def _data(payload: object) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


if __name__ == "__main__":
    main()
