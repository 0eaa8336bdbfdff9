"""Which GPUs this machine has, from whoever knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from madengine.programs import amd_smi, amd_sysfs, nvidia_smi, rocm_smi
from madengine.records import Found, Gpu

AMD = "AMD"
NVIDIA = "NVIDIA"
NONE = "NONE"

# Who is asked, in this order, until one names a GPU. Where both vendors are, NVIDIA's count, as in older madengine.
SOURCES: Mapping[str, Mapping[str, Callable[[], Found[Gpu]]]] = {
    NVIDIA: {nvidia_smi.TOOL: nvidia_smi.gpus},
    AMD: {amd_sysfs.SOURCE: amd_sysfs.gpus, amd_smi.TOOL: amd_smi.gpus, rocm_smi.TOOL: rocm_smi.gpus},
}


def found(vendor: str = "") -> tuple[Gpu, ...]:
    """The GPUs of the first vendor that has any, or of this vendor (AMD, NVIDIA); none on a machine without."""
    for sources in (SOURCES.get(vendor, {}),) if vendor else SOURCES.values():
        for ask in sources.values():
            if gpus := ask().items:
                return _with_names(gpus)
    return ()


def vendor(gpus: tuple[Gpu, ...]) -> str:
    """AMD, NVIDIA or NONE."""
    return gpus[0].vendor if gpus else NONE


def report() -> dict[str, Found[Gpu]]:
    """What every source says, by its name: GPUs, or the problem that keeps it from naming any."""
    return {source: ask() for sources in SOURCES.values() for source, ask in sources.items()}


def _with_names(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """The kernel knows the product's name of some cards only; AMD's tools know the others, by their PCI address."""
    if vendor(gpus) != AMD or all(gpu.name for gpu in gpus):
        return gpus
    for ask in (amd_smi.gpus, rocm_smi.gpus):
        names = {gpu.pci_bus_id: gpu.name for gpu in ask().items if gpu.pci_bus_id and gpu.name}
        if names:
            return tuple(replace(gpu, name=gpu.name or names.get(gpu.pci_bus_id, "")) for gpu in gpus)
    return gpus
