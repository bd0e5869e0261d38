"""A credential that goes into bodies (--set, --additional-request-params) is in no file, even when quoted."""

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard

from tbench.capture.redact import Secrets
from tbench.replay.target import Target
from tests.answering import Answering, Given, Received, answering
from tests.conftest import Done

Run = Callable[..., Done]
SECRET = "leakLEAK-31337-leak"
ZSTD = b"\x28\xb5\x2f\xfd"


@pytest.fixture
def echo() -> Iterator[Answering]:
    """A server that refuses every third request and quotes its body; answers the others in its words, too."""

    def quoted(request: Received) -> Given:
        sent = request.body.decode()
        if len(server.received) % 3 == 0:
            refusal = {"error": {"message": f"cannot take {sent}"[:150]}}
            return Given([json.dumps(refusal).encode()], status=400)
        choice = {"index": 0, "message": {"content": "x"}, "finish_reason": sent[:200]}
        usage = {"prompt_tokens": 9, "completion_tokens": 3}
        return Given([json.dumps({"choices": [choice], "usage": usage}).encode()])

    with answering(quoted) as server:
        yield server


def plain(data: bytes) -> bytes:
    """A file's bytes, and those of each zstd frame in it."""
    parts, at = [data], 0
    while (at := data.find(ZSTD, at)) >= 0:
        with suppress(zstandard.ZstdError):
            parts.append(zstandard.ZstdDecompressor().decompressobj().decompress(data[at:]))
        at += 1
    return b"\0".join(parts)


def leaks(folder: Path) -> list[str]:
    """Files that hold the secret, however they are packed."""
    found = []
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        content = plain(path.read_bytes())
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as book:
                content += b"".join(book.read(name) for name in book.namelist())
        if SECRET.encode() in content:
            found.append(str(path.relative_to(folder)))
    return found


def test_a_quoted_field_is_in_no_file(tbench: Run, echo: Answering, tmp_path: Path) -> None:
    """Neither in the run's errors nor in what is made from it."""
    assert not tbench("trace", "synth", "-o", "t.msgpack", "--model", "m", "--requests", 9,
                      "--scenario", "D(3,3)").code  # fmt: skip
    done = tbench("replay", "t.msgpack", "--base-url", echo.url, "--concurrency", 1, "-o", "a.run",
                  "--set", f'api_key="{SECRET}"', "--set", "messages=[]")  # fmt: skip
    shown = [tbench("report", "a.run", "--html", "a.html", "--xlsx", "a.xlsx"),
             tbench("compare", "a.run", "a.run", "--html", "b.html")]  # fmt: skip

    assert any(SECRET.encode() in request.body for request in echo.received)
    assert (tmp_path / "a.xlsx").exists()
    assert leaks(tmp_path) == []
    for one in (done, *shown):
        assert SECRET not in one.out + one.err


def test_a_secret_parameter_is_in_no_file(tbench: Run, echo: Answering, tmp_path: Path) -> None:
    """Of a benchmark: bodies have it, while runs, traces, metadata, the log and an upload do not."""
    command = (
        "benchmark", "--api-backend", "vllm", "--api-base", echo.url, "--api-model-name", "m",
        "--task", "text-to-text", "--num-concurrency", "1", "--traffic-scenario", "D(9,9)",
        "--max-requests-per-run", "4", "--experiment-folder-name", "x", "--no-summary", "--upload-traces",
        "--upload-results", f"file://{tmp_path}/up",
    )  # fmt: skip
    params = json.dumps({"top_p": 0.5, "api_key": SECRET})
    done = tbench(*command, "--additional-request-params", params)

    assert done.code in (0, 4), done.err
    assert all(request.json["api_key"] == SECRET for request in echo.received)
    assert all(request.json["top_p"] == 0.5 for request in echo.received)
    assert leaks(tmp_path) == []
    metadata = json.loads((tmp_path / "x/experiment_metadata.json").read_text())
    assert metadata["additional_request_params"] == {"top_p": 0.5, "api_key": "***"}
    again = tbench(*command, "--resume", "--additional-request-params", params)
    assert again.code in (0, 4), again.err


def test_a_trace_takes_no_credential(tbench: Run) -> None:
    """A trace is shared; the credential is for the moment of sending."""
    done = tbench("trace", "synth", "-o", "t", "--model", "m", "--requests", 1, "--scenario", "D(3,3)",
                  "--additional-request-params", json.dumps({"api_key": SECRET}))  # fmt: skip

    assert done.code == 2
    assert "api_key" in done.err
    assert SECRET not in done.err


def test_secret_fields_are_secrets_of_the_target() -> None:
    """Wherever they are in a field; numbers and plain words are none."""
    fields = {"tools": [{"authorization": SECRET}], "max_tokens": 12345678, "stop": "plain words"}

    found = Target(base_url="http://h", fields=fields).secrets
    assert found.mask_text(f"no {SECRET}") == f"no {'*' * len(SECRET)}"
    assert found != Secrets()
    assert found.mask_text("12345678 plain words") == "12345678 plain words"
