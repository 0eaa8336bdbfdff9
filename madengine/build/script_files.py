"""Scripts as an image gets them: what links lead to, or the link where that is nowhere; no sockets and devices."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

logger = logging.getLogger(__name__)


class EntryKind(Enum):
    FOLDER = "a folder"
    FILE = "a file"
    #: A link to nowhere on this machine, or to a folder that holds it.
    LINK = "a link that leads nowhere here, or to a folder that holds it; the image gets the link"
    #: A socket, pipe or device.
    SPECIAL = "a socket, pipe or device; left out"


@dataclass(frozen=True)
class Entry:
    """A path below a folder, relative to it."""

    path: Path
    kind: EntryKind


def entries(folder: Path) -> Iterator[Entry]:
    """Yield what a folder holds, each folder before its content; raise OSError where something can't be read."""
    yield from _entries(folder, Path(), frozenset(map(_identity, folder.resolve().parents)))


def check(source: Path) -> None:
    """Log what an image doesn't get of a file or folder as it is here; raise OSError where something can't be read."""
    for entry in entries(source) if source.is_dir() else ():
        if entry.kind in (EntryKind.LINK, EntryKind.SPECIAL):
            logger.info(f"{source / entry.path}: {entry.kind.value}")


def copy(source: Path, target: Path) -> None:
    """Copy a file or folder; raise OSError."""
    if not source.is_dir():
        shutil.copy2(source, target)
        return
    target.mkdir()
    for entry in entries(source):
        if entry.kind is EntryKind.FOLDER:
            (target / entry.path).mkdir()
        elif entry.kind is EntryKind.FILE:
            shutil.copy2(source / entry.path, target / entry.path)
        elif entry.kind is EntryKind.LINK:
            (target / entry.path).symlink_to((source / entry.path).readlink())


def shell_lines(source: Path, target: str) -> Iterator[str]:
    """Yield the lines for a POSIX shell that copy a file or folder."""
    paths = list(entries(source)) if source.is_dir() else []
    if all(entry.kind in (EntryKind.FOLDER, EntryKind.FILE) for entry in paths):
        yield shlex.join(["cp", "-RLp", str(source), target])
        return
    yield shlex.join(["mkdir", "-p", target])
    for entry in paths:
        copy_path = f"{target}/{entry.path}"
        if entry.kind is EntryKind.FOLDER:
            yield shlex.join(["mkdir", copy_path])
        elif entry.kind is EntryKind.FILE:
            yield shlex.join(["cp", "-Lp", str(source / entry.path), copy_path])
        elif entry.kind is EntryKind.LINK:
            yield shlex.join(["ln", "-s", "--", str((source / entry.path).readlink()), copy_path])


def _entries(root: Path, inside: Path, above: frozenset[tuple[int, int]]) -> Iterator[Entry]:
    folder = root / inside
    above |= {_identity(folder)}
    for path in sorted(folder.iterdir()):
        kind = _kind(path, above)
        yield Entry(inside / path.name, kind)
        if kind is EntryKind.FOLDER:
            yield from _entries(root, inside / path.name, above)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _kind(path: Path, above: frozenset[tuple[int, int]]) -> EntryKind:
    try:
        status = path.stat()
    except OSError:
        if path.is_symlink():
            return EntryKind.LINK
        raise
    if stat.S_ISDIR(status.st_mode):
        return EntryKind.LINK if path.is_symlink() and _identity(path) in above else EntryKind.FOLDER
    if not stat.S_ISREG(status.st_mode):
        return EntryKind.SPECIAL
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return EntryKind.FILE
