"""--upload-results and `tbench upload` as a user runs them, to a folder and to an S3-compatible server."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.answering import stalling
from tests.conftest import KEYS, PATIENCE_S, SECRET, Done, Server, interruptible, until
from tests.test_command_benchmark import words

SMALL = ("--num-concurrency", "1", "--traffic-scenario", "D(20,4)")


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def shared(folder: Path) -> dict[str, bytes]:
    """What of a benchmark's folder is to leave this machine."""
    return {name: content for name, content in tree(folder).items() if ".msgpack" not in name}


def test_a_benchmark_ends_up_in_another_folder(
    tbench: Callable[..., Done], simulator: Server, tmp_path: Path
) -> None:
    """Byte for byte, the log included; traces stay; a finished benchmark can be uploaded once more."""
    url = f"file://{tmp_path}/share"
    done = tbench(*words(simulator.url, *SMALL), "--upload-results", url, "--json")
    there = tree(tmp_path / "share" / "x")
    again = tbench("upload", "x", f"file://{tmp_path}/again", "--traces", "--json")

    assert done.code == 0, done.err
    assert there == shared(tmp_path / "x")
    assert {"benchmark.log", "experiment_metadata.json", "tbench_benchmark.json"} <= there.keys()
    assert json.loads(done.out)["upload"] == {
        "url": f"{url}/x",
        "files": len(there),
        "bytes": sum(map(len, there.values())),
        "missing": {},
        "traces_held_back": len(tree(tmp_path / "x")) - len(there),
    }
    assert "without its traces, which hold the prompts" in done.err
    assert "not uploaded, as they hold the prompts: 3 traces" in done.err
    assert again.code == 0, again.err
    assert json.loads(again.out)["traces_held_back"] == 0
    assert tree(tmp_path / "again" / "x") == tree(tmp_path / "x")


def test_a_benchmark_ends_up_in_s3(
    tbench: Callable[..., Done], simulator: Server, tmp_path: Path, s3: tuple[str, Path]
) -> None:
    """The server holds the same bytes as plain files; no secret of the environment is in any of them."""
    endpoint, data = s3
    environment = {"AWS_ENDPOINT_URL": endpoint, **KEYS}
    to = ("--upload-results", "s3://results/2026/november")
    done = tbench(*words(simulator.url, *SMALL), *to, **environment)
    there = tree(data / "results" / "2026" / "november" / "x")
    other = tbench(*words(simulator.url, *SMALL), "--experiment-base-dir", "o", *to, **environment)
    more = tbench("upload", "x", to[1], "--traces", **environment)

    assert done.code in {0, 4}, done.err  # a busy machine makes a run INVALID, and is uploaded too
    assert there == shared(tmp_path / "x")
    assert len(there) > 6
    assert not [
        name
        for name, content in tree(tmp_path / "x").items()
        if SECRET.encode() in content or KEYS["AWS_ACCESS_KEY_ID"].encode() in content
    ]
    assert other.code == 2, "the same name, another experiment"
    assert "holds another experiment" in other.err
    assert not (tmp_path / "o").exists()
    assert more.code in {0, 4}, more.err
    assert tree(data / "results" / "2026" / "november" / "x") == tree(tmp_path / "x")


def test_a_large_file_goes_to_s3_in_parts(
    tbench: Callable[..., Done], tmp_path: Path, s3: tuple[str, Path]
) -> None:
    """Its checksum there is not one of the whole: it is read again."""
    endpoint, data = s3
    folder = tmp_path / "big"
    folder.mkdir()
    (folder / "tbench_benchmark.json").write_text('{"options": {}}')
    (folder / "whole.bin").write_bytes(os.urandom(1 << 20) * 120)
    done = tbench("upload", folder, "s3://results", AWS_ENDPOINT_URL=endpoint, **KEYS)

    assert done.code == 0, done.err
    assert "uploaded 2 files, 125.8 MB" in done.err
    assert tree(data / "results" / "big") == tree(folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("bucket", "keys", "said"),
    [
        ("nobody-made-it", KEYS, "The specified bucket does not exist"),
        ("results", {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "credentials"),
    ],
)
def test_s3_that_cannot_be_written_is_refused_before_anything_is_sent(
    tbench: Callable[..., Done],
    tmp_path: Path,
    s3: tuple[str, Path],
    bucket: str,
    keys: dict[str, str],
    said: str,
) -> None:
    """Nobody listens at the API's address: a request would have been noticed, and be exit code 5."""
    environment = {
        "AWS_ENDPOINT_URL": s3[0], "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path), **keys,
    }  # fmt: skip
    done = tbench(
        *words("http://127.0.0.1:9"), "--upload-results", f"s3://{bucket}/p", **environment
    )

    assert done.code == 2, done.err
    assert said in done.err
    assert "cannot connect" not in done.err
    assert not (tmp_path / "x").exists()
    assert not tree(s3[1])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--upload-results", "results"], "takes a URL"),
        (["--upload-results", "cloud://bucket"], "fsspec knows no cloud://"),
        (["--upload-results", f"s3://AKIAEXAMPLE:{SECRET}@bucket"], "come from the environment"),
        (["--upload-results", f"az://box?sig={SECRET}"], "come from the environment"),
        (["--upload-traces"], "--upload-results"),
        (
            ["--upload-results", "--storage-provider", "aws", "--storage-bucket", "b"],
            "--upload-results s3://b",
        ),
    ],
)
def test_a_bad_place_is_one_line(
    tbench: Callable[..., Done], tmp_path: Path, more: list[str], said: str
) -> None:
    done = tbench(*words("http://127.0.0.1:9"), *more)

    assert done.code == 2, done.err
    assert said in done.err
    assert SECRET not in done.err
    assert len([line for line in done.err.splitlines() if line.startswith("tbench: ")]) == 1
    assert not (tmp_path / "x").exists()


def test_what_cannot_be_uploaded_is_named_and_can_be_later(
    tbench: Callable[..., Done], simulator: Server, tmp_path: Path
) -> None:
    """In the other folder a file is where the folder of the runs should be."""
    url = f"file://{tmp_path}/share"
    first = tbench(*words(simulator.url, *SMALL), "--upload-results", url)
    shutil.rmtree(tmp_path / "share" / "x" / "runs")
    (tmp_path / "share" / "x" / "runs").write_text("in the way")
    before = tree(tmp_path / "x" / "runs")
    failed = tbench(*words(simulator.url, *SMALL), "--resume", "--upload-results", url, "--json")
    (tmp_path / "share" / "x" / "runs").unlink()
    later = tbench("upload", "x", url)

    assert first.code == 0, first.err
    assert failed.code == 5
    assert list(json.loads(failed.out)["upload"]["missing"]) == [f"runs/{name}" for name in before]
    assert len(json.loads(failed.out)["points"]) == 1
    assert "not uploaded: runs/" in failed.err
    assert f"again: tbench upload x {url}" in failed.err
    assert tree(tmp_path / "x" / "runs") == before
    assert later.code == 0, later.err
    assert tree(tmp_path / "share" / "x") == shared(tmp_path / "x")


@pytest.mark.parametrize("moment", ["traces/*_2.msgpack*", "runs/*_2.run*"])
def test_an_interrupted_sweep_is_uploaded_as_far_as_it_came(tmp_path: Path, moment: str) -> None:
    """While the second point's requests are made, or sent."""
    url, folder = f"file://{tmp_path}/share", tmp_path / "x"
    with (
        stalling(lambda: list(folder.glob("runs/*_2.run*"))) as server,
        subprocess.Popen(
            [
                sys.executable, "-m", "tbench",
                *map(str, words(server.url, "--num-concurrency", "1,2,3", "--traffic-scenario", "D(20,30)")),
                "--max-requests-per-run", "3000", "--max-time-per-run", "0.1", "--upload-results", url,
            ],
            cwd=tmp_path, env=interruptible(), stderr=-1, stdout=-1, text=True,
        ) as benchmark,
    ):  # fmt: skip
        until(lambda: benchmark.poll() is not None or list(folder.glob(moment)))
        benchmark.send_signal(signal.SIGINT)
        _, said = benchmark.communicate(timeout=PATIENCE_S)
    there = tree(tmp_path / "share" / "x")

    assert benchmark.returncode == 130, said
    assert f"to {url}/x; each was compared there" in said
    assert there == shared(folder)
    assert len([name for name in there if name.endswith("s.json")]) == 1


def test_a_benchmark_that_comes_to_nothing_says_that_nothing_was_uploaded(
    tbench: Callable[..., Done], tmp_path: Path, tokenizer_file: Path
) -> None:
    url = f"file://{tmp_path}/share"
    done = tbench(
        *words("http://127.0.0.1:9", "--model-tokenizer", tokenizer_file), "--upload-results", url
    )

    assert done.code == 5
    assert f"nothing was uploaded to {url}/x" in done.err


def test_a_folder_that_is_no_benchmark_is_not_uploaded(
    tbench: Callable[..., Done], tmp_path: Path
) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "tbench_benchmark.json").write_text("[]")
    done = tbench("upload", "private", f"file://{tmp_path}/share")

    assert done.code == 2
    assert "no benchmark of tbench is in it" in done.err
    assert not (tmp_path / "share").exists()
