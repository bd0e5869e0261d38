"""Judgement: what became of each gate for each candidate, and the verdict over all."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from tbench.analysis.comparison import Comparison, Verdict
from tbench.analysis.gate import Gate
from tbench.analysis.history import History
from tbench.analysis.replicates import Replicates
from tbench.analysis.summary import Caution
from tbench.analysis.t_tests import Estimate

Method = Literal["welch", "trend"]


ALPHA: Final = 0.05
BURST: Final = 10
"""So many errors come at once where no run shows how they come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the runs say of a gate: the worsening (the change, or the level, turned so that more is worse).

    All on the scale of y, to be held against `gate.threshold`. `strict` is what a PASS needs besides: the
    worsening with every failure as the slowest request; of a share, with the spread that it would have at
    the margin. None is unknown: nothing passes. `lag` is how much of the worsening the client's own lag can
    have made, and how much it can have hidden. `spotless` is set where a share shows nothing bad at all: how
    many requests of baseline (0 for a limit) and candidate say so.
    """

    gate: Gate
    worsening: Estimate | None
    strict: Estimate | None
    lag: tuple[float, float] = (0.0, 0.0)
    spotless: tuple[int, int] | None = None

    @property
    def p_value(self) -> float:
        """How probable so large a worsening is at the margin."""
        if self.worsening is None:
            return 1.0
        return self.worsening.worse(self.gate.threshold + self.lag[0])

    def passes(self, level: float = ALPHA) -> bool:
        """Whether the one-sided bounds of that level lie below the margin."""
        if self.worsening is None or self.strict is None:
            return False
        if self.spotless is not None:
            return hidden(self.spotless[1], level, BURST) < self.gate.allowance
        most = max(self.worsening.above(level), self.strict.above(level))
        return most + self.lag[1] < self.gate.threshold

    @property
    def distance(self) -> float | None:
        """How far the change lies from the margin on y's scale, on whichever side, less what bars a verdict.

        Not above 0 where the client's lag, or the failures, leave nothing that more runs could show.
        """
        if self.worsening is None or self.strict is None:
            return None
        beyond = self.worsening.value - self.gate.threshold
        if beyond > 0:
            return beyond - self.lag[0]
        return self.gate.threshold - max(self.worsening.value, self.strict.value) - self.lag[1]

    @property
    def interval(self) -> tuple[float, float] | None:
        """The two one-sided 95 % bounds of the worsening: where the lower one begins to pass and to fail."""
        if self.worsening is None:
            return None
        if self.spotless is not None:
            least, most = (hidden(n, ALPHA, BURST) if n else 0.0 for n in self.spotless)
            level = self.gate.limit is not None and self.gate.higher
            return (-1.0, most - 1.0) if level else (-least, most)
        worse = self.strict if self.gate.endpoint.scale == "points" else None
        return self.worsening.least, (worse or self.worsening).most


def hidden(n: int, level: float, burst: float) -> float:
    """The share that n requests can hide which show none, bad ones coming `burst` at a time: exact."""
    return float(1 - level ** (burst / n))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One gate for one candidate, and what became of it.

    `arm` is the candidate's name, `comparison` has the figures. By `gate.scale` its `ratio`, `low` and
    `high` are of candidate / baseline ("ratio"), of their difference as a share ("points"), or of the
    candidate's own figure ("level": then `ratio` is None); `low` and `high` are one-sided 95 % bounds each,
    together a 90 % interval. `baseline_runs` and `candidate_runs` are the
    figure of each run, in the order in which they began. `evidence` is what the verdict was made of.
    """

    arm: str
    gate: Gate
    comparison: Comparison
    baseline_runs: tuple[float, ...]
    candidate_runs: tuple[float, ...]
    evidence: Evidence
    reason: str | None = None

    @property
    def worsening(self) -> Estimate | None:
        return self.evidence.worsening

    @property
    def bound(self) -> float | None:
        """The one-sided 95 % bound that decides a PASS: the worse end of the interval."""
        return self.comparison.low if self.gate.higher else self.comparison.high


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

    def __str__(self) -> str:
        """What `tbench ab` prints."""
        from tbench.analysis.report.judgement import judgement_text  # noqa: PLC0415 (which builds on this file)

        return "\n".join(judgement_text(self))

    def __repr__(self) -> str:
        names = ", ".join(arm.name for arm in self.candidates)
        pair = f"{names} against {self.baseline.name}"
        return f"<Judgement: {pair}, {self.verdict}, {len(self.rows)} rows; print it for the table>"

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
    """INVALID where a run does not count, FAIL where a gate fails, PASS where all pass that can be tested."""
    if any(caution.code == "INVALID_RUN" for caution in beware):
        return Verdict.INVALID
    found = {row.comparison.verdict for row in rows} - {Verdict.SKIPPED}
    if Verdict.FAIL in found:
        return Verdict.FAIL
    return Verdict.PASS if found == {Verdict.PASS} else Verdict.INCONCLUSIVE
