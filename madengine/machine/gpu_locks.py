"""A lock per GPU, for one run at a time, which ends with its holder."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madengine.config.values import shown, shown_key
from madengine.errors import RunError
from madengine.files import parse_json
from madengine.files.locks import try_lock
from madengine.machine.lock_files import lock_folder, open_lock
from madengine.records import Gpu

POLL_SECONDS = 0.2
# The kernel's list of locks.
LOCKS = Path("/proc/locks")
_FOLDER = "madengine-gpus"


@dataclass(frozen=True)
class LockHolder:
    """Who holds a GPU's lock, by the note in it: None and empty if that is missing."""

    pid: int | None = None
    user: str = ""
    model: str = ""

    @property
    def text(self) -> str:
        """The holder in words."""
        if self.pid is None:
            return "another madengine"
        return f"process {shown(self.pid)} of {self.user} (model {shown(self.model)})"


@contextmanager
def locked_gpus(
    candidates: Sequence[Gpu],
    count: int,
    model: str,
    wait_seconds: float = 0.0,
    stopping: threading.Event | None = None,
    users: Callable[[], Mapping[str, str]] = dict,
) -> Iterator[tuple[Gpu, ...]]:
    """Lock `count` of the candidates, the first free ones in their order, until the block ends.

    It locks all or none, so that two runs can't wait for one another. `users` returns who uses GPUs, by their
    `lock_name`, without a lock that is seen here; it is called while locks are held. Raises RunError, which names the
    holders, if the GPUs don't become free within `wait_seconds`, and KeyboardInterrupt if `stopping` is set meanwhile.
    """
    stopping = stopping or threading.Event()
    deadline = time.monotonic() + wait_seconds
    while True:
        with contextlib.ExitStack() as locks:
            locked, holders = _lock_free(candidates, count, model, locks, users)
            if len(locked) == count:
                yield tuple(locked)
                return
        if time.monotonic() >= deadline:
            waited = f" after {wait_seconds:g} s" if wait_seconds else "; --gpu-wait SECONDS waits for them"
            raise RunError(f"{count} GPUs needed, {len(locked)} free: {'; '.join(holders)}{waited}")
        if stopping.wait(POLL_SECONDS):
            raise KeyboardInterrupt


def _lock_free(
    candidates: Sequence[Gpu],
    count: int,
    model: str,
    locks: contextlib.ExitStack,
    users: Callable[[], Mapping[str, str]],
) -> tuple[list[Gpu], list[str]]:
    """Lock up to `count` GPUs until `locks` closes; return them, and for each of the others that it met its holder."""
    locked: list[Gpu] = []
    holders: list[str] = []
    others: Mapping[str, str] | None = None
    for gpu in candidates:
        if len(locked) == count:
            break
        holder = _take(gpu, model, locks)
        if holder is None:
            others = users() if others is None else others
            holder = others.get(lock_name(gpu))
        if holder is None:
            locked.append(gpu)
        else:
            holders.append(f"GPU {gpu.index} is in use by {holder}")
    return locked, holders


def _take(gpu: Gpu, model: str, locks: contextlib.ExitStack) -> str | None:
    """Lock one GPU until `locks` closes; return its holder if it is locked already, else None."""
    path = _path(gpu)
    handle = _open(path)
    try:
        release = try_lock(handle, path)
    except OSError as error:
        os.close(handle)
        raise RunError(f"{path}: can't be locked: {error.strerror}") from error
    if not release:
        holder = _note(handle).text
        os.close(handle)
        return holder
    locks.callback(os.close, handle)
    locks.callback(release)
    note = {"pid": os.getpid(), "user": _user(), "model": model}
    # Only for messages: a lock without a note is a lock all the same.
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(note).encode(errors="replace"), 0)
    return None


def lock_name(gpu: Gpu) -> str:
    """Return the name by which all who may use a GPU know it, in containers too."""
    # Parts of an AMD GPU share its UUID, but not its render node.
    name = re.sub(r"[^A-Za-z0-9-]+", "-", gpu.render_node or gpu.uuid or str(gpu.index))
    return f"{gpu.vendor.lower()}-{name}"


def lock_holders() -> dict[str, LockHolder]:
    """Return who holds the locks of this machine's GPUs, by the names that they have as locks.

    No lock is tried, which another process would meet: the kernel lists them.
    """
    held = _locked_files()
    holders = {}
    for path in sorted(lock_folder(_FOLDER).glob("*.lock")):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                status = os.fstat(handle)
                if (status.st_dev, status.st_ino) in held:
                    holders[path.stem] = _note(handle)
            finally:
                os.close(handle)
    return holders


def _locked_files() -> set[tuple[int, int]]:
    """Return device and inode of every file that is locked as a whole."""
    files = set()
    with suppress(OSError):
        for line in LOCKS.read_text(encoding="ascii", errors="replace").splitlines():
            if match := re.search(r"FLOCK .* ([0-9a-f]+):([0-9a-f]+):(\d+) ", line):
                files.add((os.makedev(int(match[1], 16), int(match[2], 16)), int(match[3])))
    return files


def _path(gpu: Gpu) -> Path:
    try:
        return lock_folder(_FOLDER) / f"{lock_name(gpu)}.lock"
    except OSError as error:
        raise RunError(f"{error.filename}: the locks of the GPUs can't be kept there: {error.strerror}") from error


def _open(path: Path) -> int:
    try:
        return open_lock(path)
    except OSError as error:
        raise RunError(f"{path}: can't open the GPU lock: {error.strerror}") from error


def _note(handle: int) -> LockHolder:
    note: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        # Any user may have written it.
        content = parse_json(os.pread(handle, 4096, 0).decode(errors="replace"))
        note = content if isinstance(content, dict) else {}
    pid = note.get("pid")
    if isinstance(pid, bool) or not isinstance(pid, int):
        return LockHolder()
    return LockHolder(pid, shown_key(str(note.get("user"))), shown_key(str(note.get("model"))))


def _user() -> str:
    """Return the user's name as the system has it; $USER may be anyone's."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except (KeyError, OSError):
        return str(os.getuid())
