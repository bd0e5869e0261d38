"""A store: a folder in a file system that fsspec knows. Files are put there and compared with what is there.

fsspec and the driver of the scheme are imported when a store is opened. Drivers run their own event loop
in a thread; all calls here return when it is done.
"""

import base64
import hashlib
import logging
import os
import re
from dataclasses import dataclass
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
        return f"{self.option} {self.url}"

    @property
    def name(self) -> str:
        """Its last part."""
        return self.url.rpartition("/")[2]

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

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def names(self) -> list[str]:
        """What is there, below the root."""
        self.system.invalidate_cache()
        try:
            found = self.system.find(self.root)
        except FileNotFoundError:
            return []
        names = (str(one).removeprefix(self.root).lstrip("/") for one in found)
        return sorted(name for name in names if name)  # an object may stand for the folder itself

    def read(self, name: str) -> bytes | None:
        """A small file, or None where there is none."""
        try:
            return bytes(self.system.cat_file(self.path(name)))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Put a small file, and read it again. Raises whatever the driver does, or DifferentError."""
        self.system.pipe_file(self.path(name), content)
        if self.read(name) != content:
            raise DifferentError("what was written there cannot be read again")

    def put(self, file: Path, name: str) -> int:
        """Put a file and compare it; returns its size. Raises whatever the driver does, or DifferentError."""
        self.system.put_file(str(file), self.path(name))
        self.system.invalidate_cache()
        there = self.system.info(self.path(name))
        with file.open("rb") as ours:
            digest = hashlib.file_digest(ours, lambda: hashlib.md5(usedforsecurity=False)).digest()
            size = ours.tell()
        if there["size"] != size:
            raise DifferentError(f"{there['size']:,} bytes are there instead of {size:,}")
        if md5_of(there) != digest and self._md5(name) != digest:
            raise DifferentError("its bytes are others there")
        return size

    def _md5(self, name: str) -> bytes:
        """Of what is there, read again."""
        found = hashlib.md5(usedforsecurity=False)
        with self.system.open(self.path(name), "rb") as file:
            while piece := file.read(PIECE):
                found.update(piece)
        return found.digest()


def md5_of(there: dict[str, Any]) -> bytes | None:
    """The MD5 that a store gives of a file: Google's md5Hash, Azure's content_md5, an S3 ETag.

    An ETag need not be one (of several parts, or encrypted by KMS), so that only a match says something.
    """
    etag = str(there.get("ETag") or "").strip('"')
    if _MD5.fullmatch(etag):
        return bytes.fromhex(etag)
    if there.get("md5Hash"):
        return base64.b64decode(there["md5Hash"])
    azure = (there.get("content_settings") or {}).get("content_md5")
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
    logging.getLogger().addHandler(
        logging.NullHandler()
    )  # drivers log retries; an error says enough
    more = {"auto_mkdir": True} if address.scheme in LOCAL else {}
    try:
        system, root = url_to_fs(
            address.url, skip_instance_cache=True, use_listings_cache=False, **more
        )
    except Exception as error:
        raise refusal(address, error) from None
    if not str(root).endswith(f"/{address.name}"):
        raise InputError(
            f"{address}: its driver reads this as {root}; choose names without # and %"
        )
    return Store(address=address, system=system, root=str(root))


def refusal(address: Address, error: Exception) -> InputError:
    """The error for a place that cannot be used, with where its credentials come from."""
    known = ENVIRONMENT.get(address.scheme)
    cure = f"; credentials come from {known}" if known else ""
    return InputError(f"{address}: cannot be used: {said(error)}{cure}")


def said(error: Exception) -> str:
    """What a driver says, in one line and without any credential of the environment."""
    words = Secrets.of(
        value for name, value in os.environ.items() if _SECRET_NAME.search(name.upper())
    )
    text = " ".join(mask_lookalikes(words.mask_text(str(error))).split())
    short = text if len(text) <= LONGEST else text[:LONGEST] + "…"
    return f"{type(error).__name__}: {short}" if short else type(error).__name__
