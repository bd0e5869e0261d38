"""The house keeps its own rules (CONTRIBUTING.md): layout, imports, names, lazy start, no addresses.

`python tests/test_house.py` prints it in figures: files, lines, comments, helpers with one caller,
vague names.
"""

import ast
import io
import os
import re
import stat
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("analysis", "capture", "replay", "tbench")
HEAVY = {
    "altair",
    "httpx",
    "mitmproxy",
    "numpy",
    "openai",
    "ray",
    "scipy",
    "starlette",
    "trio",
    "uvicorn",
}
LIBRARIES = {"analysis", "capture", "replay"}
BELOW = {
    "capture": set(),
    "replay": {"tbench.capture"},
    "analysis": {"tbench.capture", "tbench.replay"},
}
VAGUE = {"found", "one", "said", "whole", "own", "there", "some", "kept"}
"""Names that say nothing of what they hold: no parameter and no variable bears one."""


OPTION_FILES = 3
OFTEN = {
    "additional_request_params": 5,
    "allow_unsafe": 4,
    "api_key": 6,
    "api_key_env": 5,
    "base_url": 13,
    "batch_size": 8,
    "chars_per_token": 4,
    "max_cost": 4,
    "max_in_flight": 7,
    "metrics_time_unit": 5,
    "spawn_rate": 6,
}
"""Options whose names stand in more files, and in how many: the count may fall, and never rise. A target, an
arm and a run have a `base_url`, a pacing has `spawn_rate` and `max_in_flight`, whoever asked for them."""


@cache
def sources(folder: str) -> tuple[tuple[Path, ast.Module], ...]:
    """Each module of a folder, read once for all tests."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    return tuple((path, ast.parse(path.read_text())) for path in paths)


@cache
def imported(tree: ast.Module) -> set[str]:
    """The libraries that a module imports, anywhere in it: `tbench.X` for ours, else the top-level name."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {
        ".".join(name.split(".")[:2]) if name.startswith("tbench.") else name.split(".")[0]
        for name in names
    }


def test_all_code_imports_through_tbench() -> None:
    """`import replay` would be whatever file of that name lies beside the user's script."""
    wrong = {
        str(path): imported(tree) & LIBRARIES
        for folder in (*FOLDERS, "tests", "benchmarks", "fixtures", "docs")
        for path, tree in sources(folder)
    }

    assert not {path: names for path, names in wrong.items() if names}


def test_import_tbench_does_not_mind_files_of_those_names(tmp_path: Path) -> None:
    """A user's own replay.py, capture.py and analysis/ beside the script stay the user's."""
    (tmp_path / "replay.py").write_text("raise SystemExit('the wrong replay')")
    (tmp_path / "capture.py").write_text("raise SystemExit('the wrong capture')")
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "__init__.py").write_text("raise SystemExit('the wrong analysis')")
    probe = tmp_path / "mine.py"
    probe.write_text(
        "import tbench, tbench.replay.plan\n"
        "print(callable(tbench.replay), tbench.compare, tbench.read_trace, tbench.ab)\n"
    )
    for words in ([str(probe)], ["-m", "tbench", "--version"]):
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, check=False, cwd=tmp_path
        )

        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("folder", sorted(BELOW))
def test_folders_depend_one_way(folder: str) -> None:
    """Imports go from analysis to replay to capture, and never back."""
    allowed = BELOW[folder] | {f"tbench.{folder}"}
    wrong = {
        str(path): {name for name in imported(tree) if name.startswith("tbench")} - allowed
        for path, tree in sources(folder)
    }

    assert not {path: names for path, names in wrong.items() if names}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "tbench" else ("tbench", *parts)).removesuffix(".__init__")


def test_no_module_imports_itself_in_a_circle() -> None:
    """At import time; a CycleError names the circle."""
    trees = {module_name(path): tree for folder in FOLDERS for path, tree in sources(folder)}
    needs: dict[str, set[str]] = {name: set() for name in trees}
    for name, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    needs[name].add(full if full in trees else node.module)
            elif isinstance(node, ast.Import):
                needs[name] |= {alias.name for alias in node.names}
    order = TopologicalSorter({name: used & trees.keys() for name, used in needs.items()})

    order.prepare()


def vague_names(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """The parameters and variables of a function that are called like nothing in particular."""
    names = {argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)}
    return VAGUE & names | {
        name.id
        for name in ast.walk(node)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store) and name.id in VAGUE
    }


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def test_variables_are_nouns_of_the_domain() -> None:
    """`row`, `gate`, `message` instead of `found`, `one`, `said`."""
    wrong = {
        f"{path.relative_to(ROOT)}:{node.lineno}": vague_names(node)
        for folder in FOLDERS
        for path, tree in sources(folder)
        for node in functions(tree)
    }

    assert not {place: names for place, names in wrong.items() if names}


def test_an_options_name_stands_in_three_files() -> None:
    """It is declared by its row, resolved once, and read where it acts.

    An option is a field of a class whose annotation holds an `Option`; its name is counted as a variable, an
    attribute, a parameter or a keyword, in any module. Names of one word (`model`, `rate`) are those of much
    else, and are not counted.
    """
    options: set[str] = set()
    places: dict[str, set[str]] = {}
    for folder in FOLDERS:
        for path, tree in sources(folder):
            module = module_name(path)
            for node in ast.walk(tree):
                match node:
                    case ast.ClassDef(body=body):
                        options |= {
                            row.target.id
                            for row in body
                            if isinstance(row, ast.AnnAssign)
                            and isinstance(row.target, ast.Name)
                            and re.search(r"\b\w*Option\(", ast.unparse(row.annotation))
                        }
                    case ast.Name(id=str(name)) | ast.Attribute(attr=str(name)):
                        places.setdefault(name, set()).add(module)
                    case ast.arg(arg=str(name)) | ast.keyword(arg=str(name)):
                        places.setdefault(name, set()).add(module)
    counts = {name: len(places[name]) for name in options if "_" in name}
    known = {name: count for name, count in counts.items() if count > OFTEN.get(name, OPTION_FILES)}

    assert len(counts) >= 40
    assert not known


def commented(text: str) -> int:
    """How many lines say something in a comment that is for people, not for a checker."""
    comments = (
        token
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and not re.match(r"#\s*(noqa|type:)", token.string)
    )
    return len({token.start[0] for token in comments})


def figures(folder: str) -> str:
    """A folder's size, its comments, how much of it is helpers with one caller, what is called vaguely."""
    lines = helpers = count = vague = files = comments = 0
    for path, tree in sources(folder):
        text = path.read_text()
        files, lines = files + 1, lines + text.count("\n")
        comments += commented(text)
        for node in functions(tree):
            count += 1
            vague += bool(vague_names(node))
            private = node.name.startswith("_") and not node.name.startswith("__")
            helpers += private and len(re.findall(rf"\b{node.name}\b", text)) == 2
    return (
        f"{folder:10}{files:4} files {lines:7,} lines {count:6,} functions; "
        f"{comments:4} lines with a comment ({comments / lines:.1%}); "
        f"{helpers:4} helpers with one caller ({helpers / count:.0%}), {vague:3} with vague names"
    )


def test_only_two_files_import_mitmproxy() -> None:
    """The rest of tbench must run where mitmproxy does not."""
    users = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path, tree in sources(folder)
        if "mitmproxy" in imported(tree)
    }

    assert users <= {"capture/addon.py", "capture/proxy.py"}


def test_only_one_module_imports_ray() -> None:
    """It is an extra: whatever else runs must run without it."""
    users = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path, tree in sources(folder)
        if "ray" in imported(tree)
    }

    assert users == {"replay/workers/on_ray.py"}


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
        "import sys, tbench.commands.replay, tbench.replay.estimate, tbench.replay.runner; "
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert not {"httpx", "rich", "pydantic", "scipy", "asyncio"} & set(done.stdout.split())


def test_a_worker_starts_with_little() -> None:
    """It only sends: without https, neither httpx nor what reads traces and answers is loaded."""
    probe = (
        "import sys, tbench.replay.workers.worker, tbench.replay.engine.sender; "
        "print(*sorted(name for name in sys.modules if not name.startswith('_')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT
    )
    needless = HEAVY - {"trio"} | {
        "tbench.capture.trace_reader",
        "tbench.capture.trace_writer",
        "tbench.capture.providers",
        "orjson",
        "zstandard",
    }

    assert not needless & set(done.stdout.split())


def test_what_judges_loads_neither_charts_nor_every_distribution() -> None:
    """They cost a second of CPU, three times what else an experiment needs to say that a word is wrong."""
    probe = (
        "import sys, tbench.abtest.board, tbench.commands.power, tbench.analysis.planning; "
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


if __name__ == "__main__":
    print(*map(figures, FOLDERS), sep="\n")
