"""Benchmark metadata: what a folder says of itself, as cells. Keys that others wrote down are masked.

genai-bench rebuilds its command from all of its parameters, so that keys can be in it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tbench.analysis.report.sheets import Cell
from tbench.capture.providers import masked
from tbench.capture.redact import looks_secret

WITHHELD: Final = "***"
FLAG: Final = re.compile(
    r"""(--[\w-]*(?:key|token(?!iz)|secret|passw|credential|connection[-_]string)[\w-]*(?:=|\s+))"""
    r"""('[^']*'|"[^"]*"|[^\s'"]\S*)""",
    re.IGNORECASE,
)
"""A flag that may hold a credential, and its value."""


def shown_metadata(metadata: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    """Each field with its value as a cell: lists joined by commas, maps as JSON."""
    for name, value in metadata.items():
        yield name, _cell(value)


def _cell(value: object) -> Cell:
    if isinstance(value, Mapping):
        return json.dumps({name: _field(name, one) for name, one in value.items()})
    if isinstance(value, list):
        return masked(", ".join(map(str, value)))
    if isinstance(value, str):
        return masked(FLAG.sub(rf"\1{WITHHELD}", value))
    return value if isinstance(value, (bool, int, float)) else None


def _field(name: str, value: object) -> object:
    """A value of a map; a text whose name may be a credential's is not shown."""
    if not isinstance(value, str):
        return value
    return WITHHELD if looks_secret(name, value) else masked(value)
