"""Synthesis: a scenario or a dataset becomes the requests of a trace, seeded."""
