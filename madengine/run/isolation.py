"""How far a container is isolated from its host: least privileges, or the flags of older madengine."""

from __future__ import annotations

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


def flags(mode: str, vendor: str, shm_size: str) -> list[str]:
    """Return the engine's flags; `shm_size` is the context's SHM_SIZE, in place of the host's shared memory.

    In `compat` a machine without GPUs, which older versions refused, counts as NVIDIA: not every image has the group
    `video`.
    """
    if mode != "compat":
        return [f"--shm-size={shm_size}"] if shm_size else []
    return [*(_AMD if vendor == "AMD" else _NVIDIA), f"--shm-size={shm_size}" if shm_size else "--ipc=host"]
