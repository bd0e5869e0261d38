"""What `tbench capture` shows: the lines to paste, a live line, and the summary at the end."""

import sys
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from tbench.board import Board
from tbench.capture.console import Console
from tbench.capture.container_writer import part_of
from tbench.capture.intake import Recording
from tbench.capture.status import Listening, Status
from tbench.capture.terminal import plural
from tbench.capture.trace_reader import PART, segment_path

MEGA = 1e6
OPTIONS = {
    "host": "--host (not an LLM API it knows)",
    "path": "--path (not inference)",
    "sample": "--sample",
    "limit": "--requests",
}
"""What keeps an exchange out of the trace, in the words of the command line."""
LOSSES = {
    "memory": "what is under way is more than --max-pending holds: exchanges pass through unrecorded, "
    "or lose their bodies",
    "defect": "a record could not be made, which is a defect of tbench; it is left out and counted",
}
"""What is said the first time that a reason strikes; of a failed disk there is a line of its own."""


def base_url_lines(address: str, bundle: Path) -> Iterator[str]:
    """What to paste where the application takes a base URL (reverse mode)."""
    yield f"openai        OpenAI(base_url='{address}/v1')    OPENAI_BASE_URL={address}/v1"
    yield f"together 3    Together(base_url='{address}')     TOGETHER_BASE_URL={address}"
    yield f"together 1,2  Together(base_url='{address}/v1')  TOGETHER_BASE_URL={address}/v1"
    yield f"anthropic     Anthropic(base_url='{address}')    ANTHROPIC_BASE_URL={address}"
    yield f"node          new OpenAI or new Together({{ baseURL: '{address}/v1' }}), or the same variables"
    yield f"curl          {address}/v1/chat/completions -H 'Authorization: Bearer '$TOGETHER_API_KEY"
    if address.startswith("http:"):
        yield f"the same port speaks TLS and HTTP/2 with a throw-away CA: SSL_CERT_FILE={bundle}"


def proxy_lines(address: str, bundle: Path) -> Iterator[str]:
    """What to paste where the application keeps its base URL (proxy mode)."""
    yield f"export HTTPS_PROXY={address} HTTP_PROXY={address}"
    yield f"export SSL_CERT_FILE={bundle}        # httpx, openai, together, OpenSSL"
    yield f"export REQUESTS_CA_BUNDLE={bundle}   # requests"
    yield f"export NODE_EXTRA_CA_CERTS={bundle}  # Node"


def live_line(status: Status) -> str:
    """The state of the capture in one line."""
    counts = status.counts
    rate = counts.requests / status.elapsed_s if status.elapsed_s else 0.0
    parts = [
        plural(counts.requests, "request"),
        f"{rate:.1f}/s",
        f"{status.in_flight} in flight",
        f"{counts.bytes / MEGA:.1f} MB of bodies",
        f"{counts.lost_requests} dropped",
    ]
    if status.draining:
        parts.append("draining (Ctrl-C again cuts it short)")
    if status.failure:
        parts.append("NOT RECORDING")
    return " · ".join(parts)


def summary(status: Status, files: list[Path]) -> Iterator[str]:
    """What became of the capture."""
    counts = status.counts
    outcomes = ", ".join(f"{word} {n}" for word, n in counts.outcomes.most_common())
    size = None if status.stuck else sum(file.stat().st_size for file in files)
    first = files[0] if files else "no file"
    more = f" and {plural(len(files) - 1, 'more file')}" if len(files) > 1 else ""
    answered = f"{plural(counts.requests, 'request')}, {plural(counts.responses, 'response')}"
    yield f"{answered}{f' ({outcomes})' if outcomes else ''}"
    if counts.lost:
        noted = "the trace could not note them" if status.failure else "noted as gaps in the trace"
        yield (
            f"DROPPED: {plural(counts.lost_requests, 'request')}, "
            f"{plural(counts.lost_responses, 'response')}, "
            f"{plural(counts.lost_bytes, 'byte')} of bodies ({noted})"
        )
    else:
        yield "dropped: nothing"
    if refused := status.left_out.get("refused"):
        yield f"refused with a 403: {plural(refused, 'request')} (not by TLS, or not to a --host)"
    if left := {why: n for why, n in status.left_out.items() if n and why in OPTIONS}:
        words = ", ".join(f"{n} by {OPTIONS[why]}" for why, n in left.items())
        yield f"passed through unrecorded, as asked: {words}"
    for host, number in status.redirected.items():
        yield (
            f"WARNING: {plural(number, 'answer')} redirected clients to {host}: what they send there "
            "is not recorded. Is --upstream the address that the server itself uses?"
        )
    if counts.masked:
        yield f"masked: {plural(counts.masked, 'credential')} in request bodies (of tools, data sources, ...)"
    written = "size unknown" if size is None else f"{size / MEGA:.2f} MB"
    yield f"{first}{more}: {written}, {status.elapsed_s:.1f} s"
    p50, p99 = status.lag.quantile(0.5), status.lag.quantile(0.99)
    if p50 is not None and p99 is not None:
        yield f"event loop late by p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms"
        if status.is_late:
            yield (
                "WARNING: the capture ran late (p99 above 20 ms): arrival times within that are its own. "
                "Give it a core of its own, or less traffic (--sample does not help: sample at the client)."
            )


def files_of(recording: Recording, *, stuck: bool) -> list[Path]:
    """The segments that a capture wrote, in order; a `.part` where one could not be closed.

    Of a disk that is `stuck` the names alone, without a look.
    """
    if stuck:
        return list(map(part_of, recording.files))
    files: list[Path] = []
    for first in recording.files:
        for number in count():
            path = segment_path(first, number)
            part = path.with_name(path.name + PART)
            segment = next((file for file in (part, path) if file.exists()), None)
            if segment is None:
                break
            files.append(segment)
    return files


class View:
    """Shows a capture on stderr: the lines to paste, how far it is, and the first loss of each kind.

    Of a `command` that has the terminal it says only where it records, and losses.
    """

    def __init__(
        self, recording: Recording, console: Console | None = None, command: Sequence[str] = ()
    ) -> None:
        self._recording = recording
        self._command = command
        # Its command has the terminal: a region that is drawn over would tear what that prints.
        if command and console is None:
            console = Console(file=sys.stderr, force_terminal=False)
        self._board = Board(console=console)
        self._warned: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._board.close()

    def listening(self, place: Listening) -> None:
        """Say where, and what to paste."""
        upstream = self._recording.upstream
        if self._command:
            way = f"by its base URL, for {upstream}" if upstream else "as its proxy"
            self.warn(f"recording {self._command[0]} to {self._recording.output}, {way}")
            return
        to = f", forwarding to {upstream}" if upstream else ", a proxy"
        self.warn(f"listening on {place.address}{to}")
        lines = base_url_lines if upstream else proxy_lines
        for line in lines(place.address, place.ca_bundle):
            self._board.say(f"  {line}")
        self._board.say(f"  recording to {self._recording.output}; stop with Ctrl-C")

    def tick(self, status: Status) -> None:
        """Show the state; the first loss of each kind is said at once."""
        for reason in sorted(LOSSES.keys() & status.counts.lost_by.keys() - self._warned):
            self._warned.add(reason)
            self.warn(LOSSES[reason])
        if not self._command and self._board.due():
            self._board.show(f"tbench capture: {live_line(status)}")

    def warn(self, line: str) -> None:
        """Print one line that stays."""
        self._board.say(f"tbench capture: {line}")
