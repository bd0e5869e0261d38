"""Diagnostics of one run: whether it was sent as planned, and which of its requests took longest."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from tbench.analysis.arms import Arm
from tbench.analysis.summary import Floats, ordered, quantile
from tbench.replay import measures
from tbench.replay.table import at


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


# The slowest requests, with all that leads to them in a server's logs.


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow:
    """One request that took long, whatever became of it. None where absent.

    `took_s` is to its end, from when it was due (closed pacing: sent); `at_s` is that instant, from the
    run's start, `sent_wall_ns` CLOCK_REALTIME when it was sent. `request_id` is the server's own id of
    its answer, `headers` what else the server said of how it made it.
    """

    id: str
    cycle: int
    at_s: float
    sent_wall_ns: int | None
    took_s: float
    ttft_s: float | None
    prompt_tokens: int | None
    output_tokens: int | None
    status: int | None
    outcome: str
    request_id: str | None
    headers: tuple[tuple[str, str], ...]


_SHOWN: Final = (
    *("id", "cycle", "index", "sent_wall_ns", "first_token", "prompt_tokens", "output_tokens"),
    *("status", "outcome", "request_id"),
)


def slowest(arm: Arm, most: int) -> list[Slow]:
    """The requests outside the warm-up that took longest, the slowest first; at most so many."""
    # To the last token of what succeeded, to the end of anything else.
    until_end = np.asarray(arm.columns["end"] - arm.offset_s)
    took = np.where(arm.ok, measures.e2e(arm.columns), until_end)
    known = np.flatnonzero(arm.measured & np.isfinite(took))
    if (
        len(known) > most
    ):  # a million need no sorting: first those that are as slow as the last shown
        least = np.partition(took[known], -most)[-most]
        known = known[took[known] >= least]
    # Stable, so that equally slow requests stay in the order of the plan.
    places = known[np.argsort(-took[known], kind="stable")[:most]]
    columns = at(arm.columns, places, *_SHOWN)
    headers = arm.run.answer_headers(columns["index"].tolist()) if arm.kind == "run" else {}
    slow = []
    for row, place in enumerate(places.tolist()):
        values = {name: column[row] for name, column in columns.items()}
        at_s = float(arm.offset_s[place])
        ttft_s = float(values["first_token"]) - at_s
        slow.append(
            Slow(
                id=str(values["id"]),
                cycle=int(values["cycle"]),
                at_s=at_s,
                sent_wall_ns=_count(values["sent_wall_ns"]),
                took_s=float(took[place]),
                ttft_s=None if np.isnan(ttft_s) else ttft_s,
                prompt_tokens=_count(values["prompt_tokens"]),
                output_tokens=_count(values["output_tokens"]),
                status=_count(values["status"]),
                outcome=str(values["outcome"]),
                request_id=str(values["request_id"]) or None,
                headers=headers.get(int(values["index"]), ()),
            )
        )
    return slow


def _count(value: int) -> int | None:
    return None if value < 0 else int(value)
