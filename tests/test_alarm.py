"""The alarm: never early, and one after the other."""

import pytest
import trio

from tbench.replay.player import punctual
from tests.conftest import PATIENCE_S


def test_it_never_wakes_early() -> None:
    """Whether the time is past, almost here, or a while off."""

    async def main() -> list[float]:
        late = []
        with trio.fail_after(PATIENCE_S), punctual() as sleep_until:
            for wait in (-1.0, 0.0, 0.0001, 0.001, 0.02, 0.0005):
                at = trio.current_time() + wait
                await sleep_until(at)
                late.append(trio.current_time() - at)
        return late

    assert min(trio.run(main)) >= 0


def test_it_can_be_cancelled_and_used_again() -> None:
    """A sleep that was left does not ring into the next one."""

    async def main() -> float:
        with trio.fail_after(PATIENCE_S), punctual() as sleep_until:
            left = False
            while not left:  # a busy machine may be late for both
                with trio.move_on_after(0.01) as scope:
                    await sleep_until(trio.current_time() + 0.05)
                left = scope.cancelled_caught
            at = trio.current_time() + 0.1
            await sleep_until(at)
            return trio.current_time() - at

    assert trio.run(main) >= 0


def test_it_sleeps_for_longer_than_a_timer_holds() -> None:
    """292 years in ns: the arrivals of a trace of a day at a speed of 1e-9 are later."""

    async def main() -> bool:
        with punctual() as sleep_until, trio.move_on_after(0.01) as scope:
            await sleep_until(1e12)
        return scope.cancelled_caught

    assert trio.run(main)


def test_a_past_time_is_still_a_checkpoint() -> None:
    """Whoever was cancelled finds out."""

    async def main() -> None:
        with punctual() as sleep_until, trio.CancelScope() as scope:
            scope.cancel()
            await sleep_until(0.0)
            pytest.fail("went on")

    trio.run(main)
