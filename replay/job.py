"""The job: everything that a replay needs to know before it starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tbench.capture.tracereader import Trace
from tbench.replay.pace import Pacing
from tbench.replay.plan import Plan
from tbench.replay.sender import Deadlines
from tbench.replay.senders import Kind, chosen
from tbench.replay.target import Target
from tbench.replay.warmup import Warmup


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that a replay needs to know. `trace_path`, `argv` and `part_of` are only written down.

    `rounds` repeats the trace, `requests` and `duration_s` end it early (due, or sent in a closed loop,
    before that time; what is in flight then still finishes). `max_cost` is in US dollars. `workers` is
    how many processes send. `only` and `host` are those of the plan.
    """

    trace: Trace
    trace_path: Path
    out: Path
    target: Target
    pace: Pacing = field(default=Pacing())
    deadlines: Deadlines = field(default=Deadlines())
    sender: Kind = field(default_factory=lambda: chosen("auto"))
    http2: bool = False
    proxy: str | None = field(default=None, repr=False)
    workers: int = 1
    rounds: int = 1
    requests: int | None = None
    duration_s: float | None = None
    warmup: Warmup = field(default=Warmup())
    allow_unsafe: bool = False
    only: frozenset[str] = frozenset()
    host: str | None = None
    max_cost: float | None = None
    key_name: str | None = None
    ca: Path | None = None
    argv: tuple[str, ...] = ()
    part_of: Mapping[str, Any] | None = None

    def plan(self, *, answers: bool = True) -> Plan:
        """What is sent: without end where a recorded profile decides how much.

        Without `answers` the recorded responses are not read, which takes half the time.
        """
        follows = self.pace.mode == "concurrency-scale" and self.pace.until == "profile"
        return Plan(
            trace=self.trace if answers else self.trace.requests,
            rounds=None if follows else self.rounds,
            requests=self.requests,
            allow_unsafe=self.allow_unsafe,
            only=self.only,
            host=self.host,
            rewrites=self.target.rewrites,
        )
