"""A GPU is held by one run at a time: a lock per GPU, which the kernel releases when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from madengine.errors import RunError
from madengine.machine.lock_files import lock_folder, open_lock
from madengine.records import Gpu

POLL_SECONDS = 0.2


@contextmanager
def locked_gpus(
    candidates: Sequence[Gpu],
    count: int,
    model: str,
    wait_seconds: float = 0.0,
    stopping: threading.Event | None = None,
) -> Iterator[tuple[Gpu, ...]]:
    """Hold `count` of the candidates, the first free ones in their order, until the block ends.

    All or none are taken, so that two runs can't wait for one another. Raises RunError that names the
    holder where they don't come free in time, KeyboardInterrupt where `stopping` is set meanwhile.
    """
    stopping = stopping or threading.Event()
    deadline = time.monotonic() + wait_seconds
    while True:
        with contextlib.ExitStack() as locks:
            taken: list[Gpu] = []
            holders = []
            for gpu in candidates:
                holder = _take(gpu, model, locks) if len(taken) < count else None
                if holder is not None:
                    holders.append(f"GPU {gpu.index} is held by {holder}")
                elif len(taken) < count:
                    taken.append(gpu)
            if len(taken) == count:
                yield tuple(taken)
                return
        if time.monotonic() >= deadline:
            waited = f" after {wait_seconds:g} s" if wait_seconds else "; --gpu-wait SECONDS waits for it"
            raise RunError(f"{count} GPUs wanted, {len(taken)} free: {'; '.join(holders)}{waited}")
        if stopping.wait(POLL_SECONDS):
            raise KeyboardInterrupt


def _take(gpu: Gpu, model: str, locks: contextlib.ExitStack) -> str | None:
    """Lock one GPU until `locks` closes; gives None, or who holds it."""
    handle = _open(_path(gpu))
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        said = _said(handle)
        os.close(handle)
        return said
    locks.callback(os.close, handle)
    note = {"pid": os.getpid(), "user": _user(), "model": model}
    # Only for people to read: a lock without a note is a lock all the same.
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(note).encode(errors="replace"), 0)
    return None


def _path(gpu: Gpu) -> Path:
    # Parts of one AMD GPU share its UUID; their render nodes are their own.
    name = re.sub(r"[^A-Za-z0-9-]+", "-", gpu.render_node or gpu.uuid or str(gpu.index))
    try:
        return lock_folder("madengine-gpus") / f"{gpu.vendor.lower()}-{name}.lock"
    except OSError as error:
        raise RunError(f"{error.filename}: the locks of the GPUs can't be kept there: {error.strerror}") from error


def _open(path: Path) -> int:
    try:
        return open_lock(path)
    except OSError as error:
        raise RunError(f"{path}: the lock of this GPU can't be opened: {error.strerror}") from error


def _said(handle: int) -> str:
    note: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        found = json.loads(os.pread(handle, 4096, 0))
        note = found if isinstance(found, dict) else {}
    if not isinstance(note.get("pid"), int):
        return "another madengine"
    return f"process {note.get('pid')} of {note.get('user')} (model {note.get('model')!r})"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
