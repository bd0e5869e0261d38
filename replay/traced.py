"""Traced: what a server's headers say of how it made an answer, for whoever looks into its logs. Pure.

By allowlist; no credential and nothing about the caller is on it. `x-request-id` has a column of its own.
"""

from collections.abc import Iterable
from typing import Final

from tbench.capture.redact import Secrets

Headers = tuple[tuple[str, str], ...]

TRACED: Final = frozenset(
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
NAMES: Final = frozenset(name.encode() for name in TRACED)
"""The same as on the wire."""
MOST: Final = 16
"""So many fields of an answer are kept,"""
LONGEST: Final = 200
"""and so many characters of a value: what is longer is cut off, with an ellipsis."""


def traced(fields: Iterable[tuple[bytes, bytes]], secrets: Secrets) -> Headers:
    """The fields that are kept, lower-case, in the order of the wire; `secrets` masked in their values."""
    headers = [
        (name.decode(), _excerpt(secrets.mask_text(_line(value))))
        for key, value in fields
        if (name := key.lower()) in NAMES
    ]
    return tuple(headers[:MOST])


def _line(value: bytes) -> str:
    """A value as one printable line."""
    text = value.decode("latin-1")
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return text.strip()


def _excerpt(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def pack(all_headers: Iterable[Headers]) -> bytes:
    """The headers of several answers: a line each, `name: value` joined by tabs."""
    lines = ("\t".join(f"{name}: {value}" for name, value in headers) for headers in all_headers)
    return "\n".join(lines).encode()


def unpack(lines: bytes) -> list[Headers]:
    """The other way. Raises ValueError for what is no such text."""
    return [
        tuple(_pair(field) for field in line.split("\t") if field)
        for line in lines.decode().split("\n")
    ]


def _pair(field: str) -> tuple[str, str]:
    name, _, value = field.partition(": ")
    return name, value
