"""Gaps between tokens, in the order of the plan, from records in any order."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.replay import columns as blocks
from tbench.replay.table import gather_gaps

GAPS = st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=5), max_size=12)


@given(GAPS, st.randoms(use_true_random=False), st.integers(1, 5), st.integers(0, 40))
def test_token_gaps_come_in_the_order_of_the_plan(
    gaps: list[list[int]], random: Any, per_record: int, expected: int
) -> None:
    """However they lie in the file, and however many were expected."""
    places = list(range(len(gaps)))
    random.shuffle(places)
    records = [
        blocks.tokens_record(
            np.array(few),
            np.array([len(gaps[k]) for k in few]),
            np.array([gap for k in few for gap in gaps[k]]),
        )
        for few in (places[at : at + per_record] for at in range(0, len(places), per_record))
    ]
    offsets, found = gather_gaps(records, len(gaps), expected)

    whole = [gap / 1e6 for one in gaps for gap in one]
    assert offsets.tolist() == np.cumsum([0, *map(len, gaps)]).tolist()
    assert found.tolist() == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("samples", [1, 3])
def test_token_gaps_of_other_samples_are_refused(samples: int) -> None:
    """More or fewer than the run has."""
    records = [blocks.tokens_record(np.arange(2), np.array([1, 1]), np.array([5, 6]))]
    with pytest.raises(ValueError, match="token stamps are not those of its samples"):
        gather_gaps(records, samples)
