"""tbench demo: the main job from end to end, as a user would type it: capture, replay twice, compare.

Every step is the `tbench` command itself in a process of its own, and is printed before it runs. The
demo gives it the simulator, the acceptance run a real model server.
"""

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tbench.capture.errors import InputError, TbenchError
from tbench.capture.option import Option
from tbench.flags import verb

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Say = Callable[[str], None]
Drive = Callable[[str], None]
"""Sends an application's traffic to the base URL it is given (it ends with /v1)."""

TBENCH = (sys.executable, "-P", "-m", "tbench")
"""-P: whatever lies in the user's folder (an h2.py, say) must not be imported instead of the real one."""
START_S = 30.0
STOP_S = 45.0
RUN_S = 600.0
INVALID = 4
"""A run whose client was the limit. A real decision stops there; this job shows what tbench says of it."""
ADDRESS = re.compile(r"listening on (http://[\w.:\[\]]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One target of the comparison: what it is called and where it answers."""

    name: str
    base_url: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is captured from where, who drives the traffic, which arms replay it, and where files go."""

    upstream: str
    drive: Drive
    baseline: Arm
    candidate: Arm
    out: Path
    environ: Mapping[str, str] = field(default_factory=dict)


def main_job(job: Job, say: Say) -> Path:
    """Capture, replay against both arms, compare; returns the path of the HTML report.

    Raises TbenchError naming the step that failed, with the exit code of that step.
    """
    prepare(job.out)
    trace = job.out / "trace.msgpack"
    environ = {**os.environ, **job.environ}
    capture = ["capture", "--upstream", job.upstream, "--port", "0", "-o", str(trace)]
    with server(capture, environ, say) as address:
        say(f"  an unmodified SDK talks to {address}/v1")
        job.drive(f"{address}/v1")
    command(["trace", "info", str(trace)], environ, say)
    runs = []
    for arm in (job.baseline, job.candidate):
        run = job.out / f"{arm.name}.run"
        words = ["replay", str(trace), "--base-url", arm.base_url, *arm.flags, "-o", str(run)]
        if command(words, environ, say, fine=(0, INVALID)) == INVALID:
            say("  this machine was too busy for an exact run; the comparison below says so")
        runs.append(run)
    page = job.out / "report.html"
    command(["compare", *map(str, runs), "--html", str(page)], environ, say, fine=(0, INVALID))
    return page


def prepare(out: Path) -> None:
    """Make the output folder and clear what an earlier job of the same kind left in it."""
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = ("trace.msgpack*", "*.run", "*.run.part", "report.html")
    for path in (path for pattern in known for path in out.glob(pattern)):
        path.unlink()
    # What lies there now was not made by an earlier demo: it is not written over, and not mixed with ours.
    if left := sorted(path.name for path in out.iterdir()):
        raise InputError(f"{out} holds files of yours ({left[0]}); choose another with --out")


def command(
    arguments: list[str], environ: Mapping[str, str], say: Say, *, fine: tuple[int, ...] = (0,)
) -> int:
    """Run one `tbench` command to its end; its output goes to the terminal.

    Returns its exit code; raises StepError where that is not among the `fine` ones.
    """
    say(f"\n$ tbench {' '.join(arguments)}")
    words = [*TBENCH, *arguments]
    done = subprocess.run(words, env=dict(environ), check=False, timeout=RUN_S)  # noqa: S603
    if done.returncode not in fine:
        raise StepError(arguments[0], done.returncode)
    return done.returncode


class StepError(TbenchError):
    """A step of the job failed; the job ends with that step's exit code."""

    def __init__(self, verb: str, exit_code: int) -> None:
        super().__init__(f"the step `tbench {verb}` ended with exit code {exit_code}; see above")
        self.exit_code = exit_code


@contextmanager
def server(arguments: list[str], environ: Mapping[str, str], say: Say) -> Iterator[str]:
    """A `tbench` server while the block runs; yields its address, ends it by SIGINT.

    Raises TbenchError where it does not start, StepError where it ends with another exit code than 0.
    """
    say(f"\n$ tbench {' '.join(arguments)}")
    words = [*TBENCH, *arguments]
    process = subprocess.Popen(words, env=dict(environ), stderr=subprocess.PIPE, text=True)  # noqa: S603
    lines: list[str] = []
    address: SimpleQueue[str] = SimpleQueue()

    def read() -> None:  # to the end: a full pipe would stall the server
        for line in process.stderr or ():
            lines.append(line)
            if match := ADDRESS.search(line):
                address.put(match[1])
        # At the end of its output, too: who waits for the
        # address of a server that has died is told at once.
        address.put("")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        url = ""
        with suppress(Empty):
            url = address.get(timeout=START_S)
        if not url:
            printed = "".join(lines).strip() or "it printed nothing"
            raise TbenchError(f"tbench {arguments[0]} did not start: {printed}")
        yield url
    finally:
        if process.poll() is None:
            # As Ctrl-C does, so that a capture finishes its trace; killed, it would leave a `.part`.
            process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # With a limit: a child that the server left behind may hold its stderr open for ever.
        reader.join(timeout=5)
    if process.returncode:
        print("".join(lines).strip(), file=sys.stderr)
        raise StepError(arguments[0], process.returncode)


# Traffic of an imaginary application, sent with the unmodified openai SDK.
#
# Conversations of several turns with think time, a few plain answers and embeddings: enough structure that
# a trace of it has sessions, streams and a mix of endpoints. Seeded: the same seed plans the same calls.

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
        questions = []
        for turn in range(rng.randint(1, load.turns)):
            details = " ".join(rng.choice(SUBJECTS) for _ in range(rng.randint(1, 12)))
            about = f"{rng.choice(ASKS)} {rng.choice(SUBJECTS)} ({number}.{turn})"
            questions.append(f"{about}: {details}.")
        yield Conversation(
            start=start,
            questions=tuple(questions),
            thinks=tuple(rng.expovariate(1 / load.think) for _ in questions),
            stream=rng.random() >= load.plain_share,
            embed=load.embedding_model is not None and rng.random() < load.plain_share,
        )
        number += 1
        start += rng.expovariate(load.rate)


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
            # All at once, each sleeping until its own start: an
            # open loop, which a slow answer does not hold up.
            talks = [_converse(client, load, plan) for plan in conversations(load)]
            return sum(await asyncio.gather(*talks))

    return asyncio.run(everything())


async def _converse(client: "AsyncOpenAI", load: Workload, plan: Conversation) -> int:
    """One conversation, with the history that its answers make; returns the number of calls."""
    await asyncio.sleep(plan.start)
    calls = 0
    if plan.embed and load.embedding_model:
        await _quiet(client.embeddings.create(model=load.embedding_model, input=plan.questions[0]))
        calls += 1
    messages: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM}]

    async def ask() -> str:
        words: dict[str, Any] = {"model": load.model, "messages": list(messages), "temperature": 0}
        words["max_tokens"] = load.max_tokens
        if not plan.stream:
            answer = await client.chat.completions.create(**words)
            return answer.choices[0].message.content or ""
        words |= {"stream": True, "stream_options": {"include_usage": True}}
        events = await client.chat.completions.create(**words)
        parts = [event.choices[0].delta.content or "" async for event in events if event.choices]
        return "".join(parts)

    for question, think in zip(plan.questions, plan.thinks, strict=True):
        messages.append({"role": "user", "content": question})
        answer = await _quiet(ask())
        calls += 1
        if answer is None:
            break
        messages.append({"role": "assistant", "content": answer})
        await asyncio.sleep(think)
    return calls


async def _quiet[T](call: Awaitable[T]) -> T | None:
    """The call's result, or None where the server failed it: the trace holds what happened."""
    from openai import OpenAIError  # noqa: PLC0415 (an extra)

    try:
        return await call
    except OpenAIError:
        return None


@verb
def demo(
    out: Annotated[
        Path, Option(help="Folder for the trace, the runs and the report.", unit="DIR", short="-o")
    ] = Path("demo-output"),
    seconds: Annotated[
        float, Option(help="How long the application talks.", unit="SECONDS", least=2, most=600)
    ] = 8,
    rate: Annotated[
        float,
        Option(
            help="Conversations per second, about two and a half calls each.",
            unit="RATE",
            least=0.1,
            most=50,
        ),
    ] = 21,
) -> None:
    """Show the main job: capture SDK traffic, replay it against a fast and a slow server, compare.

    Everything runs on this machine against the simulator; nothing is sent anywhere else.
    """

    def say(line: str) -> None:
        typer.echo(line, err=True)

    began = time.monotonic()
    key = "tbench-demo-key"
    environ = {**os.environ, "TOGETHER_API_KEY": key}
    load = Workload(
        model="meta-llama/Llama-3.3-70B-Instruct-Turbo",
        embedding_model="intfloat/multilingual-e5-large-instruct",
        rate=rate,
        duration=seconds,
        think=0.5,
    )

    def simulated(profile: str) -> AbstractContextManager[str]:
        return server(["serve", "--port", "0", "--profile", profile], environ, say)

    # The captured server is not replayed against: its prefix cache knows the prompts already.
    with simulated("fast") as captured, simulated("fast") as fast, simulated("slow") as slow:
        job = Job(
            upstream=captured,
            drive=lambda base_url: say(f"  {drive(base_url, load, api_key=key)} calls made"),
            baseline=Arm(name="fast", base_url=fast),
            candidate=Arm(name="slow", base_url=slow),
            out=out,
            environ=environ,
        )
        page = main_job(job, say)
    say(f"\nThe report: {page.resolve()}   ({time.monotonic() - began:.0f} s in all)")
