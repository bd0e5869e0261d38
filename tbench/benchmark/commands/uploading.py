"""Uploads as verbs make them: the check before, the delivery at the end, and what is said of both."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import typer

from tbench.benchmark.board import on_stderr
from tbench.benchmark.layout import OWN, write_json
from tbench.benchmark.uploading.delivery import Delivery, claimed, deliver, report
from tbench.benchmark.uploading.store import Address, Store, read_address
from tbench.capture.errors import InputError
from tbench.capture.jsontext import read_json


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An upload that was checked: a folder, below which URL it goes, and whether with its traces."""

    folder: Path
    address: Address
    store: Store
    traces: bool

    @classmethod
    def checked(
        cls, folder: Path, address: Address, own: Mapping[str, Any], *, traces: bool
    ) -> Self:
        """See to it that the place can be used. Raises InputError where it cannot."""
        on_stderr(f"checking that {address.below(folder.resolve().name).url} can be written")
        return cls(
            folder=folder, address=address, store=claimed(address, folder, own), traces=traces
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
        found = deliver(self.folder, self.store, on_stderr, traces=self.traces)
        say = log if found.missing else on_stderr
        for line in report(found, self.folder, self.address, traces=self.traces):
            say(line)
        return found

    def again(self) -> str:
        """What to say where it comes to no delivery."""
        return (
            f"nothing was uploaded to {self.store.address.url}; when the folder is worth it: tbench upload "
            f"{self.folder} {self.address.url}"
        )


def exit_of(found: Delivery) -> int:
    """0; 5 where files are missing in the store; 130 where that was the user's wish."""
    if found.interrupted:
        return 130
    return 5 if found.missing else 0


def _own(folder: Path) -> dict[str, Any]:
    """What a benchmark's folder keeps of itself; its id is made where an older one has none."""
    kept = folder / OWN
    try:
        own = read_json(kept)
    except InputError:
        own = None
    if not isinstance(own, dict) or "options" not in own:
        raise InputError(f"upload {folder}: no benchmark of tbench is in it (no sound {OWN})")
    if "id" not in own:
        own["id"] = uuid4().hex
        write_json(kept, own)
    return own


def uploaded(folder: Path, url: str, *, traces: bool, as_json: bool) -> int:
    """`tbench upload`; returns the exit code."""
    address = read_address("upload", url)
    found = Upload.checked(folder, address, _own(folder), traces=traces).made(on_stderr)
    if as_json:
        typer.echo(json.dumps(found.map()))
    return exit_of(found)
