"""Hub: datasets by the Hugging Face library (extra `data`): names on the Hub, and folders it can load."""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tbench.capture.errors import InputError
from tbench.capture.synthesis.files import PICTURES, READERS, Item

SAVED: Final = ("dataset_dict.json", "dataset_info.json")
"""One of them is in a folder that `save_to_disk` made."""
NEEDED: Final = "for a Hugging Face dataset, pip install 'tbench[data]'"


def is_ours(path: Path) -> bool:
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


def items(name: str, kwargs: Mapping[str, Any], *, pictures: bool = False) -> Iterator[Item]:
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
            loaded = _loaded(datasets, name, kwargs)
    except Exception as error:  # whatever the library, its loaders and its network raise
        raise InputError(
            f"{name}: {_here(name)}cannot be loaded as a Hugging Face dataset: {error}"
        ) from None
    table = _split(name, loaded, datasets.DatasetDict)
    for column, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            still = datasets.Image(decode=False)
            table = table.cast_column(column, still) if pictures else table.remove_columns(column)
    return iter(table)


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:  # noqa: ANN401
    """No line for each attempt at a network that is not there; bars of progress only for a person."""
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


def _loaded(datasets: Any, name: str, kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401 (theirs)
    if any((Path(name) / file).is_file() for file in SAVED):
        return datasets.load_from_disk(name, **kwargs)
    return datasets.load_dataset(name, **kwargs)


def _split(name: str, loaded: Any, several: Any) -> Any:  # noqa: ANN401
    """One split: the one asked for, else train, else the only one."""
    if not isinstance(loaded, several):
        return loaded
    splits = list(loaded)
    if "train" in splits or len(splits) == 1:
        return loaded["train" if "train" in splits else splits[0]]
    raise InputError(
        f"{name}: has the splits {', '.join(splits)}; say which in a --dataset-config: "
        '"huggingface_kwargs": {"split": "..."}'
    )
