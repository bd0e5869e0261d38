"""Replay: a trace sent again, measured.

An order (what was asked for) becomes a job; the plan says which requests, the pacing when, the target
where; the player starts them, a sender sends them, the scribe writes a sample of each into the run file.
"""
