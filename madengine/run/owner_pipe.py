"""A pipe in a run's folder that is open while this process lives: its end tells the container to stop."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from madengine.process import boot_id


@contextmanager
def owner_pipe(folder: Path) -> Iterator[None]:
    """Hold the pipe open; however this process ends, KILL included, the kernel closes it.

    On a file system without pipes there is none, and a container whose madengine was killed runs until its limit.
    """
    # By the boot's id entry.sh knows whether it shares our kernel, and thus the pipe.
    path, handle = folder / f".owner-{boot_id()}", None
    with suppress(OSError):
        # Roots of containers may be other users here.
        os.mkfifo(path, 0o644)
        handle = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)
        with suppress(OSError):
            path.unlink()
