"""Remote files: traces and runs that lie in a store, as paths of their URLs.

What is read comes in pieces, when it is asked for, and nothing of it is written on this machine. What is
written grows in a private file here, and goes to its store when it is whole.
"""

import glob
import re
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PosixPath
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Final, Self

from tbench.capture.errors import InputError, UnreachableError

if TYPE_CHECKING:
    from tbench.capture.store import Store

PIECE: Final = 4 * 2**20
PIECES: Final = 16
"""So many pieces are held in memory, of all remote files together: those that were used last."""
WEB: Final = frozenset({"http", "https"})
"""Schemes of single files: a web server lists nothing, and takes nothing."""
NONE_THERE: Final = frozenset({404, 410})
VERSION: Final = ("size", "ETag", "etag", "md5Hash", "LastModified", "last_modified", "created")
"""What stores say of a file that is different when its content is."""
NO_RANGES: Final = (
    "its server gives no parts of files (no Range); fetch it first, and name the file here"
)
CLAIM: Final = b"tbench is writing this file: it comes here when it is whole\n"
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(text: str | Path) -> bool:
    """Whether a text, or a path, is a URL."""
    return isinstance(text, RemotePath) or bool(_URL.match(str(text)))


def as_path(text: str | Path) -> Path:
    """The path that a text names, which may be a URL.

    Raises InputError for one with a credential in it, and where a path would be the name of another file.
    """
    if isinstance(text, Path) or not is_url(text):
        return Path(text) if isinstance(text, str) else text
    from tbench.capture.store import LOCAL, read_address  # noqa: PLC0415 (start-up)

    address = read_address("", text)
    path = address.url.partition("://")[2]
    if address.scheme in LOCAL:
        return Path("/", path)
    remote = RemotePath("/", path, scheme=address.scheme)
    if str(remote) != address.url:  # stores take every slash for a part of the name
        raise InputError(f"{address}: would be read as {remote}; choose names without // and /./")
    return remote


def matching(path: Path) -> list[Path]:
    """What a pattern names, in order; nothing where no file is of that name.

    A folder of it that is there is that folder, whatever signs its name has.
    """
    root = path.parent
    if not isinstance(path, RemotePath):
        root = next((folder for folder in path.parents if folder.exists()), root)
    return sorted(root.glob(str(path.relative_to(root))))


class RemotePath(PosixPath):
    """A file or a folder of a store. Of a Path it has what reading traces and runs needs; `str` is its URL.

    Whatever else asks the system for such a path is told that it does not exist. Methods raise InputError
    where there is no driver, and UnreachableError where nobody answers or the store refuses.
    """

    def __init__(self, *parts: str | Path, scheme: str) -> None:
        super().__init__(*parts)
        self.scheme = scheme

    def __str__(self) -> str:
        text = super().__str__()
        return f"{self.scheme}:/{text}" if self.root else text

    def __reduce__(self) -> tuple[Callable[[str], Path], tuple[str]]:
        return as_path, (str(self),)

    def with_segments(self, *parts: Any) -> Self:  # noqa: ANN401 (as Path's)
        return type(self)(*parts, scheme=self.scheme)

    def absolute(self) -> Self:
        return self

    def resolve(self, strict: bool = False) -> Self:  # noqa: ARG002 (as Path's)
        return self

    def exists(self, **_: Any) -> bool:  # noqa: ANN401 (as Path's)
        return self._info() is not None

    def is_file(self, **_: Any) -> bool:  # noqa: ANN401 (as Path's)
        return (self._info() or {}).get("type") == "file"

    def is_dir(self, **_: Any) -> bool:  # noqa: ANN401 (as Path's)
        return self.scheme not in WEB and (self._info() or {}).get("type") == "directory"

    def glob(self, pattern: str, **_: Any) -> Generator[Self]:  # noqa: ANN401 (as Path's)
        """The files of this folder whose names are of a pattern."""
        if glob.has_magic(str(self)) or "/" in pattern or "**" in pattern:
            raise InputError(
                f"{self / pattern}: in a store a pattern is one of names: no ** and none in a folder's name"
            )
        yield from self._members(lambda store: store.system.glob(f"{store.root}/{pattern}"))

    def names(self) -> list[str]:
        """What this folder holds; nothing is known of a web server's."""
        return [
            path.name
            for path in self._members(lambda store: store.system.ls(store.root, detail=False))
        ]

    def opened(self) -> "RemoteFile":
        """The file as it is now, to be read by offset."""
        info = self._info()
        if info is None:
            raise InputError(f"{self}: no such file")
        if info["type"] == "directory":
            raise InputError(f"{self}: this is a folder, not a file")
        if info.get("size") is None:
            raise InputError(f"{self}: {NO_RANGES}")
        _READ.add(self)
        return RemoteFile(self, info["size"], tuple(str(info.get(name)) for name in VERSION))

    def part(self, start: int, end: int) -> bytes:
        """The bytes of the file from one offset to another, which are there."""
        data = self._asked(lambda store: store.system.cat_file(store.root, start=start, end=end))
        if data is None:
            raise UnreachableError(f"{self}: is not there any more")
        if len(data) != end - start:
            if self.scheme in WEB:
                raise InputError(f"{self}: {NO_RANGES}")
            raise UnreachableError(f"{self}: changed while it was read")
        return bytes(data)

    def check_new(self) -> None:
        """Raise InputError where no file can be begun under this name."""
        if self.scheme in WEB:
            raise InputError(
                f"{self}: a web server takes no files; name a file here, or s3://, gs:// ..."
            )
        if self.exists():
            raise InputError(f"{self}: exists already; choose another name or remove it")

    def claim(self) -> Path:
        """Take the name, so that what can fail fails now; returns where the content may grow meanwhile.

        That is in a new folder on this machine, which only its user may read.
        """
        self.check_new()
        part = Path(mkdtemp(prefix="tbench-"), f"{self.name}.part")
        try:
            self._asked(lambda store: store.above().write(self.name, _claim(part)))
        except BaseException:
            shutil.rmtree(part.parent, ignore_errors=True)
            raise
        return part

    def deliver(self, part: Path) -> None:
        """Put what has grown into its place, compare it there, and remove it here.

        Raises UnreachableError, which says where it is, where that fails, or the name is not ours any more.
        """
        from tbench.capture.store import DifferentError, in_words  # noqa: PLC0415 (start-up)

        try:
            folder = self._store().above()
            # Between claim and delivery hours may lie: whoever took the name meanwhile keeps it.
            if not folder.holds(self.name, _claim(part)):
                raise DifferentError("another process has taken the name meanwhile")
            folder.put(part, self.name)
        except Exception as error:  # drivers raise anything
            raise UnreachableError(
                f"{self}: could not be put there: {in_words(error)}; it is whole here: {part}"
            ) from None
        shutil.rmtree(part.parent)

    def renounce(self, part: Path) -> None:
        """Give the name back, where it is ours and that is allowed, and remove what has grown here."""
        shutil.rmtree(part.parent, ignore_errors=True)
        with suppress(Exception):  # many a key may not remove
            store = self._store()
            if store.above().holds(self.name, _claim(part)):
                store.system.rm_file(store.root)

    def _members(self, ask: "Callable[[Store], Any]") -> Iterator[Self]:
        names = () if self.scheme in WEB else self._asked(ask) or ()
        return (self / str(name).rstrip("/").rpartition("/")[2] for name in names)

    def _info(self) -> Any:  # noqa: ANN401 (as the driver has it)
        """What the store says of it; None where nothing is of that name."""
        return self._asked(lambda store: store.system.info(store.root))

    def _asked(self, ask: "Callable[[Store], Any]") -> Any:  # noqa: ANN401 (what a driver answers)
        """An answer of the store; None where there is nothing of that name."""
        from tbench.capture.store import refusal  # noqa: PLC0415 (start-up)

        store = self._store()
        try:
            return ask(store)
        except FileNotFoundError as error:
            # A web driver's word for whatever went wrong, too.
            cause = error.__cause__ if self.scheme in WEB else None
            if cause is None or getattr(cause, "status", None) in NONE_THERE:
                return None
            raise UnreachableError(refusal(store.address, cause)) from None
        except Exception as error:  # drivers raise anything
            raise UnreachableError(refusal(store.address, error)) from None

    def _store(self) -> "Store":
        """It, as the root of a store; what is of one bucket, or one server, shares a driver."""
        from tbench.capture.store import Address, Store, opened  # noqa: PLC0415 (start-up)

        address, bucket = Address(option="", scheme=self.scheme, url=str(self)), self.parts[:2]
        if (self.scheme, bucket) not in _SYSTEMS:
            _SYSTEMS[self.scheme, bucket] = opened(address).system
        from fsspec.core import strip_protocol  # noqa: PLC0415 (an extra, which is there by now)

        root = str(strip_protocol(str(self))).rstrip("/")
        return Store(address=address, system=_SYSTEMS[self.scheme, bucket], root=root)


_SYSTEMS: Final[dict[tuple[str, tuple[str, ...]], Any]] = {}
"""The drivers that were opened, by scheme and bucket."""
_READ: Final[set[RemotePath]] = set()


def _claim(part: Path) -> bytes:
    """What takes a name for the file that grows at `part`, whose folder's name is random."""
    return CLAIM + f"({part.parent.name})\n".encode()


def was_read(path: RemotePath) -> bool:
    """Whether this process has read that file."""
    return path in _READ


@dataclass(frozen=True)
class RemoteFile:
    """A file of a store as it was when it was opened: `version` is what the store says of its content."""

    path: RemotePath
    size: int
    version: tuple[str, ...]

    def pread(self, count: int, offset: int) -> bytes:
        """As os.pread: up to `count` bytes, of one piece."""
        number, start = divmod(offset, PIECE)
        return _piece(self, number)[start : start + count]


@lru_cache(maxsize=PIECES)
def _piece(file: RemoteFile, number: int) -> bytes:
    start = number * PIECE
    return file.path.part(start, min(start + PIECE, file.size))
