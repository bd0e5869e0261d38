"""Fidelity: whether a run sent what it should have sent, when it should have, and could tell the times."""

from dataclasses import dataclass

import numpy as np

from tbench.analysis.arms import Arm
from tbench.analysis.quantiles import ordered, quantile
from tbench.analysis.summary import Floats
from tbench.replay import measures


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """How well one run kept to its plan. Seconds and requests per second; None where there is none.

    `planned` and `never_sent` are of the whole plan, warm-up included. `lag_*` is sent - due: over all
    requests that were due. `due_per_s` and `sent_per_s` are mean rates from the first to the last.
    `on_time` is the share sent within 10 ms of when they were due. `clock` is who stamped arrivals,
    `coalesced` the share of token events with the stamp of a later one, `uncertain` how many first tokens may
    have come over a millisecond before their stamp, `stall_p99` how late the event
    loop woke, `cpu` the share of a core of the busiest sending process.
    """

    planned: int
    sent: int
    never_sent: int
    lag_p50: float | None
    lag_p99: float | None
    lag_max: float | None
    on_time: float | None
    due_per_s: float | None
    sent_per_s: float | None
    clock: str
    coalesced: float | None
    uncertain: int
    stall_p99: float | None
    cpu: float | None
    invalid_because: str | None


def fidelity(arm: Arm) -> Fidelity:
    """What a run's file says of how it was sent."""
    columns, totals = arm.columns, arm.run.totals
    late = ordered(measures.lag(columns))
    timed = len(late) > 0
    return Fidelity(
        planned=int(totals.get("planned") or len(arm)),
        sent=int((~np.isnan(columns["sent"])).sum()),
        never_sent=int(totals.get("never_sent") or 0),
        lag_p50=quantile(late, 0.5) if timed else None,
        lag_p99=quantile(late, 0.99) if timed else None,
        lag_max=float(late[-1]) if timed else None,
        on_time=float((late <= 0.010).mean()) if timed else None,
        due_per_s=_rate(columns["due"]),
        sent_per_s=_rate(columns["sent"]),
        clock=str(totals.get("clock") or arm.run.header.get("clock") or "unknown"),
        coalesced=totals.get("coalesced_share"),
        uncertain=arm.uncertain,
        stall_p99=(totals.get("loop_stall_s") or {}).get("p99"),
        cpu=(totals.get("client") or {}).get("cpu_share"),
        invalid_because=arm.invalid_because,
    )


def _rate(at: Floats) -> float | None:
    """Events per second from the first to the last; None for fewer than two."""
    at = at[~np.isnan(at)]
    span = float(at.max() - at.min()) if len(at) else 0.0
    return (len(at) - 1) / span if span > 0 else None
