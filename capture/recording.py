"""Recording: what is recorded and where it goes, and the parts that do it, wired together."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tbench.capture.editor import Editor
from tbench.capture.errors import InputError
from tbench.capture.recorder import Recorder
from tbench.capture.records import TraceHeader
from tbench.capture.redact import Redactor
from tbench.capture.selection import Selection
from tbench.capture.tee import Budget
from tbench.capture.tracefile import TraceWriter

MAX_PENDING = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What the user asked for. `max_pending` and `rotate_bytes` are bytes, `rotate_s` seconds."""

    output: Path
    selection: Selection
    upstream: str | None = None
    mode: str = "reverse"
    max_pending: int = MAX_PENDING
    rotate_bytes: int | None = None
    rotate_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A recording under way. `now` is the capture's clock: ns since its origin."""

    recorder: Recorder
    redactor: Redactor
    selection: Selection
    now: Callable[[], int]


def begin(recording: Recording, on_failure: Callable[[str], None]) -> Parts:
    """Create the trace file and start its writer thread.

    Raises InputError where the file exists or cannot be made. `on_failure`: see Recorder.
    """
    origin_ns = time.monotonic_ns()

    def now() -> int:
        return time.monotonic_ns() - origin_ns

    redactor = Redactor()
    recorder = Recorder(
        _writer(recording, now),
        Editor(redactor),
        Budget(recording.max_pending),
        now=now,
        on_failure=on_failure,
    )
    recorder.start()
    return Parts(recorder=recorder, redactor=redactor, selection=recording.selection, now=now)


def _writer(recording: Recording, now: Callable[[], int]) -> TraceWriter:
    selection = recording.selection
    header = TraceHeader(
        wall_ns=time.time_ns(),
        mono_ns=now(),
        upstream=recording.upstream,
        filters={"hosts": list(selection.hosts), "paths": list(selection.paths)},
        sampling=selection.sample,
        tokens_source="server_usage",
        extra={"mode": recording.mode},
    )
    rotation = {"rotate_bytes": recording.rotate_bytes, "rotate_s": recording.rotate_s}
    try:
        return TraceWriter(recording.output, header, **rotation)  # type: ignore[arg-type]
    except OSError as error:
        raise InputError(f"{recording.output}: cannot be written: {error.strerror}") from None
