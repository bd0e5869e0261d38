"""Attempt: one call that has ended, with all that its sender saw of it."""

from dataclasses import dataclass

from tbench.replay.sender import Reply


@dataclass(slots=True, kw_only=True)
class Attempt:
    """`index`, `due`, `cost` and `label` are the call's.

    `held` is how long it waited for `--max-in-flight`, seconds.
    """

    index: int
    due: float | None
    held: float
    label: bytes
    reply: Reply
    cost: float = 0.0
