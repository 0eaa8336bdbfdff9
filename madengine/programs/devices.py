"""The flags that pass GPUs to a container, by engine, vendor and mode."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madengine.errors import RunError
from madengine.records import Gpu

if TYPE_CHECKING:
    from madengine.programs.engine import Docker

# Where engines look for CDI specifications: https://github.com/cncf-tags/container-device-interface
CDI_FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
_KIND = {"NVIDIA": "nvidia.com/gpu", "AMD": "amd.com/gpu"}
# What writes a specification.
CDI_COMMANDS = {
    "NVIDIA": "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
    "AMD": "amd-ctk cdi generate --output=/etc/cdi/amd.json",
}


def flags(engine: Docker, gpus: Sequence[Gpu], mode: str) -> list[str]:
    """Return the flags that pass these GPUs, and no others, to a container.

    Raises RunError with the way out if the mode can't work here.
    """
    if not gpus:
        # An image may ask for all GPUs by itself, and NVIDIA's runtime would pass them.
        return ["--env=NVIDIA_VISIBLE_DEVICES=void"]
    makers: Mapping[str, Callable[[], list[str]]] = {
        "devices": lambda: _node_flags(engine, gpus),
        "gpus": lambda: _gpus_option(engine, gpus),
        "cdi": lambda: _cdi_flags(gpus),
    }
    return makers[engine.gpu_mode(gpus[0].vendor, mode)]()


def cdi_devices(vendor: str) -> set[str]:
    """Return the names of the vendor's GPUs in the CDI specifications of this machine."""
    names: set[str] = set()
    for spec in _specs():
        devices = spec.get("devices") if spec.get("kind") == _KIND[vendor] else None
        entries = devices if isinstance(devices, list) else []
        names.update(str(entry["name"]) for entry in entries if isinstance(entry, dict) and "name" in entry)
    return names


def _specs() -> Iterator[Mapping[str, Any]]:
    for folder in CDI_FOLDERS:
        for path in sorted(folder.glob("*")) if folder.is_dir() else []:
            with suppress(OSError, ValueError):
                spec = _parsed(path)
                if isinstance(spec, dict):
                    yield spec


def _parsed(path: Path) -> Any:
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    if path.suffix not in (".yaml", ".yml"):
        return None
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _cdi_flags(gpus: Sequence[Gpu]) -> list[str]:
    vendor = gpus[0].vendor
    known = cdi_devices(vendor)
    names = []
    for gpu in gpus:
        name = next((name for name in _cdi_names(gpu, known) if name in known), "")
        if not name:
            folders = " and ".join(map(str, CDI_FOLDERS))
            raise RunError(
                f"GPU {gpu.index} is in no CDI specification in {folders}; `{CDI_COMMANDS[vendor]}` writes one"
            )
        names.append(name)
    return [f"--device={_KIND[vendor]}={name}" for name in names]


def _cdi_names(gpu: Gpu, known: Set[str]) -> tuple[str, ...]:
    """Return what a specification may call this GPU.

    Parts of an AMD GPU share a UUID. NVIDIA's numbers leave out MIG instances (`0:1`), which ours count.
    """
    if gpu.vendor == "AMD":
        return (str(gpu.index),)
    by_number = not gpu.parent and not any(":" in name for name in known)
    return (gpu.uuid, str(gpu.index)) if by_number else (gpu.uuid,)


def _gpus_option(engine: Docker, gpus: Sequence[Gpu]) -> list[str]:
    vendor = gpus[0].vendor
    engine.check_gpus_option(vendor)
    numbers = ",".join(str(gpu.index) for gpu in gpus)
    # The inner quotes belong to the value: docker reads it as CSV.
    return ["--gpus", f'"device={numbers if vendor == "AMD" else _uuids(gpus)}"']


def _uuids(gpus: Sequence[Gpu]) -> str:
    return ",".join(gpu.uuid or str(gpu.index) for gpu in gpus)


def _node_flags(engine: Docker, gpus: Sequence[Gpu]) -> list[str]:
    is_amd = gpus[0].vendor == "AMD"
    nodes = _amd_nodes(gpus) if is_amd else _nvidia_nodes(gpus)
    # Where NVIDIA's runtime is the default, it would pass what the image asks for: all.
    visible = [] if is_amd else [f"--env=NVIDIA_VISIBLE_DEVICES={_uuids(gpus)}"]
    groups = engine.group_flags(sorted({_group(node) for node in nodes} - {0}))
    return [*(f"--device={node}" for node in nodes), *groups, *visible]


def _amd_nodes(gpus: Sequence[Gpu]) -> list[str]:
    for gpu in gpus:
        if not gpu.render_node:
            raise RunError(f"GPU {gpu.index}: unknown render node (no /sys/class/kfd); load the amdgpu driver")
    return ["/dev/kfd", *dict.fromkeys(gpu.render_node for gpu in gpus)]


def _nvidia_nodes(gpus: Sequence[Gpu]) -> list[str]:
    for gpu in gpus:
        if gpu.parent:
            raise RunError(
                f"--gpu-mode devices: GPU {gpu.index} is a MIG instance, which has no device node; "
                "use --gpu-mode gpus or cdi"
            )
    shared = [node for node in ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools") if Path(node).exists()]
    return [*shared, *(f"/dev/nvidia{_minor(gpu)}" for gpu in gpus)]


def _minor(gpu: Gpu) -> int:
    """Return the driver's number of a GPU's node, which is its index on most machines, but not on all."""
    with suppress(OSError):
        text = Path(f"/proc/driver/nvidia/gpus/{gpu.pci_bus_id.lower()}/information").read_text()
        minor = re.search(r"Device Minor:\s*(\d+)", text)
        if minor:
            return int(minor[1])
    return gpu.index


def _group(node: str) -> int:
    with suppress(OSError):
        return Path(node).stat().st_gid
    return 0
