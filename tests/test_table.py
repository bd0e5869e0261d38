"""Columns of many records: what each pass brings, what is refused; the gaps between tokens."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.analysis.arms import load_arm
from tbench.analysis.compare import compare
from tbench.capture.container_reader import open_container
from tbench.capture.errors import InputError
from tbench.replay import columns as blocks
from tbench.replay.columns import MOST
from tbench.replay.runfile import USUAL, RunWriter, read_run
from tbench.replay.runform import IDENTITY
from tbench.replay.sample import Sample
from tbench.replay.table import EVERY, Table, at, gather_gaps, short, where, words

DECISION = Path(__file__).parent.parent / "fixtures/golden/decision"
NONE = dict.fromkeys(IDENTITY, 0)


def sample(index: int, **fields: Any) -> Sample:
    given = {"model": f"m{index % 3}", "due": index / 8, "sent": index / 8, "request_bytes": index}
    return Sample(
        id=f"id-{index}", index=index, endpoint="chat", stream=True, **{**given, **fields}
    )


def record(*indices: int, **fields: Any) -> dict[str, Any]:
    return blocks.pack(blocks.from_samples([sample(index, **fields) for index in indices]))


class Passes:
    """Records that count how often they were read."""

    def __init__(self, *records: dict[str, Any]) -> None:
        self.records = records
        self.count = 0

    def __call__(self) -> Iterator[dict[str, Any]]:
        self.count += 1
        yield from self.records


def test_what_is_asked_for_later_costs_one_more_pass() -> None:
    """The first pass gives its own, a second all other numbers and words, and one more each kind of name."""
    passes = Passes(record(5, 1), record(3))
    table = Table(passes, first=("due",))

    assert table["due"].tolist() == [1 / 8, 3 / 8, 5 / 8]
    assert passes.count == 1
    assert table["request_bytes"].tolist() == [1, 3, 5]
    assert table["model"].tolist() == ["m1", "m0", "m2"]
    assert passes.count == 2
    assert table["id"].tolist() == ["id-1", "id-3", "id-5"]
    assert passes.count == 3


def test_the_usual_columns_serve_a_comparison() -> None:
    """Every one of them exists, and a pair that is compared asks for no other: that would cost a pass."""
    arms = [load_arm(DECISION / name) for name in ("now.1.run", "next.1.run")]
    tables = [arm.run.columns for arm in arms]
    compare(*arms)

    assert set(USUAL) < set(EVERY)
    assert [set(table._stores) for table in tables if isinstance(table, Table)] == [set(USUAL)] * 2


@given(st.integers(0, 40), st.integers(0, 100))
def test_a_wrong_guess_of_the_rows_loses_none(samples: int, rows: int) -> None:
    """Too few or too many expected: the columns hold what there is."""
    records = [record(index) for index in range(samples)]
    table = Table(lambda: records, rows=rows)

    assert table["index"].tolist() == list(range(samples))
    assert all(len(table[name]) == samples for name in table)


def test_names_of_different_width_are_kept_whole() -> None:
    """A later block with longer names widens the column."""
    records = [blocks.pack(blocks.from_samples([Sample(**one)])) for one in (
        {"id": name, "index": k, "endpoint": "chat", "model": None, "stream": True, "due": None, "sent": None}
        for k, name in enumerate(("a", "a" * 40, "bc"))
    )]  # fmt: skip
    table = Table(lambda: records)

    assert table["id"].tolist() == ["a", "a" * 40, "bc"]
    assert short(table, "id").tolist() == [b"a", b"a" * 40, b"bc"]


def test_a_column_that_a_writer_did_not_know_is_absent() -> None:
    """NaN, -1, None: in that writer's samples only."""
    old, new = record(0, prompt_tokens=7, error="x"), record(1, prompt_tokens=7, error="x")
    del old["numbers"]["due"], old["numbers"]["prompt_tokens"], old["words"]["error"]
    table = Table(lambda: [old, new])

    assert [math.isnan(value) for value in table["due"]] == [True, False]
    assert table["prompt_tokens"].tolist() == [-1, 7]
    assert table["error"].tolist() == [None, "x"]


def test_words_are_found_by_their_codes() -> None:
    """The same in a table and in plain columns; a word that nobody said is nowhere."""
    table = Table(lambda: [record(0, 1), record(2, 3)])
    for columns in (table, dict(table)):
        assert where(columns, "model", "m0").tolist() == [True, False, False, True]
        assert where(columns, "model", "m1", "m2").tolist() == [False, True, True, False]
        assert not where(columns, "model", "nobody").any()


@pytest.mark.parametrize("n", [-1, MOST + 1, 2**60])
def test_a_block_beyond_the_format_is_refused_before_memory_is_taken(n: int) -> None:
    """Whatever it says of itself."""
    with pytest.raises(ValueError, match=f"a block of {n} samples"):
        Table(lambda: [{"n": n, "numbers": {}, "words": {}, "names": {}}])


def test_an_unknown_column_is_a_key_error() -> None:
    """As of any mapping."""
    with pytest.raises(KeyError):
        Table(list)["mood"]


def test_a_broken_column_is_one_line_whenever_it_is_read(tmp_path: Path) -> None:
    """A column outside the first pass: the error still names the file."""
    broken = record(0, 1)
    broken["numbers"]["first_byte"] = b"1"
    writer = RunWriter(tmp_path / "a.run", {}, clock=lambda: 0.0)
    writer.append(broken, first=0)
    run = read_run(writer.close(NONE))

    assert run.columns["due"].tolist() == [0, 1 / 8]
    with pytest.raises(InputError, match=r"a\.run: not a run that this version understands"):
        run.columns["first_byte"]


@pytest.mark.parametrize("known", [True, False])
def test_a_run_whose_index_knows_where_samples_are_is_read_alike(
    tmp_path: Path, known: bool
) -> None:
    """Files of older writers have no such index: every block is looked at."""
    writer = RunWriter(tmp_path / "a.run", {}, clock=lambda: 0.0)
    for first in range(0, 40, 10):
        writer.append(record(*range(first, first + 10)), first=first if known else None)
        writer.append({"type": "novelty", "bytes": b"x" * 300_000})
    run = read_run(writer.close({**NONE, "completed": 40}))
    container = open_container(run.path)

    assert run.columns["index"].tolist() == list(range(40))
    assert container.rows is not None
    seqs = [container.rows[k].first_seq for k in range(len(container.rows))]
    assert [seq for seq in seqs if seq is not None] == ([0, 10, 20, 30] if known else [])
    assert len(seqs) > 4


def test_a_damaged_block_costs_its_own_samples(tmp_path: Path) -> None:
    """One flipped bit: the others are there, and the totals still say how many there were."""
    writer = RunWriter(tmp_path / "a.run", {}, clock=lambda: 0.0)
    for first in (0, 10, 20):
        writer.append({**record(*range(first, first + 10)), "more": bytes(260_000)}, first=first)
    path = writer.close({**NONE, "completed": 30})
    rows = open_container(path).rows
    assert rows is not None
    data = bytearray(path.read_bytes())
    data[rows[1].offset + rows[1].length - 9] ^= 1
    path.write_bytes(data)

    run = read_run(path)

    assert run.columns["index"].tolist() == [*range(10), *range(20, 30)]
    assert run.totals["completed"] == 30


def test_a_few_samples_are_had_without_their_whole_columns() -> None:
    """One pass for all that no pass kept, which is not kept now either; plain columns give the same."""
    passes = Passes(record(5, 1), record(3))
    table = Table(passes, first=("due",))
    names = ("id", "due", "request_bytes", "model")
    few = at(table, np.array([2, 0]), *names)

    assert {name: column.tolist() for name, column in few.items()} == {
        "id": ["id-5", "id-1"],
        "due": [5 / 8, 1 / 8],
        "request_bytes": [5, 1],
        "model": ["m2", "m1"],
    }
    assert passes.count == 2
    plain = at(dict(table), np.array([2, 0]), *names)
    assert all(plain[name].tolist() == few[name].tolist() for name in names)
    assert at(table, np.array([1]), "status")["status"].tolist() == [-1]


def test_every_word_that_is_used_is_known() -> None:
    """Absent is no word, nor is one that only a table names."""
    table = Table(lambda: [record(0, 1, error="x"), record(2)])
    for columns in (table, dict(table)):
        assert words(columns, "model") == {"m0", "m1", "m2"}
        assert words(columns, "error") == {"x"}


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
