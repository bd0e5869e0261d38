"""Simulated traffic with known truth, and what tbench's own statistics say about it (`make calibrate`)."""
