"""Charts: every picture that tbench draws, as Vega-Lite by way of Altair.

How they look is `analysis.charts.drawing`'s. What was thinned is said in the picture's note.
"""

from tbench.analysis.charts.distribution import Dot, dots, ecdf, failures
from tbench.analysis.charts.drawing import Picture
from tbench.analysis.charts.ratios import NO_INTERVAL, Bar, forest, shift
from tbench.analysis.charts.timeline import arrivals, in_flight, over_time

__all__ = [
    "NO_INTERVAL",
    "Bar",
    "Dot",
    "Picture",
    "arrivals",
    "dots",
    "ecdf",
    "failures",
    "forest",
    "in_flight",
    "over_time",
    "shift",
]
