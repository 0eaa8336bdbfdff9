"""How GPUs are handed to a container: the flags, by engine, vendor and mode."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from madengine.errors import RunError
from madengine.records import Gpu

# Where engines look for CDI specifications: https://github.com/cncf-tags/container-device-interface
CDI_FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
_KIND = {"NVIDIA": "nvidia.com/gpu", "AMD": "amd.com/gpu"}
_SPECIFY = {
    "NVIDIA": "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
    "AMD": "amd-ctk cdi generate --output=/etc/cdi/amd.json",
}
# The first Docker that takes --gpus for AMD (https://github.com/ROCm/container-toolkit).
_DOCKER_WITH_AMD = (28, 3)


def flags(
    engine: str, version: str, gpus: Sequence[Gpu], mode: str, cdi_folders: Sequence[Path] = CDI_FOLDERS
) -> list[str]:
    """The flags that hand these GPUs, and no others, to a container.

    `auto` is what the vendor documents for the engine: `--gpus` for NVIDIA (CDI with podman), device nodes
    for AMD. Raises RunError where the mode can't work here, with the way out.
    """
    if not gpus:
        # An image may ask for all GPUs by itself, and NVIDIA's runtime would give them.
        return ["--env=NVIDIA_VISIBLE_DEVICES=void"]
    vendor = gpus[0].vendor
    if mode == "auto":
        mode = "devices" if vendor == "AMD" else "cdi" if engine == "podman" else "gpus"
    makers: Mapping[str, Callable[[], list[str]]] = {
        "devices": lambda: _nodes(engine, gpus),
        "gpus": lambda: _gpus(engine, version, gpus),
        "cdi": lambda: _cdi(gpus, cdi_folders),
    }
    return makers[mode]()


def cdi_devices(vendor: str, folders: Sequence[Path] = CDI_FOLDERS) -> set[str]:
    """The names of the vendor's GPUs in the CDI specifications of this machine."""
    found: set[str] = set()
    for spec in _specs(folders):
        if spec.get("kind") == _KIND[vendor]:
            devices = spec.get("devices") or []
            found.update(str(device["name"]) for device in devices if isinstance(device, dict) and "name" in device)
    return found


def _specs(folders: Sequence[Path]) -> Iterator[Mapping[str, Any]]:
    for folder in folders:
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


def _cdi(gpus: Sequence[Gpu], folders: Sequence[Path]) -> list[str]:
    vendor = gpus[0].vendor
    known = cdi_devices(vendor, folders)
    names = []
    for gpu in gpus:
        name = next((name for name in (gpu.uuid, str(gpu.index)) if name in known), None)
        if name is None:
            where = " and ".join(map(str, folders))
            raise RunError(f"GPU {gpu.index} is in no CDI specification in {where}: `{_SPECIFY[vendor]}` writes one")
        names.append(name)
    return [f"--device={_KIND[vendor]}={name}" for name in names]


def _gpus(engine: str, version: str, gpus: Sequence[Gpu]) -> list[str]:
    if engine == "podman":
        raise RunError("podman takes --gpus and may hand over nothing: use --gpu-mode cdi, or devices")
    if gpus[0].vendor == "AMD":
        if engine != "docker" or _number(version) < _DOCKER_WITH_AMD:
            raise RunError(f"--gpu-mode gpus: {engine} {version} knows NVIDIA's only (docker 28.3 AMD's): use devices")
        listed = ",".join(str(gpu.index) for gpu in gpus)
    else:
        listed = ",".join(gpu.uuid or str(gpu.index) for gpu in gpus)
    # The inner quotes belong to the value: docker reads it as CSV.
    return ["--gpus", f'"device={listed}"']


def _nodes(engine: str, gpus: Sequence[Gpu]) -> list[str]:
    nodes = _amd_nodes(gpus) if gpus[0].vendor == "AMD" else _nvidia_nodes(gpus)
    if engine == "podman" and os.geteuid() != 0:
        groups = ["--group-add=keep-groups"]
    else:
        groups = [f"--group-add={group}" for group in sorted({_group(node) for node in nodes} - {0})]
    return [*(f"--device={node}" for node in nodes), *groups]


def _amd_nodes(gpus: Sequence[Gpu]) -> list[str]:
    for gpu in gpus:
        if not gpu.render_node:
            raise RunError(f"GPU {gpu.index}: its render node isn't known (no /sys/class/kfd): load the amdgpu driver")
    return ["/dev/kfd", *dict.fromkeys(gpu.render_node for gpu in gpus)]


def _nvidia_nodes(gpus: Sequence[Gpu]) -> list[str]:
    for gpu in gpus:
        if gpu.parent:
            raise RunError(f"GPU {gpu.index} is a MIG instance: --gpu-mode devices can't hand it over, use gpus or cdi")
    shared = [node for node in ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools") if Path(node).exists()]
    return [*shared, *(f"/dev/nvidia{_minor(gpu)}" for gpu in gpus)]


def _minor(gpu: Gpu) -> int:
    """The driver's own number of a GPU's node; it is the index on most machines, but not on all."""
    with suppress(OSError):
        text = Path(f"/proc/driver/nvidia/gpus/{gpu.pci_bus_id.lower()}/information").read_text()
        said = re.search(r"Device Minor:\s*(\d+)", text)
        if said:
            return int(said[1])
    return gpu.index


def _group(node: str) -> int:
    with suppress(OSError):
        return Path(node).stat().st_gid
    return 0


def _number(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)
