"""Slowest: the requests that took longest, with all that leads to them in a server's logs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.arms import Arm
from analysis.summary import Floats
from replay import measures


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


def slowest(arm: Arm, most: int) -> list[Slow]:
    """The requests outside the warm-up that took longest, the slowest first; at most so many."""
    took = _took(arm)
    known = np.flatnonzero(arm.measured & np.isfinite(took))
    first = known[np.argsort(-took[known], kind="stable")[:most]]
    said = _headers(arm, [int(index) for index in arm.columns["index"][first]])
    return [_slow(arm, int(row), float(took[row]), said) for row in first]


def _took(arm: Arm) -> Floats:
    """To the last token of what succeeded, to the end of anything else."""
    until_end = np.asarray(arm.columns["end"] - arm.offset_s)
    return np.where(arm.ok, measures.e2e(arm.columns), until_end)


def _headers(arm: Arm, indices: list[int]) -> Mapping[int, tuple[tuple[str, str], ...]]:
    return arm.run.answer_headers(indices) if arm.kind == "run" else {}


def _slow(arm: Arm, row: int, took: float, said: Mapping[int, Any]) -> Slow:
    columns = arm.columns
    first = float(columns["first_token"][row] - arm.offset_s[row])
    return Slow(
        id=str(columns["id"][row]),
        cycle=int(columns["cycle"][row]),
        at_s=float(arm.offset_s[row]),
        sent_wall_ns=_count(columns["sent_wall_ns"][row]),
        took_s=took,
        ttft_s=None if np.isnan(first) else first,
        prompt_tokens=_count(columns["prompt_tokens"][row]),
        output_tokens=_count(columns["output_tokens"][row]),
        status=_count(columns["status"][row]),
        outcome=str(columns["outcome"][row]),
        request_id=str(columns["request_id"][row]) or None,
        headers=said.get(int(columns["index"][row]), ()),
    )


def _count(value: int) -> int | None:
    return None if value < 0 else int(value)
