"""Files: the rows of text, CSV, JSON, JSONL and Parquet files and of folders of images, one by one.

A row is a string, or a map of columns. What is broken is left out, with the reason that is counted.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tbench.capture.errors import InputError
from tbench.capture.importers.importer import LeftOut
from tbench.capture.importers.rows import parquet, table
from tbench.capture.jsontext import BOM, loads

LONGEST_CELL: Final = 2**30
"""Of a CSV file: it may hold images."""
PICTURES: Final = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


Item = str | Mapping[str, Any] | LeftOut


def read_file(path: Path, file_format: str | None = None) -> Iterator[Item]:
    """The rows of a file by its format, or by the end of its name; other names are text."""
    if not path.is_file():
        raise InputError(
            f"{path}: no such file or folder; a name on the Hugging Face Hub has the form OWNER/NAME"
        )
    kind = file_format or path.suffix.lower().removeprefix(".")
    if file_format is not None and kind not in READERS:
        raise InputError(f"{path}: file_format {file_format}: not one of {', '.join(READERS)}")
    return READERS.get(kind, _text)(path)


def read_folder(folder: Path) -> Iterator[Item]:
    """The images of a folder, by name."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICTURES:
            yield {"image": str(path.resolve())}
        else:
            yield LeftOut("not an image")


def _text(path: Path) -> Iterator[Item]:
    """One prompt a line."""
    with path.open("rb") as file:
        for line in file:
            try:
                yield line.decode("utf-8-sig").strip()
            except UnicodeDecodeError:
                yield LeftOut("not UTF-8")


def _csv(path: Path) -> Iterator[Item]:
    """With the columns' names in the first line, each once."""
    with path.open("rb") as file:
        yield from table(file, path, longest=LONGEST_CELL, unique=True)


def _json(path: Path) -> Iterator[Item]:
    """A list of strings or objects; several values, one a line, are JSONL."""
    data = path.read_bytes().removeprefix(BOM)
    try:
        values = loads(data)
    except ValueError as error:
        try:
            loads(data.lstrip().partition(b"\n")[0])
        except ValueError:
            raise InputError(f"{path}: not JSON: {error}") from None
        yield from _jsonl(path)
        return
    if not isinstance(values, list):
        raise InputError(f"{path}: must hold a list of strings or of objects")
    yield from map(_value, values)


def _jsonl(path: Path) -> Iterator[Item]:
    with path.open("rb") as file:
        for line in file:
            text = line.removeprefix(BOM).strip()
            if not text:
                continue
            try:
                yield _value(loads(text))
            except ValueError:
                yield LeftOut("not JSON")


def _value(value: object) -> Item:
    return value if isinstance(value, str | dict) else LeftOut("neither a string nor an object")


READERS: Final[Mapping[str, Callable[[Path], Iterator[Item]]]] = {
    "txt": _text,
    "csv": _csv,
    "json": _json,
    "jsonl": _jsonl,
    "parquet": parquet,
}
"""The end of a name, or a dataset-config's file_format, and what reads it."""


# The Hugging Face library (extra `data`): names on the Hub, and folders that it can load.

SAVED: Final = ("dataset_dict.json", "dataset_info.json")
"""One of them is in a folder that `save_to_disk` made."""
NEEDED: Final = "for a Hugging Face dataset, pip install 'tbench[data]'"


def is_hub_dataset(path: Path) -> bool:
    """Whether a name is for the library: it has the form of a Hub's name, or is a folder of data files."""
    if not path.exists():
        name = str(path)
        return not path.is_absolute() and name.count("/") <= 1 and path.suffix[1:] not in READERS
    if not path.is_dir():
        return False
    names = [entry.name for entry in path.iterdir()]
    data = any(name.endswith((".csv", ".json", ".jsonl", ".parquet", ".arrow")) for name in names)
    images = any(Path(name).suffix.lower() in PICTURES for name in names)
    return not images and (data or any((path / entry).is_dir() for entry in names))


def read_hub(name: str, kwargs: Mapping[str, Any], *, pictures: bool = False) -> Iterator[Item]:
    """The rows; with `pictures` their images, too, still encoded. Raises InputError."""
    if kwargs.get("streaming"):
        raise InputError(
            f"{name}: streaming is not supported; ask for a part, as in split='train[:500]'"
        )
    try:
        import datasets  # noqa: PLC0415 (an extra)
    except ImportError:
        raise InputError(f"{name}: {_here(name)}{NEEDED}") from None
    try:
        with _quiet(datasets):
            saved = any((Path(name) / file).is_file() for file in SAVED)
            load = datasets.load_from_disk if saved else datasets.load_dataset
            table = load(name, **kwargs)
    except Exception as error:  # whatever the library, its loaders and its network raise
        raise InputError(
            f"{name}: {_here(name)}cannot be loaded as a Hugging Face dataset: {error}"
        ) from None
    if isinstance(table, datasets.DatasetDict):  # its split train, else the only one
        splits = list(table)
        if "train" not in splits and len(splits) != 1:
            raise InputError(
                f"{name}: has the splits {', '.join(splits)}; say which in a --dataset-config: "
                '"huggingface_kwargs": {"split": "..."}'
            )
        table = table["train" if "train" in splits else splits[0]]
    for column, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            still = datasets.Image(decode=False)
            table = table.cast_column(column, still) if pictures else table.remove_columns(column)
    return iter(table)


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:  # noqa: ANN401
    """Silence lines about a network that is not there; show progress bars on a terminal only."""
    logger, bars = logging.getLogger("huggingface_hub"), datasets.is_progress_bar_enabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()


def _here(name: str) -> str:
    return "" if Path(name).exists() else "no such file or folder here; "
