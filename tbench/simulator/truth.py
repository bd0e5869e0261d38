"""What really happened, by the server's own clock: one record per request, kept and written as JSON lines.

`*_wall_ns` are CLOCK_REALTIME. No prompt, no key, no address.
"""

import time
from array import array
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import IO, Any

import orjson

KEPT = 10_000
"""Finished records that stay in memory for /_truth."""


@dataclass(slots=True, kw_only=True, eq=False)
class Record:
    """One request. `first_wall_ns` was taken just before the write of the first token.

    `last_wall_ns` before that of the last. `queue_s` and `prefill_s` are the engine's own times.
    `in_flight` counts this one too.
    """

    id: str
    request_id: str
    endpoint: str
    arrival_wall_ns: int
    in_flight: int
    model: str | None = None
    stream: bool = False
    first_wall_ns: int | None = None
    last_wall_ns: int | None = None
    end_wall_ns: int | None = None
    status: int | None = None
    outcome: str = "ok"
    fault: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    tokens_written: int = 0
    queue_s: float | None = None
    prefill_s: float | None = None
    writes_wall_ns: array[int] = field(default_factory=lambda: array("q"))

    def wrote(self) -> None:
        """A token is about to be written."""
        now = time.time_ns()
        self.first_wall_ns = self.first_wall_ns or now
        self.last_wall_ns = now
        self.tokens_written += 1
        self.writes_wall_ns.append(now)

    def fields(self) -> dict[str, Any]:
        """As written to the log; `token_offsets_us` are the later writes in microseconds from the first."""
        row = {name: getattr(self, name) for name in _PLAIN}
        first = self.first_wall_ns or 0
        row["token_offsets_us"] = [(at - first) // 1000 for at in self.writes_wall_ns[1:]]
        return row


_PLAIN = tuple(name for name in Record.__slots__ if name != "writes_wall_ns")


class Ledger:
    """Opens a record at arrival, closes it at the end, and knows how many are in flight."""

    def __init__(self, log: IO[bytes] | None = None) -> None:
        self._log = log
        self.lateness_ms: Counter[float] = Counter()
        self.in_flight = 0
        self.reset()

    def reset(self) -> None:
        """Forget what is finished; the mean starts anew, with the next arrival if nothing is in flight."""
        self.max_in_flight = self.in_flight
        self.served = 0
        self._records: deque[Record] = deque(maxlen=KEPT)
        self._area_s = 0.0
        self._changed = time.monotonic()
        self._began = self._changed if self.in_flight else None
        self.lateness_ms.clear()

    def open(self, *, id: str, request_id: str, endpoint: str) -> Record:  # noqa: A002 (its name)
        """A request has come. Whoever opens a record closes it."""
        wall = time.time_ns()
        self._change(1)
        return Record(
            id=id,
            request_id=request_id,
            endpoint=endpoint,
            arrival_wall_ns=wall,
            in_flight=self.in_flight,
        )

    def close(self, record: Record) -> None:
        """The request is over, in whatever way."""
        record.end_wall_ns = time.time_ns()
        self._change(-1)
        self.served += 1
        self._records.append(record)
        if self._log:
            self._log.write(orjson.dumps(record.fields()) + b"\n")
            self._log.flush()

    def late(self, seconds: float) -> None:
        """The engine's tokens came out so long after they were due."""
        self.lateness_ms[round(seconds * 1e3, 1)] += 1

    def truth(self) -> list[dict[str, Any]]:
        """The finished requests, in the order of their end."""
        return [record.fields() for record in self._records]

    def stats(self) -> dict[str, Any]:
        """Counts since the start or the last reset; the mean is weighted by time since the first arrival."""
        self._change(0)
        since = self._changed - self._began if self._began is not None else 0.0
        return {
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "mean_in_flight": self._area_s / since if since else 0.0,
            "served": self.served,
            "since_first_s": since,
            "lateness_p50_ms": self._late_by(0.5),
            "lateness_p99_ms": self._late_by(0.99),
        }

    def _change(self, by: int) -> None:
        now = time.monotonic()
        if self._began is None and by > 0:
            self._began = now
        elif self._began is not None:
            self._area_s += self.in_flight * (now - self._changed)
        self._changed = now
        self.in_flight += by
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def _late_by(self, share: float) -> float | None:
        left = share * self.lateness_ms.total()
        for late, times in sorted(self.lateness_ms.items()):
            left -= times
            if left <= 0:
                return late
        return None
