"""The address of a store, as an option gives it: a URL without credentials, which may be written down."""

import re
from dataclasses import dataclass
from typing import Final

from tbench.capture.errors import InputError
from tbench.capture.redact import mask_address

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
