"""Outcomes: how often requests failed, by kind and by run, and in which words."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from tbench.analysis.arms import Arm
from tbench.analysis.charts import Picture, failures
from tbench.analysis.failures import ErrorDifference
from tbench.analysis.report import words
from tbench.analysis.report.markup import Html, html, join, number, table, tag
from tbench.analysis.report.sides import Place, Sides, each, places
from tbench.capture.exchange import Outcome
from tbench.replay.table import at

LONGEST = 300
MESSAGES = 10


def kinds(arm: Arm) -> dict[str, int]:
    """Measured requests that did not succeed, commonest kind first: an outcome, or `http_STATUS`."""
    rows = np.flatnonzero(arm.measured & ~arm.ok)
    http, few = Outcome.HTTP_ERROR.value, at(arm.columns, rows, "outcome", "status")
    counts = Counter(
        f"http_{status}" if outcome == http else str(outcome)
        for outcome, status in zip(few["outcome"], few["status"], strict=True)
    )
    return dict(counts.most_common())


def failed_share(arm: Arm) -> float | None:
    """Failed requests of those that succeeded or failed, as the gate on errors counts them."""
    counted = arm.measured & (arm.ok | arm.failed)
    return float(arm.failed[counted].mean()) if counted.any() else None


def outcome_table(sides: Sides) -> Html:
    """Each run's failures by kind."""
    every = [kinds(arm) for _, arm in each(sides)]
    names = sorted({kind for found in every for kind in found})
    if not names:
        n = sum(int(arm.measured.sum()) for _, arm in each(sides))
        return tag("p", f"None of {n:,} requests failed.")
    head = ["run", "requests", "succeeded", "failed", "share failed", *names]
    rows = [list(_outcomes(place, names)) for place in places(sides)]
    return table("Requests that did not succeed, by kind; without the warm-up", head, rows)


def _outcomes(place: Place, names: list[str]) -> Iterator[object]:
    arm, found = place.arm, kinds(place.arm)
    share = failed_share(arm)
    yield place.name
    for which in (arm.measured, arm.ok & arm.measured, arm.failed & arm.measured):
        yield f"{int(which.sum()):,}"
    yield number(share, "-" if share is None else f"{share:.2%}")
    for name in names:
        yield f"{found.get(name, 0):,}"


def outcome_picture(sides: Sides) -> Picture | None:
    """Shares of requests that failed, by run and kind."""
    found = {
        place.name: {
            kind: count / max(1, int(place.arm.measured.sum()))
            for kind, count in kinds(place.arm).items()
        }
        for place in places(sides)
    }
    return failures(found)


def difference(errors: ErrorDifference) -> Html:
    """How much oftener the candidate of a pair fails, with the interval."""
    said = (
        f"Failures, candidate - baseline: {words.points(errors.difference)} "
        f"[{words.points(errors.low)}, {words.points(errors.high)}], "
        f"n = {errors.n_baseline:,} / {errors.n_candidate:,}, {errors.method}."
    )
    return tag("p", said)


def messages(sides: Sides) -> Html:
    """The commonest error texts of each side."""
    return join(_messages(side, arms) for side, arms in sides.items())


def _messages(side: str, arms: tuple[Arm, ...]) -> Html:
    texts = Counter(
        str(text) for arm in arms for text in arm.columns["error"][np.logical_not(arm.ok)] if text
    )
    if not texts:
        return html(None)
    rows = [[f"{count:,}", text[:LONGEST]] for text, count in texts.most_common(MESSAGES)]
    more = len(texts) - len(rows)
    caption = f"Error texts of {side}" + (
        f", the commonest {MESSAGES} of {len(texts)}" if more else ""
    )
    return table(caption, ["count", "text"], rows)
