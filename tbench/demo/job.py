"""The main job from end to end, as a user would type it: capture, replay twice, compare.

Every step is the `tbench` command itself in a process of its own, and is printed before it runs. The
demo gives it the simulator, the acceptance run a real model server.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tbench.capture.errors import InputError, TbenchError

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
    runs = [_replay(trace, arm, job, environ, say) for arm in (job.baseline, job.candidate)]
    page = job.out / "report.html"
    command(["compare", *map(str, runs), "--html", str(page)], environ, say, fine=(0, INVALID))
    return page


def prepare(out: Path) -> None:
    """Make the output folder and clear what an earlier job of the same kind left in it."""
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = ("trace.msgpack*", "*.run", "*.run.part", "report.html")
    for path in (path for pattern in known for path in out.glob(pattern)):
        path.unlink()
    if left := sorted(path.name for path in out.iterdir()):
        raise InputError(f"{out} holds files of yours ({left[0]}); choose another with --out")


def _replay(trace: Path, arm: Arm, job: Job, environ: Mapping[str, str], say: Say) -> Path:
    run = job.out / f"{arm.name}.run"
    target = ["--base-url", arm.base_url, *arm.flags]
    code = command(["replay", str(trace), *target, "-o", str(run)], environ, say, fine=(0, INVALID))
    if code == INVALID:
        say("  this machine was too busy for an exact run; the comparison below says so")
    return run


def command(
    arguments: list[str], environ: Mapping[str, str], say: Say, *, fine: tuple[int, ...] = (0,)
) -> int:
    """Run one `tbench` command to its end; its output goes to the terminal.

    Returns its exit code; raises StepError where that is not among the `fine` ones.
    """
    say(f"\n$ tbench {' '.join(arguments)}")
    whole = [*TBENCH, *arguments]
    done = subprocess.run(whole, env=dict(environ), check=False, timeout=RUN_S)  # noqa: S603
    if done.returncode not in fine:
        raise StepError(arguments[0], done.returncode)
    return done.returncode


@contextmanager
def server(arguments: list[str], environ: Mapping[str, str], say: Say) -> Iterator[str]:
    """A `tbench` server while the block runs; yields its address, ends it by SIGINT."""
    say(f"\n$ tbench {' '.join(arguments)}")
    whole = [*TBENCH, *arguments]
    process = subprocess.Popen(whole, env=dict(environ), stderr=subprocess.PIPE, text=True)  # noqa: S603
    watch = _Stderr(process)
    try:
        yield watch.address(arguments[0])
    finally:
        _stop(process, watch)
    if process.returncode:
        print(watch.said(), file=sys.stderr)
        raise StepError(arguments[0], process.returncode)


class StepError(TbenchError):
    """A step of the job failed; the job ends with that step's exit code."""

    def __init__(self, verb: str, exit_code: int) -> None:
        super().__init__(f"the step `tbench {verb}` ended with exit code {exit_code}; see above")
        self.exit_code = exit_code


class _Stderr:
    """Reads a server's stderr to the end (a full pipe would stall it) and finds its address."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._lines: list[str] = []
        self._found = threading.Event()
        self._address: str | None = None
        self._thread = threading.Thread(target=self._read, args=(process.stderr,), daemon=True)
        self._thread.start()

    def _read(self, lines: Iterator[str]) -> None:
        for line in lines:
            self._lines.append(line)
            if self._address is None and (match := ADDRESS.search(line)):
                self._address = match[1]
                self._found.set()
        self._found.set()

    def address(self, name: str) -> str:
        if not self._found.wait(START_S) or self._address is None:
            raise TbenchError(f"tbench {name} did not start: {self.said() or 'it said nothing'}")
        return self._address

    def said(self) -> str:
        return "".join(self._lines).strip()

    def join(self) -> None:
        self._thread.join(timeout=5)


def _stop(process: subprocess.Popen[str], watch: _Stderr) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    watch.join()
