"""Files that appear whole, and locks that the kernel releases when their holder dies."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from madengine.errors import MadengineError


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that a reader sees all of it or nothing: a temporary neighbour, then a rename.

    Raises MadengineError (with the path and the system's reason) where it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(mode)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink()
            raise
    except OSError as error:
        raise MadengineError(f"{path}: can't be written: {error.strerror or error}") from error


def write_json(path: Path, value: Any, mode: int = 0o644) -> None:
    """Write a value as indented JSON, whole."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", mode)


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Open `path` for reading and appending (made if missing) and hold its exclusive lock; gives the descriptor."""
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)
