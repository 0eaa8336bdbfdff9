"""Files: read within limits, also ones that someone else can replace; written whole."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import re
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any

from madengine.errors import ConfigurationError, MadengineError
from madengine.process import own_prefix, remove_abandoned

if TYPE_CHECKING:
    from _csv import Reader

#: bytes of a file that is read whole
SIZE_LIMIT = 64 * 1024 * 1024
#: objects and lists inside each other
NESTING_LIMIT = 50
#: digits of an integer; any number of so many is a float too
DIGITS_LIMIT = 300
#: characters of the path of a folder that is entered, below the one that someone else could write to
PATH_LIMIT = 2000
#: for listing such a folder
TREE_SECONDS = 60.0
# of a file's name in that of its draft
_NAME_CHARACTERS = 100

_IMPOSSIBLE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)
_KINDS = {
    stat.S_IFDIR: "is a directory",
    stat.S_IFIFO: "is a FIFO, expected a file",
    stat.S_IFSOCK: "is a socket, expected a file",
    stat.S_IFCHR: "is a device, expected a file",
    stat.S_IFBLK: "is a device, expected a file",
}


def read_text(path: Path, error: type[MadengineError] = ConfigurationError) -> str:
    """Read a text file (UTF-8, with or without a byte order mark) that a package or a user supplies.

    Raise `error`, with the path and the reason, if it is missing, is no regular file, is larger than SIZE_LIMIT, or
    can't be read or decoded. A FIFO or a device is never waited for.
    """
    try:
        return _read_bytes(path).decode("utf-8-sig")
    except FileNotFoundError:
        raise error(f"{path}: {'a link to a missing file' if path.is_symlink() else 'no such file'}") from None
    except OSError as problem:
        raise error(f"{path}: can't be read: {_lower(problem.strerror or str(problem))}") from None
    except UnicodeDecodeError as problem:
        raise error(f"{path}: byte {problem.start} is not UTF-8; save the file as UTF-8") from None
    except ValueError:
        raise error(f"{path}: invalid path, contains a null character or a lone surrogate") from None


def _read_bytes(path: Path) -> bytes:
    # Opening a device may already change something, so look first; look again at what was opened.
    _check_kind(path.stat().st_mode)
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
        _check_kind(os.fstat(file.fileno()).st_mode)
        content = file.read(SIZE_LIMIT + 1)
    if len(content) > SIZE_LIMIT:
        raise OSError(f"it is larger than {human_size(SIZE_LIMIT)}")
    return content


def _check_kind(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(_KINDS.get(stat.S_IFMT(mode), "is no regular file"))


def read_json(path: Path, error: type[MadengineError] = ConfigurationError, missing: Any = None) -> Any:
    """Read a JSON file as `read_text` and `parse_json` do.

    Return `missing`, unless that is None, for a file that does not exist.
    Raise `error` with the path, the position of a syntax error, and never the file's content.
    """
    if missing is not None and not os.path.lexists(path):
        return missing
    text = read_text(path, error)
    try:
        return parse_json(text)
    except json.JSONDecodeError as problem:
        raise error(f"{path}:{problem.lineno}:{problem.colno}: not JSON: {_lower(problem.msg)}") from None
    except ValueError as problem:
        raise error(f"{path}: not usable as JSON: {problem}") from None


def parse_json(text: str) -> Any:
    """Parse JSON within NESTING_LIMIT and DIGITS_LIMIT, and without Python's NaN and Infinity.

    Raise ValueError, which for a syntax error is a json.JSONDecodeError.
    """
    try:
        value = json.loads(text, parse_float=_float, parse_int=_int, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f"nested more than {NESTING_LIMIT} levels deep") from None
    check_nesting(value)
    return value


def check_nesting(value: Any) -> None:
    """Raise ValueError if a value of JSON's types is nested deeper than NESTING_LIMIT."""
    level = [value] if isinstance(value, list | dict) else []
    for _ in range(NESTING_LIMIT):
        inner = (item for container in level for item in _items(container))
        level = [item for item in inner if isinstance(item, list | dict)]
    if level:
        raise ValueError(f"nested more than {NESTING_LIMIT} levels deep")


def _items(container: list[Any] | dict[str, Any]) -> Any:
    return container.values() if isinstance(container, dict) else container


def _int(digits: str) -> int:
    if len(digits) > DIGITS_LIMIT:
        raise ValueError(f"a number has more than {DIGITS_LIMIT} digits")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number is too large for a float")
    return number


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"invalid number {name}")


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that a reader sees all of it or nothing: a temporary neighbour, then a rename.

    Raise MadengineError, with the path and the system's reason, if it can't be written.
    """
    import tempfile

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.name[:_NAME_CHARACTERS]}."
        remove_abandoned(path.parent, prefix)
        handle, name = tempfile.mkstemp(prefix=own_prefix(prefix), dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
                file.flush()
                sync(file.fileno())
            with where_possible():
                Path(name).chmod(mode)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink()
            raise
    except OSError as error:
        raise MadengineError(f"{path}: can't be written: {error.strerror or error}") from error


def sync(handle: int) -> None:
    """Wait until an open file is on its disk, where the file system can."""
    with where_possible():
        os.fsync(handle)


@contextmanager
def where_possible() -> Iterator[None]:
    """Do without what a file system doesn't have, such as fsync on some FUSE and modes on CIFS."""
    try:
        yield
    except OSError as error:
        if error.errno not in _IMPOSSIBLE:
            raise


def check_writable(*paths: Path) -> None:
    """Make files beside these, before long work, and remove them; make the directories if missing.

    Raise ConfigurationError for the first that can't.
    """
    from tempfile import TemporaryFile

    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError("it is a directory")
            # Tried, not asked for: root of a machine may be nobody on a file server.
            with TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise ConfigurationError(f"{path}: can't be written: {error.strerror or error}") from error


def write_json(path: Path, value: Any, mode: int = 0o644) -> None:
    """Write a value as indented JSON, whole; NaN and infinity become null, which is all that JSON has for them.

    Raise MadengineError if it can't be written.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    # Half a character, as a file's name may hold, has no form in UTF-8 but one in JSON.
    text = re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)
    write_whole(path, f"{text}\n", mode)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def csv_reader(lines: Iterable[str], strict: bool = True, skipinitialspace: bool = False) -> Reader:
    """Return a reader of CSV whose cells may be of any length; Python's own limit is 128 KiB."""
    csv.field_size_limit(sys.maxsize)
    return csv.reader(lines, strict=strict, skipinitialspace=skipinitialspace)


def csv_rows(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of a table in CSV by the names in its first line; cells may be of any length."""
    csv.field_size_limit(sys.maxsize)
    yield from csv.DictReader(lines)


def cache_home() -> Path:
    """Return the folder of this user's files that can be made again."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    # The standard says to ignore a relative one.
    folder = Path(home) if home.startswith("/") else Path(os.path.expanduser("~/.cache"))  # noqa: PTH111
    return folder / "madengine"


def human_size(size: int) -> str:
    """Return a size in bytes as docker prints it: three digits, decimal units (`1.2GB`, `72.8MB`)."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB", "PB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g}{units[0]}"


# --- what a container, a node or a pod may have written, or replaced by something else ---


@contextmanager
def untrusted_folder(folder: Path, path: str | PurePath = "", make: bool = False) -> Iterator[int]:
    """Open the folder at `path` below `folder`, following no symbolic link below it; yield the descriptor.

    With `make`, folders that are missing are made, in place of whatever else has their names.
    Raises OSError, also for an absolute path and for "..".
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in _parts(path):
            if make:
                _make_folder_at(handle, part)
            inner = _open_at(handle, part, path, os.O_DIRECTORY)
            os.close(handle)
            handle = inner
        yield handle
    finally:
        os.close(handle)


def _make_folder_at(parent: int, name: str) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
            os.unlink(name, dir_fd=parent)
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=parent)


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
        problem = (errno.EFBIG, f"larger than {human_size(limit)}")
    if problem:
        os.close(handle)
        raise OSError(*problem, str(path))
    return os.fdopen(handle, "rb")


def read_untrusted(folder: Path, path: str | PurePath, limit: int) -> bytes:
    """Return the content of the regular file at `path` below `folder`, as `open_untrusted` opens it."""
    with open_untrusted(folder, path, limit) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {human_size(limit)}", str(path))
    return content


def create_untrusted(folder: Path, path: str | PurePath) -> IO[bytes]:
    """Make a new file at `path` below `folder`, and its folders, in place of whatever has its name there."""
    *folders, name = _parts(path)
    with untrusted_folder(folder, PurePath(*folders), make=True) as parent:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)
        return os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent), "wb")


def move_untrusted(folder: Path, path: PurePath, target: PurePath) -> None:
    """Move a file below `folder` to `target` there, in place of whatever file has its name."""
    with (
        untrusted_folder(folder, path.parent) as source,
        untrusted_folder(folder, target.parent, make=True) as destination,
    ):
        os.rename(path.name, target.name, src_dir_fd=source, dst_dir_fd=destination)


def inner_path(folder: Path, path: str | PurePath) -> PurePath:
    """Return the path below `folder` that `path` leads to, through links of any kind.

    Raises OSError, FileNotFoundError where it leads nowhere.
    """
    home = folder.resolve()
    try:
        target = (home / path).resolve(strict=True)
    except (ValueError, RuntimeError):  # a null character; a link to itself
        raise OSError(errno.EINVAL, "not a valid path", str(path)) from None
    if not target.is_relative_to(home):
        raise OSError(errno.EXDEV, "leads out of its folder", str(path))
    return target.relative_to(home)


def untrusted_tree(
    folder: Path, path: PurePath | None = None, deadline: float | None = None
) -> Iterator[tuple[PurePath, os.stat_result]]:
    """Yield everything below `path` in `folder`, with its status: links as links, and what can't be listed left out.

    Folders whose paths are longer than PATH_LIMIT are not entered. Raises TimeoutError at the deadline (by the clock
    time.monotonic), by default after TREE_SECONDS.
    """
    deadline = deadline or time.monotonic() + TREE_SECONDS
    pending = [path or PurePath()]
    while pending:
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, "takes too long to list", str(folder))
        place = pending.pop()
        with suppress(OSError), untrusted_folder(folder, place) as handle:
            for name in sorted(os.listdir(handle)):  # noqa: PTH208 # of a descriptor
                status = os.lstat(name, dir_fd=handle)
                if stat.S_ISDIR(status.st_mode) and not _is_too_deep(place / name):
                    pending.append(place / name)
                yield place / name, status


def _is_too_deep(path: PurePath) -> bool:
    return len(str(path)) > PATH_LIMIT


def disarm(folder: Path, shared: bool = False) -> int:
    """Remove what gives others rights on this machine from `folder`, which is no longer being written to.

    These are device nodes, setuid and setgid bits, and, unless it is `shared`, other users' right to write. Folders too
    deep to enter are closed to others, and so is all of it if something could not be done, unless it is `shared`.
    Return how many files it could not be done for.
    """
    failures = 0
    with suppress(TimeoutError):
        for path, status in chain([(PurePath(), folder.lstat())], untrusted_tree(folder)):
            kind, mode = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)
            rights = _rights(path, kind, shared)
            if kind != stat.S_IFLNK and (kind in _DEVICES or mode & rights):
                try:
                    _disarm_one(folder, path, kind, mode & ~rights)
                except OSError:
                    failures += 1
        if not failures:
            return 0
    if not shared:
        with suppress(OSError):
            folder.chmod(stat.S_IRWXU)
    return failures or 1


def _rights(path: PurePath, kind: int, shared: bool) -> int:
    """Return the bits of a mode that are to go; a folder's setgid bit only hands on its group."""
    if kind == stat.S_IFDIR and _is_too_deep(path):
        return stat.S_IRWXG | stat.S_IRWXO
    return (0 if shared else stat.S_IWOTH) | (0 if kind == stat.S_IFDIR else stat.S_ISUID | stat.S_ISGID)


_DEVICES = (stat.S_IFBLK, stat.S_IFCHR)


def _disarm_one(folder: Path, path: PurePath, kind: int, mode: int) -> None:
    with untrusted_folder(folder, path.parent) as parent:
        if kind in _DEVICES:
            os.unlink(path.name, dir_fd=parent)
            return
        # Without opening it: its owner may have no right to read it.
        handle = os.open(path.name or ".", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            Path(f"/proc/self/fd/{handle}").chmod(mode)
        finally:
            os.close(handle)


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
