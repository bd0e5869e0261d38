"""Slowest: the requests that took longest, with all that leads to them in a server's logs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tbench.analysis.arms import Arm
from tbench.analysis.summary import Floats
from tbench.replay import measures
from tbench.replay.table import at


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


_KEPT = (
    *("id", "cycle", "index", "sent_wall_ns", "first_token", "prompt_tokens", "output_tokens"),
    *("status", "outcome", "request_id"),
)


def slowest(arm: Arm, most: int) -> list[Slow]:
    """The requests outside the warm-up that took longest, the slowest first; at most so many."""
    took = _took(arm)
    known = np.flatnonzero(arm.measured & np.isfinite(took))
    if len(known) > most:
        least = np.partition(took[known], -most)[-most]
        known = known[took[known] >= least]
    first = known[np.argsort(-took[known], kind="stable")[:most]]
    few = at(arm.columns, first, *_KEPT)
    headers = _headers(arm, few["index"].tolist())
    begun = arm.offset_s[first].tolist()
    return [
        _slow(
            {name: column[k] for name, column in few.items()}, begun[k], float(took[row]), headers
        )
        for k, row in enumerate(first.tolist())
    ]


def _took(arm: Arm) -> Floats:
    """To the last token of what succeeded, to the end of anything else."""
    until_end = np.asarray(arm.columns["end"] - arm.offset_s)
    return np.where(arm.ok, measures.e2e(arm.columns), until_end)


def _headers(arm: Arm, indices: list[int]) -> Mapping[int, tuple[tuple[str, str], ...]]:
    return arm.run.answer_headers(indices) if arm.kind == "run" else {}


def _slow(
    row: Mapping[str, Any],
    at_s: float,
    took_s: float,
    headers: Mapping[int, tuple[tuple[str, str], ...]],
) -> Slow:
    first = float(row["first_token"]) - at_s
    return Slow(
        id=str(row["id"]),
        cycle=int(row["cycle"]),
        at_s=at_s,
        sent_wall_ns=_count(row["sent_wall_ns"]),
        took_s=took_s,
        ttft_s=None if np.isnan(first) else first,
        prompt_tokens=_count(row["prompt_tokens"]),
        output_tokens=_count(row["output_tokens"]),
        status=_count(row["status"]),
        outcome=str(row["outcome"]),
        request_id=str(row["request_id"]) or None,
        headers=headers.get(int(row["index"]), ()),
    )


def _count(value: int) -> int | None:
    return None if value < 0 else int(value)
