"""Dataset: rows of prompts and images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from capture.exchange import NOTHING


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a prompt, an image (encoded bytes, a path or an http(s) address), or both."""

    prompt: str | None = None
    image: Any = None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Rows by the name they came from; `left_out` counts what could not be used, by reason."""

    name: str
    rows: Sequence[Row]
    left_out: Mapping[str, int] = field(default=NOTHING)

    @property
    def prompts(self) -> list[str]:
        return [row.prompt for row in self.rows if row.prompt is not None]

    def digest(self) -> str:
        """Tells this dataset from others of its name."""
        found = blake2b(digest_size=8)
        for row in self.rows:
            found.update(repr((row.prompt, row.image)).encode(errors="surrogatepass"))
        return found.hexdigest()
