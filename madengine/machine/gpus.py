"""Which GPUs this machine has, from whoever knows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from madengine.config.context_keys import ranges
from madengine.errors import ConfigurationError, RunError
from madengine.programs import amd_smi, amd_sysfs, nvidia_smi, rocm_smi
from madengine.records import Gpu, GpuProcess, Reading

AMD = "AMD"
NVIDIA = "NVIDIA"
NONE = "NONE"

# Who is asked, in this order, until one names a GPU. Where both vendors are, NVIDIA's count, as in older madengine.
SOURCES: Mapping[str, Mapping[str, Callable[[], Reading[Gpu]]]] = {
    NVIDIA: {nvidia_smi.TOOL: nvidia_smi.gpus},
    AMD: {amd_sysfs.SOURCE: amd_sysfs.gpus, amd_smi.TOOL: amd_smi.gpus, rocm_smi.TOOL: rocm_smi.gpus},
}

# Products by whose name older versions took an architecture.
_ARCHITECTURES = {
    "mi100": "gfx908", "mi200": "gfx90a", "mi210": "gfx90a", "mi250": "gfx90a", "mi300": "gfx940", "mi300a": "gfx940",
    "mi300x": "gfx942",
}  # fmt: skip

_PROCESSES: Mapping[str, tuple[Callable[[], Reading[GpuProcess]], ...]] = {
    NVIDIA: (nvidia_smi.processes,),
    AMD: (amd_sysfs.processes, amd_smi.processes, rocm_smi.processes),
}


def find_gpus(vendor: str = "") -> tuple[Gpu, ...]:
    """The GPUs of the first vendor that has any, or of this vendor (AMD, NVIDIA); none on a machine without."""
    for sources in (SOURCES.get(vendor, {}),) if vendor else SOURCES.values():
        for ask in sources.values():
            if gpus := ask().items:
                return _with_names(gpus)
    return ()


def detected_vendor(gpus: tuple[Gpu, ...]) -> str:
    """AMD, NVIDIA or NONE."""
    return gpus[0].vendor if gpus else NONE


def gpu_sources() -> dict[str, Reading[Gpu]]:
    """What every source says, by its name: GPUs, or the problem that keeps it from naming any."""
    return {source: ask() for sources in SOURCES.values() for source, ask in sources.items()}


def _with_names(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """The kernel knows the product's name of some cards only; AMD's tools know the others, by their PCI address."""
    if detected_vendor(gpus) != AMD or all(gpu.name for gpu in gpus):
        return gpus
    for ask in (amd_smi.gpus, rocm_smi.gpus):
        names = {gpu.pci_bus_id: gpu.name for gpu in ask().items if gpu.pci_bus_id and gpu.name}
        if names:
            return tuple(replace(gpu, name=gpu.name or names.get(gpu.pci_bus_id, "")) for gpu in gpus)
    return gpus


def eligible_gpus(gpus: Sequence[Gpu], docker_gpus: str) -> list[Gpu]:
    """The GPUs that a context's `docker_gpus` (`0,2-4,7`; empty is all) leaves, in its order; others aren't here."""
    if not docker_gpus.strip():
        return list(gpus)
    here = {gpu.index: gpu for gpu in gpus}
    listed = (index for numbers in ranges(docker_gpus) for index in sorted(here) if index in numbers)
    return [here[index] for index in dict.fromkeys(listed)]


def requested_count(n_gpus: str, candidates: Sequence[Gpu], machine: Sequence[Gpu]) -> int:
    """How many GPUs a card's `n_gpus` means here; -1 is all that the context leaves, none on a machine without.

    A card without it gets one, as in madengine 2, where the machine has any.

    Raises RunError where there are not that many.
    """
    if not n_gpus:
        return min(1, len(candidates))
    count = len(candidates) if n_gpus == "-1" else int(n_gpus)
    if count > len(candidates):
        left = f", docker_gpus leaves {len(candidates)}" if len(candidates) != len(machine) else ""
        raise RunError(f"too many GPUs requested: n_gpus is {n_gpus}, this machine has {len(machine) or 'none'}{left}")
    return count


def skipped_architecture(listed: str, gpus: Sequence[Gpu]) -> str:
    """The entry of a card's `skip_gpu_arch` (a list with commas) that this machine is, empty where none is.

    Older versions compared gfx names, NVIDIA's second word (`A100-SXM4-40GB`), or its beginning (`A100`).
    """
    names = {name.lower() for gpu in gpus for name in (gpu.architecture, *gpu.name.split()[1:2]) if name}
    entries = (entry.strip() for entry in listed.split(","))
    return next((entry for entry in entries if entry.lower() in names), "")


def architecture_name(text: str) -> str:
    """A GPU architecture as compilers name it: madengine 2 also takes a product's name, such as MI300X.

    Raises ConfigurationError for what can be no name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:+-]{0,63}", text):
        raise ConfigurationError(f"--target-archs: {text!r} is no architecture; name some like gfx942")
    return _ARCHITECTURES.get(text.lower(), text)


def foreign_processes(gpus: Sequence[Gpu]) -> int | None:
    """How many processes use these GPUs now, which nobody of us has started yet; None where no tool can tell."""
    if not gpus:
        return 0
    for ask in _PROCESSES[gpus[0].vendor]:
        told = ask()
        if not told.problem and all(one.uuid or one.pci_bus_id or one.index is not None for one in told.items):
            return len({one.pid for one in told.items if any(_is_on(one, gpu) for gpu in gpus)})
    return None


def _is_on(process: GpuProcess, gpu: Gpu) -> bool:
    if process.uuid:
        return process.uuid in (gpu.uuid, gpu.parent)
    if process.pci_bus_id and gpu.pci_bus_id and process.index is None:
        return process.pci_bus_id == gpu.pci_bus_id
    return process.index == gpu.index
