"""Files that appear whole, JSON with located errors, files that someone else can replace, and locks."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO, Any

from madengine.errors import ConfigurationError, MadengineError


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that a reader sees all of it or nothing: a temporary neighbour, then a rename.

    Raises MadengineError (with the path and the system's reason) where it can't be written.
    """
    import tempfile

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


def check_writable(*paths: Path) -> None:
    """Make sure, before long work, that these files can be made; their directories are made if missing.

    Raises ConfigurationError that names the first that can't.
    """
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
                raise PermissionError(f"no file of this name can be made in {path.parent.resolve()}")
        except OSError as error:
            raise ConfigurationError(f"{path}: can't be written: {error.strerror or error}") from error


def write_json(path: Path, value: Any, mode: int = 0o644) -> None:
    """Write a value as indented JSON, whole. Raises MadengineError where it can't be written."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    # Half a character, as a file's name may hold, has no form in UTF-8 but one in JSON.
    text = re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)
    write_whole(path, f"{text}\n", mode)


def read_json(path: Path, error: type[MadengineError] = ConfigurationError, missing: Any = None) -> Any:
    """Read a JSON file (UTF-8, with or without a byte order mark).

    `missing`, unless None, is what a file that isn't there stands for. Raises `error` that names the path,
    the position where it is no JSON, and never what it holds.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        if missing is None:
            raise error(f"{path}: no such file") from None
        return missing
    except OSError as problem:
        raise error(f"{path}: can't be read: {_lower(problem.strerror or str(problem))}") from None
    except UnicodeDecodeError as problem:
        raise error(f"{path}: byte {problem.start} is not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as problem:
        raise error(f"{path}:{problem.lineno}:{problem.colno}: not JSON: {_lower(problem.msg)}") from None
    except (RecursionError, ValueError) as problem:
        raise error(f"{path}: not usable as JSON: {_lower(str(problem))}") from None


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[int]:
    """Open `path` for reading and appending (made if missing) and hold its exclusive lock; gives the descriptor.

    `waiting` is called again and again while somebody else holds it; it pauses, and may raise.
    Raises OSError where it can't be opened.
    """
    handle = _opened_and_locked(path, waiting)
    try:
        yield handle
    finally:
        os.close(handle)


def _opened_and_locked(path: Path, waiting: Callable[[], None] | None) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _lock(handle, waiting)
            if _is_at(path, handle):
                return handle
        except BaseException:
            os.close(handle)
            raise
        # Another file has taken its place meanwhile: who opens the path now would not meet our lock.
        os.close(handle)


def _lock(handle: int, waiting: Callable[[], None] | None) -> None:
    while waiting:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            waiting()
    fcntl.flock(handle, fcntl.LOCK_EX)


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def human_size(size: int) -> str:
    """A size in bytes as docker prints it: three digits, decimal units (`1.2GB`, `72.8MB`)."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB", "PB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g}{units[0]}"


# --- what a container, a node or a pod may have written, or replaced by something else ---


@contextmanager
def untrusted_folder(folder: Path, path: str | PurePath = "") -> Iterator[int]:
    """Open the folder at `path` below `folder`, following no symbolic link below it; yield the descriptor.

    Raises OSError, also for an absolute path and for "..".
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in _parts(path):
            inner = _open_at(handle, part, path, os.O_DIRECTORY)
            os.close(handle)
            handle = inner
        yield handle
    finally:
        os.close(handle)


def open_untrusted(folder: Path, path: str | PurePath, limit: int) -> IO[bytes]:
    """Open the regular file at `path` below `folder`, following no symbolic link below it.

    It never blocks: a pipe or a device is refused unread. Raises OSError, also for an absolute path, for "..", and
    for a file of more than `limit` bytes.
    """
    parts = _parts(path)
    with untrusted_folder(folder, PurePath(*parts[:-1])) as parent:
        handle = _open_at(parent, "".join(parts[-1:]) or ".", path)
    status = os.fstat(handle)
    problem = (errno.EINVAL, "not a regular file") if not stat.S_ISREG(status.st_mode) else None
    if not problem and status.st_size > limit:
        problem = (errno.EFBIG, f"larger than {limit} bytes")
    if problem:
        os.close(handle)
        raise OSError(*problem, str(path))
    return os.fdopen(handle, "rb")


def read_untrusted(folder: Path, path: str | PurePath, limit: int) -> bytes:
    """Return the content of the regular file at `path` below `folder`, as `open_untrusted` opens it."""
    with open_untrusted(folder, path, limit) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit} bytes", str(path))
    return content


def _parts(path: str | PurePath) -> tuple[str, ...]:
    parts = PurePath(path).parts
    if PurePath(path).is_absolute() or ".." in parts or "\0" in str(path):
        raise OSError(errno.EINVAL, "not a path below its folder", str(path))
    return parts


def _open_at(parent: int, name: str, path: str | PurePath, flags: int = 0) -> int:
    try:
        # Without O_NONBLOCK a pipe would wait for a writer.
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | flags, dir_fd=parent)
    except OSError as error:
        raise OSError(error.errno, _LINKS.get(error.errno or 0, error.strerror), str(path)) from None
    except ValueError:
        raise OSError(errno.EINVAL, "not a valid path", str(path)) from None


_LINKS = {
    errno.ELOOP: "a symbolic link, expected a file",
    errno.ENOTDIR: "a symbolic link or a file, expected a folder",
}

#: objects and lists inside each other
NESTING_LIMIT = 50


def parse_json(text: str) -> Any:
    """Parse JSON of finite numbers that is nested at most NESTING_LIMIT deep. Raises ValueError with the reason."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f"nested more than {NESTING_LIMIT} levels deep") from None
    level = [value]
    for _ in range(NESTING_LIMIT):
        if any(isinstance(item, float) and not math.isfinite(item) for item in level):
            raise ValueError("a number is not finite")
        level = [item for outer in level for item in _items(outer)]
        if not level:
            return value
    raise ValueError(f"nested more than {NESTING_LIMIT} levels deep")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value
