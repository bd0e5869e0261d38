"""The account of a replay: the closing record of its run file, from what its parts know."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tbench.capture.lag import Lag
from tbench.replay.headroom import headroom
from tbench.replay.job import Job
from tbench.replay.plan import Plan
from tbench.replay.sample import Fate
from tbench.replay.tally import Tally
from tbench.replay.workers.crew import Crew


@dataclass(frozen=True, kw_only=True)
class Account:
    """What is known at the end. `planned` is None where time, not the trace, decided how much was sent.

    `steal_s` is CPU time that a hypervisor gave to others meanwhile, seconds, None where not known.
    """

    job: Job
    plan: Plan
    tally: Tally
    crew: Crew
    issued: int
    planned: int | None
    interrupted: bool
    steal_s: float | None

    def totals(self) -> dict[str, Any]:
        """The record `totals` of docs/trace-format.md."""
        fates, bill = self.tally.fates, self.tally.bill
        never_sent = 0 if self.planned is None else self.planned - self.issued
        return {
            "planned": self.issued + never_sent,
            "completed": fates[Fate.COMPLETED],
            "failed": fates[Fate.FAILED],
            "cancelled": fates[Fate.CANCELLED],
            "lost_in_flight": self.issued - self.tally.ended,
            "never_sent": never_sent,
            "reconnected": self.tally.reconnected,
            "client_limit": dict(self.tally.limits),
            "skipped": dict(self.plan.skipped),
            "hosts": dict(self.plan.hosts),
            "unchanged": dict(self.job.target.unchanged),
            "masked": dict(self.job.target.masked),
            "unsalted": dict(self.job.target.unsalted),
            "trace_losses": self._trace_losses(),
            "ended_by": self._ended_by(),
            "warmup_s": self.job.warmup.seconds(self.tally.last_end),
            **self._own(),
            "cost": {
                "usd": bill.usd,
                "unpriced": dict(bill.unpriced),
                "uncounted": bill.uncounted,
            },
        }

    def _trace_losses(self) -> dict[str, Any]:
        """What of the application's traffic the trace does not hold, as far as it was read."""
        dropped = self.job.trace.totals.get("dropped_requests", 0)
        lost = {**asdict(self.job.trace.losses), "dropped_requests": dropped}
        return {name: count for name, count in lost.items() if count}

    def _own(self) -> dict[str, Any]:
        """What the client says of itself: its clock, and how near it was to its own limits."""
        reports = self.crew.reports
        stall = Lag()
        for report in reports:
            stall.merge(report.stall)
        clocks = {report.clock for report in reports} or {"user"}
        return {
            "clock": clocks.pop() if len(clocks) == 1 else "user",
            "coalesced_share": self.tally.coalesced_share,
            "loop_stall_s": _seconds(stall),
            "most_in_flight": sum(report.most_in_flight for report in reports),
            "workers": self.job.workers,
            "lost_workers": self.crew.lost,
            "client": self._client(),
        }

    def _client(self) -> Mapping[str, Any]:
        reports = self.crew.reports
        return {
            "cpu_share": max((r.cpu_s / r.wall_s for r in reports if r.wall_s), default=None),
            "steal_s": self.steal_s,
            "starved": sum(member.row["starved"] for member in self.crew.members),
            "kernel_stamps": sum(report.stamps[0] for report in reports),
            "user_stamps": sum(report.stamps[1] for report in reports),
            "peak_rss": max((report.peak_rss for report in reports), default=None),
            **asdict(headroom()),
        }

    def _ended_by(self) -> str:
        reports = self.crew.reports
        reasons = (
            ("interrupt", self.interrupted),
            ("disk", any(report.failure for report in reports)),
            ("errors", any(report.hopeless for report in reports)),
            ("max_cost", any(report.refused for report in reports)),
        )
        return next((reason for reason, true in reasons if true), "plan")


def steal_s() -> float | None:
    """CPU time that a hypervisor gave to others since boot, seconds over all cores; None: not known here."""
    try:
        first = Path("/proc/stat").read_text().partition("\n")[0].split()
    except OSError:
        return None
    return int(first[8]) / os.sysconf("SC_CLK_TCK") if len(first) > 8 else None


def _seconds(lag: Lag) -> dict[str, float | None]:
    named = {"p50": lag.quantile(0.5), "p99": lag.quantile(0.99), "max": lag.quantile(1.0)}
    return {name: None if late is None else late / 1e9 for name, late in named.items()}
