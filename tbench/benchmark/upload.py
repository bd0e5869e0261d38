"""Uploads: a benchmark's folder goes to a store that fsspec knows, file by file, and is compared there.

Nothing is removed or changed on this machine, whatever happens. fsspec and the driver of a scheme are loaded
when a store is opened; drivers run an event loop of their own, and all calls here return when it is done.
"""

import base64
import hashlib
import json
import logging
import os
import re
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
from tbench.capture.redact import Secrets, mask_address, mask_lookalikes

# The address of a store, as an option gives it: a URL without credentials, which may be written down.

EXAMPLE: Final = "s3://bucket/prefix, gs://, az:// or file:///folder"
LOCAL: Final = frozenset({"file", "local"})
"""Schemes of this machine's own files."""
_AWS: Final = (
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile (AWS_ENDPOINT_URL for stores other than "
    "Amazon's)"
)
_GCP: Final = "GOOGLE_APPLICATION_CREDENTIALS, or those of gcloud"
_AZURE: Final = (
    "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or "
    "AZURE_STORAGE_SAS_TOKEN"
)
ENVIRONMENT: Final = {
    **dict.fromkeys(("s3", "s3a"), _AWS),
    **dict.fromkeys(("gs", "gcs"), _GCP),
    **dict.fromkeys(("az", "abfs", "abfss"), _AZURE),
}
"""Where the driver of a scheme looks for credentials; these are the schemes of the extra [cloud]."""
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")
_PORT: Final = re.compile(r"[^:@]+:\d{1,5}")
_CONTAINER: Final = re.compile(r"[^:@]+@[^:@]+")
"""`container@account.dfs.core.windows.net`, as Azure's own tools write it."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """A folder in a store: `url` is all of it, without a slash at its end. `option` is what gave it."""

    option: str
    scheme: str
    url: str

    def __str__(self) -> str:
        return f"{self.option} {self.url}"

    def below(self, name: str) -> "Address":
        """A folder in this one."""
        return Address(option=self.option, scheme=self.scheme, url=f"{self.url}/{name}")


def read_address(option: str, text: str) -> Address:
    """Read what an option gives. Raises InputError, which repeats nothing that may be a credential."""
    scheme, mark, rest = text.strip().partition("://")
    if not mark or not _SCHEME.fullmatch(scheme):
        raise InputError(f"{option} {mask_address(text)}: takes a URL, such as {EXAMPLE}")
    if "::" in text:
        raise InputError(f"{option} {scheme}://…: one store, not a chain of them (::)")
    if "?" in rest or _has_credentials(scheme, rest.partition("/")[0]):
        known = ENVIRONMENT.get(scheme)
        raise InputError(
            f"{option} {scheme}://…: a URL with credentials or a query in it is not taken, since URLs are "
            f"written down; credentials come from the environment{f': {known}' if known else ''}"
        )
    if not rest.strip("/"):
        raise InputError(f"{option} {text}: names no bucket or folder; write {EXAMPLE}")
    return Address(option=option, scheme=scheme, url=f"{scheme}://{rest.rstrip('/')}")


def _has_credentials(scheme: str, authority: str) -> bool:
    """Whether there is anything but a bucket or a host; an access point's ARN is one, too."""
    if "@" in authority:
        return not (scheme in {"abfs", "abfss", "az"} and _CONTAINER.fullmatch(authority))
    return ":" in authority and not authority.startswith("arn:") and not _PORT.fullmatch(authority)


# A store: a folder in a file system that fsspec knows.

PIECE: Final = 1 << 20
LONGEST: Final = 300
"""Characters of a driver's error that are shown."""
INSTALL: Final = "pip install 'tbench[cloud]'"
_SECRET_NAME: Final = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CONNECTION_STRING")
_MD5: Final = re.compile(r"[0-9a-f]{32}")


class DifferentError(Exception):
    """What is in the store is not what was put there."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """A folder of the fsspec file system `system`: `root` is its path, `address` what people call it."""

    address: Address
    system: Any
    root: str

    def names(self) -> list[str]:
        """The files that are there, below the root."""
        self.system.invalidate_cache()
        try:
            paths = self.system.find(self.root)
        except FileNotFoundError:
            return []
        names = (str(path).removeprefix(self.root).lstrip("/") for path in paths)
        return sorted(name for name in names if name)  # an object may stand for the folder itself

    def read(self, name: str) -> bytes | None:
        """A small file, or None where there is none."""
        try:
            return bytes(self.system.cat_file(f"{self.root}/{name}"))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Put a small file, and read it again. Raises whatever the driver does, or DifferentError."""
        self.system.pipe_file(f"{self.root}/{name}", content)
        if self.read(name) != content:
            raise DifferentError("what was written there cannot be read again")

    def put(self, file: Path, name: str) -> int:
        """Put a file and compare it; returns its size. Raises whatever the driver does, or DifferentError.

        The driver's own checksum spares reading it again where it has one and that agrees.
        """
        path = f"{self.root}/{name}"
        self.system.put_file(str(file), path)
        self.system.invalidate_cache()
        info = self.system.info(path)
        with file.open("rb") as ours:
            digest, size = md5(ours), ours.tell()
        if info["size"] != size:
            raise DifferentError(f"{info['size']:,} bytes are there instead of {size:,}")
        if md5_of(info) != digest:
            with self.system.open(path, "rb") as theirs:
                if md5(theirs) != digest:
                    raise DifferentError("its bytes are others there")
        return size


def md5(file: Any) -> bytes:  # noqa: ANN401 (a driver's file need not be one of io's)
    """The checksum that stores know of a file, from here to its end; it guards against accidents only."""
    digest = hashlib.md5(usedforsecurity=False)
    while piece := file.read(PIECE):
        digest.update(piece)
    return digest.digest()


def md5_of(info: Mapping[str, Any]) -> bytes | None:
    """The MD5 that a store gives of a file: Google's md5Hash, Azure's content_md5, an S3 ETag.

    An ETag need not be one (of several parts, or encrypted by KMS), so that only a match says something.
    """
    etag = str(info.get("ETag") or "").strip('"')
    if _MD5.fullmatch(etag):
        return bytes.fromhex(etag)
    if info.get("md5Hash"):
        return base64.b64decode(info["md5Hash"])
    azure = (info.get("content_settings") or {}).get("content_md5")
    return bytes(azure) if azure else None


def opened(address: Address) -> Store:
    """Find the driver of an address. Raises InputError where there is none; nothing is sent yet."""
    try:
        from fsspec import get_filesystem_class  # noqa: PLC0415 (only where something is uploaded)
        from fsspec.core import url_to_fs  # noqa: PLC0415
    except ImportError:
        raise InputError(f"{address}: needs fsspec; {INSTALL}") from None
    try:
        get_filesystem_class(address.scheme)
    except ValueError:
        raise InputError(
            f"{address}: fsspec knows no {address.scheme}://; there are s3, gs, az, file and others"
        ) from None
    except ImportError as error:
        cure = INSTALL if address.scheme in ENVIRONMENT else str(error)
        raise InputError(f"{address}: its driver is not installed; {cure}") from None
    # Drivers log their retries, and Python would print them; the error says enough.
    logging.getLogger().addHandler(logging.NullHandler())
    options = {"auto_mkdir": True} if address.scheme in LOCAL else {}
    try:
        system, root = url_to_fs(
            address.url, skip_instance_cache=True, use_listings_cache=False, **options
        )
    except Exception as error:
        raise refusal(address, error) from None
    if not str(root).endswith(f"/{address.url.rpartition('/')[2]}"):
        raise InputError(
            f"{address}: its driver reads this as {root}; choose names without # and %"
        )
    return Store(address=address, system=system, root=str(root))


def refusal(address: Address, error: Exception) -> InputError:
    """The error for a place that cannot be used, with where its credentials come from."""
    known = ENVIRONMENT.get(address.scheme)
    cure = f"; credentials come from {known}" if known else ""
    return InputError(f"{address}: cannot be used: {in_words(error)}{cure}")


def in_words(error: Exception) -> str:
    """A driver's error in one line, without any credential of the environment."""
    secrets = Secrets.of(
        value for name, value in os.environ.items() if _SECRET_NAME.search(name.upper())
    )
    text = " ".join(mask_lookalikes(secrets.mask_text(str(error))).split())
    short = text if len(text) <= LONGEST else text[:LONGEST] + "…"
    return f"{type(error).__name__}: {short}" if short else type(error).__name__


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
        content = store.read(OWN)
        taken = bool(store.names()) if content is None else _id(content) != record["id"]
        if not taken:
            store.write(OWN, json.dumps(record, indent=4).encode())
    except Exception as error:
        raise refusal(store.address, error) from None
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
                failures += 1
                if failures == ENOUGH:
                    break
    except KeyboardInterrupt:
        delivery.interrupted, why = True, "interrupted"
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
        yield f"{delivery.held:,} traces, which hold the prompts, were not uploaded"
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
