"""What is printed fits the terminal: lines are folded at words; a count of one is no plural."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.capture.terminal import folded, plural
from tests.conftest import PATIENCE_S


@given(st.lists(st.text("abc,.;", min_size=1, max_size=12), min_size=1), st.integers(40, 120))
def test_a_line_is_folded_at_words_and_loses_none(words: list[str], width: int) -> None:
    shown = folded(" ".join(words), width)

    assert shown.split() == words
    assert all(len(line) <= width for line in shown.split("\n"))


@pytest.mark.parametrize(
    ("line", "hang"),
    [
        ("client      OK: 1 worker, CPU 4%, 37 first tokens uncertain by over 1 ms", 12),
        ("! 3 + 3 runs pass a 5 % margin in about 44 % of plans even for equal arms", 2),
        ("abx: now, next: 3 runs each, in rounds that hold every arm once, two by two", 2),
    ],
)
def test_what_is_folded_stands_under_its_text(line: str, hang: int) -> None:
    _, *rest = folded(line, 40).split("\n")

    assert rest
    assert {len(one) - len(one.lstrip()) for one in rest} == {hang}


def test_paths_json_and_lines_to_paste_stay_whole() -> None:
    path = "/a/very/long/path/that/no/line/of/this/width/can/hold.run"

    assert path in folded(f"tbench: there is no {path} to read", 40).split()
    assert (
        folded('  "warnings": "a long sentence that is a value of a JSON string"', 40).count("\n")
        == 0
    )
    export = "export SSL_CERT_FILE=/tmp/ca/bundle.pem        # httpx, openai, together"
    assert folded(export, 40) == export


@pytest.mark.parametrize("columns", [80, 100])
def test_a_command_folds_its_errors_at_the_width_of_its_terminal(
    columns: int, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    words = [
        sys.executable,
        "-m",
        "tbench",
        "report",
        "x.run",
        "--html",
        "out/of/the/way/page.html",
    ]
    subprocess.run(
        words, cwd=tmp_path, stderr=theirs, stdout=theirs, check=False, timeout=PATIENCE_S
    )
    os.close(theirs)
    shown = os.read(ours, 4096).decode().replace("\r", "")
    os.close(ours)

    assert shown.startswith("tbench: ")
    assert len(shown.splitlines()) == 1 + (columns == 80) * (len(shown) > 80)
    assert all(len(line) <= columns for line in shown.splitlines())


@pytest.mark.parametrize(
    ("n", "shown"), [(0, "0 requests"), (1, "1 request"), (2_000, "2,000 requests")]
)
def test_one_is_no_plural(n: int, shown: str) -> None:
    assert plural(n, "request") == shown
    assert plural(1, "retry", "retries") == "1 retry"
