"""Embeddings and relevance without a model: stable numbers from the text alone."""

import math
from array import array
from hashlib import shake_256


def embedding(text: bytes, dims: int) -> list[float]:
    """A unit vector of so many dimensions that follows from the text."""
    raw = array("h", shake_256(text).digest(2 * dims))
    norm = math.sqrt(math.sumprod(raw, raw)) or 1.0
    return [value / norm for value in raw]


def relevance(query: str, document: str) -> float:
    """The share of the query's words that the document has, from 0 to 1, ties broken by the text."""
    wanted, held = set(query.lower().split()), set(document.lower().split())
    share = len(wanted & held) / len(wanted) if wanted else 0.0
    return round(0.9 * share + 0.1 * shake_256(document.encode()).digest(1)[0] / 256, 6)
