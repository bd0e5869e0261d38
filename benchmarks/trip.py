"""Which files of tbench do something for each request of a replay: a line for each, and how many there are.

    python benchmarks/trip.py [--server benchmarks/truthserver]

A replay of 6 requests is set beside one of 106, and the calls of every function are counted in all processes
(by sys.monitoring; a generator's resumption is a call) until the run is complete. A file counts where one of
its functions is called about once more, or more often, for each further request. docs/architecture.md has
the list.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

from engine import NO_DELAY, serving, write_trace

ROOT: Final = Path(__file__).resolve().parents[1]
FEW: Final = 6
MANY: Final = 106
SPARE: Final = 0.05
"""The share of the requests that may do without a call which is made for each."""
COUNTING: Final = """
import atexit, json, os, sys
from collections import Counter

if "-m" in sys.orig_argv:
    calls, watch = Counter(), sys.monitoring
    events = watch.events.PY_START | watch.events.PY_RESUME | watch.events.PY_RETURN
    leave = os._exit

    def began(code, _offset):
        calls[code.co_filename + ":" + code.co_qualname] += 1

    def returned(code, _offset, _value):
        if code.co_qualname == "RunRecorder.complete":
            watch.set_events(3, 0)

    def write():
        watch.set_events(3, 0)
        with open(os.path.join(os.environ["TRIP"], str(os.getpid())), "w") as file:
            json.dump(calls, file)

    def write_and_leave(code):
        write()
        leave(code)

    watch.use_tool_id(3, "trip")
    watch.register_callback(3, watch.events.PY_START, began)
    watch.register_callback(3, watch.events.PY_RESUME, began)
    watch.register_callback(3, watch.events.PY_RETURN, returned)
    watch.set_events(3, events)
    atexit.register(write)
    os._exit = write_and_leave
"""


def calls(folder: Path, requests: int, url: str) -> Counter[str]:
    """How often each function ran, `file:function`, in a replay of so many requests."""
    counted = folder / f"counted-{requests}"
    counted.mkdir()
    trace = folder / f"{requests}.msgpack"
    write_trace(trace, requests, 1)
    pacing = ("--concurrency", "2", "--warmup", "none", "--workers", "1")
    output = ("-o", str(trace.with_suffix(".run")), "--json")
    done = subprocess.run(
        [sys.executable, "-m", "tbench", "replay", trace, "--base-url", url, *pacing, *output],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "TRIP": str(counted)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 4):  # 4: a busy machine, which changes no call
        sys.exit(done.stderr)
    return sum((Counter(json.loads(file.read_text())) for file in counted.iterdir()), Counter())


def main() -> None:
    """Count, and print each file with its busiest function."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--server", default=str(ROOT / "benchmarks" / "truthserver"))
    server = parser.parse_args().server
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sitecustomize.py").write_text(COUNTING)
        with serving(server, NO_DELAY, folder, tls=False) as (url, _):
            few, many = (calls(folder, requests, url) for requests in (FEW, MANY))
    trip: dict[str, list[tuple[int, str]]] = {}
    for place, times in many.items():
        file, function = place.rsplit(":", 1)
        more = int((times - few[place]) / (MANY - FEW) + SPARE)
        path = os.path.relpath(os.path.realpath(file), ROOT)
        if more > 0 and path.startswith(("analysis/", "capture/", "replay/", "tbench/")):
            trip.setdefault(path, []).append((more, function))
    for file, functions in sorted(trip.items()):
        print(f"{file}  {sum(more for more, _ in functions)} calls, {max(functions)[1]} most")
    print(f"{len(trip)} files")


if __name__ == "__main__":
    main()
