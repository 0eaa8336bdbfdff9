"""The files of a run as they come from a node."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from madengine.deploy.ssh import node
from madengine.programs import Answer, ssh

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

# Some logins print a greeting before the archive.
_GREETING_BYTES = 1 << 16


@contextmanager
def archive_for(target: Path) -> Iterator[Path]:
    """Yield the path of an archive beside the folder that it is unpacked to; it is removed at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        yield Path(folder) / "archive"


def is_unpacked(archive: Path, target: Path) -> bool:
    """Unpack an archive to the folder `target`; whether it was whole, else there is no folder."""
    part = archive.with_name("part")
    try:
        with archive.open("rb") as file:
            _unpack(file, part)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile):
        return False
    _replace(part, target)
    return True


def receive_archive(order: BaseCommand, archive: Path) -> Answer:
    """Write what an order prints to a file."""
    with archive.open("wb") as file:
        return Answer(ssh.receive(order, file), "", "")


def _unpack(archive: IO[bytes], target: Path) -> None:
    """Write the regular files of an archive that have a name below the folder."""
    target.mkdir()
    before, mark, _ = archive.read(_GREETING_BYTES).partition(node.ARCHIVE_MARK)
    archive.seek(len(before) + len(mark))
    with gzip.GzipFile(fileobj=archive) as packed, tarfile.open(fileobj=packed, mode="r|") as members:
        for member in members:
            name = PurePosixPath(member.name)
            source = members.extractfile(member) if member.isfile() else None
            if source is None or name.is_absolute() or ".." in name.parts:
                continue
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                shutil.copyfileobj(source, file)
        while packed.read(_GREETING_BYTES):  # to its end, where the checksum is
            pass


def _replace(part: Path, target: Path) -> None:
    """Move a folder to where there may be one already."""
    if target.exists():
        target.rename(part.with_name("old"))
    part.rename(target)
