"""A disk that is full, streams and folders that take nothing: no half file, and the name that was given."""

import contextlib
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tbench.__main__ import run as tbench
from tbench.abtest.runner import STORE
from tbench.analysis.history import History, write_history
from tbench.benchmark.board import Log
from tbench.benchmark.genai_bench import write_json
from tbench.capture.errors import InvalidRunError, TbenchError
from tbench.commands.output import private, write_shared
from tbench.replay.runfile import RunWriter
from tbench.replay.runform import IDENTITY
from tbench.run_store import RunStore
from tests.benchmark_folder import BenchmarkFolder
from tests.conftest import PATIENCE_S
from tests.test_history import session

LIMIT = 30_000
"""Bytes that a file may have: fewer than a page or a workbook takes."""


def limited(folder: Path, *words: object, stdout: int = subprocess.PIPE) -> tuple[int, str]:
    """A command none of whose files may pass LIMIT; its exit code and what it said on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "tbench", *map(str, words)],
        stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=PATIENCE_S, cwd=folder,
        env={**os.environ, "HOME": str(folder)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT)),
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def run(experiment: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 500."""
    folder = tmp_path_factory.mktemp("runs")
    experiment(folder, {"A": 1.0, "B": 1.0}, 1)
    return folder / "A-0.run"


@pytest.mark.parametrize("flag", ["--html", "--xlsx"])
@pytest.mark.parametrize("before", [None, b"what was there"])
def test_a_report_that_does_not_fit_is_not_there(
    flag: str, before: bytes | None, run: Path, tmp_path: Path
) -> None:
    """Neither an empty file nor a part of one; an older one stays as it was."""
    page = tmp_path / "report.out"
    if before:
        page.write_bytes(before)
    code, said = limited(tmp_path, "report", run, flag, page)

    assert code == 2
    assert f"{flag} {page}: cannot be written" in said
    assert said.count("tbench: ") == 1
    assert (page.read_bytes() if page.exists() else None) == before
    assert not list(tmp_path.glob(".report*"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_stdout_is_named(run: Path, tmp_path: Path) -> None:
    """Instead of an errno about nothing."""
    with Path("/dev/full").open("wb") as full:
        code, said = limited(tmp_path, "report", run, stdout=full.fileno())

    assert code == 2
    assert "tbench: <stdout>: No space left on device" in said


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_stream_that_was_closed_is_the_null_device(closed: int, tmp_path: Path) -> None:
    """`tbench ... >&-`: no traceback, the usual codes, and no file takes the stream's number."""
    ends = []
    for words in (["--help"], ["trace", "info", "none"]):
        done = subprocess.run(
            [sys.executable, "-m", "tbench", *words], capture_output=True, text=True, check=False,
            timeout=PATIENCE_S, cwd=tmp_path, preexec_fn=lambda: os.close(closed),
        )  # fmt: skip
        ends.append(done.returncode)
        assert "Traceback" not in done.stderr + done.stdout

    assert ends == [0, 2]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """And not the name of a file that only tbench knows."""
    synth = (
        "trace",
        "synth",
        "-o",
        "t.msgpack",
        "--model",
        "m",
        "--requests",
        1,
        "--scenario",
        "D(3,3)",
    )
    assert limited(tmp_path, *synth)[0] == 0
    code, said = limited(
        tmp_path, "replay", "t.msgpack", "--base-url", "http://127.0.0.1:1", "-o", "nodir/x.run"
    )

    assert code == 2
    assert "nodir/x.run: the folder nodir does not exist; make it first" in said


def test_files_have_the_mode_that_their_words_need(tmp_path: Path) -> None:
    """What may quote prompts or a server is the owner's; verdicts are for whoever may read the folder."""
    with private(tmp_path / "page.html", "--html") as file:
        file.write(b"x")
    with Log.opened(tmp_path) as log:
        log.show = str
        log.say("x")
    before = os.umask(0o022)
    write_shared("--junit", tmp_path / "j.xml", "x")
    os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}

    assert modes == {"page.html": 0o600, "benchmark.log": 0o600, "j.xml": 0o644}


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """The file that it names gets the content."""
    (tmp_path / "a.html").write_text("old")
    (tmp_path / "b.html").symlink_to("a.html")
    with private(tmp_path / "b.html", "--html") as file:
        file.write(b"new")

    assert (tmp_path / "b.html").is_symlink()
    assert (tmp_path / "a.html").read_text() == "new"


@contextlib.contextmanager
def full(most: int) -> Iterator[None]:
    """No file of this process may pass so many bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


SYNTH = ("trace", "synth", "--model", "m", "--requests", 60, "--scenario", "D(20,5)")
COMMANDS: dict[str, Callable[[Path, Path], list[object]]] = {
    "synth": lambda at, _: [*SYNTH, "-o", at / "new.msgpack"],
    "repair": lambda at, _: ["trace", "repair", at / "t.msgpack", "-o", at / "new.msgpack"],
    "charts": lambda at, run: ["report", run, "--charts", at],
    "plot": lambda at, _: ["plot", "--experiments-folder", at / "bench", "-o", at],
    "excel": lambda at, _: [
        "excel", "--experiment-folder", at / "bench", "--excel-name", at / "b.xlsx"
    ],
}  # fmt: skip


def prepared(folder: Path) -> dict[str, bytes]:
    """What the commands read, a trace and a benchmark's folder, and all that is in the folder then."""
    assert tbench([*map(str, SYNTH), "-o", str(folder / "t.msgpack")]) == 0
    bench = BenchmarkFolder(folder / "bench").metadata(num_concurrency=[1])
    bench.point("D(100,100)", 1, rps=1.0)
    return everything(folder)


@pytest.mark.parametrize("verb", COMMANDS)
def test_what_a_verb_writes_is_its_owners(
    verb: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures and copies too: whoever else may read the folder reads none of them."""
    before = prepared(tmp_path)
    assert tbench([*map(str, COMMANDS[verb](tmp_path, run))]) == 0, capsys.readouterr().err
    files = [path for path in tmp_path.rglob("*") if path.is_file() and str(path) not in before]

    assert files
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


@pytest.mark.parametrize("verb", COMMANDS)
@pytest.mark.parametrize("most", [100, 700])
def test_a_verb_that_cannot_write_its_file_leaves_none(
    verb: str, most: int, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names the file and the reason; what was there stays as it was."""
    before = prepared(tmp_path)
    capsys.readouterr()
    with full(most):
        code = tbench([*map(str, COMMANDS[verb](tmp_path, run))])
    said = capsys.readouterr().err.splitlines()[-1]

    assert code == 2
    assert said.startswith("tbench: ")
    assert str(tmp_path) in said
    assert said.endswith("File too large")
    assert "Errno" not in said
    assert everything(tmp_path) == before


def noted(folder: Path, runs: int) -> None:
    RunStore(folder=folder, kind=STORE, plan={"a": "x" * LIMIT}, entries=[{}] * runs).write()


WRITERS: dict[str, tuple[int, Callable[[Path], None]]] = {
    "plan.json": (2, lambda at: noted(at, 0)),
    "plan.json of runs that were made": (4, lambda at: noted(at, 1)),
    "result": (4, lambda at: write_json(at / "r.json", {"a": "x" * LIMIT}, failure=InvalidRunError)),
    "options": (2, lambda at: write_json(at / "o.json", {"a": "x" * LIMIT})),
    "baseline": (2, lambda at: write_history(History(path=at / "plan.json", sessions=(session(),) * 200))),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_does_not_fit_is_as_it_was(name: str, tmp_path: Path) -> None:
    """2 where nothing was sent, 4 where runs are there."""
    code, write = WRITERS[name]
    (tmp_path / "plan.json").write_text("before")
    before = everything(tmp_path)
    with (
        full(LIMIT),
        pytest.raises(TbenchError, match=r"\.json: cannot be written: File") as caught,
    ):
        write(tmp_path)

    assert caught.value.exit_code == code
    assert everything(tmp_path) == before


def test_a_run_that_kept_nothing_says_so(tmp_path: Path) -> None:
    """Where the disk was full before the first block."""
    writer = RunWriter(tmp_path / "a.run", {}, clock=lambda: 0.0)
    with (
        full(10),
        pytest.raises(InvalidRunError, match=r"a\.run: cannot be written .*; no sample was kept"),
    ):
        writer.close(dict.fromkeys(IDENTITY, 0))
