"""How GPUs are handed to a container: the flags, by engine, vendor and mode."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

from madengine.errors import RunError
from madengine.records import Gpu

# Where engines look for CDI specifications: https://github.com/cncf-tags/container-device-interface
CDI_FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
_KIND = {"NVIDIA": "nvidia.com/gpu", "AMD": "amd.com/gpu"}
SPECIFY = {
    "NVIDIA": "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
    "AMD": "amd-ctk cdi generate --output=/etc/cdi/amd.json",
}
# The first Docker that takes --gpus for AMD (https://github.com/ROCm/container-toolkit).
_DOCKER_WITH_AMD = (28, 3)


def flags(engine: str, version: str, gpus: Sequence[Gpu], mode: str) -> list[str]:
    """The flags that hand these GPUs, and no others, to a container.

    Raises RunError where the mode can't work here, with the way out.
    """
    if not gpus:
        # An image may ask for all GPUs by itself, and NVIDIA's runtime would give them.
        return ["--env=NVIDIA_VISIBLE_DEVICES=void"]
    makers: Mapping[str, Callable[[], list[str]]] = {
        "devices": lambda: _nodes(engine, gpus),
        "gpus": lambda: _gpus(engine, version, gpus),
        "cdi": lambda: _cdi(gpus),
    }
    return makers[chosen_mode(engine, gpus[0].vendor, mode)]()


def chosen_mode(engine: str, vendor: str, mode: str) -> str:
    """What `auto` means: what the vendor documents, `--gpus` for NVIDIA (CDI with podman), device nodes for AMD."""
    if mode != "auto":
        return mode
    return "devices" if vendor == "AMD" else "cdi" if engine == "podman" else "gpus"


def cdi_devices(vendor: str) -> set[str]:
    """The names of the vendor's GPUs in the CDI specifications of this machine."""
    found: set[str] = set()
    for spec in _specs():
        if spec.get("kind") == _KIND[vendor]:
            devices = spec.get("devices")
            listed = devices if isinstance(devices, list) else []
            found.update(str(device["name"]) for device in listed if isinstance(device, dict) and "name" in device)
    return found


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


def _cdi(gpus: Sequence[Gpu]) -> list[str]:
    vendor = gpus[0].vendor
    known = cdi_devices(vendor)
    names = []
    for gpu in gpus:
        name = next((name for name in _cdi_names(gpu, known) if name in known), "")
        if not name:
            where = " and ".join(map(str, CDI_FOLDERS))
            raise RunError(f"GPU {gpu.index} is in no CDI specification in {where}: `{SPECIFY[vendor]}` writes one")
        names.append(name)
    return [f"--device={_KIND[vendor]}={name}" for name in names]


def _cdi_names(gpu: Gpu, known: Set[str]) -> tuple[str, ...]:
    """What a specification may call this GPU.

    Parts of AMD's GPUs share a UUID. NVIDIA's numbers leave out MIG instances (`0:1`), which ours count.
    """
    if gpu.vendor == "AMD":
        return (str(gpu.index),)
    by_number = not gpu.parent and not any(":" in name for name in known)
    return (gpu.uuid, str(gpu.index)) if by_number else (gpu.uuid,)


def _gpus(engine: str, version: str, gpus: Sequence[Gpu]) -> list[str]:
    if engine == "podman":
        raise RunError("podman takes --gpus and may hand over nothing: use --gpu-mode cdi, or devices")
    if gpus[0].vendor == "AMD":
        if engine != "docker" or _number(version) < _DOCKER_WITH_AMD:
            raise RunError(f"--gpu-mode gpus: {engine} {version} knows NVIDIA's only (docker 28.3 AMD's): use devices")
        listed = ",".join(str(gpu.index) for gpu in gpus)
    else:
        listed = _listed(gpus)
    # The inner quotes belong to the value: docker reads it as CSV.
    return ["--gpus", f'"device={listed}"']


def _listed(gpus: Sequence[Gpu]) -> str:
    return ",".join(gpu.uuid or str(gpu.index) for gpu in gpus)


def _nodes(engine: str, gpus: Sequence[Gpu]) -> list[str]:
    amd = gpus[0].vendor == "AMD"
    nodes = _amd_nodes(gpus) if amd else _nvidia_nodes(gpus)
    # Where NVIDIA's runtime is the default, it would give what the image asks for: all.
    visible = [] if amd else [f"--env=NVIDIA_VISIBLE_DEVICES={_listed(gpus)}"]
    if engine == "podman" and os.geteuid() != 0:
        groups = ["--group-add=keep-groups"]
    else:
        groups = [f"--group-add={group}" for group in sorted({_group(node) for node in nodes} - {0})]
    return [*(f"--device={node}" for node in nodes), *groups, *visible]


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
