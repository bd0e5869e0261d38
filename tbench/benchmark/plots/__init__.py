"""Plots: the points of benchmarks as panels on sheets, by presets or by a layout of the user's own."""

from tbench.benchmark.plots.files import checked, default_plots, plot, preset_for
from tbench.benchmark.plots.layout import read_grid

__all__ = ["checked", "default_plots", "plot", "preset_for", "read_grid"]
