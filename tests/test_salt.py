"""The salt goes before the first word, once, and leaves everything else as it was."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.capture.providers.openai import with_prefix
from tbench.replay.target import DIGITS, new_salt

TEXTS = st.text(max_size=20)


@pytest.mark.parametrize(
    ("payload", "wanted"),
    [
        (
            {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]},
            {"messages": [{"role": "system", "content": "1\nS"}, {"role": "user", "content": "U"}]},
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "1\n"},
                            {"type": "image_url", "image_url": {}},
                        ],
                    }
                ]
            },
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "content": None},
                    {"role": "user", "content": "U"},
                ]
            },
            {
                "messages": [
                    {"role": "assistant", "content": None},
                    {"role": "user", "content": "1\nU"},
                ]
            },
        ),
        ({"prompt": "P", "n": 2}, {"prompt": "1\nP", "n": 2}),
        ({"prompt": ["P", "Q"]}, {"prompt": ["1\nP", "1\nQ"]}),
    ],
)
def test_the_first_text_gets_it(payload: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert with_prefix(payload, "1\n") == wanted


@pytest.mark.parametrize(
    "payload",
    [{}, {"messages": []}, {"messages": "no"}, {"prompt": [1, 2]}, {"prompt": []}, {"input": "x"}],
)
def test_where_there_is_no_text_there_is_no_salt(payload: dict[str, Any]) -> None:
    assert with_prefix(payload, "1\n") is None


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXTS), min_size=1))
def test_requests_that_shared_a_prefix_still_do(turns: list[tuple[str, str]]) -> None:
    """A turn and the one after it share all of the first, salted or not."""
    messages = [{"role": role, "content": content} for role, content in turns]
    shorter, longer = ({"messages": part} for part in (messages[:-1] or messages, messages))
    first, second = (with_prefix(payload, "7\n") for payload in (shorter, longer))

    assert first and second
    assert second["messages"][: len(first["messages"])] == first["messages"]
    assert longer == {"messages": messages}, "the recorded payload was changed"


def test_salts_are_of_one_length_and_differ() -> None:
    salts = {new_salt() for _ in range(50)}

    assert len(salts) > 45
    assert {len(salt) for salt in salts} == {DIGITS}
