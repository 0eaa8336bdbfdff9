"""Processes of others on a run's GPUs while it runs: they distort what it measures."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from madengine import programs
from madengine.machine.gpus import gpu_users
from madengine.programs.gpu_tools import TOOLS
from madengine.records import Gpu, GpuProcess

PROC = Path("/proc")
# Between two looks, unless the tool is expensive.
LOOK_SECONDS = 5.0
# What the end of a run waits for a tool that hangs; and what a tool gets of that between TERM and KILL.
STOP_SECONDS = 2.0
KILL_SECONDS = 0.3


class UserWatch:
    """Looks again and again, in its own thread, which processes use some GPUs and are not in the run's container.

    Its failures leave `strangers` unknown, and never raise.
    """

    def __init__(self, gpus: Sequence[Gpu]) -> None:
        self._gpus = gpus
        self._container_id = ""
        self._sees_container = False
        self._looks = 0
        self._strangers: dict[int, GpuProcess] = {}
        # Those of the last look that are in no /proc: they had just ended, if they are gone at the next.
        self._missing: set[int] = set()
        self._stopping = threading.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._take, name="gpu-users", daemon=True)

    @property
    def strangers(self) -> tuple[GpuProcess, ...] | None:
        """Those that were seen, by their process id; None if that is unknown."""
        if self._strangers:
            return tuple(self._strangers[pid] for pid in sorted(self._strangers))
        return () if self._looks and self._sees_container else None

    def begin(self, container_id: str) -> None:
        """Note which container is the run's own, as the engine names it when it has started it."""
        last_line = container_id.strip().rpartition("\n")[2]
        # Anything else could be in the name of any group.
        self._container_id = last_line if re.fullmatch("[0-9a-f]{12,64}", last_line) else ""
        self._started.set()

    def start(self) -> None:
        with suppress(RuntimeError):  # the machine can't start another thread
            self._thread.start()

    def stop(self) -> None:
        """End the looks, within STOP_SECONDS."""
        self._stopping.set()
        self._started.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS / 2)
        if self._thread.is_alive():
            programs.end_programs_of(self._thread.ident, KILL_SECONDS)
            self._thread.join(STOP_SECONDS / 2)

    def _take(self) -> None:
        self._started.wait()
        if not self._container_id:
            return
        # At once: the container may end soon.
        self._sees_container = _is_visible(self._container_id)
        tools, seconds, is_last = TOOLS.get(self._gpus[0].vendor, ()), 0.0, False
        while not is_last:
            # After the container's end too: what is still there was there before.
            is_last = self._stopping.wait(seconds)
            users = gpu_users(tools)
            seconds = LOOK_SECONDS
            if users is not None:
                tools, seconds = (users.tool,), max(LOOK_SECONDS, users.tool.SAMPLE_SECONDS)
                self._look(users.on(self._gpus))

    def _look(self, users: Iterable[GpuProcess]) -> None:
        self._sees_container = self._sees_container or _is_visible(self._container_id)
        if not self._sees_container:
            return  # the process ids here may be other processes than the tool means
        self._looks += 1
        missing = set()
        for user in users:
            group = _control_group(user.pid)
            if group is None:
                missing.add(user.pid)
            if group is None and user.pid not in self._missing:
                continue
            if self._container_id not in (group or ""):
                self._strangers.setdefault(user.pid, user)
        self._missing = missing


@contextmanager
def watched(gpus: Sequence[Gpu]) -> Iterator[UserWatch]:
    """UserWatch the processes on these GPUs while the block runs."""
    watch = UserWatch(gpus)
    if not gpus:
        yield watch
        return
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()


def _is_visible(container_id: str) -> bool:
    """Whether this process sees those of the container: not where it is in a container itself."""
    return any(container_id in (_control_group(int(path.name)) or "") for path in PROC.glob("[0-9]*"))


def _control_group(pid: int) -> str | None:
    """Return what names the control groups of a process, with the id of its container; None if it has ended."""
    try:
        return (PROC / str(pid) / "cgroup").read_text(errors="replace")
    except OSError:
        return None
