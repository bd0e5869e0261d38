"""Delivery: an experiment's folder as it goes to a store: whose place it is, what goes, what did not.

Nothing here is removed or changed on this machine, whatever happens.
"""

import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tbench.benchmark.conduct import TRACES
from tbench.benchmark.layout import OWN
from tbench.benchmark.uploading.store import LOCAL, Address, Store, opened, refusal, said
from tbench.capture.errors import InputError
from tbench.capture.jsontext import loads

ENOUGH: Final = 3
"""Failures in a row after which the store is taken for gone."""
EVERY_S: Final = 10.0
"""How often a long delivery says how far it is."""


@dataclass(kw_only=True)
class Delivery:
    """What became of an upload: `missing` names what is not there, and why; `held` stayed here on purpose."""

    url: str
    files: int = 0
    size: int = 0
    missing: dict[str, str] = field(default_factory=dict)
    held: int = 0
    foreign: list[str] = field(default_factory=list)
    interrupted: bool = False

    def map(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "url": self.url,
            "files": self.files,
            "bytes": self.size,
            "missing": dict(self.missing),
            "traces_held_back": self.held,
        }


def claimed(address: Address, folder: Path, own: Mapping[str, Any]) -> Store:
    """Open the place of a folder in a store, and write there whose it is: what can fail, fails here.

    `own` is the content of the folder's OWN, with its id. Raises InputError where there is no driver, the
    place cannot be listed, read and written, or holds something else.
    """
    store = opened(address.below(folder.resolve().name))
    if address.scheme in LOCAL:
        _check_elsewhere(store, folder)
    try:
        there = store.read(OWN)
        other = there is None and bool(store.names())
    except Exception as error:
        raise refusal(store.address, error) from None
    if other or (there is not None and _id(there) != own["id"]):
        raise InputError(
            f"{store.address}: holds another experiment or other files, which stay; choose another place, "
            "or another --experiment-folder-name"
        )
    try:
        store.write(OWN, json.dumps(own, indent=4).encode())
    except Exception as error:
        raise refusal(store.address, error) from None
    return store


def _check_elsewhere(store: Store, folder: Path) -> None:
    there, here = Path(store.root).resolve(), folder.resolve()
    if there == here or here in there.parents or there in here.parents:
        raise InputError(f"{store.address}: lies where the folder itself is; choose another place")


def _id(content: bytes) -> object:
    try:
        found = loads(content)
    except ValueError:
        return None
    return found.get("id") if isinstance(found, dict) else None


def chosen(folder: Path, *, traces: bool) -> tuple[list[str], list[str]]:
    """The files of a folder that go, and those that stay: its traces, unless they shall go, too."""
    names = [
        path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()
    ]
    stay = [name for name in names if is_trace(name) and not traces]
    return [name for name in names if traces or not is_trace(name)], stay


def is_trace(name: str) -> bool:
    """Whether a file holds prompts: of a point, of the calibration, or what a killed one left of them."""
    return name.startswith(f"{TRACES}/") or ".msgpack" in name


def deliver(
    folder: Path,
    store: Store,
    say: Callable[[str], None],
    *,
    traces: bool,
    clock: Callable[[], float] = time.monotonic,
) -> Delivery:
    """Put every file that goes there and compare each; goes on after a failure, but not after three in a row.

    Ctrl-C ends it, and what is not there by then is `missing`. Raises nothing for what a store does.
    """
    go, stay = chosen(folder, traces=traces)
    made = Delivery(url=store.address.url, held=len(stay))
    try:
        for name in _told(go, made, say, clock):
            _put(store, folder, name, made)
            if len(made.missing) >= ENOUGH and list(made.missing)[-ENOUGH:] == _before(go, name):
                break
    except KeyboardInterrupt:
        made.interrupted = True
    tried = made.files + len(made.missing)
    why = "interrupted" if made.interrupted else f"not tried after {ENOUGH} failures in a row"
    made.missing |= dict.fromkeys(go[tried:], why)
    if not made.missing:
        made.foreign = _foreign(store, {*go, *stay})
    return made


def _put(store: Store, folder: Path, name: str, made: Delivery) -> None:
    try:
        made.size += store.put(folder / name, name)
        made.files += 1
    except Exception as error:  # drivers raise anything
        made.missing[name] = said(error)


def _before(go: list[str], name: str) -> list[str]:
    """The last names up to this one."""
    at = go.index(name) + 1
    return go[max(0, at - ENOUGH) : at]


def _told(
    go: list[str], made: Delivery, say: Callable[[str], None], clock: Callable[[], float]
) -> Iterator[str]:
    """The names, with a line every ten seconds."""
    spoken = clock()
    for name in go:
        if clock() - spoken >= EVERY_S:
            spoken = clock()
            say(f"  {made.files:,} of {len(go):,} files, {megabytes(made.size)}")
        yield name


def _foreign(store: Store, ours: set[str]) -> list[str]:
    """What else is in the place: of this experiment once, or by somebody else."""
    try:
        return [name for name in store.names() if name not in ours]
    except Exception:  # everything of ours is there, and compared
        return []


def megabytes(size: int) -> str:
    """A size for a person."""
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size:,} bytes"


def report(made: Delivery, folder: Path, address: Address, *, traces: bool) -> Iterator[str]:
    """What became of it, in lines for a person; the last one of a failure says how to do it again."""
    for name, why in made.missing.items():
        yield f"not uploaded: {name}: {why}"
    if made.missing:
        again = shlex.join(
            ["tbench", "upload", str(folder), address.url, *(["--traces"] if traces else [])]
        )
        yield (
            f"{len(made.missing):,} of {made.files + len(made.missing):,} files are not at {made.url}; all "
            f"are in {folder}; again: {again}"
        )
        return
    yield f"uploaded {made.files:,} files, {megabytes(made.size)}, to {made.url}; each was compared there"
    if made.held:
        yield f"{made.held:,} traces, which hold the prompts, were not uploaded"
    if made.foreign:
        names = ", ".join(made.foreign[:3]) + (", …" if len(made.foreign) > 3 else "")
        yield f"also there, not of this folder, and left alone: {len(made.foreign):,} ({names})"
