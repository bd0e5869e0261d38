"""Judgement: what became of each gate for each candidate, and the verdict over all."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from analysis.comparison import Comparison, Verdict
from analysis.estimate import Estimate
from analysis.gate import Gate
from analysis.history import History
from analysis.replicates import Replicates
from analysis.summary import Caution

Method = Literal["welch", "trend"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One gate for one candidate, and what became of it.

    `arm` is the candidate's name, `comparison` has the figures. By `gate.scale` its `ratio`, `low` and
    `high` are of candidate / baseline ("ratio"), of their difference as a share ("points"), or of the
    candidate's own figure ("level": then `ratio` is None). `baseline_runs` and `candidate_runs` are the
    figure of each run, in the order in which they began. `worsening` is the change (or the level) turned so
    that more is worse, on the scale of y, and `gate.threshold` what it must stay below.
    """

    arm: str
    gate: Gate
    comparison: Comparison
    baseline_runs: tuple[float, ...]
    candidate_runs: tuple[float, ...]
    reason: str | None = None
    worsening: Estimate | None = None

    @property
    def bound(self) -> float | None:
        """The one-sided 95 % bound that decides a PASS, as `low` and `high` are; None without an estimate."""
        if self.worsening is None or self.comparison.low is None:
            return None
        return self.gate.shown(-self.worsening.most if self.gate.higher else self.worsening.most)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict over all gates and candidates, each row, and what to beware of.

    The first of `arms` is the baseline; every other one was held against it by every gate. `warnings` are
    all of `cautions`, which has them by candidate. `contrast` is how arms were compared, `planned`
    whether a plan had declared it before the runs. `n` requests are in every run and were compared.
    Held against a `history` of sessions, the baseline has no runs, and `baseline_runs` of a row are sessions.
    """

    arms: tuple[Replicates, ...]
    rows: tuple[Row, ...]
    warnings: tuple[Caution, ...]
    verdict: Verdict
    contrast: Method = "welch"
    planned: bool = False
    n: int = 0
    cautions: Mapping[str, tuple[Caution, ...]] = field(default_factory=dict)
    history: History | None = None

    @property
    def baseline(self) -> Replicates:
        return self.arms[0]

    @property
    def candidates(self) -> tuple[Replicates, ...]:
        return self.arms[1:]

    def verdict_of(self, candidate: str) -> Verdict:
        """The verdict over one candidate's gates."""
        return conclude(
            [row for row in self.rows if row.arm == candidate], self.cautions.get(candidate, ())
        )


def conclude(rows: list[Row], beware: tuple[Caution, ...]) -> Verdict:
    """INVALID where a run does not count, FAIL where a gate fails, PASS where all pass."""
    if any(caution.code == "INVALID_RUN" for caution in beware):
        return Verdict.INVALID
    found = {row.comparison.verdict for row in rows}
    if Verdict.FAIL in found:
        return Verdict.FAIL
    return Verdict.PASS if found == {Verdict.PASS} else Verdict.INCONCLUSIVE
