"""How far a container is isolated from its host: least privileges, or the flags of older madengine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_NVIDIA = (
    "--cap-add=SYS_PTRACE",
    "--cap-add=SYS_ADMIN",
    "--cap-add=SYS_NICE",
    "--device=/dev/fuse",
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
    "--network=host",
)
_AMD = (
    "--network=host",
    "--group-add=video",
    "--cap-add=SYS_PTRACE",
    "--cap-add=SYS_ADMIN",
    "--device=/dev/fuse",
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
)


# Reads 1 where SELinux refuses what its policy doesn't allow.
_SELINUX = Path("/sys/fs/selinux/enforce")


def flags(
    mode: str, vendor: str, shm_size: str, without_label: Sequence[str] = (), selinux: Path = _SELINUX
) -> list[str]:
    """Return the engine's flags; `shm_size` is the context's SHM_SIZE, in place of the host's shared memory.

    SELinux would keep the container from the folders that it is given. Labels that let it in (`:z`) would stay on them,
    on the user's data sets too, so the container goes without a label (`without_label`, as the engine has it).

    In `compat` a machine without GPUs, which older versions refused, counts as NVIDIA: not every image has the group
    `video`.
    """
    if mode != "compat":
        unlabelled = without_label if _is_enforcing(selinux) else []
        return [*unlabelled, *([f"--shm-size={shm_size}"] if shm_size else [])]
    return [*(_AMD if vendor == "AMD" else _NVIDIA), f"--shm-size={shm_size}" if shm_size else "--ipc=host"]


def _is_enforcing(selinux: Path) -> bool:
    with suppress(OSError):
        return selinux.read_text(encoding="ascii").strip() == "1"
    return False
