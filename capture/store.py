"""Stores: files of other machines, which fsspec knows by a URL. None of it is loaded until a URL is opened.

Drivers run an event loop of their own, and all calls here return when it is done.
"""

import base64
import hashlib
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tbench.capture.errors import InputError
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
        return f"{self.option} {self.url}".lstrip()

    def below(self, name: str) -> "Address":
        """A folder in this one."""
        return Address(option=self.option, scheme=self.scheme, url=f"{self.url}/{name}")


def read_address(option: str, text: str) -> Address:
    """Read the URL that an option (or, with no name, a path) gives.

    Raises InputError, which repeats nothing that may be a credential.
    """
    scheme, mark, rest = text.strip().partition("://")
    named = f"{option} ".lstrip()
    if not mark or not _SCHEME.fullmatch(scheme):
        raise InputError(f"{named}{mask_address(text)}: takes a URL, such as {EXAMPLE}")
    if "::" in text:
        raise InputError(f"{named}{scheme}://…: one store, not a chain of them (::)")
    if "?" in rest or _has_credentials(scheme, rest.partition("/")[0]):
        known = ENVIRONMENT.get(scheme)
        cure = f"credentials come from the environment{f': {known}' if known else ''}"
        if not option and scheme in {"http", "https"}:
            cure = "fetch it by curl, say, and name the file"
        raise InputError(
            f"{named}{scheme}://…: a URL with credentials or a query in it is not taken, since URLs are "
            f"written down; {cure}"
        )
    if not rest.strip("/"):
        raise InputError(f"{named}{text}: names no bucket or folder; write {EXAMPLE}")
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

    def above(self) -> "Store":
        """The folder that it is in."""
        return replace(self, root=self.root.rpartition("/")[0])

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

    def holds(self, name: str, content: bytes) -> bool:
        """Whether a file is there that has this content. Raises whatever the driver does."""
        self.system.invalidate_cache()
        size = self.system.info(f"{self.root}/{name}")["size"]  # of another's it may be large
        return bool(size == len(content)) and self.read(name) == content

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
            # fsspec keeps drivers and listings for a process: what
            # another machine has put there since would be missing.
            address.url,
            skip_instance_cache=True,
            use_listings_cache=False,
            **options,
        )
    except Exception as error:
        raise InputError(refusal(address, error)) from None
    folder = address.url.partition("://")[2].partition("/")[2]
    if not str(root).endswith(folder):
        raise InputError(
            f"{address}: its driver reads this as {root}; choose names without # and %"
        )
    return Store(address=address, system=system, root=str(root))


def refusal(address: Address, error: BaseException) -> str:
    """What to say of a place that cannot be used, with where its credentials come from."""
    known = ENVIRONMENT.get(address.scheme)
    cure = f"; credentials come from {known}" if known else ""
    return f"{address}: cannot be used: {in_words(error)}{cure}"


def in_words(error: BaseException) -> str:
    """A driver's error in one line, without any credential of the environment."""
    secrets = Secrets.of(
        value for name, value in os.environ.items() if _SECRET_NAME.search(name.upper())
    )
    text = " ".join(mask_lookalikes(secrets.mask_text(str(error))).split())
    short = text if len(text) <= LONGEST else text[:LONGEST] + "…"
    return f"{type(error).__name__}: {short}" if short else type(error).__name__
