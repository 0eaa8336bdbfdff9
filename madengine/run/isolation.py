"""How far a container is kept apart from its host: our least privileges, or the flags of older madengine."""

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
    """The engine's flags, beside the user, which is always root; `shm_size` is the context's SHM_SIZE.

    A size in place of the host's shared memory, as older versions did it. A machine without GPUs, which they refused,
    is treated as one of NVIDIA's: the group `video` is not in every image.
    """
    if mode != "compat":
        return [f"--shm-size={shm_size}"] if shm_size else []
    return [*(_AMD if vendor == "AMD" else _NVIDIA), f"--shm-size={shm_size}" if shm_size else "--ipc=host"]
