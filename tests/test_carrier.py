"""What carries for a worker on another machine: blocks, questions that are asked again, clocks. No Ray."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.benchmark.options import BenchmarkOptions
from tbench.benchmark.plan import resolve
from tbench.capture.errors import InputError
from tbench.capture.option import made
from tbench.replay.options import ReplayOptions
from tbench.replay.workers import carrier, on_ray, process
from tbench.replay.workers.carrier import BLOCK, Carrier
from tbench.replay.workers.counters import PICO, Budget, SharedCounters
from tbench.replay.workers.process import Local
from tests.conftest import PATIENCE_S, until


class Far(Local):
    """The worker's end of its descriptors, in the hand of the test."""

    def __init__(self, fds: tuple[int, ...], stderr: IO[bytes]) -> None:
        calls, control, self.spool, counters = map(os.dup, fds)
        self.calls, self.control = socket.socket(fileno=calls), socket.socket(fileno=control)
        self.shared = SharedCounters(counters, 3)
        self.stderr, self.code, self.killed = stderr, None, False

    def wait(self, _seconds: float | None = None) -> int | None:
        return self.code

    def kill(self) -> None:
        self.killed = True

    def end(self, code: int) -> None:
        self.code = code
        self.control.close()


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Carrier, Far]]:
    """A carrier for the second of three workers, and that worker's end."""
    monkeypatch.setattr(process, "Spawned", Far)
    near = Carrier()
    near.start(1, 3, reads=False)
    far: Any = near._process
    yield near, far
    far.end(0)


def read(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(BLOCK), b""))


def test_a_block_that_comes_twice_reaches_the_worker_once(ends: tuple[Carrier, Far]) -> None:
    """In whole, in part, or as the end of the stream."""
    near, far = ends
    for place, block in ((0, b"abc"), (0, b"abc"), (3, b"de"), (1, b"bcdef"), (6, b""), (6, b"")):
        near.feed("calls", place, block)

    assert read(far.calls) == b"abcdef"


def test_what_is_asked_for_again_is_told_again(ends: tuple[Carrier, Far]) -> None:
    """Where an answer got lost, the same places have the same bytes."""
    near, far = ends
    os.write(far.spool, b"attempts")
    far.control.sendall(b"a word")
    far.shared.row(1).issue(0)
    until(lambda: near._messages)
    reports = [near.collect(3, 2, 0, 0, 0.1) for _ in range(2)]

    assert [(report.spooled, report.messages) for report in reports] == [(b"empts", b"word")] * 2
    with SharedCounters.made(1) as ours:
        ours.row(0).raw = reports[1].row
        assert ours.row(0).issued(0) == 1


def test_a_word_comes_after_all_that_was_spooled_before_it(ends: tuple[Carrier, Far]) -> None:
    """The last word of a worker ends its run: nothing of it may still be on its way."""
    near, far = ends
    os.write(far.spool, bytes(BLOCK + 7))
    far.control.sendall(b"done")
    far.stderr.write(b"a last line\n")
    far.stderr.flush()
    far.end(3)
    near._listener.join(PATIENCE_S)
    first = near.collect(0, 0, 0, 0, 0.1)
    second = near.collect(BLOCK, 0, 0, 0, 0.1)

    assert (len(first.spooled), first.messages, first.ended) == (BLOCK, b"", None)
    assert (len(second.spooled), second.messages, second.ended) == (7, b"done", 3)
    assert second.stderr == b"a last line\n"


def test_what_was_settled_here_is_settled_there_once(ends: tuple[Carrier, Far]) -> None:
    """Sums go there, not steps: told twice they count once."""
    near, far = ends
    there = Budget(1.0, far.shared)
    assert there.reserve(0.9)
    for _ in range(2):
        near.collect(0, 0, round(0.2 * PICO), round(0.9 * PICO), 0.1)

    assert not there.reserve(0.81)
    assert there.reserve(0.79)


def test_a_worker_of_which_nobody_asks_is_ended(
    ends: tuple[Carrier, Far], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off from who started it, it is counted as lost there: it must not send on."""
    _, far = ends
    monkeypatch.setattr(carrier, "ALONE_S", -1.0)
    until(lambda: far.killed)


@given(
    *(st.floats(-1e6, 1e6), st.floats(0, 10), st.floats(0, 10), st.floats(0, 10)),
)
def test_the_true_offset_of_a_clock_is_within_what_is_said(
    ahead: float, there: float, back: float, thought: float
) -> None:
    """However long a question and its answer took, each way."""
    received = 100.0 + there + ahead
    clock = on_ray._offset(100.0, received, received + thought, 100.0 + there + thought + back)

    assert abs(clock.ahead - ahead) <= clock.uncertainty + 1e-8


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra."""
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r"--on ray: needs ray; pip install 'tbench\[ray\]'"):
        on_ray._connected.__wrapped__("ray")


def test_a_cluster_that_nobody_is_at_is_named_at_once() -> None:
    """Ray itself would try for over a minute."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=f"--on ray://{address}: cannot be reached: "):
            on_ray.reach(f"ray://{address}", address)


@pytest.mark.parametrize("text", ["dask", "ray://", "ray://head", "ray://:6379", "ray:/h:1", ""])
def test_a_cluster_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    """Before anything is opened."""
    with pytest.raises(InputError, match=r"--on .*: write ray"):
        ReplayOptions(tmp_path / "t.msgpack", on=text)


def test_a_benchmarks_points_are_sent_where_it_was_told() -> None:
    """As those of `replay` and `ab`, whose option it is."""
    given = {"api_backend": "vllm", "api_base": "http://127.0.0.1:9", "task": "text-to-text"}
    options = made(BenchmarkOptions, {**given, "model": "m", "on": "ray"})

    assert resolve(options).order.on == "ray"
