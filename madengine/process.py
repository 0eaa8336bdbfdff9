"""This process, named so that others can tell later whether it still runs."""

from __future__ import annotations

import os
from pathlib import Path


def own_process_id() -> str:
    """This process for a label: the machine's boot, the process namespace, the process, and when it started."""
    return f"{_boot()}:{_namespace()}:{os.getpid()}:{_started(os.getpid())}"


def process_has_ended(label: str) -> bool:
    """Whether the process of a label was one of this machine and namespace, and is gone.

    A label from elsewhere (another machine, another container) is nobody's business here.
    """
    boot, _, rest = label.partition(":")
    namespace, _, process = rest.partition(":")
    pid, _, started = process.partition(":")
    if (boot, namespace) != (_boot(), _namespace()) or not pid.isdigit():
        return False
    return _started(int(pid)) != started


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _namespace() -> str:
    return str(Path("/proc/self/ns/pid").stat().st_ino)


def _started(pid: int) -> str:
    """A process's start in clock ticks (field 22 of its stat, counted after the name's closing bracket).

    Empty where there is none, or only its zombie: nobody may ever collect that one.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return ""
