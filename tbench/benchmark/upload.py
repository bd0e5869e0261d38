"""Uploads: a benchmark's folder goes to a store that fsspec knows, file by file, and is compared there.

Nothing is removed or changed on this machine, whatever happens.
"""

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from uuid import uuid4

from tbench.benchmark.genai_bench import OWN, TRACES, write_json
from tbench.capture.errors import InputError
from tbench.capture.jsontext import loads, read_json
from tbench.capture.store import LOCAL, Address, Store, in_words, opened, read_address, refusal
from tbench.capture.terminal import plural


def claimed(address: Address, folder: Path, record: Mapping[str, Any]) -> Store:
    """Open the place of a folder in a store, and write there whose it is: what can fail, fails here.

    `record` is the content of the folder's OWN, with its id. Raises InputError where there is no driver, the
    place cannot be listed, read and written, or holds something else.
    """
    here = folder.resolve()
    store = opened(address.below(here.name))
    if address.scheme in LOCAL:
        place = Path(store.root).resolve()
        if place == here or here in place.parents or place in here.parents:
            raise InputError(
                f"{store.address}: lies where the folder itself is; choose another place"
            )
    try:
        # Read, listed and written before anything is measured: a benchmark
        # of hours must not end with a folder that nobody may put anywhere.
        content = store.read(OWN)
        taken = bool(store.names()) if content is None else _id(content) != record["id"]
        if not taken:
            store.write(OWN, json.dumps(record, indent=4).encode())
    except Exception as error:
        raise InputError(refusal(store.address, error)) from None
    if taken:
        raise InputError(
            f"{store.address}: holds another experiment or other files, which stay; choose another place, "
            "or another --experiment-folder-name"
        )
    return store


def _id(content: bytes) -> object:
    try:
        record = loads(content)
    except ValueError:
        return None
    return record.get("id") if isinstance(record, dict) else None


def on_stderr(line: str) -> None:
    """Print it there, at once."""
    print(line, file=sys.stderr, flush=True)


# The delivery: what goes, what became of it, and what is told of both.

ENOUGH: Final = 3
"""Failures in a row after which the store is taken for gone."""
EVERY_S: Final = 10.0
"""How often a long delivery tells how far it is."""


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

    @property
    def exit_code(self) -> int:
        """5 where files are missing in the store; 130 where that was the user's wish."""
        if self.interrupted:
            return 130
        return 5 if self.missing else 0

    def map(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "url": self.url,
            "files": self.files,
            "bytes": self.size,
            "missing": dict(self.missing),
            "traces_held_back": self.held,
        }


def chosen(folder: Path, *, traces: bool) -> tuple[list[str], list[str]]:
    """The files of a folder that go, and those that stay: what holds prompts, unless it shall go, too.

    That is every trace: of a point, of the calibration, or what a killed benchmark left of them.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in paths]
    stay = [
        name
        for name in names
        if not traces and (name.startswith(f"{TRACES}/") or ".msgpack" in name)
    ]
    return [name for name in names if name not in set(stay)], stay


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
    delivery = Delivery(url=store.address.url, held=len(stay))
    told, failures = clock(), 0
    why = f"not tried after {ENOUGH} failures in a row"
    try:
        for name in go:
            if clock() - told >= EVERY_S:
                told = clock()
                say(f"  {delivery.files:,} of {len(go):,} files, {megabytes(delivery.size)}")
            try:
                delivery.size += store.put(folder / name, name)
                delivery.files += 1
                failures = 0
            except Exception as error:  # drivers raise anything
                delivery.missing[name] = in_words(error)
                # In a row: a store that refuses one name takes the others, one that is gone takes none.
                failures += 1
                if failures == ENOUGH:
                    break
    except KeyboardInterrupt:
        delivery.interrupted, why = True, "interrupted"
    # A file during which Ctrl-C came is in neither, and so
    # among the rest: nobody knows whether it is whole there.
    tried = delivery.files + len(delivery.missing)
    delivery.missing |= dict.fromkeys(go[tried:], why)
    if not delivery.missing:
        try:
            delivery.foreign = [name for name in store.names() if name not in {*go, *stay}]
        except Exception:  # everything of ours is there, and compared
            delivery.foreign = []
    return delivery


def megabytes(size: int) -> str:
    """A size for a person."""
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size:,} bytes"


def report(delivery: Delivery, folder: Path, address: Address, *, traces: bool) -> Iterator[str]:
    """What became of it, in lines for a person; the last one of a failure says how to do it again."""
    url, files, missing = delivery.url, delivery.files, delivery.missing
    for name, why in missing.items():
        yield f"not uploaded: {name}: {why}"
    if missing:
        again = ["tbench", "upload", str(folder), address.url, *(["--traces"] if traces else [])]
        yield (
            f"{len(missing):,} of {files + len(missing):,} files are not at {url}; all are in {folder}; "
            f"again: {shlex.join(again)}"
        )
        return
    yield f"uploaded {files:,} files, {megabytes(delivery.size)}, to {url}; each was compared there"
    if delivery.held:
        yield f"not uploaded, as they hold the prompts: {plural(delivery.held, 'trace')}"
    if foreign := delivery.foreign:
        names = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
        yield f"also there, not of this folder, and left alone: {len(foreign):,} ({names})"


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An upload that was checked: a folder, below which URL it goes, and whether with its traces."""

    folder: Path
    address: Address
    store: Store
    traces: bool

    @classmethod
    def checked(
        cls, folder: Path, address: Address, record: Mapping[str, Any], *, traces: bool
    ) -> Self:
        """See to it that the place can be used. Raises InputError where it cannot."""
        on_stderr(f"checking that {address.below(folder.resolve().name).url} can be written")
        return cls(
            folder=folder, address=address, store=claimed(address, folder, record), traces=traces
        )

    def announcement(self) -> str:
        """What will leave this machine."""
        prompts = "with its traces, which hold" if self.traces else "without its traces, which hold"
        return (
            f"at the end the folder is uploaded to {self.store.address.url}, {prompts} the prompts"
        )

    def made(self, log: Callable[[str], None]) -> Delivery:
        """Deliver. Only what went wrong is logged once it runs: the log is a file of the folder, too."""
        log(f"uploading {self.folder} to {self.store.address.url} (Ctrl-C: without the rest)")
        delivery = deliver(self.folder, self.store, on_stderr, traces=self.traces)
        # Or the log that was just uploaded would differ from the one that lies here.
        say = log if delivery.missing else on_stderr
        for line in report(delivery, self.folder, self.address, traces=self.traces):
            say(line)
        return delivery

    def again(self) -> str:
        """What to say where it comes to no delivery."""
        return (
            f"nothing was uploaded to {self.store.address.url}; when the folder is worth it: tbench upload "
            f"{self.folder} {self.address.url}"
        )


def uploaded(folder: Path, url: str, *, traces: bool, as_json: bool) -> int:
    """`tbench upload`; returns the exit code. The folder's id is made where an older one has none."""
    address = read_address("upload", url)
    try:
        content = read_json(folder / OWN)
    except InputError:
        content = None
    if not isinstance(content, dict) or "options" not in content:
        raise InputError(f"upload {folder}: no benchmark of tbench is in it (no sound {OWN})")
    if "id" not in content:
        content["id"] = uuid4().hex
        write_json(folder / OWN, content)
    delivery = Upload.checked(folder, address, content, traces=traces).made(on_stderr)
    if as_json:
        print(json.dumps(delivery.map()))
    return delivery.exit_code
