"""Files as one stream between this machine and a node: for each its name and size as a line of JSON, then its bytes.

Nodes also read this file alone, so it imports nothing of ours.
"""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

MOST_FILES = 100_000
MOST_BYTES = 64 << 30
_NAME_BYTES = 1024
_PART_BYTES = 255
_LINE_BYTES = 16 * _NAME_BYTES
_CHUNK_BYTES = 1 << 18
_END = b"[]\n"


class Writable(Protocol):
    """A file to write to."""

    def write(self, content: bytes, /) -> int: ...


class Readable(Protocol):
    """A file to read from."""

    def read(self, size: int, /) -> bytes: ...

    def readline(self, size: int, /) -> bytes: ...


class ArchiveError(Exception):
    """A stream that ends early, or isn't one of files."""


class UnsafeArchiveError(Exception):
    """A stream that the other side could only have made with intent: its names or sizes are not those of a run."""


def pack(files: Iterable[tuple[str, Path]], stream: Writable, most_bytes: int = MOST_BYTES) -> None:
    """Write regular files to a stream, each under a name.

    Those that can't be opened are left out, and those that `unpack` would refuse all the others for.
    """
    bytes_left, count = most_bytes, 0
    for name, path in files:
        if not _is_safe(name):
            continue
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            if stat.S_ISREG(status.st_mode) and status.st_size <= bytes_left and count < MOST_FILES:
                bytes_left -= status.st_size
                count += 1
                stream.write(json.dumps([name, status.st_size]).encode() + b"\n")
                _copy(file, stream, status.st_size, b"\0")
    stream.write(_END)


def pack_to_bytes(files: Iterable[tuple[str, Path]]) -> bytes:
    """Return the stream of some small files."""
    stream = io.BytesIO()
    pack(files, stream)
    return stream.getvalue()


def unpack(
    stream: Readable,
    folder: Path,
    private: Iterable[str] = (),
    may_replace: bool = False,
    most_bytes: int = MOST_BYTES,
) -> None:
    """Write the files of a stream below a folder, those named `private` for their owner only.

    Raises ArchiveError for a stream that isn't whole, UnsafeArchiveError for names that lead out of the folder or that
    no file system takes, for one that exists unless `may_replace`, and for too many files or bytes.
    """
    bytes_left = most_bytes
    for count in range(MOST_FILES + 1):
        line = stream.readline(_LINE_BYTES)
        if line == _END:
            return
        name, size = _parse_header(line)
        bytes_left -= size
        if bytes_left < 0 or count == MOST_FILES:
            raise UnsafeArchiveError(f"more than {MOST_FILES} files or {most_bytes} bytes")
        mode = 0o600 if name in private else 0o644
        if may_replace:
            _replace(stream, folder / name, size, mode)
        else:
            with _create(folder / name, mode) as file:
                _copy(stream, file, size)


def _replace(stream: Readable, path: Path, size: int, mode: int) -> None:
    """Write a file that appears whole: another host may be reading the one before it, in a folder that they share."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            _copy(stream, file, size)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _create(path: Path, mode: int) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb")
    except (FileExistsError, NotADirectoryError):
        raise UnsafeArchiveError(f"{path.name[:100]!r} comes twice") from None


def _parse_header(line: bytes) -> tuple[str, int]:
    """Return the name and the size of the next file."""
    if not line.endswith(b"\n"):
        raise ArchiveError("ends early")
    try:
        name, size = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        raise ArchiveError("not a stream of files") from None
    if type(name) is not str or type(size) is not int or size < 0:
        raise ArchiveError("not a stream of files")
    if not _is_safe(name):
        raise UnsafeArchiveError(f"invalid name {name[:200]!r}")
    return name, size


def _is_safe(name: str) -> bool:
    """Whether a name is that of a file below a folder, as a file system takes it."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name or str(path) != name:
        return False
    try:
        longest = max(len(os.fsencode(part)) for part in path.parts)
        return longest <= _PART_BYTES and len(os.fsencode(name)) <= _NAME_BYTES
    except UnicodeEncodeError:
        return False


def _copy(source: Readable, target: Writable, size: int, filling: bytes = b"") -> None:
    """Copy as many bytes, of `filling` where the source has fewer; without it raise ArchiveError."""
    while size:
        count = min(size, _CHUNK_BYTES)
        chunk = source.read(count) or filling * count
        if not chunk:
            raise ArchiveError("ends early")
        target.write(chunk)
        size -= len(chunk)
