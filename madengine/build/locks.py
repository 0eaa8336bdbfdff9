"""Locks that keep builds on one machine from changing what another one is just building on."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from madengine.errors import BuildError

logger = logging.getLogger(__name__)

# How often a build looks whether another one of the same name has ended.
_LOCK_SECONDS = 0.05


@contextmanager
def alone(name: str, stopping: threading.Event, announce: bool = False) -> Iterator[None]:
    """Hold this machine's lock of that name; with `announce` a wait for another build is logged.

    Raises BuildError at Ctrl-C: the holder may be another madengine, and take hours.
    """
    handle = os.open(_lock_folder() / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _taken(handle):
            if announce:
                logger.info(f"{name}: waiting for another build of it")
                announce = False
            if stopping.wait(_LOCK_SECONDS):
                raise BuildError(f"{name}: interrupted")
        yield
    finally:
        os.close(handle)


def _lock_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"madengine-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise BuildError(f"{folder}: belongs to somebody else; remove it, or set TMPDIR")
    return folder


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
