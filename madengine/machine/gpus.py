"""The GPUs of this machine, and which of them a model gets."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from madengine.config.context_keys import ranges
from madengine.errors import ConfigurationError, RunError
from madengine.programs.gpu_tools import TOOLS, GpuTool
from madengine.records import Gpu, GpuProcess, Reading

AMD = "AMD"
NVIDIA = "NVIDIA"
NONE = "NONE"

# Where the kernel lists devices, with or without a driver; the vendors' numbers; the classes of data-centre GPUs, which
# a server's own display or a processor's doesn't have.
PCI = Path("/sys/bus/pci/devices")
PCI_VENDORS = {NVIDIA: "0x10de", AMD: "0x1002"}
PCI_CLASSES = ("0x0302", "0x0380", "0x1200")
# The product names that older versions take as architectures.
_ARCHITECTURES = {
    "mi100": "gfx908", "mi200": "gfx90a", "mi210": "gfx90a", "mi250": "gfx90a", "mi300": "gfx940", "mi300a": "gfx940",
    "mi300x": "gfx942",
}  # fmt: skip


def find_gpus(vendor: str = "") -> Reading[Gpu]:
    """Return the GPUs of the first vendor that has any, or of this vendor (AMD, NVIDIA).

    Its problem is that of the first tool that fails; without any GPU the reading then fails too: there may be some.
    """
    failures: list[str] = []
    for tools in (TOOLS.get(vendor, ()),) if vendor else TOOLS.values():
        for number, tool in enumerate(tools, start=1):
            reading = tool.gpus()
            if reading.items:
                return Reading(_with_names(reading.items, tools[number:]), failures[0] if failures else "")
            failures += [reading.problem] if reading.fails else []
    if failures:
        return Reading(problem=failures[0], fails=True)
    plugged = [name for name in vendors_on_bus() if vendor in ("", name)]
    return Reading(problem=f"an {plugged[0]} GPU is on the PCI bus, but no tool lists it" if plugged else "")


def detected_vendor(gpus: tuple[Gpu, ...]) -> str:
    """Return AMD, NVIDIA or NONE."""
    return gpus[0].vendor if gpus else NONE


def detected_context(reading: Reading[Gpu]) -> dict[str, str]:
    """Return the context's `gpu_vendor` by a reading of this machine's GPUs; empty if that fails."""
    return {} if reading.fails else {"gpu_vendor": detected_vendor(reading.items)}


def architecture_of(gpus: Sequence[Gpu]) -> str:
    """Return what older versions take for the architecture of a machine: of the first GPU, for NVIDIA the product."""
    return (gpus[0].architecture if gpus[0].vendor == AMD else gpus[0].name) if gpus else ""


def wants_gpus(n_gpus: str, vendors: Collection[str]) -> bool:
    """Return whether a model would use a GPU if this machine has one; `vendors` are those of its images."""
    if AMD in vendors or NVIDIA in vendors:
        return True
    # One without `n_gpus` gets a GPU, unless its images are for machines without any.
    return int(n_gpus) != 0 if n_gpus else any(vendor != NONE for vendor in vendors)


def vendors_on_bus() -> list[str]:
    """Return the vendors of the GPUs on the PCI bus, whether they have a driver or not."""
    numbers = set()
    for device in PCI.iterdir() if PCI.is_dir() else ():
        with suppress(OSError):
            if (device / "class").read_text().startswith(PCI_CLASSES):
                numbers.add((device / "vendor").read_text().strip())
    return [vendor for vendor, number in PCI_VENDORS.items() if number in numbers]


def gpu_readings() -> dict[str, Reading[Gpu]]:
    """Return the GPUs that each tool names, or the problem that it has, by the tool's name."""
    return {tool.NAME: tool.gpus() for tools in TOOLS.values() for tool in tools}


def _with_names(gpus: tuple[Gpu, ...], others: Sequence[GpuTool]) -> tuple[Gpu, ...]:
    """Add product names that the first tool doesn't know, as the kernel for some cards, from the vendor's others."""
    for tool in others if not all(gpu.name for gpu in gpus) else ():
        names = {gpu.pci_bus_id: gpu.name for gpu in tool.gpus().items if gpu.pci_bus_id and gpu.name}
        if names:
            return tuple(replace(gpu, name=gpu.name or names.get(gpu.pci_bus_id, "")) for gpu in gpus)
    return gpus


def eligible_gpus(gpus: Sequence[Gpu], docker_gpus: str) -> list[Gpu]:
    """Return the GPUs that a context's `docker_gpus` (`0,2-4,7`; empty is all) allows, in its order."""
    if not docker_gpus.strip():
        return list(gpus)
    by_index = {gpu.index: gpu for gpu in gpus}
    indexes = (index for numbers in ranges(docker_gpus) for index in sorted(by_index) if index in numbers)
    return [by_index[index] for index in dict.fromkeys(indexes)]


def requested_count(n_gpus: str, candidates: Sequence[Gpu], machine: Sequence[Gpu]) -> int:
    """Return how many GPUs a model's `n_gpus` means here; -1 is all that the context allows.

    A model without `n_gpus` gets one if the machine has any, as in madengine 2.

    Raises RunError if there are not that many.
    """
    if not n_gpus:
        return min(1, len(candidates))
    count = len(candidates) if n_gpus == "-1" else int(n_gpus)
    if count > len(candidates):
        allowed = (
            f", docker_gpus or *_VISIBLE_DEVICES allow {len(candidates)}" if len(candidates) != len(machine) else ""
        )
        raise RunError(
            f"too many GPUs requested: n_gpus is {n_gpus}, this machine has {len(machine) or 'none'}{allowed}"
        )
    return count


def skipped_architecture(skip_gpu_arch: str, gpus: Sequence[Gpu]) -> str:
    """Return the entry of a model's `skip_gpu_arch` (separated by commas) that matches this machine; empty if none.

    Older versions compared gfx names, NVIDIA's second word (`A100-SXM4-40GB`), or its beginning (`A100`).
    """
    names = {name.lower() for gpu in gpus for name in (gpu.architecture, *gpu.name.split()[1:2]) if name}
    entries = (entry.strip() for entry in skip_gpu_arch.split(","))
    return next((entry for entry in entries if entry.lower() in names), "")


def architecture_name(text: str) -> str:
    """Return a GPU architecture as compilers name it; like madengine 2, accept a product's name, such as MI300X.

    Raises ConfigurationError for an invalid name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:+-]{0,63}", text):
        raise ConfigurationError(f"--target-archs: invalid architecture {text!r}; expected a name such as gfx942")
    return _ARCHITECTURES.get(text.lower(), text)


def foreign_processes(gpus: Sequence[Gpu]) -> int | None:
    """Return how many processes use these GPUs before our own start; None if no tool knows."""
    if not gpus:
        return 0
    users = gpu_users(TOOLS.get(gpus[0].vendor, ()))
    return None if users is None else len({process.pid for process in users.on(gpus)})


def gpu_processes(vendor: str) -> tuple[GpuProcess, ...] | None:
    """Return the processes that use GPUs of a vendor, each with its GPU; None if no tool knows."""
    users = gpu_users(TOOLS.get(vendor, ()))
    return None if users is None else users.processes


class GpuProcesses(NamedTuple):
    """The processes that use GPUs, each with its GPU, and the tool that names them."""

    processes: tuple[GpuProcess, ...]
    tool: GpuTool

    def on(self, gpus: Sequence[Gpu]) -> list[GpuProcess]:
        """Return those that use these GPUs."""
        return [process for process in self.processes if any(_is_on(process, gpu) for gpu in gpus)]


def gpu_users(tools: Sequence[GpuTool]) -> GpuProcesses | None:
    """Return the processes that use GPUs by the first of the tools that knows them; None if none does."""
    for tool in tools:
        reading = tool.processes()
        if not reading.problem and all(map(_names_gpu, reading.items)):
            return GpuProcesses(reading.items, tool)
    return None


def _names_gpu(process: GpuProcess) -> bool:
    return bool(process.uuid or process.pci_bus_id or process.index is not None)


def _is_on(process: GpuProcess, gpu: Gpu) -> bool:
    if process.uuid:
        return process.uuid in (gpu.uuid, gpu.parent)
    if process.pci_bus_id and gpu.pci_bus_id and process.index is None:
        return process.pci_bus_id == gpu.pci_bus_id
    return process.index == gpu.index
