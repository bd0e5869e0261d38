"""Sample: one attempt of a replay, measured. A run is a header and its samples.

Seconds are floats from the run's start on the monotonic clock, `wall_ns` stamps are CLOCK_REALTIME. An
absent value is None. A failed request is a sample, never an exception.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tbench.capture.exchange import ABANDONED, Outcome
from tbench.capture.redact import Secrets

# What a server's headers say of how it made an answer, for whoever looks into its logs.
#
# By allowlist; no credential and nothing about the caller is on it. `x-request-id` has a column of its own.

Headers = tuple[tuple[str, str], ...]

SERVER_HEADERS: Final = frozenset(
    {
        "cf-cache-status",
        "cf-ray",
        "fireworks-server-processing-time",
        "fireworks-server-time-to-first-token",
        "openai-processing-ms",
        "retry-after",
        "retry-after-ms",
        "server-timing",
        "x-api-call-end",
        "x-api-call-start",
        "x-api-received",
        "x-cache",
        "x-cluster",
        "x-engine-pod",
        "x-envoy-upstream-service-time",
        "x-generation-id",
        "x-hostname",
        "x-inference-version",
        "x-sim-timing",
        "x-together-traceid",
        "x-total-time",
    }
)
"""Names, lower-case."""
HEADER_NAMES: Final = frozenset(name.encode() for name in SERVER_HEADERS)
"""The same as on the wire."""
MOST_HEADERS: Final = 16
"""So many fields of an answer are kept,"""
LONGEST_VALUE: Final = 200
"""and so many characters of a value: what is longer is cut off, with an ellipsis."""


def server_headers(fields: Iterable[tuple[bytes, bytes]], secrets: Secrets) -> Headers:
    """The fields that are kept, lower-case, in the order of the wire; `secrets` masked in their values."""
    headers: list[tuple[str, str]] = []
    for key, value in fields:
        if (name := key.lower()) not in HEADER_NAMES or len(headers) == MOST_HEADERS:
            continue
        line = "".join(c if c.isprintable() else " " for c in value.decode("latin-1")).strip()
        text = secrets.mask_text(
            line
        )  # before it is cut: a part of a secret would not be known as one
        if len(text) > LONGEST_VALUE:
            text = text[: LONGEST_VALUE - 1] + "…"
        headers.append((name.decode(), text))
    return tuple(headers)


def header_lines(all_headers: Iterable[Headers]) -> bytes:
    """The headers of several answers: a line each, `name: value` joined by tabs."""
    lines = ("\t".join(f"{name}: {value}" for name, value in headers) for headers in all_headers)
    return "\n".join(lines).encode()


def headers_of(lines: bytes) -> list[Headers]:
    """The other way. Raises ValueError for what is no such text."""
    rows = (line.split("\t") for line in lines.decode().split("\n"))
    return [
        tuple((name, value) for name, _, value in (field.partition(": ") for field in row if field))
        for row in rows
    ]


Arrival = tuple[str, int, int | None]
"""What was recorded of a request in short: its id, when it came and when it ended (None: not known), ns."""


class Fate(StrEnum):
    """What became of a planned request: planned = the sum over all five."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST_IN_FLIGHT = "lost_in_flight"
    NEVER_SENT = "never_sent"


@dataclass(slots=True, kw_only=True)
class Sample:
    """One attempt: four stamps (due, sent, first token, end), the counts, and the outcome.

    Nobody changes one that was made (replay.measure); it is not frozen, since a million are, and that would
    take as long as all else.

    `id` is the exchange's id in the trace, `cycle` the round of `--loop` (0 first), `index` the place in
    the plan, `session` numbers the conversation that it belongs to (None: not known). `due` is None in
    closed modes. `first_byte` is the first byte of the body, `first_token` the first content, reasoning
    or tool-call delta of a stream, `first_answer` the first that is not reasoning, `last_token` the last;
    all three are None without a stream. `end` is the last byte. `token_times` are the arrivals of the
    content-bearing events; those that were read together have the stamp of the last. What was read late came
    no sooner than `first_token_after`, `first_answer_after`, `last_token_after` and `end_after`, and no later
    than its stamp (None: known to a millisecond). Token counts are the server's `usage`. `warmup` samples are
    kept and left out of the statistics. `held` is how long the request waited for `--max-in-flight`,
    `connect` how long it opened a connection before it was sent (0: it had one); both are seconds and lie
    between `due` and `sent`. `sent_wall_ns` is the wall clock at `sent`, `first_wall_ns` at `first_token` (at
    `first_byte` without a stream). `request_id` is the answer's own (`x-request-id`, Anthropic's
    `request-id`), `headers` what else of its head leads into the server's logs (replay.sample).
    `reconnected`: its kept connection ended without a byte of an answer, and it was sent again on a new
    one; `sent` is the first try's. `refusals` attempts before this one were refused (429, 503), and `waited`
    seconds were waited for as they asked (`--polite`); `sent` is the first attempt's.
    """

    id: str
    index: int
    cycle: int = 0
    session: int | None = None
    endpoint: str
    model: str | None
    stream: bool
    warmup: bool = False
    held: float = 0.0
    waited: float = 0.0
    connect: float = 0.0
    due: float | None
    sent: float | None
    first_byte: float | None = None
    first_token: float | None = None
    first_token_after: float | None = None
    first_answer: float | None = None
    first_answer_after: float | None = None
    last_token: float | None = None
    last_token_after: float | None = None
    end: float | None = None
    end_after: float | None = None
    sent_wall_ns: int | None = None
    first_wall_ns: int | None = None
    status: int | None = None
    refusals: int = 0
    outcome: Outcome = Outcome.OK
    error: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_creation_tokens: int | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    conn_reused: bool = False
    reconnected: bool = False
    request_id: str | None = None
    headers: Headers = ()
    token_times: tuple[float, ...] = ()

    @property
    def fate(self) -> Fate:
        """Completed, failed or cancelled; what was lost or never sent has no sample of its own."""
        if self.outcome is Outcome.OK:
            return Fate.COMPLETED
        return Fate.CANCELLED if self.outcome in ABANDONED else Fate.FAILED
