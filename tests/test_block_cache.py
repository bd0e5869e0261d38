"""capture.ordering: the records of a block, one by one or in one pass."""

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from tbench.capture.ordering import Shelved

VALUES = st.one_of(
    st.dictionaries(st.text(max_size=3), st.integers(0, 300) | st.binary(max_size=5), max_size=3),
    st.integers(),
    st.just({"type": "request"}),
).map(
    lambda value: (
        msgpack.packb(value) if abs(value if type(value) is int else 0) < 2**63 else b"\xc1"
    )
)
"""Records, values that are none, and a byte that is no msgpack."""


@given(st.lists(VALUES, max_size=6), st.lists(st.integers(0, 8), max_size=8), st.integers(0, 40))
def test_one_pass_gives_what_one_by_one_does(
    values: list[bytes], ordinals: list[int], cut: int
) -> None:
    """In any order, with any damage, and of any end that is missing."""
    raw = b"".join(values)[: cut if cut < 30 else None]

    assert list(Shelved(raw).some(ordinals)) == [Shelved(raw).record(one) for one in ordinals]
