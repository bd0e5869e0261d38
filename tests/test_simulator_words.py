"""The simulator's tokens: counted the same when they are said and when they come back."""

import struct
from base64 import b64encode
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.simulator.prompt import (
    LONG,
    SHORT,
    chat_prompt,
    count,
    image_size,
    image_tokens,
    prose,
    split,
    text_prompt,
)


@given(seed=st.integers(), tokens=st.integers(0, 300))
def test_prose_has_exactly_the_tokens_it_claims(seed: int, tokens: int) -> None:
    """N pieces join to a text that counts N tokens."""
    pieces = prose(Random(seed), tokens)

    assert len(pieces) == tokens
    assert count("".join(pieces)) == tokens


def test_the_word_lists_fit_the_tokens() -> None:
    """With its space, a short word is one token and a long one is two."""
    assert {len(word) for word in SHORT} == {3}
    assert {len(word) for word in LONG} == {7}


@given(text=st.text(max_size=60))
def test_splitting_loses_nothing(text: str) -> None:
    """The pieces of a text join to it again, and none is empty."""
    pieces = split(text)

    assert "".join(pieces) == text
    assert all(pieces)


TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text(max_size=300)}
    ),
    min_size=1,
    max_size=6,
)


@given(turns=TURNS)
def test_a_conversation_begins_with_the_one_before(turns: list[dict[str, str]]) -> None:
    """The blocks of a shorter conversation are the beginning of the longer one's, but for the tail."""
    shorter = chat_prompt(turns, [], "m")
    longer = chat_prompt([*turns, {"role": "assistant", "content": "and so on"}], [], "m")

    assert longer.blocks[: len(shorter.blocks)] == shorter.blocks
    assert longer.tokens > shorter.tokens


def test_a_model_has_its_own_cache_and_the_same_text() -> None:
    """Blocks differ by model, the digest that seeds the answer does not."""
    one, other = (text_prompt(b"x" * 64, model) for model in ("a", "b"))

    assert one.blocks != other.blocks
    assert one.digest == other.digest


@pytest.mark.parametrize(
    ("size", "tokens"),
    [
        ((1, 1), 1601),
        ((560, 560), 1601),
        ((561, 10), 3202),
        ((561, 561), 6404),
        ((9999, 9999), 6404),
    ],
)
def test_an_image_costs_its_tiles(size: tuple[int, int], tokens: int) -> None:
    """560 pixel tiles of 1,601 tokens in a grid of at most two by two."""
    assert image_tokens(*size) == tokens


JPEG = (
    b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
    b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", 300, 700) + b"\x03" + bytes(9)
)
PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 600, 40) + bytes(9)


@pytest.mark.parametrize(
    ("data", "size"),
    [(JPEG, (700, 300)), (PNG, (600, 40)), (b"GIF89a\x05\x00\x06\x00", (5, 6)), (b"?", None)],
)
def test_image_sizes_are_read_from_their_headers(data: bytes, size: tuple[int, int] | None) -> None:
    """JPEG, PNG and GIF tell their size; anything else is unknown."""
    assert image_size(data) == size


def test_an_image_in_a_prompt_counts_its_tokens() -> None:
    """A data URL adds its tiles, an address elsewhere as much as the largest image."""

    def tokens(*parts: dict[str, object]) -> int:
        return chat_prompt([{"role": "user", "content": [*parts]}], [], "m").tokens

    text = {"type": "text", "text": "what is this"}
    inline = "data:image/png;base64," + b64encode(PNG).decode()
    bare = tokens(text)

    assert tokens(text, {"type": "image_url", "image_url": {"url": inline}}) - bare == 3202
    for url in ("https://a/b.png", "data:image/png;base64,é"):
        assert tokens(text, {"type": "image_url", "image_url": {"url": url}}) - bare == 6404
