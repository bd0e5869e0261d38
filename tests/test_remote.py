"""Traces and runs by their URLs: what is read and written is what a file here would hold."""

import http.server
import json
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tbench.capture import remote
from tbench.capture.container_writer import ContainerWriter
from tbench.capture.errors import InputError, TbenchError, UnreachableError
from tbench.capture.records import TraceHeader
from tbench.capture.remote import CLAIM, RemotePath, as_path, is_url
from tbench.capture.trace_reader import read_trace
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.fidelity import fidelity_of
from tbench.replay.job import resolve
from tbench.replay.options import ReplayOptions
from tbench.replay.runfile import RunWriter, read_run
from tbench.replay.runner import run_duet
from tests.conftest import KEYS, SECRET, Done, Server, until
from tests.test_workers_end_to_end import seen, write_trace

REQUESTS = 60


@pytest.fixture
def memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MemoryFileSystem]:
    """The store behind memory://, empty before and after; pieces are small, so that a file has many."""
    system: MemoryFileSystem = fsspec.filesystem("memory")
    system.store.clear()
    scratch = tmp_path_factory.mktemp("grown")
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setattr(remote, "PIECE", 1000)
    pieces = remote._piece
    pieces.cache_clear()
    yield system
    system.store.clear()
    pieces.cache_clear()


def bodies(trace: str | Path) -> list[tuple[str, bytes]]:
    return [(exchange.request.id, exchange.request.body) for exchange in read_trace(trace)]


def written(path: Path | str, number: int = 3) -> Path:
    """A container of so many records."""
    writer = ContainerWriter(as_path(path), {"kind": "trace"})
    for at in range(number):
        writer.append({"at": at})
    return writer.close()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/a/t.msgpack", "s3://bucket/a/t.msgpack"),
        ("s3://bucket/a/", "s3://bucket/a"),
        ("memory://t.msgpack", "memory://t.msgpack"),
        ("https://host:8080/t.msgpack", "https://host:8080/t.msgpack"),
    ],
)
def test_a_url_is_a_path_with_names(url: str, shown: str) -> None:
    """And stays one as its parts are taken, or as it is copied."""
    path = as_path(url)

    assert str(path) == shown == str(as_path(path)) == str(pickle.loads(pickle.dumps(path)))
    assert str(path.with_name("x.run")) == shown.rpartition("/")[0] + "/x.run"
    assert str(path / "y") == f"{shown}/y"
    assert path == as_path(url)
    assert path != Path(shown)
    assert is_url(path)


def test_file_urls_and_plain_names_are_paths_of_this_machine() -> None:
    """Which load no library of stores."""
    assert as_path("file:///data/t.msgpack") == Path("/data/t.msgpack")
    assert as_path("t.msgpack") == Path("t.msgpack")
    assert not isinstance(as_path("s3/t.msgpack"), RemotePath)


def test_no_library_of_stores_is_loaded_for_a_plain_path(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t.msgpack", 4)
    code = (
        "import sys, tbench; "
        f"assert len(list(tbench.read_trace({str(trace)!r}))) == 4; print('fsspec' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


def test_a_trace_in_a_store_reads_as_the_file(tmp_path: Path, memory: MemoryFileSystem) -> None:
    trace = write_trace(tmp_path / "t.msgpack", REQUESTS, turns=3)
    memory.pipe_file("/bucket/t.msgpack", trace.read_bytes())

    assert trace.stat().st_size > 3 * remote.PIECE
    assert bodies("memory://bucket/t.msgpack") == bodies(trace)


def test_segments_folders_and_globs_of_a_store(tmp_path: Path, memory: MemoryFileSystem) -> None:
    """A first segment, the folder and a pattern name the whole trace, as here."""
    header = TraceHeader(wall_ns=10**18, mono_ns=0)
    source = list(read_trace(write_trace(tmp_path / "s.msgpack", 1000)))
    (tmp_path / "t").mkdir()
    with TraceWriter(tmp_path / "t" / "t.msgpack", header, rotate_bytes=3000) as writer:
        for exchange in source:
            writer.exchange(exchange)
    for file in (tmp_path / "t").iterdir():
        memory.pipe_file(f"/bucket/t/{file.name}", file.read_bytes())
    trace = read_trace("memory://bucket/t/t.msgpack")

    assert len(trace.files) == len(list((tmp_path / "t").iterdir())) > 1
    assert not trace.losses
    for url in ("t/t.msgpack", "t", "t/*.msgpack"):
        assert bodies(f"memory://bucket/{url}") == bodies(tmp_path / "t")


def test_what_is_written_to_a_store_is_what_a_file_would_hold(
    tmp_path: Path, memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It grows in a file that only its user may read, which is gone when it is there."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    writer = ContainerWriter(as_path("memory://bucket/t"), {"kind": "trace"})
    part = writer.part
    writer.append({"at": 0})
    modes = [path.stat().st_mode & 0o777 for path in (part.parent, part)]
    claimed = memory.cat_file("/bucket/t")
    writer.close()

    assert (modes, claimed) == ([0o700, 0o600], remote._claim(part))
    assert not list(tmp_path.iterdir())
    assert [*remote_records("memory://bucket/t")] == [{"at": 0}]


def remote_records(url: str) -> Iterator[dict[str, Any]]:
    from tbench.capture.container_reader import open_container

    return open_container(as_path(url)).records()


def test_a_name_that_is_taken_is_refused(memory: MemoryFileSystem) -> None:
    written("memory://bucket/t")
    with pytest.raises(InputError, match="memory://bucket/t: exists already"):
        written("memory://bucket/t")


def test_a_file_given_up_leaves_no_name(tmp_path: Path, memory: MemoryFileSystem) -> None:
    writer = ContainerWriter(as_path("memory://bucket/t"), {"kind": "trace"})
    part = writer.part
    writer.discard()

    assert not memory.exists("/bucket/t")
    assert not part.parent.exists()


def test_what_cannot_be_put_there_stays_here_whole(
    memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the error says where."""
    writer = ContainerWriter(as_path("memory://bucket/t"), {"kind": "trace"})
    writer.append({"at": 0})

    def full(*_: Any, **__: Any) -> None:
        raise PermissionError("quota")

    monkeypatch.setattr(MemoryFileSystem, "put_file", full)
    with pytest.raises(UnreachableError, match="quota; it is whole here: ") as failure:
        writer.close()
    part = Path(str(failure.value).rpartition(": ")[2])

    assert [*remote_records(str(part))] == [{"at": 0}]

    writer.discard()  # as its callers do whatever failed
    assert [*remote_records(str(part))] == [{"at": 0}]


def test_what_was_put_there_stays_there(memory: MemoryFileSystem) -> None:
    """Whatever fails for its caller afterwards."""
    writer = ContainerWriter(as_path("memory://bucket/t"), {"kind": "trace"})
    writer.append({"at": 0})
    writer.close()
    writer.discard()

    assert [*remote_records("memory://bucket/t")] == [{"at": 0}]


@pytest.fixture
def rivals(memory: MemoryFileSystem) -> tuple[ContainerWriter, ContainerWriter]:
    """Two that took one name, as both had looked before either wrote; the second one's claim is there."""
    writers = []
    for at in range(2):
        memory.store.clear()
        writers.append(ContainerWriter(as_path("memory://bucket/t"), {"kind": "trace"}))
        writers[-1].append({"at": at})
    return writers[0], writers[1]


def test_a_name_that_another_has_taken_is_left_to_it(
    rivals: tuple[ContainerWriter, ContainerWriter],
) -> None:
    """Whether it has put its file there yet or not; what was made stays here."""
    loser, winner = rivals
    with pytest.raises(UnreachableError, match="another process has taken the name") as failure:
        loser.close()
    winner.close()

    assert [*remote_records("memory://bucket/t")] == [{"at": 1}]
    assert str(failure.value).endswith(f"; it is whole here: {loser.part}")
    assert [*remote_records(str(loser.part))] == [{"at": 0}]


def test_a_name_that_another_has_taken_is_not_given_back(
    rivals: tuple[ContainerWriter, ContainerWriter],
) -> None:
    loser, winner = rivals
    winner.close()
    loser.discard()

    assert [*remote_records("memory://bucket/t")] == [{"at": 1}]


@pytest.mark.parametrize("url", ["t", "t/*.msgpack", "t/a.msgpack"])
def test_a_file_that_the_store_does_not_give_is_not_passed_over(
    tmp_path: Path, memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """Unlike one beside it that is no trace."""
    header = TraceHeader(wall_ns=10**18, mono_ns=0)
    (tmp_path / "t").mkdir()
    with TraceWriter(tmp_path / "t" / "a.msgpack", header, rotate_bytes=3000) as writer:
        for exchange in read_trace(write_trace(tmp_path / "s.msgpack", 1000)):
            writer.exchange(exchange)
    for file in (tmp_path / "t").iterdir():
        memory.pipe_file(f"/bucket/t/{file.name}", file.read_bytes())
    memory.pipe_file("/bucket/t/a.9999.msgpack", b"other")
    read = MemoryFileSystem.cat_file

    def refusing(system: MemoryFileSystem, path: str, **how: Any) -> Any:
        if path.endswith("a.0001.msgpack"):
            raise PermissionError("403")
        return read(system, path, **how)

    assert read_trace(f"memory://bucket/{url}")
    remote._piece.cache_clear()
    monkeypatch.setattr(MemoryFileSystem, "cat_file", refusing)
    with pytest.raises(UnreachableError, match=r"^memory://bucket/t/a\.0001\.msgpack: .*403"):
        read_trace(f"memory://bucket/{url}")


def test_a_run_whose_trace_is_refused_afterwards_has_a_report(
    tmp_path: Path, memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which says why nothing of the recording is known."""
    url = "memory://bucket/t.msgpack"
    memory.pipe_file("/bucket/t.msgpack", write_trace(tmp_path / "t.msgpack", 4).read_bytes())
    header = {"trace": {"path": url, "capture_id": read_trace(url).header.capture_id}}
    writer = RunWriter(tmp_path / "a.run", header, clock=lambda: 0.0)
    fates = dict.fromkeys(("completed", "failed", "cancelled", "lost_in_flight", "never_sent"), 0)
    run = read_run(writer.close({"planned": 0, **fates}))

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError("403")

    monkeypatch.setattr(MemoryFileSystem, "info", refused)
    assert "403" in str(fidelity_of(run).missing)


def test_each_run_of_several_is_put_there_whatever_becomes_of_another(
    serve: Callable[..., Server],
    tmp_path: Path,
    memory: MemoryFileSystem,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the error names every one that could not be."""
    monkeypatch.setenv("TOGETHER_API_KEY", "test-key-0123456789")
    trace = write_trace(tmp_path / "t.msgpack", 20)
    urls = [serve("serve", "--port", "0", "--profile", "fast").url for _ in range(3)]
    jobs = [
        resolve(ReplayOptions(trace=trace, base_url=url, out=as_path(f"memory://bucket/{at}.run")))
        for at, url in enumerate(urls)
    ]
    put = MemoryFileSystem.put_file

    def full(system: MemoryFileSystem, here: str, there: str, **how: Any) -> None:
        if not there.endswith("1.run"):
            raise PermissionError("quota")
        put(system, here, there, **how)

    monkeypatch.setattr(MemoryFileSystem, "put_file", full)
    with pytest.raises(UnreachableError) as failure:
        run_duet(jobs, seed=7)
    parts = re.findall(r"it is whole here: (\S+\.part)", str(failure.value))

    assert [Path(part).name for part in parts] == ["0.run.part", "2.run.part"]
    for run in (*parts, "memory://bucket/1.run"):
        assert len(read_run(as_path(run))) == 20


def test_a_file_that_was_replaced_is_read_anew(memory: MemoryFileSystem) -> None:
    written("memory://bucket/t", 3)
    before = len([*remote_records("memory://bucket/t")])
    memory.rm_file("/bucket/t")
    written("memory://bucket/t", 5)

    assert (before, len([*remote_records("memory://bucket/t")])) == (3, 5)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("s3://AKIA:pw-x@bucket/t", "credentials come from the environment: AWS_ACCESS_KEY_ID"),
        ("https://host/t?X-Amz-Signature=pw-x", "fetch it by curl"),
        ("gs://bucket/t?token=pw-x", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("zip://t::s3://bucket/pw-x", "one store, not a chain"),
        ("cloud://bucket/t", "fsspec knows no cloud://"),
        ("memory://bucket/none", "no such file, folder or matching glob"),
        ("memory://bucket/none*", "no such file, folder or matching glob"),
        ("memory://bucket/*/t.msgpack", "memory://bucket/*/t.msgpack: in a store a pattern is one"),
        ("memory://bucket/**", "memory://bucket/**: in a store a pattern is one of names"),
        ("s3://bucket/a//t", "s3://bucket/a//t: would be read as s3://bucket/a/t; choose names"),
        ("s3://bucket/./t", "s3://bucket/./t: would be read as s3://bucket/t; choose names"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_line(
    url: str, error: str, memory: MemoryFileSystem
) -> None:
    """Which repeats nothing that may be a credential."""
    with pytest.raises(InputError) as refused:
        read_trace(url)

    assert error in str(refused.value)
    assert "pw-x" not in str(refused.value)


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setattr(remote, "_SYSTEMS", {})
    with pytest.raises(InputError, match=r"needs fsspec; pip install 'tbench\[cloud\]'"):
        read_trace("s3://bucket/t.msgpack")


class Ranges(http.server.BaseHTTPRequestHandler):
    """One file, in parts where `parts` says so; `/locked` is for nobody."""

    content = b""
    parts = True

    def do_HEAD(self) -> None:
        if self.path != "/t.msgpack":
            self.send_error(403 if self.path == "/locked" else 404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def do_GET(self) -> None:
        asked = self.headers.get("Range") if self.parts else None
        if self.path != "/t.msgpack":
            self.send_error(403 if self.path == "/locked" else 404)
            return
        data = self.content
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            data = data[int(first) : int(last) + 1]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path, memory: MemoryFileSystem) -> Iterator[tuple[str, type[Ranges]]]:
    """A web server with a trace: its address, and its handler."""
    pytest.importorskip("aiohttp", reason="needs aiohttp: pip install -e '.[cloud]'")
    handler = type("Handler", (Ranges,), {})
    handler.content = write_trace(tmp_path / "t.msgpack", REQUESTS).read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()


def test_a_trace_of_a_web_server(web: tuple[str, type[Ranges]], tmp_path: Path) -> None:
    assert bodies(f"{web[0]}/t.msgpack") == bodies(tmp_path / "t.msgpack")


@pytest.mark.parametrize(
    ("name", "parts", "kind", "error"),
    [
        ("t.msgpack", False, InputError, "gives no parts of files"),
        ("locked", True, UnreachableError, "cannot be used: ClientResponseError: 403"),
        ("other", True, InputError, "no such file"),
    ],
)
def test_a_web_server_that_cannot_be_used_is_one_line(
    web: tuple[str, type[Ranges]], name: str, parts: bool, kind: type[TbenchError], error: str
) -> None:
    web[1].parts = parts
    with pytest.raises(kind, match=error):
        list(read_trace(f"{web[0]}/{name}"))


@pytest.mark.parametrize(
    ("status", "error"), [(404, "is not there any more"), (403, "403"), (500, "500")]
)
def test_what_a_web_server_takes_back_is_one_line(
    web: tuple[str, type[Ranges]], monkeypatch: pytest.MonkeyPatch, status: int, error: str
) -> None:
    """A file that was there as it was opened, whatever is said of it then."""
    path = as_path(f"{web[0]}/t.msgpack")
    assert isinstance(path, RemotePath)
    trace = path.opened()
    monkeypatch.setattr(web[1], "do_GET", lambda handler: handler.send_error(status))
    with pytest.raises(UnreachableError, match=error):
        trace.pread(10, 0)


def plain(text: str) -> list[str]:
    """Its words: lines are broken by the length of a path."""
    return text.split()


def test_a_replay_from_a_store_to_a_store(
    tbench: Callable[..., Done], simulator: Server, tmp_path: Path, s3: tuple[str, Path]
) -> None:
    """Trace and run are in S3 alone; report and comparison by URL say what they say of the copies."""
    endpoint, data = s3
    environ = {"AWS_ENDPOINT_URL": endpoint, **KEYS, "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    trace = write_trace(data / "results" / "t.msgpack", REQUESTS, turns=3)
    words = ("--base-url", simulator.url, "--warmup", "none", "--json")
    done = tbench(
        "replay", "s3://results/t.msgpack", *words, "-o", "s3://results/new/a.run", **environ
    )
    run = read_run(data / "results" / "new" / "a.run")

    assert done.ended, done.err
    assert json.loads(done.out)["run"] == "s3://results/new/a.run"
    assert json.loads(done.out)["completed"] == len(run) == REQUESTS
    assert json.loads(done.out)["fidelity"]["missing"] is None
    assert run.header["trace"]["path"] == "s3://results/t.msgpack"
    assert list(run.columns["id"]) == [exchange.request.id for exchange in read_trace(trace)]
    assert not list((tmp_path / "tmp").iterdir())
    for secret in (SECRET, KEYS["AWS_ACCESS_KEY_ID"]):
        assert secret.encode() not in run.path.read_bytes()
        assert secret not in done.out + done.err
    verbs = (
        ("report", "new/a.run"),
        ("compare", "new/a.run", "t.msgpack"),
        ("trace", "info", "t.msgpack"),
    )
    for verb in verbs:
        there = tbench(
            *(f"s3://results/{name}" if "." in name else name for name in verb), **environ
        )
        here = tbench(*(data / "results" / name if "." in name else name for name in verb))
        assert there.code == here.code
        assert plain(there.out.replace("s3://results", str(data / "results"))) == plain(here.out)


def test_a_run_that_was_killed_stays_here(
    serve: Callable[..., Server], tmp_path: Path, s3: tuple[str, Path]
) -> None:
    """What was measured cannot be measured again: its file is private, and reads as one that was killed."""
    url = serve("serve", "--port", "0", "--profile", "slow").url
    trace = write_trace(tmp_path / "t.msgpack", REQUESTS, tokens=64)
    command = [sys.executable, "-m", "tbench", "replay", str(trace), "--base-url", url]
    command += ["-o", "s3://results/a.run", "--concurrency", "8"]
    environ = {"AWS_ENDPOINT_URL": s3[0], **KEYS, "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    with subprocess.Popen(
        command,
        env={**os.environ, "TOGETHER_API_KEY": "test-key-0123456789", **environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        until(lambda: len(seen(url)) >= 12 or process.poll() is not None)
        process.kill()
    (part,) = (tmp_path / "tmp").glob("tbench-*/a.run.part")

    assert part.stat().st_mode & 0o777 == 0o600
    assert not read_run(part).complete
    assert (s3[1] / "results" / "a.run").read_bytes().startswith(CLAIM)


def test_a_trace_that_goes_away_makes_a_run_invalid(
    tmp_path: Path, memory: MemoryFileSystem, simulator: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read of it is sent and kept; the run says why there is no more."""
    import tbench

    monkeypatch.setenv("TOGETHER_API_KEY", "test-key-0123456789")
    trace = write_trace(tmp_path / "t.msgpack", 1200)
    memory.pipe_file("/bucket/t.msgpack", trace.read_bytes())
    reads = remote.RemotePath.part

    def part(path: RemotePath, start: int, end: int) -> bytes:
        if threading.current_thread() is not threading.main_thread() and start > 20_000:
            raise UnreachableError(f"{path}: is not there any more")
        return reads(path, start, end)

    monkeypatch.setattr(RemotePath, "part", part)
    monkeypatch.setattr(remote, "_piece", remote._piece.__wrapped__)
    run = tbench.replay(
        "memory://bucket/t.msgpack",
        base_url=simulator.url,
        concurrency=8,
        warmup="none",
        out=tmp_path / "o.run",
    )
    assert run.totals["ended_by"] == "trace"
    assert 0 < run.totals["completed"] == run.totals["planned"] < 1200
    assert "is not there any more" in run.totals["trace_failure"]
