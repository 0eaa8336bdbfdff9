"""The files of a run on their way from a node to a folder of this machine."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from madengine.deploy.ssh import node
from madengine.deploy.ssh.archive import MOST_BYTES, ArchiveError, UnsafeArchiveError, unpack
from madengine.errors import MadengineError
from madengine.process import private_folder

# Some logins print a greeting before the archive.
_GREETING_BYTES = 1 << 16


class UnusableError(MadengineError):
    """An answer that madengine doesn't send: the host can't be trusted."""


class LimitedFile:
    """A file for an archive; takes no more than a run may have."""

    def __init__(self, file: IO[bytes], most_bytes: int = MOST_BYTES) -> None:
        self._file = file
        self._bytes_left = most_bytes

    def write(self, content: bytes) -> int:
        """Write all of the content. Raises UnusableError where it is too much."""
        self._bytes_left -= len(content)
        if self._bytes_left < 0:
            raise UnusableError(f"the host sends more than {MOST_BYTES >> 30} GiB of files")
        return self._file.write(content)


@contextmanager
def archive_for(target: Path) -> Iterator[Path]:
    """Yield the path of an archive near the folder that it is unpacked to; it is removed at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not beside it: what a killed madengine leaves is looked for in one folder.
    with private_folder(target.parents[1]) as folder:
        yield folder / "archive"


def is_unpacked(archive: Path, target: Path) -> bool:
    """Unpack an archive to the folder `target`; whether it was whole, else the folder stays as it was.

    Raises UnusableError for an archive that no madengine makes.
    """
    part = archive.with_name("part")
    part.mkdir()
    try:
        with archive.open("rb") as file:
            _unpack(file, part)
    except (ArchiveError, EOFError, zlib.error, gzip.BadGzipFile):
        return False
    except UnsafeArchiveError as error:
        raise UnusableError(f"the host's files are refused: {error}") from None
    if target.exists():
        target.rename(part.with_name("old"))
    part.rename(target)
    return True


def _unpack(archive: IO[bytes], folder: Path) -> None:
    before, mark, _ = archive.read(_GREETING_BYTES).partition(node.ARCHIVE_MARK)
    archive.seek(len(before) + len(mark))
    with gzip.GzipFile(fileobj=archive) as stream:
        unpack(stream, folder)
        if stream.read(1):  # at its end is the checksum
            raise ArchiveError("has more than its files")
