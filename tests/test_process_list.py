"""What other users of the machine see of a command's arguments."""

import subprocess
import sys

import pytest

from tbench.__main__ import MAY_HOLD_ONE
from tbench.replay.provenance import ADDRESSES, SCRUBBED

LOOK = """
import sys
from pathlib import Path
from tbench.__main__ import mask_credentials
mask_credentials(sys.argv)
print(repr(Path("/proc/self/cmdline").read_bytes().split(b"\\0")[3:-1]))
print(repr(sys.argv[1:]))
"""

PROGRAM = """
from pathlib import Path
from tbench.__main__ import main
try:
    main()
finally:
    print(Path("/proc/self/cmdline").read_text())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--api-key", "tgp_v1_secret", "é"], ["--api-key", "*" * 13, "é"]),
        (["--api-key=s3cr", "-o", "x"], ["--api-key=****", "-o", "x"]),
        (["--header", "X-Key: abc", ""], ["--header", "X-Key: ***", ""]),
        (["--arm", "name=A,header.X=abc"], ["--arm", "name=A,header.X=***"]),
        (["--set", "api_key=sk-abc"], ["--set", "api_key=***" + "***"]),
        (
            ["--additional-request-params", '{"api_key":"sk-abcdef","top_p":1}'],
            ["--additional-request-params", '{"api_key":"***","top_p":1}******'],
        ),
        (["--base-url", "http://u:pw@h"], ["--base-url", "http://***@h*"]),
        (["--base-url", "http://h/v1"], ["--base-url", "http://h/v1"]),
        (["--set", "user"], ["--set", "user"]),
        (["--set"], ["--set"]),
        (["--set", "temperature=0.5"], ["--set", "temperature=0.5"]),
        (["--model", "secretive"], ["--model", "secretive"]),
    ],
)
def test_a_credential_leaves_the_process_list_and_nothing_else_does(
    words: list[str], shown: list[str]
) -> None:
    command = [sys.executable, "-c", LOOK, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    seen, kept = done.stdout.splitlines()
    assert seen == repr([word.encode() for word in shown])
    assert kept == repr(words)


def test_every_flag_that_is_withheld_from_files_is_withheld_here() -> None:
    assert set(MAY_HOLD_ONE) == set(SCRUBBED).difference(ADDRESSES) | {"--proxy"}


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_the_program_does_so_itself() -> None:
    command = [sys.executable, "-c", PROGRAM, "benchmark", "--api-key", "tgp_v1_secret", "--wrong"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"--api-key\0{'*' * 13}\0--wrong" in done.stdout
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.parametrize("word", ["user=nobody", "user", ""])
def test_a_word_that_is_no_json_is_still_one_line(word: str) -> None:
    """The process list is seen to before anybody has looked at the words."""
    command = [sys.executable, "-m", "tbench", "replay", "x.msgpack", "--set", word]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("tbench: ")
    assert len(done.stderr.splitlines()) == 1
