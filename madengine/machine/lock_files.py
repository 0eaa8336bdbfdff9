"""Lock files where all users of this machine meet; the kernel releases a lock when its holder dies."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

# The first that all users of a machine can write to, so that it is one place for all of them.
FOLDERS = (Path("/run/lock"), Path("/tmp"))


def lock_folder(name: str) -> Path:
    """Return the machine's folder for one kind of locks, made if missing.

    Raises OSError, with the folder as its filename, where it can't be made.
    """
    folder = next((folder for folder in FOLDERS if _is_for_all(folder)), FOLDERS[-1]) / name
    with suppress(FileExistsError):
        folder.mkdir(mode=0o777)
        folder.chmod(0o1777)
    return folder


def open_lock(path: Path) -> int:
    """Open a lock file, made if missing, and return its descriptor.

    Another user's file is opened, never created again: in a sticky folder the kernel would refuse that.
    """
    with suppress(FileNotFoundError):
        return _open(path)
    with suppress(FileExistsError):
        handle = _open(path, os.O_CREAT | os.O_EXCL)
        os.fchmod(handle, 0o666)
        return handle
    return _open(path)


def _open(path: Path, flags: int = 0) -> int:
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o666)


def _is_for_all(folder: Path) -> bool:
    with suppress(OSError):
        return bool(folder.stat().st_mode & stat.S_IWOTH)
    return False
