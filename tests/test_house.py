"""The house keeps its own rules: layout, import direction, lazy start, no addresses."""

import ast
import os
import re
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("analysis", "capture", "replay", "tbench")
HEAVY = {"altair", "httpx", "mitmproxy", "numpy", "openai", "scipy", "starlette", "trio", "uvicorn"}
ABOVE = {
    "capture": {"replay", "analysis", "tbench"},
    "replay": {"analysis", "tbench"},
    "analysis": {"tbench"},
}


def sources(folder: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        yield path, ast.parse(path.read_text())


def imported(tree: ast.Module) -> set[str]:
    """Top-level names of everything a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_the_wheel_packs_the_four_folders_and_every_package_below_them() -> None:
    """A new folder of code that pyproject.toml does not name would be missing from the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packed = set(project["tool"]["setuptools"]["packages"])
    there = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("__init__.py")
    }

    assert packed == there
    assert {name.split(".")[0] for name in packed} == set(FOLDERS)


@pytest.mark.parametrize("folder", sorted(ABOVE))
def test_folders_depend_one_way(folder: str) -> None:
    """Imports go from analysis to replay to capture, and never back."""
    wrong = {str(path): imported(tree) & ABOVE[folder] for path, tree in sources(folder)}

    assert not {path: names for path, names in wrong.items() if names}


def test_only_two_files_import_mitmproxy() -> None:
    """The rest of tbench must run where mitmproxy does not."""
    users = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path, tree in sources(folder)
        if "mitmproxy" in imported(tree)
    }

    assert users <= {"capture/addon.py", "capture/proxy.py"}


def test_help_imports_nothing_heavy() -> None:
    """The command line starts at once because a verb imports its machinery when it runs."""
    probe = "import sys, tbench.cli; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert not HEAVY & set(done.stdout.split())


def test_a_replay_starts_without_what_it_may_not_need() -> None:
    """A plain address needs no httpx, a pipe no rich, plain options no pydantic."""
    probe = (
        "import sys, tbench.commands.replay, tbench.values, replay.command, replay.order; "
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert not {"httpx", "rich", "pydantic", "scipy", "asyncio"} & set(done.stdout.split())


def test_a_worker_starts_with_little() -> None:
    """It only sends: without https, neither httpx nor what reads traces and answers is loaded."""
    probe = (
        "import sys, replay.workers.worker, replay.engine.sender; "
        "print(*sorted(name for name in sys.modules if not name.startswith('_')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT
    )
    needless = HEAVY - {"trio"} | {"capture.tracefile", "capture.providers", "orjson", "zstandard"}

    assert not needless & set(done.stdout.split())


def test_what_judges_loads_neither_charts_nor_every_distribution() -> None:
    """They cost a second of CPU, three times what else an experiment needs to say that a word is wrong."""
    probe = (
        "import sys, tbench.commands.conducting, tbench.commands.power, analysis.planning; "
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert not {"altair", "scipy.stats"} & set(done.stdout.split())


def test_constraint_files_hold_no_address() -> None:
    """Only bare name==version lines: an address would tie the project to one index."""
    lines = [
        line for path in ROOT.glob("constraints*.txt") for line in path.read_text().splitlines()
    ]

    assert lines
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+!-]+", line) for line in lines)


def test_every_source_file_says_what_it_is() -> None:
    """A module docstring is what tells a newcomer which file to open."""
    missing = [
        str(path)
        for folder in FOLDERS
        for path, tree in sources(folder)
        if not ast.get_docstring(tree)
    ]

    assert missing == []


def test_an_old_python_gets_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    """`make` with a Python that is too old ends with 2 and names the way out."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "constraints-3.12.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.9.0" && exit 0\nexit 1\n')
    old.chmod(old.stat().st_mode | stat.S_IXUSR)
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", f"PY={old}", "demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )

    assert done.returncode == 2
    assert "tbench needs Python 3.12 or newer" in done.stdout
    assert "make PY=" in done.stdout
    assert not (tmp_path / ".venv").exists()
