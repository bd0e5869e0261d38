"""The frame: everything that the dashboard shows at one moment, as plain figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tbench.replay.spread import Spread


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far it is. `made` points of `of` (None: not known); `fraction` of the one under way, 0 to 1.

    `left_s` is None where nothing is known yet.
    """

    made: int
    of: int | None
    name: str
    fraction: float
    elapsed_s: float
    left_s: float | None

    @property
    def whole(self) -> float:
        """The share of the sweep that is done."""
        return (self.made + self.fraction) / self.of if self.of else 0.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """The requests of the point so far. `errors` is by kind, the most frequent first."""

    sent: int = 0
    most: int = 0
    per_s: float = 0.0
    in_flight: int = 0
    completed: int = 0
    errors: Mapping[str, int]

    @property
    def failed(self) -> int:
        return sum(self.errors.values())


@dataclass(frozen=True, kw_only=True)
class Half:
    """Input or output so far: latencies (s), each request's tokens/s, and the server's tokens/s."""

    title: str
    what: str
    latency: Spread
    speed: Spread
    per_s: float


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A point that was made. Latencies in seconds and tokens/s, None where there is none.

    `mark` is the value that was swept, which stands for the point in a picture. Not `valid`: the client was
    the limit. `at_least` names the sides whose rate is a lower bound.
    """

    scenario: str
    mark: str
    requests_per_s: float
    input_per_s: float | None
    output_per_s: float | None
    ttft: float | None
    output_latency: float | None
    e2e_p99: float | None
    error_rate: float
    valid: bool = True
    at_least: frozenset[str] = frozenset()

    @classmethod
    def of(cls, point: Mapping[str, Any], value: float, unit: str) -> "Finished":
        """From the `aggregated_metrics` of a result with latencies in `unit`, `s` or `ms`."""
        stats, factor = point["stats"], 1e-3 if unit == "ms" else 1.0

        def seconds(metric: str, level: str) -> float | None:
            found = stats[metric][level]
            return None if found is None else found * factor

        return cls(
            scenario=point["scenario"],
            mark=f"{value:g}",
            requests_per_s=point["requests_per_second"],
            input_per_s=point["mean_input_throughput_tokens_per_s"],
            output_per_s=point["mean_output_throughput_tokens_per_s"],
            ttft=seconds("ttft", "mean"),
            output_latency=seconds("output_latency", "mean"),
            e2e_p99=seconds("e2e_latency", "p99"),
            error_rate=point["error_rate"],
            valid=point.get("valid", True),
            at_least=frozenset(
                side for side, missing in point["without_token_counts"].items() if missing
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One moment. `output` is None for a task that gives no text; `unit` is that of shown latencies."""

    heading: str
    progress: Progress
    load: Load
    input: Half
    output: Half | None
    finished: Sequence[Finished]
    log: Sequence[str]
    unit: str = "s"
