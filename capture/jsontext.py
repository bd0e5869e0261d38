"""JSON from outside: one way to read it, which gives a value or says in one line why there is none."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import orjson

from tbench.capture.errors import InputError

BOM = b"\xef\xbb\xbf"
"""What a file in UTF-8 may begin with."""
LONGEST_NUMBER = 20
"""Characters of a whole number: 64 bits have no more."""


def loads(data: str | bytes) -> Any:  # noqa: ANN401 (whatever it holds)
    """The value of JSON text; NaN and Infinity, which Python and pandas write, are null.

    Raises ValueError for anything else that is no JSON, for numbers that no double holds, for half
    characters, and for text that is nested a thousand deep.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if "depth" in str(error):
            raise

    def refuse(text: str) -> NoReturn:
        raise ValueError(f"the number {text[:LONGEST_NUMBER]}… is too large")

    def integer(text: str) -> int:
        return int(text) if len(text) <= LONGEST_NUMBER else refuse(text)

    def finite(text: str) -> float:
        number = float(text)
        return number if math.isfinite(number) else refuse(text)

    try:
        value = json.loads(
            data, parse_constant=lambda _: None, parse_int=integer, parse_float=finite
        )
        # Through orjson again, so that both ways give the same values, and refuse the same.
        return orjson.loads(json.dumps(value, ensure_ascii=False).encode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half a character") from None


def rewritten(
    value: object, *, sort: bool = False, default: Callable[[Any], Any] | None = None
) -> bytes:
    """JSON of what was read as JSON: orjson reads 1,024 levels and writes 254.

    `default` gives the JSON of anything else that was put into it.
    """
    try:
        return orjson.dumps(value, default, orjson.OPT_SORT_KEYS if sort else None)
    except orjson.JSONEncodeError:
        return json.dumps(value, sort_keys=sort, default=default).encode()


def read_json(path: Path, cure: str = "move it away") -> Any:  # noqa: ANN401
    """The value that a file holds; raises InputError that names it and the `cure`."""
    try:
        return loads(path.read_bytes().removeprefix(BOM))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: no JSON: {error}; {cure}") from None
