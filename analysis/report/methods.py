"""Methods: how the numbers of a report were made, in words for who reads it without the manual."""

from typing import Final

DESCRIPTIVE: Final = (
    (
        "The intervals treat requests as independent. They describe this run and decide nothing about "
        "another: for that, compare runs."
    ),
)
INVERTED: Final = (
    (
        "Each ratio is a quantile of the candidate over the same quantile of the baseline. Its "
        "interval comes from inverting a t test over contiguous blocks of time, since requests of one "
        "run are not independent of each other. It is conditional on these two runs: what differs "
        "from run to run cannot be seen in one pair."
    ),
)
REPEATED: Final = (
    (
        "The run is the unit. Each run gives one figure for each gate: its quantile, its rate, or a share "
        "of its requests. Welch's t compares the two arms' figures (quantiles and rates as logarithms), so "
        "that what differs from run to run is what the interval is made of. Requests of one run are never "
        "taken as independent."
    ),
    (
        "A gate is PASS where the one-sided 95 % bound of the change lies below its margin, FAIL "
        "where the change is beyond it at 5 % by Holm's rule over all gates and arms, else "
        "INCONCLUSIVE. The verdict is PASS only if every gate passes, FAIL if one fails, INVALID if a "
        "run's own client was its limit. Runs that did not take turns are not judged. A limit is held "
        "against the (geometric) mean of the candidate's runs, by Student's t."
    ),
    (
        "Latency counts from when a request was due, in closed loops from when it was sent. A timeout "
        "is longer than every other value. Failures have a gate of their own; a latency passes only if it "
        "does with every failure as the slowest request as well. "
        "In the shift plots the intervals are Welch's at each quantile, and the band holds at all of "
        "them at once (Bonferroni)."
    ),
)
WITHOUT_INTERVALS: Final = (
    (
        "Here no change has an interval: either an arm has fewer than three runs, or the experiment "
        "was looked at while it ran, and could stop early. Then its verdicts hold at the level of the "
        "look that ended it (the warnings say which), and intervals, which are made for "
        "experiments of a fixed length, would promise too much."
    ),
)
