"""Values: what the words of a command line mean, where that is plain.

Typer asks pydantic, which takes longer to load than typer itself. A word that is not plain (no number, one
out of its range, a path that cannot be read) still goes that way, so that typer says what is wrong with it.
"""

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_NUMBER: Final = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")


class NotPlainError(Exception):
    """For typer to look at."""


def quicken(command: Any) -> None:  # noqa: ANN401 (typer has click's classes, its own or those of click)
    """Have the options of a command, and of those below it, read plain words without pydantic."""
    command.get_params = partial(_quickened, command.get_params)
    for below in getattr(command, "commands", {}).values():
        quicken(below)


def _quickened(slowly: Callable[[Any], list[Any]], context: Any) -> list[Any]:  # noqa: ANN401
    """As click's `Command.get_params`."""
    parameters = slowly(context)
    for one in parameters:
        if hasattr(one, "type_descriptor") and "process_value" not in vars(one):
            one.process_value = partial(_process, one, one.process_value)
    return parameters


def _process(parameter: Any, slowly: Callable[..., Any], context: Any, word: Any) -> Any:  # noqa: ANN401
    """As click's `Parameter.process_value`."""
    several = parameter.multiple or parameter.nargs == -1
    try:
        value = _none(parameter, several) if word is None else _read(parameter, several, word)
    except NotPlainError:
        return slowly(context, word)
    return value if parameter.callback is None else parameter.callback(context, parameter, value)


def _none(parameter: Any, several: bool) -> Any:  # noqa: ANN401
    if parameter.required:
        raise NotPlainError
    return () if several else None


def _read(parameter: Any, several: bool, word: Any) -> Any:  # noqa: ANN401
    kind, limits = parameter.type_descriptor.annotation, parameter.type_descriptor.parameter_info
    if not several:
        return plain(kind, limits, word)
    if get_origin(kind) is not list or not isinstance(word, tuple | list) or not word:
        raise NotPlainError
    return [plain(get_args(kind)[0], limits, one) for one in word]


def plain(kind: Any, limits: Any, word: Any) -> Any:  # noqa: ANN401
    """A word as a value of that kind, within the limits of typer's OptionInfo. Raises NotPlainError."""
    if limits.parser is not None:
        raise NotPlainError
    if get_origin(kind) is Literal and word in get_args(kind):
        return word
    if type(word) is kind:  # a default
        value = word
    elif type(word) is str and kind in READERS:
        value = READERS[kind](word, limits)
    else:
        raise NotPlainError
    least, most = limits.min, limits.max
    if (least is not None and value < least) or (most is not None and value > most):
        raise NotPlainError
    return value


def _integer(word: str, _limits: Any) -> int:  # noqa: ANN401
    if not _INTEGER.fullmatch(word):
        raise NotPlainError
    return int(word)


def _number(word: str, _limits: Any) -> float:  # noqa: ANN401
    if not _NUMBER.fullmatch(word):
        raise NotPlainError
    return float(word)


def _path(word: str, limits: Any) -> Path:  # noqa: ANN401
    unlimited = limits.dir_okay and limits.file_okay and not limits.resolve_path
    if not word or not unlimited or limits.exists or limits.writable or limits.path_type:
        raise NotPlainError
    path = Path(word)
    if path.exists() and not os.access(path, os.R_OK):
        raise NotPlainError
    return path


READERS: Final[Mapping[Any, Callable[[str, Any], Any]]] = {
    int: _integer,
    float: _number,
    str: lambda word, _limits: word,
    Path: _path,
}
