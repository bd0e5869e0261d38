"""Commands as processes of their own that need not load numpy, scipy, mitmproxy and the rest each.

Run as a script, this file loads all of tbench once and forks for each command: 20 ms of CPU, not 0.5 to 1 s.
Arguments, folder, environment, streams, signals and exit code are those of a process that was started.
"""

import atexit
import gc
import inspect
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NoReturn


class Command:
    """A process as subprocess.Popen shows one, with pipes for both of its streams."""

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        (out, stdout), (err, stderr) = os.pipe(), os.pipe()
        self.pid = loaded().fork(arguments, folder, os.environ, (stdout, stderr))
        os.close(stdout)
        os.close(stderr)
        self.stdout, self.stderr = os.fdopen(out), os.fdopen(err)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = loaded().ended(self.pid)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Its exit code, negative for a signal; raises TimeoutExpired after so many seconds."""
        if self.returncode is None:
            self.returncode = loaded().wait(self.pid, timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Close what is read from it."""
        self.stdout.close()
        self.stderr.close()


class Loaded:
    """The process that has everything loaded."""

    def __init__(self) -> None:
        self._orders, theirs = socket.socketpair()
        self._process = subprocess.Popen([sys.executable, __file__], stdin=theirs.fileno())
        theirs.close()
        self._replies = self._orders.makefile()
        self._turn = threading.Lock()

    def close(self) -> None:
        self._replies.close()
        self._orders.close()
        self._process.wait()

    def run(
        self, arguments: Sequence[str], folder: Path, environ: Mapping[str, str], timeout: float
    ) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command that ends within so many seconds."""
        with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
            streams = (out.fileno(), err.fileno())
            pid = self.fork(arguments, folder, environ, streams)
            try:
                code = self.wait(pid, timeout)
            except subprocess.TimeoutExpired:
                os.kill(pid, signal.SIGKILL)
                raise
            out.seek(0)
            err.seek(0)
            return code, out.read(), err.read()

    def fork(
        self,
        arguments: Sequence[str],
        folder: Path,
        environ: Mapping[str, str],
        streams: tuple[int, int],
    ) -> int:
        """Begin a command with these descriptors as stdout and stderr; returns its pid."""
        order = {"arguments": arguments, "folder": str(folder), "environ": dict(environ)}
        return int(self._ask(order, streams))

    def ended(self, pid: int) -> int | None:
        """The exit code of a process that has ended; asked for once."""
        code = self._ask({"ended": pid}, ())
        return None if code is None else int(code)

    def wait(self, pid: int, timeout: float) -> int:
        deadline, pause = time.monotonic() + timeout, 0.001
        while (code := self.ended(pid)) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {pid}", timeout)
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        return code

    def _ask(self, order: dict[str, Any], streams: Sequence[int]) -> Any:
        line = json.dumps(order).encode() + b"\n"
        with self._turn:
            socket.send_fds(self._orders, [line[:1]], streams)
            self._orders.sendall(line[1:])
            return json.loads(self._replies.readline())


@cache
def loaded() -> Loaded:
    """The one of this session, started by whoever needs it first; tests/conftest.py closes it."""
    return Loaded()


def _load() -> None:
    """Import all that a verb may import; what an extra brings is there or not."""
    import tbench

    for module in pkgutil.walk_packages(tbench.__path__, "tbench."):
        if module.name.endswith(".__main__"):
            continue
        try:
            import_module(module.name)
        except ImportError:
            continue


def _serve(orders: socket.socket) -> None:
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in pytest is for the commands
    while (received := socket.recv_fds(orders, 1, 2))[0]:
        line, streams = bytearray(received[0]), received[1]
        while not line.endswith(b"\n"):
            line += orders.recv(65536)
        order = json.loads(line)
        if "ended" in order:
            pid, status = os.waitpid(order["ended"], os.WNOHANG)
            reply = os.waitstatus_to_exitcode(status) if pid else None
        elif not (reply := os.fork()):
            signal.signal(signal.SIGINT, interrupt)
            orders.close()
            _become(order, streams)
            from tbench.__main__ import main

            _end(main)
        for stream in streams:
            os.close(stream)
        orders.sendall(json.dumps(reply).encode() + b"\n")


def _become(order: dict[str, Any], streams: Sequence[int]) -> None:
    """Take the streams, folder, environment and arguments that were ordered."""
    for number, stream in enumerate((os.open(os.devnull, os.O_RDONLY), *streams)):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    os.chdir(order["folder"])
    started = _of_interpreter(os.environ)
    os.environ.clear()
    os.environ.update(order["environ"])
    sys.argv[1:] = order["arguments"]
    if _of_interpreter(os.environ) != started:
        os.execv(sys.executable, [sys.executable, "-m", "tbench", *order["arguments"]])


def _of_interpreter(environ: Mapping[str, str]) -> dict[str, str]:
    """What Python reads as it starts, and only then."""
    return {name: value for name, value in environ.items() if name.startswith("PYTHON")}


def _end(main: Callable[[], None]) -> NoReturn:
    """Run it and end as the interpreter does, but for taking apart all that was loaded (0.1 s)."""
    code = 1
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as tbench/__main__.py does
    _load()
    inspect.stack()  # looks at every module, once: coverage asks for it as each process begins
    gc.freeze()
    _serve(socket.socket(fileno=os.dup(0)))
