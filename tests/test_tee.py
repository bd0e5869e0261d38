"""Tee and budget: bytes pass unchanged whatever happens, memory stays within its limit."""

import itertools
import threading

from hypothesis import given
from hypothesis import strategies as st

from tbench.capture.tee import PIECE_OVERHEAD, Budget, Tee
from tests.conftest import PATIENCE_S


def tee(limit: int = 1 << 20) -> Tee:
    return Tee(Budget(limit), itertools.count(100, 10).__next__)


@given(st.lists(st.binary(max_size=30), max_size=20), st.integers(0, 2_000))
def test_every_piece_passes_unchanged_and_is_counted(pieces: list[bytes], limit: int) -> None:
    """Times and sizes stay whole whether or not memory lasted."""
    one = tee(limit)

    passed = [one.pass_on(piece) for piece in pieces]

    real = [piece for piece in pieces if piece]
    assert passed == pieces
    assert one.sizes == [len(piece) for piece in real]
    assert one.stamps == [100 + 10 * n for n in range(len(real))]
    assert one.body() in (b"".join(pieces), None)
    assert one._budget.held <= limit


def test_a_full_budget_drops_the_body_and_gives_the_memory_back() -> None:
    """What is no longer whole is of no use: free it for others at once."""
    one = tee(limit=2 * (PIECE_OVERHEAD + 10))
    for _ in range(3):
        one.pass_on(b"0123456789")

    assert one.body() is None
    assert one.size == 30
    assert one._budget.held == 0


def test_the_callable_never_raises() -> None:
    """An exception in it would leave mitmproxy's client hanging."""

    def broken() -> int:
        raise RuntimeError

    one = Tee(Budget(100), broken)

    assert one.pass_on(b"data") == b"data"
    assert one.pieces is None, "which the recorder counts as lost"


def test_forgetting_twice_gives_back_once() -> None:
    """The writer and a full budget may both give up on the same tee."""
    one = tee()
    one.pass_on(b"data")
    one.forget()
    one.forget()

    assert one._budget.held == 0


def test_the_budget_counts_across_threads() -> None:
    """The loop takes while the writer gives back."""
    budget = Budget(10**9)

    def work() -> None:
        for _ in range(20_000):
            budget.take(3)
            budget.free(2)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=PATIENCE_S)

    assert budget.held == 4 * 20_000


def test_tight_begins_above_four_fifths() -> None:
    """There new exchanges are refused, so that those in flight can end."""
    budget = Budget(100)
    budget.take(80)
    assert not budget.tight
    budget.take(1)

    assert budget.tight
