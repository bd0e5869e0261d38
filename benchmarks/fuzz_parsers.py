"""Feed every parser what is nearly right, led by coverage: no exception but its own, bounded time and memory.

    python benchmarks/fuzz_parsers.py [--n 1000000] [--only sse --only http1 ...] [--seconds 180] [--keep]

What each parser must do whatever it reads is benchmarks/parsers.py: pieces give what the whole gives, what is
written is read. A mutant that reaches a line of tbench which none before it has reached is mutated on, beside
the seeds and fixtures/fuzz/NAME.msgpack (which --keep writes). An input at which a property fails is written
to --faults. Ends with 1 where there is one. Also where a mutant takes over SLOW_S of CPU or MOST_BYTES.
"""

import argparse
import random
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from types import CodeType
from typing import Final

import msgpack
from fuzz import MOST_BYTES
from parsers import PARSERS, Parser

CORPUS: Final = Path(__file__).parents[1] / "fixtures" / "fuzz"
SOURCES: Final = tuple(
    str(CORPUS.parents[1] / name) for name in ("analysis", "capture", "replay", "tbench")
)
SLOW_S: Final = 2.0
BATCH_S: Final = 30.0
"""CPU seconds that a hundred mutants take at most; then one of them hangs."""
LONGEST: Final = 1024
"""Bytes of a mutant that is kept as the origin of others."""
MOST_FAULTS: Final = 20
TOOL: Final = 4


class Coverage:
    """Which lines of tbench have run: `new` is whether any did for the first time since it was reset.

    Each line tells once after `restart`, and costs nothing from then on.
    """

    def __init__(self) -> None:
        self.new = False
        self.lines: set[tuple[str, int]] = set()
        watch = sys.monitoring
        watch.use_tool_id(TOOL, "fuzz")
        watch.register_callback(TOOL, watch.events.LINE, self._line)
        watch.set_events(TOOL, watch.events.LINE)

    def restart(self) -> None:
        """Every line is new again."""
        sys.monitoring.restart_events()

    def close(self) -> None:
        """Look no more."""
        sys.monitoring.free_tool_id(TOOL)

    def _line(self, code: CodeType, number: int) -> object:
        if code.co_filename.startswith(SOURCES):
            self.new = True
            self.lines.add((code.co_filename, number))
        return sys.monitoring.DISABLE


def mutant(parser: Parser, corpus: list[bytes], dice: random.Random) -> bytes:
    """One of the corpus, changed a little: by the parser's way, a word of its grammar, half another."""
    data = dice.choice(corpus)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        draw = dice.random()
        at = dice.randrange(len(data) + 1)
        if draw < 0.25 and parser.words:
            word = dice.choice(parser.words)
            data = data[:at] + word + data[at + dice.choice((0, len(word))) :]
        elif draw < 0.35:
            other = dice.choice(corpus)
            data = data[:at] + other[dice.randrange(len(other) + 1) :]
        else:
            try:
                data = parser.mutate(data, dice)
            except (ValueError, RecursionError):  # one that is no JSON any more
                data = data[:at] + dice.randbytes(1) + data[at + 1 :]
    return data


def corpus_of(name: str) -> list[bytes]:
    """What was kept of earlier runs."""
    path = CORPUS / f"{name}.msgpack"
    return msgpack.unpackb(path.read_bytes()) if path.exists() else []


class Fuzzer:
    """Feeds one parser; `faults` are the inputs at which it failed, by where it did."""

    def __init__(self, name: str, coverage: Coverage | None = None) -> None:
        self.parser = PARSERS[name]
        self.faults: dict[str, tuple[str, bytes]] = {}
        self.kept: list[bytes] = []
        self.count = self.sound = 0
        self._coverage = coverage
        self._corpus = [*self.parser.seeds, *corpus_of(name)]

    def seeds(self) -> None:
        """Feed what is kept as it is; the lines that this reaches are not new any more."""
        if self._coverage:
            self._coverage.restart()
        for data in list(self._corpus):
            self.feed(data, random.Random(len(data)))
        if self._coverage:
            self._coverage.new = False

    def mutants(self, number: int, n: int) -> None:
        """Feed the mutants with these numbers; what they are made of depends on those before."""
        for seed in range(number, number + n):
            dice = random.Random(seed)
            data = mutant(self.parser, self._corpus, dice)
            self.feed(data, dice)
            if self._coverage and self._coverage.new:
                self._coverage.new = False
                if len(data) <= LONGEST:
                    self._corpus.append(data)
                    self.kept.append(data)

    def feed(self, data: bytes, dice: random.Random) -> None:
        """Feed one input."""
        began = time.process_time()
        self.count += 1
        try:
            self.parser.check(data, dice)
            self.sound += 1
        except self.parser.allowed:
            pass
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            frame = next(
                (it for it in reversed(frames) if it.filename.startswith(SOURCES)), frames[-1]
            )
            where = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
            self.faults.setdefault(where, (f"{frame.line}: {str(error)[:600]}", data))
        if self._coverage and (took := time.process_time() - began) > SLOW_S:
            self.faults["slow"] = (f"{took:.1f} s of CPU", data)


def hangs(*_: object) -> None:
    """What ends a mutant that does not end."""
    raise RuntimeError(f"one of a hundred mutants took {BATCH_S:g} s of CPU")


def main() -> int:
    """Feed them; print a line for each parser."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=1_000_000, help="mutants of each parser")
    parser.add_argument("--only", action="append", choices=PARSERS, help="this parser")
    parser.add_argument("--seed", type=int, default=0, help="number of the first mutant")
    parser.add_argument(
        "--seconds", type=float, default=1e9, help="CPU time for each parser at most"
    )
    parser.add_argument(
        "--faults", type=Path, default=Path("fuzz-faults"), help="folder for what fails"
    )
    parser.add_argument(
        "--keep", action="store_true", help="write what reached new lines to fixtures/fuzz"
    )
    chosen = parser.parse_args()
    signal.signal(signal.SIGPROF, hangs)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    coverage, failed = Coverage(), 0
    for name in chosen.only or PARSERS:
        fuzzer, began = Fuzzer(name, coverage), time.process_time()
        fuzzer.seeds()
        number, end = chosen.seed, chosen.seed + chosen.n
        while number < end and time.process_time() - began < chosen.seconds:
            signal.setitimer(signal.ITIMER_PROF, BATCH_S)
            fuzzer.mutants(number, min(100, end - number))
            signal.setitimer(signal.ITIMER_PROF, 0)
            number += 100
            if len(fuzzer.faults) >= MOST_FAULTS:
                break
        took = time.process_time() - began
        print(
            f"{name:<18}{fuzzer.count:>10,} inputs, {fuzzer.sound / fuzzer.count:4.0%} taken, "
            f"{len(fuzzer.kept):>4} reached new lines, {took:>6.0f} s, {len(fuzzer.faults)} faults",
            flush=True,
        )
        for place, (where, (why, data)) in enumerate(fuzzer.faults.items()):
            chosen.faults.mkdir(exist_ok=True)
            path = chosen.faults / f"{name}-{place}"
            path.write_bytes(data)
            print(
                f"  {path}: {where}: {why}".encode("ascii", "backslashreplace").decode(), flush=True
            )
        if chosen.keep and fuzzer.kept:
            CORPUS.mkdir(exist_ok=True)
            kept = sorted({*corpus_of(name), *fuzzer.kept}, key=len)
            (CORPUS / f"{name}.msgpack").write_bytes(msgpack.packb(kept))
        failed += bool(fuzzer.faults)
    coverage.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{len(coverage.lines):,} lines reached, {peak:.0f} MB at most, {failed} parsers with faults"
    )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
