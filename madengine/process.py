"""Labels of processes, by which a later process can see whether they still run; and their private folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: where the folders of files on their way from a host are, beside the usual places
RESULTS = Path("results")
_PREFIX = "madengine-private-"
# Characters of the boot's id in a folder's name: the path of a socket in it must be short.
_BOOT_CHARACTERS = 8


def own_process_id() -> str:
    """Return this process as a label: the machine's boot, the process namespace, the process id and its start."""
    return f"{boot_id()}:{_namespace()}:{os.getpid()}:{_started(os.getpid())}"


def process_has_ended(label: str) -> bool:
    """Return whether the process of a label has ended; False for labels of other machines and namespaces."""
    pid, _, started = ":".join(label.split(":")[2:]).partition(":")
    return is_of_this_system(label) and pid.isdigit() and _started(int(pid)) != started


def is_of_this_system(label: str) -> bool:
    """Return whether the process of a label can be seen from here: of this boot, and of our process namespace."""
    boot, _, rest = label.partition(":")
    return bool(boot) and boot_id().startswith(boot) and rest.partition(":")[0] == _namespace()


def boot_id() -> str:
    """Return the boot's id; where the system hides it (gVisor does), the machine's name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return os.uname().nodename.replace(":", "-")


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "0"


def _started(pid: int) -> str:
    """Return a process's start in clock ticks (field 22 of its stat, counted after the name's closing bracket).

    Empty if there is none, or only its zombie, whose parent may never collect it.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return ""


# --- what a killed process leaves ---


@contextmanager
def private_folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield a folder that only we can enter, in the folder for temporary files unless there is a `parent`.

    It is removed at the end. It is named after this process, so that a later madengine of the same user removes one
    that a killed process left.
    """
    import tempfile

    prefix = own_prefix(_PREFIX)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def is_private_folder(name: str) -> bool:
    """Return whether a folder's name is that of a private one."""
    return name.startswith(_PREFIX)


def own_prefix(prefix: str) -> str:
    """Return what the name of a temporary file or folder begins with, so that `remove_abandoned` knows whose it is."""
    boot, _, rest = own_process_id().partition(":")
    return prefix + f"{boot[:_BOOT_CHARACTERS]}:{rest}".replace(":", "_") + "."


def abandoned(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield the files and folders of this user's processes that have ended, those of `own_prefix(prefix)`."""
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(prefix) and _is_abandoned(entry, entry.name[len(prefix) :]):
                yield Path(entry.path)


def remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove what `abandoned` yields."""
    for path in abandoned(parent, prefix):
        with suppress(OSError):  # another process may be removing it too
            remove(path)


def abandoned_folders() -> Iterator[Path]:
    """Yield the private folders of this user's madengine processes that were killed."""
    for parent in sorted({Path(os.environ.get("TMPDIR") or "/tmp"), Path("/tmp"), RESULTS}):
        yield from abandoned(parent, _PREFIX)


def remove_abandoned_folders() -> None:
    """Remove what `abandoned_folders` yields."""
    for folder in abandoned_folders():
        with suppress(OSError):
            remove(folder)


def _is_abandoned(entry: os.DirEntry[str], rest: str) -> bool:
    owner = rest.partition(".")[0].replace("_", ":")
    return entry.stat(follow_symlinks=False).st_uid == os.geteuid() and process_has_ended(owner)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it. Raise OSError if something of it stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
