"""What madengine has left on this machine: containers, private folders and caches, with what each takes."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from madengine import programs
from madengine.data_sets.fetch import remove_fetched
from madengine.errors import CommandError, MadengineError
from madengine.files import cache_home, untrusted_tree
from madengine.files.locks import unused
from madengine.machine.gpus import gpu_processes
from madengine.process import abandoned_folders, is_of_this_system, remove
from madengine.programs.engine import Docker
from madengine.programs.engine_answers import LabelledContainer
from madengine.run.orphans import GPU_LABEL, MODEL_LABEL, OWNER_LABEL, RUN_LABEL, is_orphan, own_containers
from madengine.run.workspace import CORNER

_DAY_SECONDS = 24 * 3600.0
# How long a process that was killed may take to end.
_END_SECONDS = 5.0


@dataclass(frozen=True)
class Leftover:
    """Something that can be removed."""

    #: container, folder or cache
    kind: str
    name: str
    #: what it is
    note: str
    #: None is unknown
    size_bytes: int | None
    #: removes it; raises MadengineError or OSError if it stays
    remove: Callable[[], None]


@dataclass(frozen=True)
class GpuHolder:
    """A process of a container that uses a GPU."""

    pid: int
    name: str
    container: str

    @property
    def is_alive(self) -> bool:
        """Whether it still holds the GPU; one that is dead and only not collected by its parent does not."""
        with suppress(OSError):
            state = Path(f"/proc/{self.pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            return state not in ("Z", "X")
        return False


# --- containers ---


def containers(engines: Sequence[Docker], everything: bool) -> Iterator[tuple[LabelledContainer, Leftover]]:
    """Yield the containers of madengine processes that have exited.

    With `everything` also those that stay on purpose (`--keep-alive`), and those that have ended and whose process
    can't be seen from here. The container of a process that runs is never among them.
    """
    for engine in engines:
        seen = {}
        for label in (OWNER_LABEL, RUN_LABEL):
            seen.update({one.name: one for one in own_containers(engine, label, sizes=True)})
        for container in seen.values():
            note = _why_left(container, everything)
            if note:
                what = f"model {container.labels[MODEL_LABEL]}, " if MODEL_LABEL in container.labels else ""
                name, size = container.name, container.size_bytes
                yield (
                    container,
                    Leftover("container", name, f"{what}{note}", size, partial(_remove_container, engine, name)),
                )


def _why_left(container: LabelledContainer, everything: bool) -> str:
    if is_orphan(container):
        return "its madengine has exited"
    if everything and OWNER_LABEL not in container.labels:
        return "kept alive"
    if everything and not container.running and _is_elsewhere(container):
        return "has ended, its madengine is not of this system"
    return ""


def _is_elsewhere(container: LabelledContainer) -> bool:
    """Whether the process that started a container can't be seen from here: of an earlier boot, or in a container."""
    return not is_of_this_system(container.labels.get(OWNER_LABEL, ""))


def _remove_container(engine: Docker, name: str) -> None:
    programs.ask(engine.remove(name))
    if engine.state(name) is not None:
        raise CommandError(f"{engine.name} rm {name}: it is still there")


def gpu_holders(candidates: Sequence[LabelledContainer]) -> list[GpuHolder]:
    """Return the processes of these containers that use GPUs."""
    with_gpus = [one for one in candidates if one.id and GPU_LABEL in one.labels]
    vendors = {gpu.partition("-")[0].upper() for one in with_gpus for gpu in one.labels[GPU_LABEL].split()}
    holders = []
    for process in (one for vendor in sorted(vendors) for one in gpu_processes(vendor) or ()):
        groups = _control_groups(process.pid)
        holders += [GpuHolder(process.pid, process.name, one.name) for one in with_gpus if one.id in groups]
    return list(dict.fromkeys(holders))


def still_alive(holders: Sequence[GpuHolder]) -> list[GpuHolder]:
    """Return those that don't end: their containers were killed, and the kernel can't take them off the GPU."""
    deadline = time.monotonic() + _END_SECONDS
    while (alive := [holder for holder in holders if holder.is_alive]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return alive


def _control_groups(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cgroup").read_text(errors="replace")
    return ""


# --- folders and caches ---


def private_folders() -> Iterator[Leftover]:
    """Yield the private folders of processes that were killed."""
    for folder in abandoned_folders():
        yield Leftover("folder", str(folder), "its madengine has exited", _usage(folder)[0], partial(remove, folder))


def caches(days: float, workspace: Path | None, mounts: Sequence[str]) -> Iterator[Leftover]:
    """Yield the caches that were not used in so many days: madengine.pyz, data sets, folders of models (`caches`).

    With a `workspace`, its caches too. Those of `mounts`, the paths that containers have mounted, are in use.
    """
    home = cache_home()
    for path, note, remover in (
        *((path, "madengine.pyz", remove) for path in _visible(home) if path.suffix == ".pyz"),
        *((path, "data set", remove_fetched) for path in _visible(home / "data")),
        *((path, f"cache of {unquote(path.name)}", remove) for path in _visible(home / "caches")),
        *((path, f"cache of {unquote(path.name)}", remove) for path in _workspace_caches(workspace)),
    ):
        size, used = _usage(path)
        idle = (time.time() - used) / _DAY_SECONDS
        is_mounted = any(Path(mount).is_relative_to(path) for mount in mounts)
        if idle >= days and not is_mounted:
            yield Leftover(
                "cache",
                str(path),
                f"{note}, last used {idle:.0f} days ago",
                size,
                partial(_remove_cache, path, remover),
            )


def _visible(folder: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return []


def _workspace_caches(workspace: Path | None) -> list[Path]:
    folders = _visible(workspace / CORNER) if workspace else []
    return [path for path in folders if path.is_dir() and not path.is_symlink()]


def _remove_cache(path: Path, remover: Callable[[Path], None]) -> None:
    if path.is_dir() and not path.is_symlink():
        with unused(path) as is_unused:
            if not is_unused:
                raise MadengineError("in use")
            remover(path)
    else:
        remover(path)


def _usage(path: Path) -> tuple[int | None, float]:
    """Return what a file or a folder takes (bytes, None if it takes too long to count), and when it was last used."""
    statuses = [path.lstat()]
    try:
        if stat.S_ISDIR(statuses[0].st_mode):
            statuses += [status for _, status in untrusted_tree(path)]
    except TimeoutError:
        return None, time.time()
    used = max(max(status.st_mtime, 0 if stat.S_ISDIR(status.st_mode) else status.st_atime) for status in statuses)
    return sum(status.st_blocks * 512 for status in statuses), used
