"""Some of the mutants of benchmarks/fuzz_parsers.py, which makes a million for each parser."""

import random
from typing import Any

import pytest
from fuzz_parsers import CORPUS, Fuzzer
from parsers import PARSERS, Parser


@pytest.mark.parametrize("name", PARSERS)
def test_what_must_hold_of_a_parser_holds(name: str) -> None:
    """For its seeds, for what has reached a line of it before, and for mutants of both."""
    fuzzer = Fuzzer(name)
    fuzzer.seeds()
    fuzzer.mutants(0, 60)

    assert fuzzer.faults == {}
    assert fuzzer.sound


def test_a_property_that_does_not_hold_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the first input at which it does not, and where."""

    def check(data: bytes, _: random.Random) -> None:
        assert b"q" not in data, "a q"

    monkeypatch.setitem(PARSERS, "picky", Parser([b"abc"], check, words=[b"q"]))
    fuzzer = Fuzzer("picky")
    fuzzer.seeds()
    fuzzer.mutants(0, 100)
    ((why, data),) = fuzzer.faults.values()

    assert "a q" in why
    assert b"q" in data


def test_what_reaches_a_new_line_is_mutated_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a word of four letters, each is looked at only behind the one before."""

    class Watched:
        new = False

        def restart(self) -> None:
            pass

    watched, seen = Watched(), set[int]()

    def check(data: bytes, _: random.Random) -> None:
        depth = next(
            (at for at, byte in enumerate(b"deep") if data[at : at + 1] != bytes([byte])), 4
        )
        watched.new = depth not in seen
        seen.add(depth)

    def change(data: bytes, dice: random.Random) -> bytes:
        at = dice.randrange(5)
        return data[:at] + bytes([dice.choice(b"abcdefghijklmnop")]) + data[at + 1 :]

    monkeypatch.setitem(PARSERS, "deep", Parser([b"xxxx"], check, mutate=change))
    coverage: Any = watched
    fuzzer = Fuzzer("deep", coverage)
    fuzzer.seeds()
    fuzzer.mutants(0, 3000)

    assert 4 in seen
    assert fuzzer.kept[-1][:4] == b"deep"


def test_the_corpus_is_small() -> None:
    """Under 200 kB, and of parsers that there are."""
    files = list(CORPUS.glob("*.msgpack"))

    assert sum(path.stat().st_size for path in files) < 200_000
    assert {path.stem for path in files} <= PARSERS.keys()
