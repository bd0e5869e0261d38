"""The script of a page is made once and kept; what is kept is never trusted blindly."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tbench.analysis.report.figures import cache_folder, cached

SCRIPT = "draw('é');\nend();\n"


@pytest.fixture
def make() -> Callable[[], str]:
    """Makes the script, and remembers how often in `made`."""

    def made() -> str:
        made.times = getattr(made, "times", 0) + 1  # type: ignore[attr-defined]
        return SCRIPT

    return made


def times(make: Callable[[], str]) -> int:
    return getattr(make, "times", 0)


def test_it_is_made_once(tmp_path: Path, make: Callable[[], str]) -> None:
    """The second time it comes from the file, which only its owner may read."""
    path = tmp_path / "new" / "vega.js"

    assert [cached(path, make), cached(path, make)] == [SCRIPT, SCRIPT]
    assert times(make) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["vega.js"]


@pytest.mark.parametrize("damage", [b"", b"evil();", b"\xff\xfe", SCRIPT.encode()])
def test_a_damaged_copy_is_made_anew(
    tmp_path: Path, make: Callable[[], str], damage: bytes
) -> None:
    """Cut short, replaced or not even text: its checksum says so."""
    path = tmp_path / "vega.js"
    path.write_bytes(damage)

    assert cached(path, make) == SCRIPT
    assert (cached(path, make), times(make)) == (SCRIPT, 1)


def test_where_nothing_can_be_kept_it_is_made_each_time(
    tmp_path: Path, make: Callable[[], str]
) -> None:
    """A folder that is a file, or no folder at all: no error."""
    (tmp_path / "file").write_text("x")

    assert cached(tmp_path / "file" / "vega.js", make) == SCRIPT
    assert cached(None, make) == SCRIPT
    assert times(make) == 2


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, Path("/c/tbench")),
        ({"HOME": "/h"}, Path("/h/.cache/tbench")),
        ({}, None),
    ],
)
def test_the_folder_is_where_the_desktop_says(
    environment: dict[str, str], expected: Path | None
) -> None:
    """XDG_CACHE_HOME, else .cache in the home folder."""
    assert cache_folder(environment) == expected
