"""Replay: a trace sent again, measured."""
