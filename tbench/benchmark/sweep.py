"""The sweep: the points of a benchmark, each a scenario at one concurrency, batch size or rate."""

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Literal

from tbench.capture.errors import InputError, InvalidRunError

Axis = Literal["num_concurrency", "batch_size", "rate", "poisson"]

CONCURRENCIES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BATCH_SIZES: Final = (1, 2, 4, 8, 24, 48, 96)
BATCHED: Final = frozenset({"text-to-embeddings", "text-to-rerank"})
"""Tasks of which one request holds several texts: their batch size is swept, unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One replay of the benchmark. `value` is that of the `axis`.

    `concurrency` is how many are in flight, None where arrivals are open: then `rate` says how many
    come per second. `repeat` is 1 for the first run of the point. `seed` is its own.
    """

    scenario: str
    axis: Axis
    value: float
    concurrency: int | None
    rate: float | None
    batch_size: int
    repeat: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is swept: every scenario at every value of the axis, `repeats` times over.

    `scenarios` are as they are written. `concurrencies` and `batch_sizes` are as asked for, None where
    they were not; `rates` and `poisson` (requests per second) make arrivals open.
    """

    task: str
    scenarios: Sequence[str]
    concurrencies: tuple[int, ...] | None = None
    batch_sizes: tuple[int, ...] | None = None
    iteration: Literal["num_concurrency", "batch_size"] | None = None
    rates: tuple[float, ...] = ()
    poisson: tuple[float, ...] = ()
    repeats: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise InputError for a combination that makes no sense."""
        if self.iteration == "batch_size" and self.task not in BATCHED:
            raise InputError(
                f"--iteration-type batch_size: {self.task} sends one text a request; it is for "
                f"{' and '.join(sorted(BATCHED))}"
            )
        if self.rates and self.poisson:
            raise InputError("--rate and --poisson are two ways of arriving; give one")
        if (self.rates or self.poisson) and (self.concurrencies or self.iteration):
            flag = "--num-concurrency" if self.concurrencies else "--iteration-type"
            raise InputError(f"--rate and --poisson let requests come by themselves; drop {flag}")

    @property
    def axis(self) -> Axis:
        """What is swept."""
        if self.rates or self.poisson:
            return "rate" if self.rates else "poisson"
        return self.iteration or ("batch_size" if self.task in BATCHED else "num_concurrency")

    @property
    def values(self) -> tuple[float, ...]:
        """The values of the axis, in the order in which they are run."""
        given: Mapping[Axis, tuple[float, ...]] = {
            "num_concurrency": self.concurrencies or CONCURRENCIES,
            "batch_size": self.batch_sizes or BATCH_SIZES,
            "rate": self.rates,
            "poisson": self.poisson,
        }
        return given[self.axis]

    @property
    def concurrency(self) -> int | None:
        """In flight while something else is swept; None in open arrivals."""
        return (self.concurrencies or (1,))[0] if self.axis == "batch_size" else None

    @property
    def batch_size(self) -> int:
        """Texts in a request while something else is swept."""
        return (self.batch_sizes or (1,))[0] if self.task in BATCHED else 1

    def points(self) -> Iterator[Point]:
        """All of them. A point's seed depends on its scenario and value, so that each has fresh prompts."""
        for scenario in self.scenarios:
            for value in self.values:
                for repeat in range(1, self.repeats + 1):
                    yield self.point(scenario, value, repeat)

    def point(self, scenario: str, value: float, repeat: int = 1) -> Point:
        """One point, also for a value that is not on the list.

        Its seed, of 63 bits, differs wherever anything does, and is the same on every machine.
        """
        axis = self.axis
        # A sign that stands in none of them, or two points could spell one text.
        text = "\x1f".join(map(str, (self.seed, scenario, axis, value, repeat)))
        digest = blake2b(text.encode(), digest_size=8).digest()
        return Point(
            scenario=scenario,
            axis=axis,
            value=value,
            concurrency=int(value) if axis == "num_concurrency" else self.concurrency,
            rate=value if axis in {"rate", "poisson"} else None,
            batch_size=int(value) if axis == "batch_size" else self.batch_size,
            repeat=repeat,
            # By a hash of its own: Python's `hash` of a text is salted anew in every process.
            seed=int.from_bytes(digest, "big") >> 1,
        )

    def idle(self) -> Iterator[str]:
        """A line for each option that was given and has no meaning for this task."""
        if self.batch_sizes and self.task not in BATCHED:
            yield f"--batch-size: {self.task} sends one text a request; it is not used"
        elif self.axis != "batch_size" and len(self.batch_sizes or ()) > 1:
            yield f"--batch-size: the first given is used, {self.batch_size} texts a request"
        if self.axis == "batch_size" and len(self.concurrencies or ()) > 1:
            yield (
                f"--num-concurrency: the batch size is swept with {self.concurrency} in flight, the first "
                "given; --iteration-type num_concurrency sweeps the concurrency instead"
            )


def parse_numbers(flag: str, words: Sequence[str]) -> tuple[int, ...]:
    """`1,2,4` and `1` given several times, as whole numbers from 1; order kept, repeats dropped."""
    parts = _split(words)
    for part in parts:
        if not part.isdecimal() or int(part) < 1:
            raise InputError(
                f"{flag} {part or "''"}: give whole numbers from 1, as in {flag} 1,2,4"
            )
    return tuple(dict.fromkeys(map(int, parts)))


def parse_rates(flag: str, words: Sequence[str]) -> tuple[float, ...]:
    """`0.5,1,2` and so on, as requests per second."""
    rates = []
    for part in _split(words):
        try:
            rate = float(part)
        except ValueError:
            rate = math.nan
        if not (math.isfinite(rate) and rate > 0):
            raise InputError(f"{flag} {part or "''"}: give requests per second, as in {flag} 1,2,4")
        rates.append(rate)
    return tuple(dict.fromkeys(rates))


def _split(words: Sequence[str]) -> list[str]:
    """The parts of each word; an empty one (a shell variable that is not set) remains, to be refused."""
    return [part.strip() for text in words for part in text.split(",")]


# Saturation: the most of the axis that still keeps to an objective, by doubling and then halving the gap.
#
# A point's outcome is noisy, so what is found is the largest value that was seen to keep to it below the
# smallest that was seen not to; every point on the way is a result of the benchmark. A burst that is over
# before the server is full says nothing of what it can hold.

MOST: Final = 4096
"""A concurrency or rate beyond which nothing is searched."""
CLOSE: Final = 1.1
"""The search ends when the two values are within this factor."""
ROUNDS: Final = 4
"""A point holds its load only where it has so many times the requests that are in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturation:
    """The largest value that kept to the objective, and the smallest that did not; None: there is none.

    `unjudged` ended the search: its point kept to the objective, but was too short to say so.
    """

    scenario: str
    best: float | None
    worst: float | None
    unjudged: float | None = None

    def words(self, axis: str, objective: str) -> str:
        """The outcome in a line; `objective` such as `ttft<1s for 99% of its requests`."""
        most = f"no {axis}" if self.best is None else f"{axis} {self.best:g}"
        less = "" if self.worst is None else f"; {self.worst:g} does not"
        unsure = "" if self.unjudged is None else f"; {self.unjudged:g} cannot be judged{SHORT}"
        return f"saturation of {self.scenario}: {most} keeps {objective}{less}{unsure}"


SHORT: Final = (
    f": its requests are less than {ROUNDS} times those in flight, so that it ends before the server is "
    "full; raise --max-requests-per-run (or --max-time-per-run)"
)


def kept(result: Mapping[str, Any], point: Point, share: float) -> bool | None:
    """Whether a point's result keeps to the objective; None: it was too short to say so.

    Of open arrivals rate times latency are in flight (Little's law).
    """
    metrics = result["aggregated_metrics"]
    if metrics["goodput"] is None:
        raise InvalidRunError(
            f"{point.scenario} at {point.axis} {point.value:g}: goodput is not known, and nothing to "
            "search by; the point's warning says why"
        )
    if metrics["goodput"] < share:
        return False
    second = 1000 if result["_time_unit"] == "ms" else 1
    latency_s = (metrics["stats"]["e2e_latency"]["mean"] or 0.0) / second
    busy = point.concurrency or (point.rate or 0.0) * latency_s
    # Only what is kept may be unsure: a point that fails its
    # objective while the server still fills fails it when it is full.
    return None if metrics["num_requests"] < ROUNDS * busy else True


def search(
    sweep: Sweep, scenario: str, holds: Callable[[], bool | None]
) -> Generator[Point, None, Saturation]:
    """Yields the points to make, one by one; `holds` is asked about each once it was made (None: unsure)."""
    integral = sweep.axis in {"num_concurrency", "batch_size"}
    best: float | None = None
    worst: float | None = None
    value = float(sweep.values[0])
    while True:
        yield sweep.point(scenario, value)
        held = holds()
        if held is None:
            return Saturation(scenario=scenario, best=best, worst=worst, unjudged=value)
        if held:
            best = value
        else:
            worst = value
        following = _next(best, worst, integral=integral)
        if following is None:
            return Saturation(scenario=scenario, best=best, worst=worst)
        value = following


def _next(best: float | None, worst: float | None, *, integral: bool) -> float | None:
    """What to try next; None where the search is over."""
    if worst is None:
        assert best is not None
        # Doubling: a search costs about as many points as the answer has bits, wherever it lies.
        return best * 2 if best * 2 <= MOST else None
    if best is None:
        down = worst / 2
        return None if down < (1 if integral else 0.01) else _rounded(down, integral=integral)
    middle = _rounded((best + worst) / 2, integral=integral)
    # Halves of whole numbers, or of three digits, may round
    # to one of the two: then there is nothing between.
    if worst / best <= CLOSE or not best < middle < worst:
        return None
    return middle


def _rounded(value: float, *, integral: bool) -> float:
    return float(int(value)) if integral else float(f"{value:.3g}")
