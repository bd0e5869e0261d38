"""replay.workers.process: a worker's process, forked or started anew, with nothing but what it needs."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE_S, has_signal, interruptible, until

SCRIPT = """
import json, os, socket, sys, tempfile, threading, time
from pathlib import Path
from tbench.replay.workers.process import start
secret = tempfile.TemporaryFile()
if "threaded" in sys.argv:
    threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
said, spool, pulse = tempfile.TemporaryFile(), tempfile.TemporaryFile(), tempfile.TemporaryFile()
feed, theirs = socket.socketpair()
control, controlled = socket.socketpair()
fds = (theirs.fileno(), controlled.fileno(), spool.fileno(), pulse.fileno())
def alone(pid):
    return (os.getpgid(pid), os.getsid(pid)) == (pid, os.getsid(0))
process = start(fds, said, fork="fork" in sys.argv)
theirs.close()
controlled.close()
pid = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()[0]
words, held, until = [], {secret.fileno()}, time.monotonic() + 300
while time.monotonic() < until and (len(words) < 4 or secret.fileno() in held):
    words = Path(f"/proc/{pid}/cmdline").read_text().split(chr(0))
    held = set(map(int, os.listdir(f"/proc/{pid}/fd")))
    time.sleep(0.01)
seen = {"words": words, "alone": alone(int(pid)), "over": process.wait(0)}
seen["held"] = sorted(held - {0, 1, 2}) == sorted(fds)
if "kill" in sys.argv:
    process.kill()
else:
    control.close()
seen["code"] = process.wait(300)
said.seek(0)
print(json.dumps({**seen, "said": said.read().decode().strip().splitlines()[-1:]}))
os._exit(0)
"""


def outcome(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
        timeout=PATIENCE_S,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")
def test_a_forked_worker_holds_nothing_of_its_parents_but_its_own() -> None:
    """Else it would not notice that its parent is gone, which is how it ends; its words are kept.

    It is alone in its process group, and of its parent's session.
    """
    found = outcome("fork")

    assert found.pop("words")[-2:] == ["fork", ""]
    assert found == {
        "alone": True,
        "over": None,
        "held": True,
        "code": 1,
        "said": ["EOFError"],
    }


@pytest.mark.parametrize("words", [(), ("fork", "threaded")])
def test_a_process_with_threads_is_not_forked(words: tuple[str, ...]) -> None:
    """A thread may hold a lock that nobody would ever release in the copy. All can read the arguments."""
    found = outcome(*words)

    assert found["words"][-6] == "tbench.replay.workers"
    assert all(word.isdigit() for word in found["words"][-5:-1])
    assert (found["alone"], found["code"], found["said"]) == (True, 1, ["EOFError"])


@pytest.mark.parametrize("words", [("fork",), ()])
def test_a_worker_that_is_killed_says_of_what(words: tuple[str, ...]) -> None:
    """As `subprocess` has it."""
    assert outcome(*words, "kill")["code"] == -signal.SIGKILL


WAITS = (
    "import time; from tbench import __main__ as m; m._invoke = lambda _: time.sleep(60); m.main()"
)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_background_job_may_be_interrupted() -> None:
    """A shell starts it with SIGINT ignored."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS],
        env=interruptible(),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # noqa: PLW1509
    )
    try:
        until(lambda: has_signal(process.pid, "SigCgt", signal.SIGINT))
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=PATIENCE_S)[1]
    finally:
        process.kill()

    assert process.returncode == 130
    assert "interrupted" in said


INTERRUPTED = """
import sys
from tbench import __main__ as m
def interrupted(*_):
    {how}
m.{moment} = interrupted
sys.argv = ["tbench", "--version"]
m.main()
"""


@pytest.mark.parametrize("moment", ["mask_credentials", "_open_streams", "guarded", "_invoke"])
@pytest.mark.parametrize("how", ["raise KeyboardInterrupt", "exec('raise KeyboardInterrupt')"])
def test_an_interrupt_at_any_moment_is_one_line_and_130(moment: str, how: str) -> None:
    """Where it meets Python at a piece of text, Python would end by SIGINT whatever the exit code is."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(moment=moment, how=how)],
        env=interruptible(),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )

    assert (done.returncode, done.stderr) == (130, "tbench: interrupted\n")
