"""Dataset: rows of prompts and images from whatever a user names. What cannot be used is counted by reason.

Text, CSV, JSON, JSONL and Parquet files and folders of images are read here, others by the Hugging Face
library.
"""

import logging
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, NamedTuple

from tbench.capture.errors import InputError
from tbench.capture.exchange import NOTHING
from tbench.capture.importers.importer import LeftOut
from tbench.capture.importers.rows import parquet, table
from tbench.capture.jsontext import BOM, loads, read_json
from tbench.capture.synthesis.images import readable
from tbench.capture.terminal import plural

# Files, one item after another: a string, or a map of columns.

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
    return READERS.get(kind, _prompts)(path)


def read_folder(folder: Path) -> Iterator[Item]:
    """The images of a folder, by name."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICTURES:
            yield {"image": str(path.resolve())}
        else:
            yield LeftOut("not an image")


def _prompts(path: Path) -> Iterator[Item]:
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
        yield from table(file, path, longest=LONGEST_CELL)


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
    yield from map(_item, values)


def _jsonl(path: Path) -> Iterator[Item]:
    with path.open("rb") as file:
        for line in file:
            text = line.removeprefix(BOM).strip()
            if not text:
                continue
            try:
                yield _item(loads(text))
            except ValueError:
                yield LeftOut("not JSON")


def _item(value: object) -> Item:
    return value if isinstance(value, str | dict) else LeftOut("neither a string nor an object")


READERS: Final[Mapping[str, Callable[[Path], Iterator[Item]]]] = {
    "txt": _prompts,
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


# What is in them: the rows that can be used.

PROMPT_NAMES: Final = ("prompt", "text", "question", "instruction")
IMAGE_NAMES: Final = ("image", "images", "image_path", "image_url")
"""Columns that are taken where none is named, the first that is there."""


class Row(NamedTuple):
    """One row: a prompt, an image (as capture.synthesis.images takes it), or both."""

    prompt: str | None = None
    image: Any = None


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns hold what; None: the usual names.

    `pictures` says whether images are wanted: then a row without one is left out, else nobody looks at them.
    """

    prompt: str | None = None
    image: str | None = None
    pictures: bool = False


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Rows by the name they came from; `left_out` counts what could not be used, by reason.

    `large_images` lifts Pillow's limit of 179 million pixels, which guards against malicious files.
    """

    name: str
    rows: Sequence[Row]
    left_out: Mapping[str, int] = field(default=NOTHING)
    large_images: bool = False

    @property
    def prompts(self) -> list[str]:
        return [row.prompt for row in self.rows if row.prompt is not None]

    @property
    def pictures(self) -> list[Row]:
        """The rows with an image."""
        return [row for row in self.rows if row.image is not None]

    @cached_property
    def digest(self) -> str:
        """Tells this dataset from others of its name."""
        hasher = blake2b(digest_size=8)
        for row in self.rows:
            for value in row:
                data = value if isinstance(value, bytes) else repr(value).encode(errors="replace")
                hasher.update(b"%d:" % len(data) + data)
        return hasher.hexdigest()

    def complaint(self) -> str | None:
        """What was left out, in words; None where nothing was."""
        if not self.left_out:
            return None
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())
        return f"{self.name}: {plural(sum(self.left_out.values()), 'row')} left out ({reasons})"


def load_dataset(
    name: str | Path,
    columns: Columns | None = None,
    *,
    file_format: str | None = None,
    large_images: bool = False,
) -> Dataset:
    """The dataset in a file, in a folder of images, in a folder that `datasets` can load, or on the Hub.

    Raises InputError, also where not one row can be used.
    """
    path, columns = Path(name).expanduser(), columns or Columns()
    if is_hub_dataset(path):
        return from_hub(str(path), columns, {}, large_images=large_images)
    if path.is_dir() and not columns.pictures:
        raise InputError(
            f"{path}: a folder of images, which go with image-text-to-text; give a file of prompts"
        )
    items = read_folder(path) if path.is_dir() else read_file(path, file_format)
    return _dataset(str(name), items, columns, folder=path.parent, large_images=large_images)


def from_hub(
    name: str, columns: Columns, kwargs: Mapping[str, Any], *, large_images: bool = False
) -> Dataset:
    """A dataset that the Hugging Face library loads; `kwargs` (split, name, revision, ...) go to it."""
    items = read_hub(name, kwargs, pictures=columns.pictures)
    return _dataset(name, items, columns, folder=Path(), large_images=large_images)


def _dataset(
    name: str,
    items: Iterable[Item],
    columns: Columns,
    *,
    folder: Path,
    large_images: bool,
) -> Dataset:
    left_out: Counter[str] = Counter()
    rows: list[Row] = []
    named: Columns | None = None
    for item in items:
        if isinstance(item, Mapping) and named is None:
            named = _named(name, columns, list(item))
        row, reason = _row(item, named or columns, folder)
        if reason:
            left_out[reason] += 1
        else:
            rows.append(row)
    dataset = Dataset(name=name, rows=rows, left_out=left_out, large_images=large_images)
    if not rows:
        why = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
        raise InputError(
            f"{name}: no row can be used ({why})" if why else f"{name}: there is nothing in it"
        )
    return dataset


def _named(name: str, columns: Columns, names: list[str]) -> Columns:
    """The columns by name, checked against those of the first row."""
    for option, wanted in (("prompt", columns.prompt), ("image", columns.image)):
        if wanted is not None and wanted not in names:
            raise InputError(
                f"{name}: no column {wanted}; --dataset-{option}-column must be one of {', '.join(names)}"
            )
    prompt = columns.prompt or _usual(PROMPT_NAMES, names)
    image = columns.image or _usual(IMAGE_NAMES, names) if columns.pictures else None
    if columns.pictures and image is None:
        raise InputError(
            f"{name}: which column holds the images? --dataset-image-column {' or '.join(names)}"
        )
    if not columns.pictures and prompt is None:
        if len(names) != 1:
            raise InputError(
                f"{name}: which column holds the prompts? --dataset-prompt-column {' or '.join(names)}"
            )
        prompt = names[0]
        if re.search(r"[;\t]", prompt):
            raise InputError(
                f"{name}: its only column is called {prompt!r}, which looks like several; separate "
                "columns by commas, or name it by --dataset-prompt-column"
            )
    return replace(columns, prompt=prompt, image=image)


def _usual(names: Sequence[str], columns: list[str]) -> str | None:
    return next((name for name in names if name in columns), None)


def _row(item: Item, columns: Columns, folder: Path) -> tuple[Row, str | None]:
    """A row, or why it cannot be used."""
    if isinstance(item, LeftOut):
        return Row(), item.reason
    if isinstance(item, str):
        reason = "without an image" if columns.pictures else None
        return Row(item), reason if item.strip() else "blank"
    prompt = item.get(columns.prompt or "")
    if isinstance(prompt, str) and not prompt.strip():
        prompt = None
    if prompt is not None and not isinstance(prompt, str):
        return Row(), "with a prompt that is no text"
    if columns.pictures:
        image = _image(item.get(columns.image or ""), folder)
        return Row(prompt, image), readable(image)
    return Row(prompt), "without a prompt" if prompt is None else None


def _image(value: object, folder: Path) -> object:
    """A row's image: of several the first, of HF's map the bytes; paths start at the file's folder."""
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    if isinstance(value, Mapping) and {"bytes", "path"} & value.keys():
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value and not value.startswith(("http://", "https://", "data:")):
        return folder / value
    return value or None


# Dataset-config: genai-bench's JSON, which says where rows come from and which columns hold what.

KNOWN: Final = frozenset({"source", "prompt_column", "image_column", "unsafe_allow_large_images"})
KNOWN_OF_SOURCE: Final = frozenset({"type", "path", "file_format", "huggingface_kwargs"})
REFUSED: Final[Mapping[str, str]] = {
    "loader_class": "tbench runs no code that a file names",
    "loader_kwargs": "tbench runs no code that a file names",
    "prompt_lambda": "tbench runs no code that a file holds; write the prompts into a column of the data and "
    "name it as prompt_column",
}


REFUSED_TYPES: Final[Mapping[str, str]] = {
    "custom": "tbench runs no code that a file names; write the rows into a CSV, JSON or Parquet file and "
    "name it as source.path of type file"
}


def is_dataset_config(path: Path) -> bool:
    """Whether a file is a dataset-config, and not a dataset: a JSON object with a `source`."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        if not file.read(4096).removeprefix(BOM).lstrip().startswith(b"{"):
            return False
    try:
        value = loads(path.read_bytes())
    except ValueError:  # several objects, one a line
        return False
    return isinstance(value, dict) and "source" in value


def load_dataset_config(path: Path, columns: Columns | None = None) -> Dataset:
    """The dataset that a config describes; columns given beside it win. Raises InputError."""
    columns = columns or Columns()
    config = read_json(path, "mend it")
    if not isinstance(config, dict) or "source" not in config:
        raise InputError(f"{path}: not a dataset-config: it has no source")
    source = _object(path, config, "source")
    _check(path, config, KNOWN, "")
    _check(path, source, KNOWN_OF_SOURCE, "source.")
    where = _text(path, source, "path")
    if where is None:
        raise InputError(f"{path}: source.path is missing: what is to be loaded?")
    prompt = columns.prompt or _text(path, config, "prompt_column")
    image = _text(path, config, "image_column") if columns.pictures else None
    known = replace(columns, prompt=prompt, image=columns.image or image)
    large = config.get("unsafe_allow_large_images") is True
    if source.get("type") == "huggingface":
        kwargs = _object(path, source, "huggingface_kwargs")
        return from_hub(where, known, kwargs, large_images=large)
    if source.get("type") != "file":
        why = REFUSED_TYPES.get(str(source.get("type")), "must be file or huggingface")
        raise InputError(f"{path}: source.type {source.get('type')}: {why}")
    kind = _text(path, source, "file_format")
    data = Path(where).expanduser()
    beside = path.parent / data  # a path is taken as it is, else from the config's own folder
    if not data.exists() and beside.exists():
        data = beside
    return load_dataset(data, known, file_format=kind, large_images=large)


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
