"""Benchmarks: synthesised workloads replayed at each point of a sweep (`tbench benchmark`)."""
