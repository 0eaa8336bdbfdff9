"""Locks for the builds of one machine: of the same steps at once each would make its own layers."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from madengine.errors import BuildError
from madengine.files.locks import Release, try_lock
from madengine.machine.lock_files import lock_folder, open_lock

logger = logging.getLogger(__name__)

# How often a build checks whether another one of the same steps has ended, and whether Ctrl-C was pressed.
_POLL_SECONDS = 0.05
# For the builds of this process, by the lock's name.
_process_locks: dict[str, threading.Lock] = {}


@contextmanager
def alone(name: str, key: str, stopping: threading.Event) -> Iterator[None]:
    """Hold the lock of that name for a step of the image `key`; a wait for another process is logged.

    Raises BuildError at Ctrl-C: the holder may take hours.
    """
    with ExitStack() as stack:
        _take_from_threads(_process_locks.setdefault(name, threading.Lock()), key, stopping, stack)
        _take_from_processes(name, key, stopping, stack)
        yield


def _take_from_threads(lock: threading.Lock, key: str, stopping: threading.Event, stack: ExitStack) -> None:
    while not lock.acquire(timeout=_POLL_SECONDS):
        _check(key, stopping)
    stack.callback(lock.release)


def _take_from_processes(name: str, key: str, stopping: threading.Event, stack: ExitStack) -> None:
    try:
        path = lock_folder("madengine-builds") / f"{name}.lock"
        handle = open_lock(path)
        stack.callback(os.close, handle)
        stack.callback(_when_free(handle, path, key, stopping))
    except OSError as error:
        # The lock only saves work: no step takes another build's image.
        logger.debug(f"{key}: built without a lock: {error}")


def _when_free(handle: int, path: Path, key: str, stopping: threading.Event) -> Release:
    """Take the lock as soon as it is free, and return what releases it."""
    if release := try_lock(handle, path):
        return release
    logger.info(f"{key}: waiting for another build of it")
    while not (release := try_lock(handle, path)):
        _check(key, stopping)
        stopping.wait(_POLL_SECONDS)
    return release


def _check(key: str, stopping: threading.Event) -> None:
    if stopping.is_set():
        raise BuildError(f"{key}: interrupted")
