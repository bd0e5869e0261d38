"""The doctor: what this machine can hold, found by replays against a server that knows the truth."""
