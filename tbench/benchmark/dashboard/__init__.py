"""The dashboard: a benchmark on a terminal while it runs, drawn over twice a second."""
