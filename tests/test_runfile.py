"""Run files: what goes in comes out, whole or killed, in the order of the plan."""

import errno
import hashlib
import itertools
import math
import os
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tbench.capture import read_trace
from tbench.capture.container_reader import open_container
from tbench.capture.container_writer import ContainerWriter
from tbench.capture.errors import InputError, InvalidRunError
from tbench.capture.exchange import Outcome
from tbench.capture.runtime import version
from tbench.capture.trace_info import pieces
from tbench.replay import columns as blocks
from tbench.replay.measure import to_sample
from tbench.replay.plan import Plan
from tbench.replay.runfile import RunWriter, read_run
from tbench.replay.runform import IDENTITY
from tbench.replay.sample import Sample
from tbench.replay.sender import Reply
from tbench.replay.table import Table
from tbench.replay.target import Target

FIXTURES = Path(__file__).parent.parent / "fixtures"


def sample(index: int = 0, **fields: Any) -> Sample:
    known: dict[str, Any] = {
        "id": f"id-{index}",
        "index": index,
        "endpoint": "chat",
        "model": "m",
        "stream": True,
        "due": 0.5,
        "sent": 0.75,
        "token_times": (1.0, 1.25, 2.0),
    }
    return Sample(**{**known, **fields})


NONE = dict.fromkeys(IDENTITY, 0)


def written(path: Path, samples: list[Sample], **totals: Any) -> Path:
    writer = RunWriter(path, {"target": {"base_url": "http://h"}}, clock=lambda: 0.0)
    for one in samples:
        writer.add(one)
    return writer.close({**NONE, "planned": len(samples), **totals})


times = st.none() | st.floats(0, 1e6)
counts = st.none() | st.integers(0, 2**31 - 1)
words = st.none() | st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), max_size=20
)
samples = st.builds(
    Sample,
    id=st.text("abcdef0123456789-", min_size=1, max_size=40),
    index=st.integers(0, 2**31 - 1),
    cycle=st.integers(0, 1000),
    endpoint=st.sampled_from(["chat", "embeddings"]),
    model=words,
    stream=st.booleans(),
    held=st.floats(0, 10),
    connect=st.floats(0, 10),
    due=times,
    sent=times,
    first_byte=times,
    first_token=times,
    first_token_after=times,
    first_answer=times,
    last_token=times,
    end=times,
    sent_wall_ns=st.none() | st.integers(0, 2**62),
    first_wall_ns=st.none() | st.integers(0, 2**62),
    status=st.none() | st.integers(100, 599),
    outcome=st.sampled_from(list(Outcome)),
    error=words,
    finish_reason=words,
    prompt_tokens=counts,
    output_tokens=counts,
    cached_tokens=counts,
    reasoning_tokens=counts,
    request_bytes=st.integers(0, 2**40),
    response_bytes=st.integers(0, 2**40),
    conn_reused=st.booleans(),
    reconnected=st.booleans(),
    request_id=st.none() | st.text("abcdef0123456789-", min_size=1, max_size=64),
)


@given(st.lists(st.lists(st.floats(0, 1e5), max_size=6).map(sorted), max_size=6))
def test_the_gaps_of_a_block_are_those_of_its_samples(times: list[list[float]]) -> None:
    """Each sample's own stamps, rounded to the microsecond after its first, whatever stands beside it."""
    kept = [sample(index, token_times=tuple(own)) for index, own in enumerate(times)]
    record = blocks.pack_tokens(kept)
    stamps = [[round((at - own[0]) * 1e6) for at in own] for own in times]

    assert np.frombuffer(record["counts"], dtype="<u4").tolist() == [
        max(len(own) - 1, 0) for own in times
    ]
    assert np.frombuffer(record["gaps_us"], dtype="<u4").tolist() == [
        min(b - a, 2**32 - 1) for own in stamps for a, b in itertools.pairwise(own)
    ]


@settings(suppress_health_check=[HealthCheck.too_slow])  # large by nature, slow on a busy machine
@given(st.lists(samples, min_size=1, max_size=8, unique_by=lambda s: s.index), st.integers(1, 4))
def test_every_field_of_a_sample_comes_back(whole: list[Sample], per_block: int) -> None:
    """Columns hold each sample's fields, with their own marks for what is absent."""
    records = [
        blocks.pack(blocks.from_samples(whole[at : at + per_block]))
        for at in range(0, len(whole), per_block)
    ]
    found = Table(lambda: records)
    for row, one in enumerate(sorted(whole, key=lambda one: one.index)):
        for name, column in found.items():
            if name in {"token_events", "coalesced"}:
                continue
            wanted, got = getattr(one, name), column[row]
            if wanted is None:
                assert got is None or got in ("", -1) or math.isnan(got)
            else:
                assert got == wanted


def test_samples_come_in_the_order_of_the_plan(tmp_path: Path) -> None:
    """They are written as they end and read as they were planned, token gaps with them."""
    path = written(
        tmp_path / "a.run", [sample(2, token_times=(1, 2)), sample(0), sample(1, token_times=())]
    )
    run = read_run(path)
    offsets, gaps = run.token_gaps

    assert run.columns["index"].tolist() == [0, 1, 2]
    assert run.columns["id"].tolist() == ["id-0", "id-1", "id-2"]
    assert run.columns["token_events"].tolist() == [3, 0, 2]
    assert run.columns["coalesced"].tolist() == [0, 0, 0]
    assert offsets.tolist() == [0, 2, 2, 3]
    assert gaps.tolist() == pytest.approx([0.25, 0.75, 1.0])


def test_rounding_of_token_stamps_does_not_add_up(tmp_path: Path) -> None:
    """Ten thousand gaps of a third of a millisecond sum to the true span within a microsecond."""
    stamps = tuple(index / 3000 for index in range(10_001))
    run = read_run(written(tmp_path / "a.run", [sample(token_times=stamps)]))

    assert run.token_gaps[1].sum(dtype=float) == pytest.approx(stamps[-1], abs=1e-6)


def test_many_blocks_read_as_one(tmp_path: Path) -> None:
    """The tables of words differ from block to block and still mean the same."""
    whole = [
        sample(i, model=f"m{i % 7 if i < 1500 else i % 3}", due=i / 10, sent=i / 10, token_times=())
        for i in range(2500)
    ]
    run = read_run(written(tmp_path / "a.run", whole))

    assert len(run) == 2500
    assert run.columns["model"].tolist() == [one.model for one in whole]
    assert run.columns["due"].tolist() == [one.due for one in whole]
    assert run.complete


def test_the_warm_up_is_a_mark_in_the_columns(tmp_path: Path) -> None:
    """Samples due before `warmup_s` are marked, and nothing is left out."""
    run = read_run(
        written(
            tmp_path / "a.run",
            [sample(i, due=float(i), sent=float(i)) for i in range(4)],
            warmup_s=2.0,
        )
    )

    assert run.columns["warmup"].tolist() == [True, True, False, False]


def test_a_killed_replay_keeps_its_samples_and_its_identity(tmp_path: Path) -> None:
    """The .part file is readable; the counts are made again from samples and progress."""
    now = [0.0]
    writer = RunWriter(tmp_path / "a.run", {}, clock=lambda: now[0])
    writer.add(sample(0))
    writer.add(sample(1, outcome=Outcome.TIMEOUT))
    now[0] = 2.0
    writer.pump({"planned": 10, "issued": 4})
    writer.pump({"planned": 10, "issued": 4})
    writer._container._seal()
    run = read_run(tmp_path / "a.run.part")

    assert not run.complete
    assert run.totals == {
        "planned": 10,
        "completed": 1,
        "failed": 1,
        "cancelled": 0,
        "lost_in_flight": 2,
        "never_sent": 6,
    }


def test_an_empty_run_has_empty_columns(tmp_path: Path) -> None:
    """No sample is no error."""
    run = read_run(written(tmp_path / "a.run", []))

    assert len(run) == 0
    assert run.token_gaps[1].tolist() == []


def test_a_run_never_replaces_a_file(tmp_path: Path) -> None:
    """An existing file is refused, not clobbered."""
    path = written(tmp_path / "a.run", [])

    with pytest.raises(InputError, match=r"a\.run"):
        RunWriter(path, {}, clock=lambda: 0.0)


def test_a_full_disk_is_one_line_that_says_where_the_rest_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples written before it stay readable."""
    writer = RunWriter(tmp_path / "a.run", {}, clock=lambda: 0.0)
    writer.append(blocks.pack(blocks.from_samples([sample(0)])))
    writer._container._seal()

    def full(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(InvalidRunError, match=r"No space left on device.*a\.run\.part"):
        writer.close({})
    monkeypatch.undo()

    assert len(read_run(tmp_path / "a.run.part")) == 1


def test_a_trace_is_not_a_run(tmp_path: Path) -> None:
    """The header's kind decides, in one line that names the file."""
    ContainerWriter(tmp_path / "t.msgpack", {"kind": "trace"}).close()

    with pytest.raises(InputError, match="this is a trace, not a run"):
        read_run(tmp_path / "t.msgpack")


@pytest.mark.parametrize(
    "record",
    [
        {"type": "samples"},
        {"type": "samples", "n": 3, "numbers": {"due": b"12"}, "words": {}, "names": {}},
        {"type": "samples", "n": "x", "numbers": 5},
    ],
)
def test_records_that_make_no_sense_are_one_line(tmp_path: Path, record: dict[str, Any]) -> None:
    """A sound container with foreign records is bad input, not a traceback."""
    writer = RunWriter(tmp_path / "a.run", {}, clock=lambda: 0.0)
    writer.append(record)
    path = writer.close({})

    with pytest.raises(InputError, match="not a run that this version understands"):
        read_run(path)


def test_fields_of_newer_writers_are_passed_over(tmp_path: Path) -> None:
    """Unknown columns, words, names and records do not disturb."""
    block = blocks.pack(blocks.from_samples([sample(0)]))
    block["numbers"]["novel"] = b"1234"
    block["words"]["mood"] = {"codes": b"\0\0", "table": ["good"]}
    writer = RunWriter(tmp_path / "a.run", {}, clock=lambda: 0.0)
    writer.append({"type": "novelty"})
    writer.append(block)
    run = read_run(writer.close(NONE))

    assert np.array_equal(run.columns["due"], [0.5])


def test_a_run_of_the_example_is_the_same_to_the_byte(tmp_path: Path) -> None:
    """What goes on the wire and what is written of the answers, from fixed stamps: pinned over versions.

    The sums were taken before the files of capture/ and replay/ were merged and renamed; they change with
    what a run holds, and then on purpose. Compression is left out: it belongs to the library.
    """
    target = Target(base_url="http://127.0.0.1:1", model="other", salt="12345678")
    wire, runs = hashlib.sha256(), RunWriter(tmp_path / "run", {}, clock=lambda: 0.0)
    for planned in Plan(trace=read_trace(FIXTURES / "example.msgpack")):
        call, recorded = target.call(planned, 0.25), planned.exchange.response
        wire.update(call.head.replace(version("tbench").encode(), b"VERSION") + call.body)
        reply = Reply(sent=10.25, sent_wall_ns=10**18, status=None, end=10.75)
        if recorded:
            reply.status = recorded.status
            reply.headers = [(name.encode(), text.encode()) for name, text in recorded.headers]
            reply.chunks = [(10.5 + at, piece) for at, piece in pieces(recorded)]
        runs.add(to_sample(call, reply, began=10.0))
    records = hashlib.sha256(msgpack.packb(list(open_container(runs.close({})).records())))

    assert wire.hexdigest() == "9a0e119fd3bcb62e191d3d6446a2ffff255ec5db34e4ed88c458e33da4322f17"
    assert records.hexdigest() == "6d408b99cae3f62769373b372e6198758dd89ac7aa227826252a5f56d5676a7e"
