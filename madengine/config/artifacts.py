"""Files that a script left, collected in one folder beside its log."""

from __future__ import annotations

import errno
import fnmatch
import glob
import logging
import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from madengine.config.context import Context
from madengine.config.values import expected, shown
from madengine.errors import ConfigurationError
from madengine.files import (
    TREE_SECONDS,
    create_untrusted,
    inner_path,
    move_untrusted,
    open_untrusted,
    untrusted_folder,
    untrusted_tree,
)
from madengine.records import Artifact, Model

logger = logging.getLogger(__name__)

# Below a model's folder of the run.
FOLDER = "artifacts"
_CHUNK = 1 << 20
# What profilers write, whatever the folder.
_TOOL_OUTPUTS = ("*.db", "*.pftrace", "*_results*", "results.*", "*.nsys-rep", "*_trace.csv")
# What is in a workspace without the script having left it.
_OURS = (".hooks", "entry.json", "scripts")


def patterns_for(model: Model, context: Context, of_tools: Sequence[str]) -> tuple[str, ...]:
    """Return the globs of the files to collect: the model entry's, the context's and the tools'.

    Raise ConfigurationError for an invalid one.
    """
    return (
        *patterns(model.artifacts, f"artifacts of {model.name!r}"),
        *patterns(context.values.get("artifacts") or (), "context: artifacts"),
        *of_tools,
    )


def patterns(value: Any, where: str) -> tuple[str, ...]:
    """Return the globs of a list, or of one string with commas.

    Raise ConfigurationError for another value, or a glob that leads out of the workspace.
    """
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise expected(where, 'a list of globs such as ["*.json", "out/**"]', value)
    globs = tuple(item.strip() for item in items if item.strip())
    for text in globs:
        path = PurePosixPath(text)
        if path.is_absolute() or ".." in path.parts or "\0" in text or not path.parts:
            raise ConfigurationError(f"{where}: {shown(text)} leads out of the workspace; write it relative to that")
    return globs


def tool_outputs(workspace: Path, model_directory: str, since: float) -> tuple[str, ...]:
    """Return a glob for each file of the model's directory that looks like a profiler's and is newer.

    `since` is in seconds since the epoch.
    """
    files = []
    with suppress(OSError):
        for path, status in untrusted_tree(workspace, PurePath(model_directory)):
            is_new = stat.S_ISREG(status.st_mode) and status.st_mtime >= since
            if is_new and any(fnmatch.fnmatchcase(path.name, pattern) for pattern in _TOOL_OUTPUTS):
                files.append(glob.escape(str(path.relative_to(model_directory))))
    return tuple(files)


def bring(
    workspace: Path,
    model_directory: str,
    patterns: Iterable[str],
    *,
    besides: Iterable[str],
    may_move: bool,
    into: tuple[Path, PurePath] | None = None,
) -> tuple[Artifact, ...]:
    """Bring what matches to `workspace/artifacts`, or to `artifacts` of another folder, `into` with the path in it.

    Return each file's path there and its size.

    The globs are relative to the workspace and to the model's directory in it, whose files are moved where that
    directory is about to be removed (`may_move`) and copied otherwise. A folder that matches comes whole. A link is
    followed only to a file of the workspace. The files `besides` are our own. What can't be brought is logged.
    """
    ours = {FOLDER, *_OURS, *besides}
    home, below = into or (workspace, PurePath())
    seen: set[PurePath] = set()
    deadline = time.monotonic() + TREE_SECONDS
    artifacts: dict[str, Artifact] = {}
    for base in (PurePath(), PurePath(model_directory)):
        matches: set[PurePath] = set()
        try:
            for pattern in patterns:
                matches.update(_matches(workspace, base, pattern, model_directory, deadline))
        except OSError as error:
            _log_absence(base, error)
        # Links first: what they lead to may be moved.
        for path in sorted(matches, key=lambda path: (not (workspace / path).is_symlink(), path)):
            name = str(path.relative_to(base))
            if path in seen or (path.parts[0] in ours and base == PurePath()):
                continue
            seen.add(path)
            name = name if name not in artifacts else f"{model_directory}/{name}"
            try:
                target = (home, PurePath(below, FOLDER, name))
                size = _bring_one(workspace, path, target, may_move and base != PurePath())
                artifacts[name] = Artifact(f"{FOLDER}/{name}", size)
            except OSError as error:
                _log_absence(path, error)
    return tuple(artifacts[name] for name in sorted(artifacts))


def _log_absence(path: PurePath, error: OSError) -> None:
    logger.info(f"{path}: not brought back: {error.strerror or error}")


def _matches(
    workspace: Path, base: PurePath, pattern: str, model_directory: str, deadline: float
) -> Iterator[PurePath]:
    """Yield the files that a glob names, with those below a folder that it names; `*` doesn't mean the model's."""
    for path in _expanded(workspace, base, PurePosixPath(pattern).parts, deadline):
        if path == PurePath(model_directory) and base == PurePath() and pattern.strip("/") != model_directory:
            continue
        if path == PurePath() or stat.S_ISDIR((workspace / path).lstat().st_mode):
            tree = untrusted_tree(workspace, path, deadline)
            yield from (inner for inner, status in tree if not stat.S_ISDIR(status.st_mode))
        else:
            yield path


def _expanded(workspace: Path, place: PurePath, segments: Sequence[str], deadline: float) -> Iterator[PurePath]:
    """Yield what the rest of a glob names below a folder; a link is followed only to a folder of the workspace."""
    if not segments:
        yield place
        return
    first, rest = segments[0], segments[1:]
    if first == "**":
        folders = (path for path, status in untrusted_tree(workspace, place, deadline) if stat.S_ISDIR(status.st_mode))
        for folder in (place, *folders):
            yield from _expanded(workspace, folder, rest, deadline)
        return
    for name in fnmatch.filter(_names(workspace, place), first):
        yield from _expanded(workspace, place / name, rest, deadline)


def _names(workspace: Path, place: PurePath) -> list[str]:
    """Return what is in a folder; nothing if it is none."""
    try:
        with untrusted_folder(workspace, inner_path(workspace, place)) as handle:
            return os.listdir(handle)  # noqa: PTH208 # of a descriptor
    except OSError as error:
        if error.errno == errno.EXDEV:
            _log_absence(place, error)
        return []


def _bring_one(workspace: Path, path: PurePath, place: tuple[Path, PurePath], move: bool) -> int:
    """Bring one file; return its size. Raise OSError for what is no file of the workspace."""
    file, (home, target) = inner_path(workspace, path), place
    with open_untrusted(workspace, file, sys.maxsize) as source:
        size = os.fstat(source.fileno()).st_size
        if move and file == path:
            move_untrusted(workspace, file, target)
            return size
        try:
            with create_untrusted(home, target) as copy:
                _copy(source.fileno(), copy.fileno(), size)
        except OSError:
            with suppress(OSError):
                (home / target).unlink()
            raise
    return size


def _copy(source: int, target: int, size: int) -> None:
    """Copy a file; its holes, which may be larger than any disk, stay holes."""
    start = 0
    while start < size:
        try:
            start = os.lseek(source, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # only a hole follows
        end = os.lseek(source, start, os.SEEK_HOLE)
        while start < end and (chunk := os.pread(source, min(_CHUNK, end - start), start)):
            start += os.pwrite(target, chunk, start)
    os.ftruncate(target, size)
