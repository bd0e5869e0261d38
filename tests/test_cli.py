"""The command line's contract: one line on stderr and the documented exit code, whatever goes wrong."""

import errno

import pytest

from tbench import __main__ as entry
from tbench.capture.errors import InputError, InvalidRunError, UnreachableError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("no such trace: x"), 2),
        (InvalidRunError("the client was the limit"), 4),
        (UnreachableError("nobody answers"), 5),
        (OSError(errno.ENOSPC, "No space left on device", "trace.msgpack"), 2),
        (ZeroDivisionError("division by zero"), 70),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_error_is_one_line_and_its_exit_code(
    error: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The table of exit codes, from errors to what the shell sees."""

    def fail(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(entry, "_invoke", fail)

    assert entry.run(["report", "x"]) == code
    said = capsys.readouterr().err
    assert said.startswith("tbench: ")
    assert said.count("\n") == 1


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --debug stderr says where, and the exit code stays (a bare traceback ends with 1, FAIL)."""

    def fail(arguments: list[str]) -> int:
        raise InputError("no such trace: x")

    monkeypatch.setattr(entry, "_invoke", fail)

    assert entry.run(["report", "x", "--debug"]) == 2
    said = capsys.readouterr().err
    assert "in fail" in said
    assert said.endswith("tbench: no such trace: x\n")


@pytest.mark.parametrize(
    ("arguments", "end"),
    [
        (["nonsense"], "no such command 'nonsense'; see tbench --help"),
        (["--nonsense"], "no such option: --nonsense; see tbench --help"),
        (["trace", "infos"], "Did you mean 'info'? See tbench trace --help"),
        (["trace"], "missing command; see tbench trace --help"),
        (["replay"], "see tbench replay --help"),
        (["benchmark"], ""),
        (["replay", "x", "--speed", "fast"], "--speed fast: give a number"),
        (
            ["replay", "x", "--rate"],
            "option '--rate' requires an argument; see tbench replay --help",
        ),
        (
            ["replay", "x", "--match-length", "-o", "x.run"],
            "'--match-length' requires an argument, and -o is an option; see tbench replay --help",
        ),
        (
            ["replay", "x", "--settings=-o", "-o", "y"],
            "-o: cannot be read: No such file or directory",
        ),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    arguments: list[str], end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown verbs, flags and values say what is wrong, and which help tells what is right."""
    assert entry.run(arguments) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.endswith(f"{end}\n")


@pytest.mark.parametrize(
    "verb", ["capture", "trace", "replay", "report", "compare", "serve", "doctor", "demo"]
)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`tbench VERB --help` works for each verb of the contract."""
    assert entry.run([verb, "--help"]) == 0
    assert "Usage: tbench" in capsys.readouterr().out


@pytest.mark.parametrize(
    "usage",
    ["replay [OPTIONS] TRACE", "power [OPTIONS] PILOT...", "trace merge [OPTIONS] TRACE...",
     "trace import [OPTIONS] FILE...", "compare [OPTIONS] BASELINE [CANDIDATE] [MORE]..."],
)  # fmt: skip
def test_the_usage_names_what_a_verb_takes(usage: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Required, optional (in brackets), several (with dots)."""
    assert entry.run([*usage.partition(" [")[0].split(), "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: tbench {usage}\n")


def test_tbench_alone_shows_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever types the bare name is shown what there is, a line for each verb."""
    assert entry.run([]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    verbs = {line.split()[0] for line in shown.out.splitlines() if line.startswith("  ")}
    assert {"capture", "trace", "replay", "report", "compare", "serve", "doctor", "demo"} <= verbs
