"""The verbs of a benchmark: benchmark, excel, plot, upload."""
