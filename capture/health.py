"""What a monitor asks a running capture: whether it records (`/healthz`), and its figures (`/metrics`).

In a thread of its own, from the last state that the capture told: the loop that carries traffic is not asked.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any, Final, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import CollectorRegistry

from tbench.capture.errors import InputError
from tbench.capture.status import Listening, Status, Watch

COUNTERS: Final[Mapping[str, tuple[str, Callable[[Status], float]]]] = {
    "requests": ("Requests recorded.", lambda state: state.counts.requests),
    "responses": ("Responses recorded.", lambda state: state.counts.responses),
    "body_bytes": ("Bytes of recorded bodies.", lambda state: state.counts.bytes),
    "dropped_requests": (
        "Requests that were not recorded.",
        lambda state: state.counts.lost_requests,
    ),
    "dropped_responses": (
        "Responses that were not recorded.",
        lambda state: state.counts.lost_responses,
    ),
    "dropped_bytes": ("Bytes of bodies that were dropped.", lambda state: state.counts.lost_bytes),
}
GAUGES: Final[Mapping[str, tuple[str, Callable[[Status], float]]]] = {
    "in_flight": ("Exchanges under way.", lambda state: state.in_flight),
    "queue_bytes": ("Bytes of bodies on their way to the disk.", lambda state: state.queue_bytes),
    "recording": (
        "1 while it records, 0 once the disk has failed.",
        lambda state: not state.failure,
    ),
    "draining": ("1 once it takes no more connections.", lambda state: state.draining),
}
LAGS: Final = (0.5, 0.99, 1.0)


class Monitored:
    """A capture's watch that a monitor may ask, before another one that is told the same."""

    def __init__(self, watch: Watch, folder: Path) -> None:
        self.status: Status | None = None
        self._watch = watch
        self._folder = folder

    def listening(self, place: Listening) -> None:
        self._watch.listening(place)

    def tick(self, status: Status) -> None:
        self.status = status
        self._watch.tick(status)

    def warn(self, line: str) -> None:
        self._watch.warn(line)

    def collect(self) -> Iterator[Metric]:
        """The figures of the last state, as prometheus_client wants them."""
        state = self.status
        if state is None:
            return
        for name, (text, value) in COUNTERS.items():
            yield CounterMetricFamily(f"tbench_capture_{name}", text, value=value(state))
        for name, (text, value) in GAUGES.items():
            yield GaugeMetricFamily(f"tbench_capture_{name}", text, value=value(state))
        outcomes = CounterMetricFamily(
            "tbench_capture_outcomes", "Responses by outcome.", labels=["outcome"]
        )
        for outcome, count in state.counts.outcomes.items():
            outcomes.add_metric([str(outcome)], count)
        lag = GaugeMetricFamily(
            "tbench_capture_loop_lag_seconds", "How late the loop woke so far.", labels=["quantile"]
        )
        for p in LAGS:
            if (late := state.lag.quantile(p)) is not None:
                lag.add_metric([f"{p:g}"], late)
        yield from (outcomes, lag)
        if state.stuck:  # whoever asks this disk anything waits with it
            return
        with suppress(OSError):  # the folder has gone, as at the end of a temporary one
            free = shutil.disk_usage(self._folder).free
            yield GaugeMetricFamily(
                "tbench_capture_disk_free_bytes", "Free where the trace is written.", value=free
            )

    def health(self) -> tuple[str, str]:
        """The status line and the text of /healthz."""
        state = self.status
        if state is None:
            return "503 Service Unavailable", "starting"
        if state.failure:
            return "503 Service Unavailable", f"not recording: {state.failure}"
        return "200 OK", "draining" if state.draining else "recording"


class _Server(ThreadingMixIn, WSGIServer):
    # A monitor that holds its connection does not hold up the end of the capture.
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A monitor that stalls or leaves is no news."""


class _Quiet(WSGIRequestHandler):
    timeout = 5
    """Seconds that a monitor may take to ask."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def monitored(watch: Watch, folder: Path, host: str, port: int) -> Iterator[Monitored]:
    """Serve /healthz and /metrics of a capture that writes to `folder`. Raises InputError for the port."""
    monitor = Monitored(watch, folder)
    registry = CollectorRegistry()
    registry.register(monitor)
    metrics = make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                return cast("Iterable[bytes]", metrics(environ, start))
            case "/healthz":
                status, text = monitor.health()
            case _:
                status, text = "404 Not Found", "ask /healthz or /metrics"
        start(status, [("content-type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]

    try:
        server = make_server(host, port, answer, _Server, _Quiet)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --metrics-port"
        ) from None
    with server:
        Thread(target=server.serve_forever, name="health", daemon=True).start()
        try:
            yield monitor
        finally:
            server.shutdown()
