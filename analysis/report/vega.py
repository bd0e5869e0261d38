"""Vega: the program that draws the pictures of a page, as one script. Made once a version, then kept.

Making it takes over a second and 100 MB, more than everything else in a page. It is kept in the user's
cache folder with its checksum in front; a copy that is damaged or cannot be written is made anew.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

import altair as alt
import vl_convert


@cache
def script() -> str:
    """Vega, Vega-Lite and their embedder, of the version that Altair writes for."""
    version = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
    name = f"vega-{version}-{metadata.version('vl-convert-python')}.js"
    place = folder(os.environ)
    return kept(place and place / name, lambda: _made(version))


def folder(environment: Mapping[str, str]) -> Path | None:
    """Where what we keep for this user is; None where nothing says so."""
    if base := environment.get("XDG_CACHE_HOME"):
        return Path(base) / "tbench"
    home = environment.get("HOME")
    return Path(home) / ".cache" / "tbench" if home else None


def kept(path: Path | None, make: Callable[[], str]) -> str:
    """What a file holds, or what `make` gives where there is no sound one; it is kept if it can be."""
    if path is None:
        return make()
    with contextlib.suppress(OSError, UnicodeError):
        digest, _, text = path.read_bytes().decode().partition("\n")
        if digest == _digest(text):
            return text
    text = make()
    with contextlib.suppress(OSError):
        _keep(path, text)
    return text


def _keep(path: Path, text: str) -> None:
    """All of it or nothing, even where two processes do it at once."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(f"{_digest(text)}\n{text}".encode())
            file.flush()
            Path(file.name).replace(path)
        except OSError:
            Path(file.name).unlink()
            raise


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _made(version: str) -> str:
    text = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    return text.replace("</script", "<\\/script")
