"""A benchmark's folder goes to a store whole and compared, or what is missing is named."""

import hashlib
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tbench.benchmark.upload import Delivery, chosen, claimed, deliver, report
from tbench.benchmark.verbs import refuse
from tbench.capture.errors import InputError
from tbench.capture.store import Store, md5_of, opened, read_address

OWN: dict[str, Any] = {"id": "one", "options": {}}
FILES = ("a.json", "b.json", "c.json", "d.json", "e.json", "tbench_benchmark.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six files, two more in folders, and two traces."""
    whole = tmp_path / "x"
    for at, name in enumerate(
        (*FILES, "runs/1.run", "set-aside/2.run.1", "traces/1.msgpack", "c.msgpack")
    ):
        path = whole / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(range(256)) * (at + 1))
    (whole / "tbench_benchmark.json").write_text(json.dumps(OWN))
    return whole


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    """The store behind memory://, empty before and after."""
    system: MemoryFileSystem = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def send(folder: Path, store: Store, *, traces: bool = False) -> Delivery:
    return deliver(
        folder, store, lambda _: None, traces=traces, clock=itertools.count(0.0, 0.0).__next__
    )


class Failing(MemoryFileSystem):
    """Memory of its own, whose puts go wrong at the numbers in `broken`: they raise, cut, change."""

    cachable = False

    def __init__(self, broken: dict[int, str]) -> None:
        super().__init__(global_store=False)
        self.broken, self.puts = broken, 0

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        self.puts += 1
        content = Path(lpath).read_bytes()
        how = self.broken.get(self.puts)
        if how == "raise":
            raise PermissionError(f"no more room for {lpath}")
        if how == "interrupt":
            raise KeyboardInterrupt
        content = (
            content[:-1] if how == "cut" else content[:-1] + b"!" if how == "change" else content
        )
        self.pipe_file(rpath, content)


def failing(broken: dict[int, str]) -> Store:
    address = read_address("--upload-results", "memory://there/x")
    return Store(address=address, system=Failing(broken), root="/there/x")


def test_everything_but_the_traces_is_in_memory(folder: Path, memory: MemoryFileSystem) -> None:
    store = claimed(read_address("--upload-results", "memory://bucket/deep/"), folder, OWN)
    made = send(folder, store)
    there = {path: file.getvalue() for path, file in memory.store.items()}
    ours = tree(folder)

    assert there == {
        f"/bucket/deep/x/{name}": content for name, content in ours.items() if "msgpack" not in name
    }
    assert (made.files, made.held, made.missing, made.foreign) == (8, 2, {}, [])
    assert made.size == sum(map(len, there.values()))


def test_everything_is_in_another_folder(folder: Path, tmp_path: Path) -> None:
    """With the traces, when asked for; and again, over what is there already."""
    address = read_address("upload", f"file://{tmp_path}/far/away")
    for _ in range(2):
        made = send(folder, claimed(address, folder, OWN), traces=True)

        assert (made.files, made.held, made.missing) == (10, 0, {})
        assert tree(tmp_path / "far" / "away" / "x") == tree(folder)


def test_what_else_is_there_is_left_alone_and_named(folder: Path, tmp_path: Path) -> None:
    address = read_address("upload", f"file://{tmp_path}/far")
    send(folder, claimed(address, folder, OWN))
    (tmp_path / "far" / "x" / "old.json").write_text("{}")
    made = send(folder, claimed(address, folder, OWN))

    assert made.foreign == ["old.json"]
    assert (tmp_path / "far" / "x" / "old.json").read_text() == "{}"


@pytest.mark.parametrize("how", ["raise", "cut", "change"])
def test_a_put_that_goes_wrong_is_named_and_the_rest_goes_on(folder: Path, how: str) -> None:
    before = tree(folder)
    made = send(folder, failing({3: how}))
    lines = list(report(made, folder, read_address("upload", "memory://there"), traces=True))
    why = {"raise": "PermissionError: no more room", "cut": "767 bytes are there instead of 768",
           "change": "its bytes are others there"}  # fmt: skip

    assert list(made.missing) == ["c.json"]
    assert why[how] in made.missing["c.json"]
    assert made.files == 7
    assert lines[0].startswith("not uploaded: c.json: ")
    assert "1 of 8 files are not at memory://there/x" in lines[-1]
    assert lines[-1].endswith(f"again: tbench upload {folder} memory://there --traces")
    assert tree(folder) == before


def test_failures_that_are_not_in_a_row_end_nothing(folder: Path) -> None:
    made = send(folder, failing(dict.fromkeys((1, 2, 4, 5), "raise")))

    assert len(made.missing) == 4
    assert made.files == 4


def test_after_three_failures_in_a_row_the_store_is_gone(folder: Path) -> None:
    """The rest is not tried, and named as well."""
    store = failing(dict.fromkeys(range(2, 99), "raise"))
    made = send(folder, store)

    assert store.system.puts == 4
    assert made.files == 1
    assert [name for name, why in made.missing.items() if "not tried" in why] == [
        "e.json", "runs/1.run", "set-aside/2.run.1", "tbench_benchmark.json",
    ]  # fmt: skip
    assert len(made.missing) == 7


def test_ctrl_c_ends_it_and_the_rest_is_named(folder: Path) -> None:
    made = send(folder, failing({2: "interrupt"}))

    assert made.interrupted
    assert made.files == 1
    assert set(made.missing.values()) == {"interrupted"}
    assert len(made.missing) == 7


def test_a_secret_that_a_driver_repeats_is_not_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "wJalrXUtnFEMI+K7MDENG"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    store = failing({})
    monkeypatch.setattr(
        store.system, "put_file", lambda *_: (_ for _ in ()).throw(OSError(f"bad key {secret}"))
    )
    made = send(folder, store)

    assert "bad key" in made.missing["a.json"]
    assert secret not in str(made)


@pytest.mark.parametrize(
    "there",
    [
        pytest.param({"other.txt": b"mine"}, id="files"),
        pytest.param({"tbench_benchmark.json": b'{"id": "two"}'}, id="another-experiment"),
        pytest.param({"tbench_benchmark.json": b'{"options": {}}'}, id="without-an-id"),
        pytest.param({"tbench_benchmark.json": b"\x00"}, id="not-json"),
    ],
)
def test_what_somebody_else_has_there_is_not_replaced(
    folder: Path, memory: MemoryFileSystem, there: dict[str, bytes]
) -> None:
    for name, content in there.items():
        memory.pipe_file(f"/bucket/x/{name}", content)
    with pytest.raises(InputError, match="holds another experiment or other files"):
        claimed(read_address("--upload-results", "memory://bucket"), folder, OWN)

    assert {
        path.removeprefix("/bucket/x/"): one.getvalue() for path, one in memory.store.items()
    } == there


def test_a_place_that_cannot_be_written_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match=r"cannot be used: (NotADirectory|FileExists)Error"):
        claimed(read_address("--upload-results", f"file://{tmp_path}/taken"), folder, OWN)


def test_a_place_that_forgets_what_was_written_is_refused(
    folder: Path, memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", lambda *_: None)
    with pytest.raises(InputError, match="cannot be read again"):
        claimed(read_address("--upload-results", "memory://bucket"), folder, OWN)


@pytest.mark.parametrize("where", ["", "/x", "/x/runs"])
def test_a_folder_is_not_uploaded_into_itself(folder: Path, where: str) -> None:
    with pytest.raises(InputError, match="where the folder itself is"):
        claimed(read_address("upload", f"file://{folder.parent}{where}"), folder, OWN)


def test_a_driver_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(InputError, match=r"not installed; pip install 'tbench\[cloud\]'"):
        opened(read_address("--upload-results", "s3://bucket"))
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(InputError, match=r"needs fsspec; pip install 'tbench\[cloud\]'"):
        opened(read_address("--upload-results", "file:///tmp"))


def test_a_scheme_that_nobody_knows_is_named() -> None:
    with pytest.raises(InputError, match="fsspec knows no cloud://"):
        opened(read_address("--upload-results", "cloud://bucket"))


SECRET = "wJalrXUtnFEMI/K7MDENG"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("bucket/prefix", "takes a URL, such as s3://bucket/prefix"),
        ("/mnt/share", "takes a URL"),
        ("s3://", "names no bucket"),
        ("file:///", "names no bucket or folder"),
        (f"s3://AKIAEXAMPLE:{SECRET}@bucket/x", "AWS_ACCESS_KEY_ID"),
        ("s3://K7MDENGbPxRfiCY@bucket", "with credentials or a query"),
        (f"az://box/x?sv=2024&sig={SECRET}", "AZURE_STORAGE_SAS_TOKEN"),
        (f"https://a.blob.core.windows.net/box?sig={SECRET}", "environment"),
        (f"abfs://box:{SECRET}@account.dfs.core.windows.net/x", "AZURE_STORAGE_ACCOUNT_KEY"),
        (f"sftp://me:{SECRET}@host/x", "credentials"),
        ("simplecache::s3://bucket", "takes a URL"),
        ("zip://a::s3://bucket", "not a chain"),
    ],
)
def test_an_address_that_will_not_do_is_refused_without_its_secret(url: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_address("--upload-results", url)

    assert said in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "K7MDENG" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://arn:aws:s3:us-west-2:123456789012:accesspoint/mine/a", None),
        ("abfs://box@account.dfs.core.windows.net/x", None),
        ("s3://bucket/team@home/x", None),
        ("sftp://host:2222/x", None),
    ],
)
def test_an_address_that_holds_no_secret_is_kept_as_it_is(url: str, kept: str | None) -> None:
    assert read_address("upload", url).url == (kept or url)


def test_an_object_that_stands_for_the_folder_is_nobody_elses(
    folder: Path, memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a cloud's console makes one: its key ends with a slash."""
    monkeypatch.setattr(MemoryFileSystem, "find", lambda *_: ["/bucket/x/"])

    assert claimed(read_address("upload", "memory://bucket"), folder, OWN).names() == []


def test_a_file_of_a_trace_is_one_that_holds_prompts(folder: Path) -> None:
    (folder / "traces" / "2.msgpack.part").write_bytes(b"")
    (folder / "set-aside" / "t.0001.msgpack").write_bytes(b"")
    go, stay = chosen(folder, traces=False)

    assert stay == [
        "c.msgpack",
        "set-aside/t.0001.msgpack",
        "traces/1.msgpack",
        "traces/2.msgpack.part",
    ]
    assert sorted((*go, *stay)) == sorted(chosen(folder, traces=True)[0]) == sorted(tree(folder))


@pytest.mark.parametrize(
    ("there", "known"),
    [
        ({"ETag": '"900150983cd24fb0d6963f7d28e17f72"'}, True),
        ({"md5Hash": "kAFQmDzST7DWlj99KOF/cg=="}, True),
        ({"content_settings": {"content_md5": bytearray.fromhex("900150983cd24fb0d6963f7d28e17f72")}}, True),
        ({"ETag": '"900150983cd24fb0d6963f7d28e17f72-2"'}, False),
        ({"content_settings": {"content_md5": None}}, False),
        ({}, False),
    ],
)  # fmt: skip
def test_the_checksum_of_a_store_is_read(there: dict[str, Any], known: bool) -> None:
    """RFC 1321's test vector: the MD5 of "abc", as the three stores write it."""
    assert md5_of(there) == (hashlib.md5(b"abc").digest() if known else None)


def test_a_match_of_checksums_spares_reading_it_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is none, or another one (as of encrypted objects), what is there is read and compared."""
    store, content = failing({}), (folder / "a.json").read_bytes()
    reads: list[str] = []
    info = store.system.info
    opening = store.system.open

    def counted(path: str, mode: str = "rb", **more: Any) -> Any:
        if mode == "rb":
            reads.append(path)
        return opening(path, mode, **more)

    monkeypatch.setattr(store.system, "open", counted)
    for etag in (hashlib.md5(content).hexdigest(), "0" * 32, ""):
        monkeypatch.setattr(
            store.system, "info", lambda path, tag=etag: {**info(path), "ETag": tag}
        )
        store.put(folder / "a.json", "a.json")

    assert reads == ["/there/x/a.json"] * 2


@pytest.mark.parametrize(
    ("words", "url"),
    [
        (
            "--upload-results --storage-provider aws --storage-bucket b --storage-prefix p/q",
            "s3://b/p/q,",
        ),
        ("--upload-results --storage-provider=gcp --storage-bucket=b", "gs://b,"),
        (
            "--storage-bucket b --storage-provider azure --storage-azure-account-key " + SECRET,
            "az://b,",
        ),
        ("--upload-results --namespace n --storage-bucket b", "s3://b,"),
        ("--upload-results --storage-provider github --github-token " + SECRET, "GitHub"),
        ("--upload-results --task text-to-text", "--upload-results s3://BUCKET,"),
        ("--task text-to-text --upload-results", "--upload-results s3://BUCKET,"),
    ],
)
def test_the_flags_of_genai_bench_are_answered_with_ours(words: str, url: str) -> None:
    with pytest.raises(InputError) as caught:
        refuse(words.split())

    assert url in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "words", ["--upload-results s3://b/p --seed 1", "--upload-results=s3://b", "--seed 1"]
)
def test_our_own_flags_are_not_taken_for_theirs(words: str) -> None:
    refuse(words.split())
