"""git-lfs: pointers that stand in a clone or a copy for files which were never fetched."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from madengine import programs
from madengine.programs.git import git

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

logger = logging.getLogger(__name__)

_BEGINNING = b"version https://git-lfs.github.com/spec/v1\n"
# Bytes of a pointer, at most; and of how many files so small a folder's are read.
_POINTER_BYTES = 1024
_READ_FILES = 10_000
# git-lfs's own variable for "leave the pointers".
_SKIP = "GIT_LFS_SKIP_SMUDGE"


def is_installed() -> bool:
    """Whether git-lfs is installed."""
    return programs.attempt(git({}, "lfs", "version")).code == 0


def pull(clone: Path, environment: Mapping[str, str]) -> Iterator[BaseCommand]:
    """Yield the commands that replace the pointers of a clone and its submodules by their files."""
    yield git(environment, "-C", str(clone), "lfs", "pull")
    yield git(environment, "-C", str(clone), "submodule", "--quiet", "foreach", "--recursive", "git lfs pull")


def problem(path: Path, fix: str = "run `git lfs pull` there") -> str:
    """Return what to report where a file, or one of a folder, is a pointer; empty if none is.

    A user who sets GIT_LFS_SKIP_SMUDGE wants the pointers: a log line names them.
    """
    pointers = list(_pointers(path))
    if not pointers:
        return ""
    more = f", and {len(pointers) - 1} more," if len(pointers) > 1 else ""
    message = f"{pointers[0]}{more} is a git-lfs pointer, not the file"
    if os.environ.get(_SKIP, "0").lower() in ("1", "true", "t", "yes", "on"):
        logger.info(f"{message}; used as it is, because {_SKIP} is set")
        return ""
    return f"{message}; {fix}, or set {_SKIP}=1 to use pointers as they are"


def _pointers(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield from [path] if _is_pointer(path) else []
        return
    budget = _READ_FILES
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if name != ".git")
        for name in sorted(names):
            file = Path(folder, name)
            if _is_small(file):
                budget -= 1
                if _is_pointer(file):
                    yield file
        if budget <= 0:
            return


def _is_small(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and len(_BEGINNING) < status.st_size < _POINTER_BYTES


def _is_pointer(path: Path) -> bool:
    with suppress(OSError):
        if _is_small(path):
            with path.open("rb") as file:
                return file.read(len(_BEGINNING)) == _BEGINNING
    return False
