"""Which GPUs this machine has, from whoever knows."""

from __future__ import annotations

from madengine.programs import kfd, nvidia_smi
from madengine.records import Gpu

NONE = "NONE"


def found() -> tuple[Gpu, ...]:
    """The GPUs of the first vendor that has any; none on a machine without."""
    return nvidia_smi.gpus() or kfd.gpus()


def vendor(gpus: tuple[Gpu, ...]) -> str:
    """AMD, NVIDIA or NONE."""
    return gpus[0].vendor if gpus else NONE
