"""Synthesis: a scenario or a dataset becomes a trace, seeded."""
