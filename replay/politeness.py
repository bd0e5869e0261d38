"""Politeness: when a call that its target refused goes again, and when others may leave meanwhile.

What an answer's head says of rate limits is read here, too. Nothing here waits or sends: times are seconds of
any one clock, and who plays the calls (replay.player) asks when the next may leave.
"""

import heapq
import math
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Final, NamedTuple

from tbench.replay.sender import Call, Reply

MOST_ATTEMPTS: Final = 10
"""A call that was refused so often is sent no more: its last refusal is its outcome."""
MOST_HOLD_S: Final = 60.0
"""No refusal holds back other calls for longer, whatever it asks for itself."""
BACKOFF_S: Final = 1.0
"""A first 429 that names no time is waited for so long, the next one twice as long, as SDKs do."""
FEWER: Final = 0.7
"""After a refusal calls leave at so much of the rate that was let through (beta of CUBIC),"""
REGAIN: Final = 0.4
"""and regain it by this (its C, per second cubed)."""
WINDOW_S: Final = 1.0
"""What was let through is counted over so long: services measure by the second."""
LEAST_RATE: Final = 0.5
"""Calls a second: no rate is lowered further."""
FORGET_S: Final = 60.0
"""After so long without a refusal nothing is held back any more."""


# What answers say of a rate limit.


class RateLimit(NamedTuple):
    """One of a target's limits as an answer states it, in its own unit; None where it does not.

    `kind` is what is counted (`requests`, `tokens`, `input-tokens` ...). `reset_s` is how long until it is
    whole again, where the unit of that is certain.
    """

    kind: str
    limit: float | None = None
    remaining: float | None = None
    reset_s: float | None = None


LIMIT_FIELD: Final = re.compile(
    rb"(?:x-(?:rate|(?P<token>token))limit-(?P<what>limit|remaining|reset)(?:-(?P<of>[a-z-]+))?"
    rb"|anthropic-ratelimit-(?P<kind>[a-z-]+)-(?P<part>limit|remaining|reset))"
)
"""Together's (`x-ratelimit-remaining`, `x-tokenlimit-limit-dynamic`), OpenAI's and Groq's
(`x-ratelimit-limit-tokens`), Anthropic's."""
DURATION: Final = re.compile(
    r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?"
)
"""As OpenAI writes one: 6m0s, 1.5s, 20ms."""
LONGEST_S: Final = 1e6
"""A bare number above this is no number of seconds, but a date (in what unit, each service decides)."""


def rate_limits(headers: Iterable[tuple[bytes, bytes]]) -> list[RateLimit]:
    """The limits that an answer's head states, each once."""
    named = [field for field in headers if b"imit-" in field[0]]
    if not named:  # mostly
        return []
    limits: dict[str, dict[str, float | None]] = {}
    for name, value in named:
        if not (parts := LIMIT_FIELD.fullmatch(name.lower())):
            continue
        kind = parts["kind"] or parts["of"] or (b"tokens" if parts["token"] else b"requests")
        if kind == b"dynamic":
            kind = b"dynamic tokens" if parts["token"] else b"dynamic requests"
        what, text = parts["what"] or parts["part"], value.decode("latin-1").strip()
        figure = seconds(text) if what == b"reset" else _number(text)
        key = "reset_s" if what == b"reset" else what.decode()
        limits.setdefault(kind.decode(), {}).setdefault(key, figure)
    return [RateLimit(kind, **figures) for kind, figures in limits.items()]


def wait_asked(reply: Reply, now_wall: float | None = None) -> float | None:
    """For how long an answer asks its client to stay away, seconds; None where it is no refusal that does.

    A refusal is a 429, or a 503 that names a time. The first of `retry-after-ms`, `retry-after` (seconds,
    or a date, taken against the answer's own) and the reset of a limit that is used up counts. `now_wall`
    is the present by the wall clock, where an answer has no date.
    """
    if reply.failure is not None or reply.status not in {429, 503}:
        return None
    if (milliseconds := _number(reply.header("retry-after-ms"))) is not None:
        return milliseconds / 1e3
    if text := reply.header("retry-after"):
        asked = seconds(text)
        if asked is None:
            asked = _until(text, reply.header("date"), now_wall)
        if asked is not None or _number(text) is not None:  # more than LONGEST_S: for no replay
            return asked
    limits = rate_limits(reply.headers)
    spent = [row.reset_s for row in limits if row.reset_s is not None and not row.remaining]
    if spent:
        return max(spent)
    return BACKOFF_S * 2 ** len(reply.refusals) if reply.status == 429 else None


def seconds(text: str) -> float | None:
    """A length of time: a bare number (s) or one with units (6m0s, 20ms); None for anything else."""
    if (number := _number(text)) is not None:
        return number if number <= LONGEST_S else None
    parts = DURATION.fullmatch(text)
    if not text or not parts:
        return None
    units = zip(parts.groups(), (3600, 60, 1, 0.001), strict=True)
    return math.fsum(float(digits) * unit for digits, unit in units if digits)


def _number(text: str) -> float | None:
    """A number that is written plainly and is none below zero."""
    return float(text) if re.fullmatch(r"\d{1,15}(\.\d{1,9})?", text) else None


def _until(text: str, date: str, now_wall: float | None) -> float | None:
    """From the date of an answer (else the present) until an HTTP date; None where that is none."""
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 (a worker starts without it)

    def instant(text: str) -> float | None:
        try:
            return parsedate_to_datetime(text).timestamp()
        except (ValueError, TypeError, OverflowError):
            return None

    until, since = instant(text), instant(date)
    if until is None:
        return None
    if since is None:
        since = time.time() if now_wall is None else now_wall
    return max(0.0, until - since)


# What is postponed, and the rate at which it leaves.


class Tempo:
    """How fast calls leave for one target: at once, until it refuses one.

    Then nothing leaves before `opens`, and after that at FEWER of the rate that it let through, grown as
    the window of CUBIC (RFC 9438, 4.2): fast, slowly near what was let through, then ever faster.
    Refusals of what had left before the first of them was known are of the same occasion.
    """

    def __init__(self) -> None:
        self.opens = -math.inf
        self.waiting: list[tuple[float, int, Call, Reply]] = []
        self._next = -math.inf
        self._rate = math.inf
        self._eased = -math.inf
        self._left: deque[float] = deque()

    @property
    def next_due(self) -> float:
        """When the first that waits may leave; infinite where none does."""
        return max(self.waiting[0][0], self.opens, self._next) if self.waiting else math.inf

    def goes(self, now: float) -> bool:
        """Whether one that comes now leaves at once."""
        return not self.waiting and max(self.opens, self._next) <= now

    def leave(self, now: float) -> None:
        """One leaves."""
        while self._left and self._left[0] <= now - WINDOW_S:
            self._left.popleft()
        self._left.append(now)
        if now > self.opens + FORGET_S:
            self._rate = math.inf
        if self._rate < math.inf:
            plateau = math.cbrt(self._rate * (1 - FEWER) / REGAIN)
            rate = self._rate + REGAIN * (now - self.opens - plateau) ** 3
            self._next = now + 1 / max(rate, LEAST_RATE)

    def refuse(self, sent: float, now: float, wait: float) -> None:
        """One that left at `sent` was refused: stay away for `wait` seconds."""
        if sent >= self._eased:
            recent = sum(at > now - WINDOW_S for at in self._left)
            self._rate, self._eased = recent / WINDOW_S, now
        self._rate = max(LEAST_RATE, self._rate - 1 / WINDOW_S)
        self.opens = max(self.opens, now + min(wait, MOST_HOLD_S))


class Politeness:
    """The calls to each target (by the arm of a call) that wait for it.

    `timeout` is for one call in all, seconds from its first attempt.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._tempos: dict[int, Tempo] = {}
        self._numbers = count()

    @property
    def next_due(self) -> float:
        """When the next one may leave; infinite where none waits."""
        return min((tempo.next_due for tempo in self._tempos.values()), default=math.inf)

    def start(self, call: Call, reply: Reply, now: float) -> bool:
        """Whether a call leaves now, for the first time; otherwise it waits its turn."""
        tempo = self._tempos.setdefault(call.arm, Tempo())
        if tempo.goes(now):
            reply.since = now
            tempo.leave(now)
            return True
        self._postpone(tempo, call, reply, now, max(now, tempo.opens))
        return False

    def again(self, call: Call, reply: Reply, now: float) -> bool:
        """Whether a call that has ended was refused, and waits to be sent again."""
        wait = wait_asked(reply)
        if wait is None:
            return False
        tempo = self._tempos.setdefault(call.arm, Tempo())
        tempo.refuse(reply.since, now, wait)
        if len(reply.refusals) + 1 >= MOST_ATTEMPTS or self._late(reply, now + wait):
            return False
        self._postpone(tempo, call, reply, now, now + wait)
        return True

    def leaving(self, now: float) -> Iterator[tuple[Call, Reply, bool]]:
        """Those whose turn has come, and whether each goes: not one whose time is up as it waited."""
        for tempo in self._tempos.values():
            while tempo.next_due <= now:
                _, _, call, reply = heapq.heappop(tempo.waiting)
                waited = now - reply.since
                if self._late(reply, now):
                    yield call, reply, False
                    continue
                if reply.sent is None:
                    reply.held += waited
                else:
                    reply.send_again(waited)
                reply.since = now
                tempo.leave(now)
                yield call, reply, True

    def abandon(self) -> list[tuple[Call, Reply]]:
        """All that wait; none does any more."""
        waiting = [row[2:] for tempo in self._tempos.values() for row in tempo.waiting]
        self._tempos.clear()
        return waiting

    def _postpone(self, tempo: Tempo, call: Call, reply: Reply, now: float, until: float) -> None:
        reply.since = now
        heapq.heappush(tempo.waiting, (until, next(self._numbers), call, reply))

    def _late(self, reply: Reply, at: float) -> bool:
        return reply.sent is not None and at >= reply.sent + self._timeout
