"""A workspace that lasts (`--workspace`), and the folders of a model that last (`caches`), over all runs that use them.

The script's `/myworkspace` is then a folder of the user's, and the run's own folder is at RUN_FOLDER: the script starts
in a directory there, so that `../results.csv` is the run's own, and `/myworkspace/models` is the workspace's.
"""

from __future__ import annotations

import fcntl
import fnmatch
import logging
import os
import shlex
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shutil import copyfileobj
from urllib.parse import quote

from madengine.build import payload
from madengine.errors import ConfigurationError, RunError
from madengine.files import cache_home, create_untrusted, disarm, open_untrusted, untrusted_folder
from madengine.records import Model

logger = logging.getLogger(__name__)

# Where a run's own folder is in its container, if /myworkspace is a folder that lasts.
RUN_FOLDER = "/opt/madengine-run"
# The folder's own corner, which no container sees: none can put a link in place of what the engine mounts from there.
CORNER = ".caches"
# What entry.sh leaves in a run's own folder.
_ENTRY = "entry.json"


@dataclass(frozen=True)
class Workspace:
    """A folder that lasts."""

    #: absolute; None if only `caches` last
    folder: Path | None = None

    @property
    def inside(self) -> str:
        """Where a run's own folder is in its container."""
        return RUN_FOLDER if self.folder else payload.WORKSPACE

    @property
    def options(self) -> list[str]:
        """The engine's options beside the mounts."""
        return [f"--tmpfs={payload.WORKSPACE}/{CORNER}"] if self.folder else []

    def mounts(self, model: Model, own: Path) -> list[tuple[str, str, bool]]:
        """Return a container's mounts; `own` is the run's own folder."""
        mounts = [(str(own), self.inside, False)]
        directory = payload.model_directory(model)
        if self.folder:
            mounts.append((str(self.folder), payload.WORKSPACE, False))
            # Scripts name it by this path too.
            mounts.append((str(own / directory), f"{payload.WORKSPACE}/{directory}", False))
        return [*mounts, *((str(self._cache(path)), inside, False) for path, inside in self._caches(model))]

    def folders(self, model: Model, own: Path) -> list[Path]:
        """Return the folders that have to be there."""
        directory = payload.model_directory(model)
        ours = [self.folder / directory, self.folder / CORNER, own / directory] if self.folder else []
        return [*ours, *dict.fromkeys(self._cache(path) for path, _ in self._caches(model))]

    def prepare(self, model: Model, own: Path) -> None:
        """Make the folders. Raise RunError if one can't be made, or something else is in its place."""
        for folder in self.folders(model, own):
            home = next((home for home in (self.folder, self._corner, own) if home and home in folder.parents), folder)
            _make_folders(home, folder.relative_to(home))

    def shell_lines(self, model: Model, own: Path) -> Iterator[str]:
        """Yield the lines for a POSIX shell that make the folders."""
        if folders := self.folders(model, own):
            yield shlex.join(["mkdir", "-p", *map(str, folders)])

    @contextmanager
    def used(self, model: Model, own: Path, patterns: Sequence[str]) -> Iterator[Callable[[], str]]:
        """Yield what brings the results and artifacts that the script wrote to /myworkspace itself to the run's folder.

        It returns why the results can't be used, empty if they can. Raises RunError if the folder can't be used.
        """
        try:
            if not self.folder:
                yield lambda: ""
                return
            folder, names = self.folder, [_ENTRY, model.multiple_results, *patterns]
            before = dict(_matches(folder, names))
            with _sole_use(self._corner, model.multiple_results) as is_sole:
                yield lambda: _bring_changed(folder, own, model, names, before, is_sole)
        finally:
            self._disarm(model)

    def _disarm(self, model: Model) -> None:
        caches = [self._cache(path) for path, _ in self._caches(model)]
        for folder in [self.folder] if self.folder else dict.fromkeys(caches):
            if failures := disarm(folder, shared=True):
                logger.info(
                    f"{folder}: {failures} files are devices or have setuid or setgid bits, and can't be changed; "
                    "remove them as root"
                )

    @property
    def _corner(self) -> Path:
        return self.folder / CORNER if self.folder else cache_home() / "caches"

    def _cache(self, path: str) -> Path:
        return self._corner / quote(path.strip("/"), safe="")

    def _caches(self, model: Model) -> Iterator[tuple[str, str]]:
        """Yield the model's caches, each with where it is mounted; a folder of the workspace lasts by itself."""
        directory = payload.model_directory(model)
        for cache in model.caches:
            path = str(PurePosixPath(payload.WORKSPACE, cache))
            below = PurePosixPath(path).parts[2:] if path.startswith(f"{payload.WORKSPACE}/") else ()
            if not below or not self.folder:
                yield path, path
            elif below[0] == directory:
                yield path, path
                yield path, str(PurePosixPath(self.inside, *below))


def lasting_workspace(name: str, runs: Path) -> Workspace:
    """Return the workspace of this name (empty for none) for runs whose folders are in `runs`.

    Raise ConfigurationError if it can't be made, or holds the runs' folders.
    """
    if not name:
        return Workspace()
    folder = Path(name).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder = folder.resolve()
    except OSError as error:
        raise ConfigurationError(f"workspace {folder}: can't be made: {error.strerror or error}") from error
    if runs.resolve().is_relative_to(folder):
        raise ConfigurationError(
            f"workspace {folder}: holds the folders of the runs ({runs}), which containers must not see; name a folder "
            "of its own, such as /var/tmp/workspace"
        )
    return Workspace(folder)


def _make_folders(home: Path, path: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
        # What is in the place of a folder is not replaced: the user may have put it there.
        for part in [*reversed(path.parents), path]:
            if part.name:
                with untrusted_folder(home, part.parent) as parent, suppress(FileExistsError):
                    os.mkdir(part.name, dir_fd=parent)
        with untrusted_folder(home, path):
            pass
    except OSError as error:
        raise RunError(f"{home / path}: no folder can be made there: {error.strerror or error}") from error


def _matches(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the files at the top of a folder that have one of these names, each with what changes when it does."""
    patterns = [name for name in names if name and "/" not in name]
    with untrusted_folder(folder) as handle, os.scandir(handle) as entries:
        for entry in entries:
            if any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in patterns):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    yield entry.name, (status.st_ino, status.st_size, status.st_mtime_ns)


def _bring_changed(
    folder: Path,
    own: Path,
    model: Model,
    names: Sequence[str],
    before: Mapping[str, tuple[int, ...]],
    is_sole: Callable[[], bool],
) -> str:
    """Bring the files that have changed; return why the results among them can't be used."""
    results = model.multiple_results
    for name, state in _matches(folder, names):
        places = (own / name, own / payload.model_directory(model) / name)
        if before.get(name) == state or any(map(os.path.lexists, places)):
            continue
        if name == _ENTRY:
            return "the image's entry.sh is of an older madengine, which has no --workspace; build the image again"
        if name == results and not is_sole():
            return (
                f"{results}: written to {payload.WORKSPACE} itself while another run used {folder} too; write it to "
                f"../{results} or to the script's directory"
            )
        _bring(folder, own, name)
        if name == results:
            with untrusted_folder(folder) as handle, suppress(FileNotFoundError):
                os.unlink(name, dir_fd=handle)
    return ""


def _bring(folder: Path, own: Path, name: str) -> None:
    with open_untrusted(folder, name, sys.maxsize) as source, create_untrusted(own, name) as target:
        copyfileobj(source, target, 1 << 20)


@contextmanager
def _sole_use(corner: Path, name: str) -> Iterator[Callable[[], bool]]:
    """Yield what says whether no other run with results of this name has used the workspace since.

    Every run adds a byte to a file, one more if it meets another, and holds the file's lock: a later run meets the
    lock, an earlier one sees the byte.
    """
    path = corner / f"{quote(name, safe='')}.lock"
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.write(handle, b".")
        size = os.fstat(handle).st_size
        is_first = _is_unlocked(handle)
        if not is_first:
            os.write(handle, b".")
        yield lambda: is_first and os.fstat(handle).st_size == size
    finally:
        os.close(handle)


def _is_unlocked(handle: int) -> bool:
    """Share a lock; return whether no one else does. A file system without locks has no others."""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
    except OSError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        fcntl.flock(handle, fcntl.LOCK_SH)
    return True
