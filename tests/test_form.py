"""capture.records: which fields a record must have, of which types."""

from dataclasses import fields

import pytest

from tbench.capture.exchange import Request
from tbench.capture.frames import LATEST
from tbench.capture.records import REQUEST, Fields, RecordSchema

TABLE: Fields = {"id": (str,), "at": (int,), "more": (int, type(None)), "headers": (list,)}
SOUND = {"id": "a", "at": 1, "more": 2, "headers": [["a", "b"], ["c"], "de", ["f", 1]]}


def test_a_sound_record_gives_its_fields() -> None:
    """What may be absent is None; header fields are pairs of text, anything else among them is left out."""
    form = RecordSchema(TABLE)

    assert form.read({**SOUND, "type": "x", "new": 1}) == {
        **SOUND,
        "headers": (("a", "b"), ("f", "1")),
    }
    assert form.read({"id": "a", "at": 1, "headers": []}) == {
        "id": "a",
        "at": 1,
        "more": None,
        "headers": (),
    }
    assert form.rest({**SOUND, "type": "x", "new": 1}) == {"new": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": 1},
        {"at": True},
        {"at": None},
        {"at": LATEST + 1},
        {"more": -LATEST - 1},
        {"headers": ()},
    ],
)
def test_a_wrong_record_is_none_however_many_were_right(wrong: dict[str, object]) -> None:
    """What is remembered of those before it must not let it in."""
    form = RecordSchema(TABLE)
    for _ in range(3):
        assert form.read(SOUND) is not None
        assert form.read({**SOUND, **wrong}) is None


def test_a_field_that_is_missing_is_not_there() -> None:
    """Unless it may be absent."""
    assert RecordSchema(TABLE).read({"at": 1, "headers": []}) is None


def test_a_request_has_the_fields_of_its_record_in_their_order() -> None:
    """By place it is made of them."""
    assert [part.name for part in fields(Request)] == [*REQUEST, "extra"]
