"""Exclusive locks of files: the kernel's, or a lock file's on a file system without any (Lustre, some NFS and FUSE)."""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from madengine.files import read_untrusted, sync
from madengine.process import own_process_id, process_has_ended

# How often the holder of a lock file refreshes it, and when one that is not refreshed counts as dead.
REFRESH_SECONDS = 10.0
STALE_SECONDS = 180.0
_POLL_SECONDS = 0.02
_OWNER_LIMIT = 4096  # bytes

Release = Callable[[], None]


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[int]:
    """Open `path` for reading and appending (made if missing) and hold its exclusive lock; yield the descriptor.

    `waiting` is called again and again while another process holds it; it pauses, and may raise.
    Raise OSError if it can't be opened or locked.
    """
    handle, release = _open_and_lock(path, waiting or _pause)
    try:
        yield handle
    finally:
        try:
            release()
        finally:
            os.close(handle)


@contextmanager
def alone_with(*paths: Path) -> Iterator[None]:
    """Let one process at a time read, change and write these files; a file's own lock covers only one of these."""
    with ExitStack() as stack:
        # In one order for all, so that no two wait for one another.
        for path in sorted({path.absolute() for path in paths}):
            lock = path.with_name(f".{path.name}.in-use")
            stack.enter_context(locked(lock))
            stack.callback(lock.unlink, missing_ok=True)
        yield


@contextmanager
def in_use(*folders: Path) -> Iterator[None]:
    """Let others see, until the block ends, that these folders are used; `unused` is how they look.

    A folder that is missing, and a file system that locks no folders, are no error.
    """
    with ExitStack() as stack:
        for folder in folders:
            with suppress(OSError):
                handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                stack.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield


@contextmanager
def unused(folder: Path) -> Iterator[bool]:
    """Yield whether no process has the folder `in_use`; none that asks meanwhile sees it unused too."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        is_unused = True
        with suppress(OSError):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                is_unused = False
        yield is_unused
    finally:
        os.close(handle)


def try_lock(handle: int, path: Path) -> Release | None:
    """Lock the open file at `path`, and return what releases the lock; None if another holds it.

    Where the file system has no locks, a file `.NAME.lock` beside it is one. The kernel's lock ends with its holder;
    a lock file of a dead process on this machine is ignored, one of another machine STALE_SECONDS after its last
    refresh. Raise OSError if neither can be had.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError:
        return _try_lock_file(path.with_name(f".{path.name}.lock"))
    return partial(fcntl.flock, handle, fcntl.LOCK_UN)


def _open_and_lock(path: Path, waiting: Callable[[], None]) -> tuple[int, Release]:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            while (release := try_lock(handle, path)) is None:
                waiting()
            if _is_at(path, handle):
                return handle, release
            release()
        except BaseException:
            os.close(handle)
            raise
        # Another file has taken its place meanwhile: a process that opens the path now would not meet our lock.
        os.close(handle)


def _pause() -> None:
    time.sleep(_POLL_SECONDS)


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


# --- lock files ---


def _try_lock_file(path: Path) -> Release | None:
    for _ in range(2):
        with suppress(FileExistsError):
            return _new_lock_file(path)
        if not _remove_abandoned(path):
            return None
    return None


def _new_lock_file(path: Path) -> Release:
    owner = f"{own_process_id()} {os.urandom(8).hex()} {os.uname().nodename}\n".encode()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(handle, owner)
        sync(handle)
    except BaseException:
        path.unlink()
        os.close(handle)
        raise
    return _HeldLockFile(path, handle, owner).release


class _HeldLockFile:
    """A lock file that is ours, refreshed until it is released."""

    def __init__(self, path: Path, handle: int, owner: bytes) -> None:
        self._path, self._handle, self._owner = path, handle, owner
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._refresh, daemon=True)
        self._thread.start()

    def _refresh(self) -> None:
        while not self._released.wait(REFRESH_SECONDS):
            with suppress(OSError):
                os.pwrite(self._handle, self._owner, 0)
                sync(self._handle)

    def release(self) -> None:
        self._released.set()
        self._thread.join()
        with suppress(OSError):
            # After a pause of ours that was too long, the lock may be another's.
            if _owner_of(self._path) == self._owner:
                self._path.unlink()
        os.close(self._handle)


def _owner_of(path: Path) -> bytes:
    return read_untrusted(path.parent, path.name, _OWNER_LIMIT)


def _remove_abandoned(path: Path) -> bool:
    """Remove a lock file whose holder is dead; return whether there is none now."""
    aside = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
    try:
        owner = _owner_of(path)
        if not _is_abandoned(path, owner):
            return False
        # Of two processes that see it abandoned, only one gets it out of the way ...
        path.rename(aside)
        is_same = _owner_of(aside) == owner
        # ... and the other may have got the new holder's.
        if not is_same:
            os.link(aside, path)
        aside.unlink()
        return is_same
    except FileNotFoundError:
        return True


def _is_abandoned(path: Path, owner: bytes) -> bool:
    if process_has_ended(owner.decode(errors="replace").partition(" ")[0]):
        return True
    refreshed = path.stat().st_mtime
    return time.time() - refreshed > STALE_SECONDS and _clock_of(path.parent) - refreshed > STALE_SECONDS


def _clock_of(folder: Path) -> float:
    """Return the time by the clock of a folder's file system, which may be that of another machine."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime
