"""What a call waits for beside its time: the answers that it continues, and a target that refuses calls.

Nothing here waits, sends or knows what a call holds: times are seconds of any one clock, and who plays the
calls (replay.player) asks when the next may leave.
"""

import heapq
import math
import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final, NamedTuple

from tbench.capture.exchange import Outcome
from tbench.replay.pacing import Causal
from tbench.replay.sender import Call, Label, Reply

# Turns. An application sends the next turn of a conversation once it has the answer to the last one. Sent
# before that the load is one that no application makes, and a server's prefix cache does not hold what it
# would hold. So a turn is due when its predecessors have ended here (of a join of several sub-agents: all of
# them) and the recorded think time has passed, or later: at its scheduled time.

REMEMBERED: Final = 100_000
"""So many requests a plan looks back, and so many ended calls are remembered of each copy: what bounds the
memory. A conversation whose last turn is older starts anew."""
LOOKS_AHEAD: Final = 1024
"""So many calls are taken beyond the next one, where one that is due later may be due sooner."""

FATES: Final = ("continued", "waited", "early", "skipped", "forgotten")

Key = tuple[int, int]
"""A call: its arm and its place in the plan."""


@dataclass(slots=True)
class _Waiting:
    """A call that waits for so many `missing` predecessors; the others ended by `ended`, or one failed."""

    call: Call
    missing: int
    ended: float
    failed: bool = False


class Turns:
    """Calls between supply and sender. Times are seconds from the run's start.

    `held` calls were taken from the supply and have not left; `sessions` count, by their first call, those
    that have not ended. Of calls that are due together the one that was taken first is the first to leave: in
    a duet their order is drawn. The trace is sent as so many `copies` at once (clones, for each arm).
    `unsent` is called with each call that is not to leave.
    """

    def __init__(
        self, causal: Causal, copies: int = 1, unsent: Callable[[Call], object] = id
    ) -> None:
        self.causal = causal
        self._unsent = unsent
        self.held = 0
        self._counts: dict[int, Counter[str]] = defaultdict(Counter)
        self._numbers = count()
        self._under_way: dict[Key, int] = {}
        self._ended: dict[Key, float | None] = {}
        self._endings: deque[Key] = deque()
        self._remembered = REMEMBERED * copies
        self._parked: dict[Key, list[_Waiting]] = {}
        self._late: set[Key] = set()
        self.sessions: Counter[int] = Counter()
        self._due: list[tuple[float, int, Call]] = []
        self._ready: list[tuple[int, Call]] = []

    @property
    def next_due(self) -> float | None:
        """When the first of those is due that wait for their time alone."""
        return self._due[0][0] if self._due else None

    def counts(self, arm: int = 0) -> dict[str, int]:
        """What became of an arm's turns.

        `continued` of those that left or were skipped continue an earlier answer: `waited` left later than
        scheduled, as one that they continue had not ended, `early` before it had (strict), and `skipped`
        were not sent, as it never came, or was of no use. Of those that were taken `forgotten` continue a
        call that ended, or failed, too long ago to be remembered: they waited for nothing more of it.
        """
        return {name: self._counts[arm][name] for name in FATES}

    def passes(self, call: Call) -> bool:
        """Whether a call of a closed loop waits for nothing: it leaves now, before it is taken.

        Where no conversation has a second turn that is every call. None that was taken may go.
        """
        if call.after or call.opening is not None:
            return False
        self._under_way[call.arm, call.index] = next(self._numbers)
        return True

    def take(self, call: Call) -> None:
        """Take a call from the supply: it goes by its due time, or waits for its predecessors."""
        self._under_way[call.arm, call.index] = next(self._numbers)
        self.held += 1
        if call.opening is not None:
            self.sessions[call.opening] += 1
        if not call.after or self.causal == "strict":
            self._time(call, call.due)
            return
        before = [(call.arm, index) for index in call.after]
        waiting, forgotten = _Waiting(call, 0, -math.inf), False
        for key in before:
            if key in self._under_way:
                waiting.missing += 1
                self._parked.setdefault(key, []).append(waiting)
            elif key in self._ended:
                self._heard(waiting, self._ended[key])
            else:
                forgotten = True
        self._counts[call.arm]["forgotten"] += forgotten
        self._go_on(waiting)

    def leave(self) -> Call:
        """The call that is due first, which leaves now. There must be one."""
        return self._left(heapq.heappop(self._due)[-1])

    def leave_in_order(self, now: float) -> Call | None:
        """The first call in the supply's order of those whose time has come; for closed loops."""
        while self._due and self._due[0][0] <= now:
            heapq.heappush(self._ready, heapq.heappop(self._due)[1:])
        return self._left(heapq.heappop(self._ready)[-1]) if self._ready else None

    def drop(self, call: Call) -> None:
        """Do not send a call that has just left, nor what follows it."""
        self.held += 1
        # It was counted as it left, and is counted again as skipped.
        self._counts[call.arm]["continued"] -= 1
        self._skip(call)

    def end(self, call: Call, at: float | None) -> bool:
        """A call has ended `at`, or has failed (None). Whether others had waited for it."""
        parked = self._close(call, at)
        if not parked:
            return False
        followers = [waiting for waiting in parked if not waiting.failed]
        for waiting in followers:
            waiting.missing -= 1
            self._heard(waiting, at)
            self._go_on(waiting)
        return bool(followers)

    def _close(self, call: Call, at: float | None) -> list[_Waiting]:
        """Remember how a call ended. Those that waited for it."""
        key = call.arm, call.index
        self._under_way.pop(key, None)
        if call.opening is not None:
            self.sessions[call.opening] -= 1
            if not self.sessions[call.opening]:
                del self.sessions[call.opening]
        self._ended[key] = at
        self._endings.append(key)
        if len(self._endings) > self._remembered:
            self._ended.pop(self._endings.popleft(), None)
        return self._parked.pop(key, []) if self._parked else []

    @staticmethod
    def _heard(waiting: _Waiting, ended: float | None) -> None:
        """Note how a predecessor ended."""
        if ended is None:
            waiting.failed = True
        else:
            waiting.ended = max(waiting.ended, ended)

    def _go_on(self, waiting: _Waiting) -> None:
        """Skip a call of which a predecessor failed; have it follow once all have ended."""
        call, scheduled = waiting.call, waiting.call.due
        if waiting.failed:
            self._skip(call)
            return
        if waiting.missing:
            return
        due = waiting.ended + call.think
        if due == -math.inf:  # all of them are forgotten
            self._time(call, scheduled)
            return
        if scheduled is not None:
            if self.causal == "max":
                due = max(due, scheduled)
            if due > scheduled:
                self._late.add((call.arm, call.index))
            call.due = due
        self._time(call, due)

    def _left(self, call: Call) -> Call:
        self.held -= 1
        if call.after:
            counts, key = self._counts[call.arm], (call.arm, call.index)
            counts["continued"] += 1
            counts["waited"] += key in self._late
            counts["early"] += any((call.arm, index) in self._under_way for index in call.after)
            self._late.discard(key)
        return call

    def _time(self, call: Call, due: float | None) -> None:
        number = self._under_way[call.arm, call.index]
        if due is None:  # in a closed loop, that of none that it continues
            heapq.heappush(self._ready, (number, call))
        else:
            heapq.heappush(self._due, (due, number, call))

    def _skip(self, call: Call) -> None:
        """Do not send a call, nor what follows it, however long that conversation is."""
        unsent = [call]
        while unsent:
            call = unsent.pop()
            self.held -= 1
            self._unsent(call)
            self._counts[call.arm].update(("continued", "skipped"))
            for waiting in self._close(call, None):
                # Once: a join of two that failed is let go by the first of them.
                if not waiting.failed:
                    waiting.failed = True
                    unsent.append(waiting.call)


# What an answer is worth to who waits for it.

_COMPLAINT: Final = re.compile(rb'"error"(?!: ?null)|event: ?error|"failed"')
_FINISHES: Final = re.compile(rb'"finish_reason"[ \t]*:[ \t]*"([^"]*)')
_FINISH: Final = b'"finish_reason":'
_NO_FINISH: Final = _FINISH + b"null"
_USUAL: Final = frozenset({b"stop", b"eos", b"length", b"tool_calls", b"function_call"})
_USUAL_ENDS: Final = tuple(b'%s"%s"' % (gap, word) for word in _USUAL for gap in (b"", b" "))
_LAST_EVENTS: Final = re.compile(rb'"type": ?"(?:message_stop|response\.completed)"')
_EDGE: Final = 2048
_READ_AT_ONCE: Final = 65536
"""JSON of so many bytes is read about as fast as it is searched."""


def answered(call: Call, reply: Reply) -> bool:
    """Whether a call was answered as a success, as its sample will say (replay.measure).

    An answer that is not plainly whole is read.
    """
    if reply.failure is not None or not reply.status or reply.status >= 400:
        return False
    chunks = reply.chunks
    if reply.status == 200:
        # What came at once is short, and the sooner told the more of these can be sent.
        if len(chunks) == 1 and _short_and_whole(chunks[0][1]):
            return True
        if _plainly_whole(b"".join([piece for _, piece in chunks])):
            return True
    from tbench.capture.providers import outcome_of, parse_response  # noqa: PLC0415 (a worker starts without)

    answer = parse_response(
        chunks,
        content_type=reply.header("content-type"),
        content_encoding=reply.header("content-encoding"),
        status=reply.status,
    )
    endpoint = Label.unpack(call.label).endpoint
    return outcome_of(reply.status, answer, endpoint=endpoint) is Outcome.OK


def _short_and_whole(body: bytes) -> bool:
    """Whether a stream has ended, with one usual finish reason (others are null), and without a complaint."""
    at = body.rfind(_FINISH)
    return (
        body.startswith(_USUAL_ENDS, at + len(_FINISH))
        and body.endswith(b"\ndata: [DONE]\n\n")
        and b"error" not in body
        and body.count(_FINISH, 0, at) == body.count(_NO_FINISH, 0, at)
        and body[:5] == b"data:"
    )


def _plainly_whole(body: bytes) -> bool:
    """Whether an answer ends as one does that went well, without a complaint: most are told by this.

    Within what a model says quotation marks are escaped, so nothing that it says looks like either. What
    stands in the middle of a long one is not looked at: an error ends a stream, and JSON with one is short.
    """
    # Also how it begins, as some servers write there how it ended.
    edges = body if len(body) <= 2 * _EDGE else body[:_EDGE] + b" " + body[-_EDGE:]
    if b"error" in edges and _COMPLAINT.search(edges):
        return False
    finishes = _FINISHES.findall(edges)
    if not _USUAL.issuperset(finishes):
        return False
    if body[:1] == b"{":
        seen = edges is body or len(body) > _READ_AT_ONCE
        return seen and body.rstrip()[-1:] == b"}"
    if body[:1] not in {b"d", b"e"}:
        return False
    done = finishes and body.endswith(b"\ndata: [DONE]\n\n")
    return bool(done or _LAST_EVENTS.search(edges))


# Politeness: when a call that its target refused goes again, and when others may leave meanwhile.

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
    # Against the answer's own date: a target whose clock is wrong still asks for the same length of time.
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
            # K of CUBIC: at no time at all the curve stands at
            # FEWER of the rate, after K seconds at the rate itself.
            plateau = math.cbrt(self._rate * (1 - FEWER) / REGAIN)
            rate = self._rate + REGAIN * (now - self.opens - plateau) ** 3
            self._next = now + 1 / max(rate, LEAST_RATE)

    def refuse(self, sent: float, now: float, wait: float) -> None:
        """One that left at `sent` was refused: stay away for `wait` seconds."""
        # Of one overload many are refused at once: the rate falls for
        # the first, and for those that were sent after that was known.
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
        # The number keeps the order of those that may leave together, and the heap from comparing calls.
        heapq.heappush(tempo.waiting, (until, next(self._numbers), call, reply))

    def _late(self, reply: Reply, at: float) -> bool:
        return reply.sent is not None and at >= reply.sent + self._timeout
