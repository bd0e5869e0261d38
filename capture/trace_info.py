"""What a trace holds: the facts of an exchange, and the figures of `tbench trace info` and `trace head`."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import orjson

from tbench.capture.decode import decode
from tbench.capture.errors import InputError
from tbench.capture.exchange import Exchange, Request, Response
from tbench.capture.jsontext import rewritten
from tbench.capture.providers import (
    ParsedRequest,
    ParsedResponse,
    Usage,
    parse_recorded,
    parse_request,
    recorded_outcome,
)
from tbench.capture.sessions import SESSION_HEADERS, Place, Sessions
from tbench.capture.trace_reader import Trace

# Dispersion: how bursty arrivals are. Poisson traffic has 1 in every window, bursts have more.

WINDOWS_S = {"0.1": 0.1, "1": 1.0, "10": 10.0, "60": 60.0}


class Dispersion:
    """The index of dispersion of counts: variance / mean of arrivals per window, window by window.

    Windows begin at the first arrival; the one that the last arrival lies in is incomplete and left
    out. Variance is that of the whole population of windows. Feed arrivals (ns) in order.
    """

    def __init__(self, window_ns: int) -> None:
        self._window_ns = window_ns
        self._first: int | None = None
        self._current = 0
        self._count = 0
        self._sum = 0
        self._squares = 0

    def add(self, at_ns: int) -> None:
        """Count one arrival."""
        self._first = at_ns if self._first is None else self._first
        window = (at_ns - self._first) // self._window_ns
        if window > self._current:
            # Windows without an arrival add nothing to either sum: the number of the window counts them.
            self._sum += self._count
            self._squares += self._count**2
            self._current, self._count = window, 0
        self._count += 1

    @property
    def windows(self) -> int:
        """The whole windows so far."""
        return self._current

    @property
    def index(self) -> float | None:
        """Variance over mean; None with fewer than two whole windows."""
        windows = self._current
        if windows < 2:
            return None
        # Whole numbers up to here, so that no sum loses digits, however long the trace.
        return self._squares / self._sum - self._sum / windows


def pieces(response: Response) -> Iterator[tuple[float, bytes]]:
    """The body as it was read: seconds since the capture's origin, bytes. Nothing without a body."""
    if response.body is None:
        return
    if sum(chunk.size for chunk in response.chunks) != len(response.body):
        # A body that was rewritten (masked, made up) has another
        # length than was read: when which part came is lost.
        yield response.end_ns / 1e9, response.body
        return
    start = 0
    for chunk in response.chunks:
        yield chunk.at_ns / 1e9, response.body[start : start + chunk.size]
        start += chunk.size


class Facts:
    """An exchange, understood as far as it is asked: its request, its answer, its place in a session."""

    def __init__(
        self, exchange: Exchange, place: Place | None = None, parsed: ParsedRequest | None = None
    ) -> None:
        self.exchange = exchange
        self.request = exchange.request
        self.place = place
        if parsed is not None:
            self.parsed = parsed

    @cached_property
    def parsed(self) -> ParsedRequest:
        request = self.request
        encoding = request.header("content-encoding")
        return parse_request(request.method, request.path, request.body, encoding)

    @cached_property
    def answer(self) -> ParsedResponse | None:
        """What its response says; None without one. Times are seconds since the capture's origin."""
        response = self.exchange.response
        return parse_recorded(response, pieces(response)) if response else None

    @property
    def usage(self) -> Usage:
        """What the server counted; of a trace without answers, what its log or its maker counted."""
        if self.answer is not None:
            return self.answer.usage
        counts = [self.request.extra.get(f"{side}_tokens") for side in ("prompt", "output")]
        prompt, output = (count if isinstance(count, int) else None for count in counts)
        return Usage(prompt=prompt, output=output)

    @property
    def outcome(self) -> str:
        """Its outcome by today's judgement, whichever version recorded it."""
        response, answer = self.exchange.response, self.answer
        if response is None or answer is None:
            return str(self.exchange.outcome)
        return str(recorded_outcome(response, answer, endpoint=self.parsed.info.endpoint))

    @property
    def sessions(self) -> tuple[str, ...]:
        """The names of its session: its number (`s12`), and what a header calls it."""
        headers = map(self.request.header, SESSION_HEADERS)
        numbered = (self.place.session,) if self.place else ()
        return (*numbered, *(name for name in headers if name))

    @property
    def tools(self) -> int:
        """The tools that its request offers."""
        tools = (self.parsed.payload or {}).get("tools")
        return len(tools) if isinstance(tools, list) else 0

    @property
    def ttft(self) -> float | None:
        """Seconds from its arrival to the first token."""
        first = self.answer.first_token if self.answer else None
        return None if first is None else first - self.request.arrive_ns / 1e9

    @property
    def e2e(self) -> float | None:
        """Seconds from its arrival to the last content of a stream, to the last byte of anything else."""
        response = self.exchange.response
        if response is None or self.answer is None:
            return None
        last = self.answer.last_token
        return (response.end_ns / 1e9 if last is None else last) - self.request.arrive_ns / 1e9


class Overview:
    """Adds up exchanges in arrival order, in memory that does not grow with their number."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._models: Counter[str] = Counter()
        self._endpoints: Counter[str] = Counter()
        self._sessions = Sessions()
        self._bursts = {name: Dispersion(round(s * 1e9)) for name, s in WINDOWS_S.items()}
        self._first: int | None = None
        self._last = self._end = 0

    def add(self, exchange: Exchange) -> None:
        """Count the next exchange."""
        request, response, facts = exchange.request, exchange.response, Facts(exchange)
        info, answer = facts.parsed.info, facts.answer
        self._counts["requests"] += 1
        self._counts["responses"] += response is not None
        self._counts["retries"] += request.retry_of is not None
        self._counts["redirected"] += response is not None and response.led_back
        self._counts["masked"] += bool(request.extra.get("body_masked"))
        self._counts["bytes"] += request.body_bytes + (response.body_bytes if response else 0)
        self._outcomes[facts.outcome] += 1
        self._endpoints[info.endpoint] += 1
        if info.model is not None:
            self._models[info.model] += 1
        if answer is not None:
            for name, tokens in (("prompt", answer.usage.prompt), ("output", answer.usage.output)):
                if tokens is not None:
                    self._counts[f"{name}_tokens"] += tokens
        place = self._sessions.assign(
            request, parsed=facts.parsed, response=response, answer=exchange.answer
        )
        self._counts["sessions"] += place.turn == 0 and request.retry_of is None
        self._first = request.arrive_ns if self._first is None else self._first
        self._last = request.arrive_ns
        self._end = max(self._end, request.end_ns, response.end_ns if response else 0)
        for bursts in self._bursts.values():
            bursts.add(request.arrive_ns)

    def figures(self, trace: Trace) -> dict[str, Any]:
        """All figures, with the losses that the trace knows of after it was read.

        None where nobody could know: when a synthesised trace arrived and what became of it, tokens that no
        answer names.
        """
        totals, first = trace.totals, self._first
        steps = trace.header.extra.get("steps")
        made, imported = trace.header.extra.get("synthesis"), trace.header.extra.get("import")
        if not (isinstance(made, dict) and made.keys() >= {"task", "scenario", "seed", "tokens"}):
            made = None
        sent = (made is None and imported is None) or self._counts["responses"] > 0
        known = first is not None and (sent if imported is None else trace.header.wall_ns > 0)
        return {
            "requests": self._counts["requests"],
            "responses": self._counts["responses"],
            "incomplete": self._counts["requests"] - self._counts["responses"] if sent else None,
            "dropped": totals.get("dropped_requests", 0) + totals.get("dropped_responses", 0),
            "dropped_bytes": totals.get("dropped_bytes", 0),
            "outcomes": dict(self._outcomes.most_common()) if sent else {},
            "retries": self._counts["retries"],
            "redirected": self._counts["redirected"],
            "masked": self._counts["masked"],
            "duration_s": 0.0 if first is None else (self._end - first) / 1e9,
            "first_arrival": _iso(trace.header.wall(first or 0)) if known else None,
            "last_arrival": _iso(trace.header.wall(self._last)) if known else None,
            "sessions": self._counts["sessions"],
            "models": dict(self._models.most_common()),
            "endpoints": dict(self._endpoints.most_common()),
            "prompt_tokens": self._counts.get("prompt_tokens"),
            "output_tokens": self._counts.get("output_tokens"),
            "bytes": self._counts["bytes"],
            "idc": {name: bursts.index for name, bursts in self._bursts.items()},
            "synthesis": made,
            "import": imported if isinstance(imported, dict) else None,
            "privacy": trace.header.privacy,
            "steps": list(steps) if isinstance(steps, list) else [],
            "damaged_blocks": trace.losses.damaged_blocks,
        }


def exchange_row(exchange: Exchange, *, bodies: bool = False) -> dict[str, Any]:
    """One exchange in figures: times in seconds, from its arrival but `offset_s`; None where absent.

    `e2e_s` is to the last content of a stream, to the last byte of anything else, as everywhere. With
    `bodies` also what was said, as text: undecodable bytes become U+FFFD.
    """
    request, response, facts = exchange.request, exchange.response, Facts(exchange)
    answer = facts.answer
    figures = {
        "offset_s": request.arrive_ns / 1e9,
        "id": request.id,
        "method": request.method,
        "path": request.path,
        "model": facts.parsed.info.model,
        "status": response.status if response else None,
        "outcome": facts.outcome,
        "ttft_s": facts.ttft,
        "e2e_s": facts.e2e,
        "request_bytes": request.body_bytes,
        "response_bytes": response.body_bytes if response else None,
        "prompt_tokens": answer.usage.prompt if answer else None,
        "output_tokens": answer.usage.output if answer else None,
    }
    if bodies:
        figures |= {"request_body": _text(request), "response_body": _text(response)}
    return figures


def decoded(exchange: Exchange) -> dict[str, Any]:
    """What was said, decoded and put together, masked where the file is.

    `request` is its JSON object, or its text; `messages` have `role` and `text` (a message that is no text,
    as JSON); `response` is a JSON object or the text of a stream, `answer` the first choice's text and
    `error` what a server complained about. None where absent.
    """
    facts = Facts(exchange)
    parsed, answer = facts.parsed, facts.answer
    messages = [
        {
            "role": str(message.get("role")),
            "text": content
            if isinstance(content := message.get("content"), str)
            else rewritten(message).decode(),
        }
        for message in parsed.messages
    ]
    text = _text(exchange.response)
    try:
        response = orjson.loads(text) if text and text.lstrip().startswith("{") else text
    except ValueError:
        response = text
    return {
        "request": _text(exchange.request) if parsed.payload is None else parsed.payload,
        "messages": messages,
        "response": response,
        "answer": (answer.text or None) if answer else None,
        "error": answer.error if answer else None,
    }


def _text(record: Request | Response | None) -> str | None:
    """A body for people; still encoded where its encoding is unknown or broken."""
    if record is None or record.body is None:
        return None
    try:
        return decode(record.body, record.header("content-encoding") or "").decode(errors="replace")
    except InputError:
        return record.body.decode(errors="replace")


def trace_info(trace: Trace) -> dict[str, Any]:
    """Read all of a trace; the figures of `trace info --json` (docs/json.md)."""
    seen = Overview()
    for exchange in trace:
        seen.add(exchange)
    return seen.figures(trace)


def _iso(wall_ns: int) -> str:
    """UTC to the microsecond; whole nanoseconds do not fit a datetime."""
    # In integers: today's seconds have steps of 0.24 us as
    # a float, so that another microsecond could be shown.
    moment = datetime.fromtimestamp(wall_ns // 10**9, UTC).replace(
        microsecond=wall_ns // 1000 % 10**6
    )
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
