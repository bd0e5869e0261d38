"""Recipe: genai-bench's dataset-config JSON, which says where rows come from and which columns hold what."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tbench.capture.errors import InputError
from tbench.capture.jsontext import loads, read_json
from tbench.capture.synthesis.dataset import Columns, Dataset, from_hub, load_dataset

KNOWN: Final = frozenset({"source", "prompt_column", "image_column", "unsafe_allow_large_images"})
KNOWN_OF_SOURCE: Final = frozenset({"type", "path", "file_format", "huggingface_kwargs"})
REFUSED: Final[Mapping[str, str]] = {
    "loader_class": "tbench runs no code that a file names",
    "loader_kwargs": "tbench runs no code that a file names",
    "prompt_lambda": "tbench runs no code that a file holds; write the prompts into a column of the data and "
    "name it as prompt_column",
}


def is_recipe(path: Path) -> bool:
    """Whether a file is a dataset-config, and not a dataset: a JSON object with a `source`."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        if not file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
            return False
    try:
        value = loads(path.read_bytes())
    except ValueError:  # several objects, one a line
        return False
    return isinstance(value, dict) and "source" in value


def load_recipe(path: Path, columns: Columns | None = None) -> Dataset:
    """The dataset that a config describes; columns given beside it win. Raises InputError."""
    columns = columns or Columns()
    config = _read(path)
    source = _object(path, config, "source")
    _check(path, config, KNOWN, "")
    _check(path, source, KNOWN_OF_SOURCE, "source.")
    where = _text(path, source, "path")
    if where is None:
        raise InputError(f"{path}: source.path is missing: what is to be loaded?")
    prompt = _text(path, config, "prompt_column")
    image = _text(path, config, "image_column") if columns.pictures else None
    known = replace(
        columns,
        prompt=columns.prompt or prompt,
        image=columns.image or image,
    )
    large = config.get("unsafe_allow_large_images") is True
    if source.get("type") == "huggingface":
        kwargs = _object(path, source, "huggingface_kwargs")
        return from_hub(where, known, kwargs, large_images=large)
    if source.get("type") != "file":
        raise InputError(f"{path}: source.type {source.get('type')}: {_other_type(source)}")
    kind = _text(path, source, "file_format")
    return load_dataset(_beside(path, where), known, file_format=kind, large_images=large)


def _other_type(source: Mapping[str, Any]) -> str:
    if source.get("type") == "custom":
        return (
            "tbench runs no code that a file names; write the rows into a CSV, JSON or Parquet "
            "file and name it as source.path of type file"
        )
    return "must be file or huggingface"


def _read(path: Path) -> dict[str, Any]:
    config = read_json(path, "mend it")
    if not isinstance(config, dict) or "source" not in config:
        raise InputError(f"{path}: not a dataset-config: it has no source")
    return config


def _check(path: Path, members: Mapping[str, Any], known: frozenset[str], place: str) -> None:
    """Refuse what would otherwise be ignored; null says nothing."""
    for name, value in members.items():
        if name not in known and value not in (None, {}):
            why = REFUSED.get(name, f"not known; known are {', '.join(sorted(known))}")
            raise InputError(f"{path}: {place}{name}: {why}")


def _text(path: Path, config: Mapping[str, Any], name: str) -> str | None:
    value = config.get(name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{path}: {name} must be a string")
    return value


def _object(path: Path, config: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, dict):
        raise InputError(f"{path}: {name} must be an object")
    return value


def _beside(path: Path, where: str) -> Path:
    """A path as it is, else from the config's own folder."""
    path_given = Path(where).expanduser()
    beside = path.parent / path_given
    return beside if not path_given.exists() and beside.exists() else path_given
