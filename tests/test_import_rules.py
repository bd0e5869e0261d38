"""`tbench trace import`: times to the digit, clocks in any order, foreign lines, rows that cannot be."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.capture.importers import IMPORTERS
from tbench.capture.importers import conversion as importing
from tbench.capture.importers.conversion import MOST_INSTANTS, Ticks
from tbench.capture.importers.importer import Call, LeftOut, moment, scaled
from tbench.capture.trace_reader import read_trace
from tests.logs import ENVOY, NGINX, NGINX_JSON

NS = 10**9
Run = Callable[..., Any]
MAP = ("--map", "arrival=ts:s", "--map", "prompt=p")


def left_out(info: Any) -> dict[str, int]:
    counts: dict[str, int] = json.loads(info.out)["import"]["left_out"]
    return counts


# Times.


@given(st.integers(978_307_200, 4_070_908_800), st.integers(0, NS - 1), st.data())
def test_a_date_means_one_instant_however_it_is_written(
    at: int, nanoseconds: int, data: st.DataObject
) -> None:
    """Any offset as databases, Go, Python and ISO write it; comma or point; one to nine digits, or more."""
    digits = f"{nanoseconds:09}"[: data.draw(st.integers(1, 9))]
    hours, minutes = data.draw(st.integers(-12, 14)), data.draw(st.sampled_from([0, 30, 45]))
    offset = timedelta(hours=hours, minutes=minutes)
    sign = "-" if offset < timedelta(0) else "+"
    total = abs(offset) // timedelta(minutes=1)
    zones = [f"{sign}{total // 60:02}:{total % 60:02}", f"{sign}{total // 60:02}{total % 60:02}"]
    zones += [f" {zone} UTC" for zone in zones[1:] if not total]
    zones += [f"{sign}{total // 60:02}"] if not total % 60 else []
    zones += ["", "Z", "z", " UTC"] if not total else []
    written = (
        datetime.fromtimestamp(at, timezone(offset)).strftime(
            data.draw(st.sampled_from(["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"]))
        )
        + data.draw(st.sampled_from([".", ","]))
        + digits
        + data.draw(st.sampled_from(zones))
    )

    assert moment(written) == at * NS + int(digits.ljust(9, "0")), written


@pytest.mark.parametrize(
    "word",
    ["2026-11-28", "2026-11-28T10:00:00+2", "2026-11-28T10:00:00+02:0", "2026-11-28T10:00.5Z",
     "2026-13-28T10:00:00Z", "2026-11-28T25:00:00Z", "2026-11-28T10:00:00+25", "now", ""],
)  # fmt: skip
def test_what_is_no_instant_is_none(word: str) -> None:
    assert moment(word) is None


@given(st.integers(0, 2 * 10**18), st.sampled_from([("s", 9), ("ms", 6), ("us", 3), ("ns", 0)]))
def test_a_decimal_is_read_to_its_last_digit(ns: int, unit: tuple[str, int]) -> None:
    """As text every nanosecond; as a JSON number as many digits as its writer's double has told apart."""
    name, places = unit
    exact = Decimal(ns).scaleb(-places)
    assert scaled(f"{exact:f}", name) == scaled(exact, name) == ns
    coarse = ns // 1000 * 1000  # today's seconds to six decimals, 16 digits
    number = json.loads(f"{Decimal(coarse).scaleb(-places):f}")
    assert scaled(number, name) == coarse


def test_no_number_is_none() -> None:
    words = [
        "1_0",
        "nan",
        "inf",
        "",
        " ",
        "1e9999",
        "0x10",
        "\N{ARABIC-INDIC DIGIT ONE}",
        "1,5",
        "9" * 5000,
        None,
        True,
        [1],
    ]
    assert [scaled(word, "s") for word in [*words, float("inf"), Decimal("NaN")]] == [None] * 15


def test_nginx_times_are_exact(tbench: Run, tmp_path: Path) -> None:
    """`msec` as a text or as a number, less `request_time`: no float is in between."""
    rows = [
        {**NGINX_JSON[0], "msec": kind(f"1795860001.{number:03}"), "request_time": "0.001"}
        for number in range(1, 40)
        for kind in (str, float)
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert tbench("trace", "import", "log.jsonl", "-o", "t.msgpack").code == 0

    trace = read_trace(tmp_path / "t.msgpack")
    arrivals = [trace.header.wall(exchange.request.arrive_ns) for exchange in trace]
    assert arrivals == [
        1795860001 * NS + (number - 1) * 10**6 for number in range(1, 40) for _ in range(2)
    ]


# Clocks.


def ticks(arrivals: list[int]) -> tuple[int | None, int]:
    clock = Ticks()
    for at in arrivals:
        clock.add(at)
    return clock.tick_ns, clock.together


@pytest.mark.parametrize(
    ("instants", "tick_ns"),
    [
        ([3 * NS * (number // 5) for number in range(100)], 3 * NS),
        ([3052_000_000 * (number // 4) for number in range(100)], 3052_000_000),
        ([NS * (number // 4) + 370_000_000 * (number % 2) for number in range(100)], 370_000_000),
        ([1_000_000 * number for number in range(100)], None),
        ([7_000_001 * (number // 3) for number in range(100)], None),
        ([number % 3 * 3 * NS + number for number in range(100)], None),
    ],
    ids=["3 s", "3.052 s", "two hosts", "1 ms", "bursts of 7 ms", "fine"],
)
def test_a_clock_is_as_coarse_in_any_order(instants: list[int], tick_ns: int | None) -> None:
    """In order, backwards, shuffled, and hosts in turns: where the rows stand says nothing of their clock."""
    shuffled = random.Random(1).sample(instants, len(instants))
    interleaved = [at for pair in zip(instants[:50], instants[50:], strict=True) for at in pair]

    orders = [instants, instants[::-1], shuffled, interleaved]
    assert {ticks(order) for order in orders} == {(tick_ns, len(instants) - len(set(instants)))}


def test_the_clock_of_many_arrivals_is_judged_by_the_first_in_time() -> None:
    """In bounded memory: the same in any order, whether the rest is in the sample or not."""
    instants = [20_000_001 * (number // 2) for number in range(2 * MOST_INSTANTS + 400)]
    shuffled = random.Random(2).sample(instants, len(instants))

    assert ticks(instants) == ticks(instants[::-1]) == ticks(shuffled)
    assert ticks(instants) == (20_000_001, MOST_INSTANTS)


# Logs behind foreign lines.

FOREIGN = {
    "comment": "# rotated at 2026-11-28\n",
    "cut in two": 'completions HTTP/1.1" 200 396 "-" "py/1"\n',
    "nginx": "/docker-entrypoint.sh: ready\n2026/11/28 10:00:00 [notice] 1#1: start worker\n",
    "envoy": "[2026-11-28 10:00:00.123][1][info][main] [source/server.cc:430] initializing\n",
    "cut JSON": 'el": "m", "messages": []}}\n',
    "blank": "\n\n",
}


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("log", ["nginx", "envoy", "nginx JSON"])
def test_a_log_is_told_behind_foreign_lines(
    tbench: Run, tmp_path: Path, foreign: str, log: str
) -> None:
    """The same exchanges as without them; each of them is a row, left out."""
    rows = "".join(json.dumps(row) + "\n" for row in NGINX_JSON)
    sized = ("--prompt-tokens", 3)
    text = {"nginx": NGINX, "envoy": ENVOY, "nginx JSON": rows}[log]
    (tmp_path / "plain.log").write_text(text)
    (tmp_path / "foreign.log").write_text(foreign + text)
    for name in ("plain", "foreign"):
        done = tbench("trace", "import", f"{name}.log", *sized, "-o", f"{name}.msgpack")
        assert done.code == 0, done.err
    plain, behind = (
        json.loads(tbench("trace", "info", f"{name}.msgpack", "--json").out)
        for name in ("plain", "foreign")
    )

    assert behind["requests"] == plain["requests"] > 0
    assert behind["import"]["format"] == plain["import"]["format"] == log.partition(" ")[0]
    words = [line for line in foreign.splitlines() if line]
    assert behind["import"]["rows"] == plain["import"]["rows"] + len(words)


def test_a_named_format_is_how_text_is_read(tbench: Run, tmp_path: Path) -> None:
    """Where more foreign lines than the beginning has hide it; a table of such a log stays one."""
    (tmp_path / "a.log").write_text("# " + "x" * 2**21 + "\n" + NGINX)
    sized = ("--prompt-tokens", 3)
    done = tbench("trace", "import", "a.log", "--format", "nginx", *sized, "-o", "a.msgpack")
    assert "1 longer than 1 MiB (a.log row 1)" in done.out
    assert (done.code, "3 exchanges of 6 rows (nginx)" in done.out) == (0, True), done.err
    (tmp_path / "b.csv").write_text(
        "msec,request,status\n1795860001.25,POST /v1/embeddings HTTP/2.0,200\n"
    )
    done = tbench("trace", "import", "b.csv", "--format", "nginx", *sized, "-o", "b.msgpack")
    assert (done.code, "1 exchange of 1 row (nginx)" in done.out) == (0, True), done.err
    (tmp_path / "c.log").write_text("nothing, that is\na log\n")
    done = tbench("trace", "import", "c.log", "--format", "envoy", "-o", "c.msgpack")
    assert done.code == 2
    assert "2 that are no line of an access log (first: c.log row 1)" in done.err


@pytest.mark.parametrize(
    "text",
    ['ts,p\n1767225600,"why? ' + NGINX.replace('"', '""') + '"\n'
     + "".join(f"17672256{number:02},hi\n" for number in range(20)),
     'ts,p\n1767225600,"{""a"": 1}\n{""b"": 2}\n{""c"": 3}"\n'],
    ids=["log", "JSON"],
)  # fmt: skip
def test_a_log_in_a_cell_is_a_cell(tbench: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "log.csv").write_text(text)
    done = tbench("trace", "import", "log.csv", *MAP, "-o", "t.msgpack")
    assert (done.code, "; 0 left out" in done.out) == (0, True), done.err


def test_an_array_with_an_object_a_line_is_no_jsonl(tbench: Run, tmp_path: Path) -> None:
    rows = ",\n".join(json.dumps({"ts": 1767225600 + number, "p": "hi"}) for number in range(5))
    (tmp_path / "log.json").write_text(f"[\n{rows}\n]\n")
    done = tbench("trace", "import", "log.json", *MAP, "-o", "t.msgpack")
    assert (done.code, "5 exchanges of 5 rows" in done.out) == (0, True), done.err


# Rows that cannot be, and importers that are wrong.


def test_a_row_says_what_is_wrong_with_it_and_where(tbench: Run, tmp_path: Path) -> None:
    deep: Any = json.loads("[" * 300 + "]" * 300)
    rows = [{"ts": 1767225600, "b": {"x": value}} for value in (1, deep, 2, deep)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = tbench(
        "trace",
        "import",
        "log.jsonl",
        "--map",
        "arrival=ts:s",
        "--map",
        "body=b",
        "-o",
        "t.msgpack",
    )
    assert done.code == 0, done.err
    assert "2 left out: 2 nested too deeply (first: log.jsonl row 2)" in done.out


def test_a_large_number_is_not_nested_too_deeply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Parquet and YAML hold, and JSON does not: each reason is its own."""

    def calls(row: Any) -> Iterator[Call]:
        value = {"int": 2**70, "half": "\ud800", "key": {(1, 2): 3}}[row["kind"]]
        yield Call(arrive_ns=NS, body={"prompt": value})

    odd = replace(IMPORTERS["openai-batch"], calls=calls, trust={"arrival": "reported"})
    monkeypatch.setattr(importing, "IMPORTERS", {"odd": odd})
    reasons = {kind: importing._row_calls(odd, {"kind": kind}) for kind in ("int", "half", "key")}
    assert reasons == {
        "int": [LeftOut("with a whole number of over 64 bits")],
        "half": [LeftOut("with half a character")],
        "key": [LeftOut("with a value that JSON does not have")],
    }


def test_a_defect_of_an_importer_is_no_fault_of_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 70, which row it was, and no word of nesting; no file is left."""
    from tbench.__main__ import run

    def calls(row: Any) -> Iterator[Call]:
        yield Call(arrive_ns=row["at"] + "x")

    odd = replace(IMPORTERS["openai-batch"], calls=calls, matches=bool)
    monkeypatch.setattr(importing, "IMPORTERS", {"odd": odd})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.jsonl").write_text('not JSON\n{"at": 5}\n')

    assert run(["trace", "import", "log.jsonl", "-o", "t.msgpack"]) == 70
    error = capsys.readouterr().err
    assert "unexpected TypeError" in error
    assert "at log.jsonl row 2. This is a defect" in error
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
