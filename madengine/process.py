"""Labels of processes, by which a later process can see whether they still run."""

from __future__ import annotations

import os
from pathlib import Path


def own_process_id() -> str:
    """Return this process as a label: the machine's boot, the process namespace, the process id and its start."""
    return f"{_boot()}:{_namespace()}:{os.getpid()}:{_started(os.getpid())}"


def process_has_ended(label: str) -> bool:
    """Return whether the process of a label has ended; False for labels of other machines and namespaces."""
    boot, _, rest = label.partition(":")
    namespace, _, process = rest.partition(":")
    pid, _, started = process.partition(":")
    if (boot, namespace) != (_boot(), _namespace()) or not pid.isdigit():
        return False
    return _started(int(pid)) != started


def _boot() -> str:
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
