"""AMD's GPUs as the kernel describes them in sysfs: KFD topology, PCI devices and hwmon, without any tool."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from madengine.programs import smi
from madengine.programs.rocm import installed
from madengine.records import Gpu, GpuProcess, GpuSample, GpuSettings, Reading

NAME = "sysfs"
SAMPLE_SECONDS = 0.0
ROOT = Path("/")
KFD = "sys/class/kfd/kfd"
PCI = "sys/bus/pci/devices"
DRM = "sys/class/drm"
AMD_VENDOR = "0x1002"
MIB = 2**20
# The sensor that throttling follows comes first; data-centre cards have no edge sensor.
SENSORS = ("junction", "edge", "")

stream = smi.no_stream


@dataclass(frozen=True)
class Node:
    """A GPU node of the KFD topology."""

    number: int
    gpu_id: str
    properties: dict[str, int]
    pci_bus_id: str
    #: The folder of its PCI device.
    device: Path

    @property
    def place(self) -> tuple[str, int, int]:
        """The tools' sort key: PCI address, then the part of the GPU, which is in location_id's top bits."""
        return self.pci_bus_id, self.properties.get("location_id", 0) >> 28, self.number


def gpus(root: Path = ROOT) -> Reading[Gpu]:
    """Return the driver's GPUs, and each part of a partitioned one, in the tools' order."""
    nodes = _nodes(root)
    if not nodes:
        return Reading(problem=_no_nodes(root))
    parts = Counter(node.pci_bus_id for node in nodes)
    driver, runtime = driver_version(root), rocm_version(root)
    return Reading(
        tuple(
            Gpu(
                "AMD",
                index,
                name=_read(node.device / "product_name"),
                architecture=_gfx(node.properties.get("gfx_target_version", 0)),
                uuid=smi.unique(node.properties.get("unique_id", 0)),
                render_node=f"/dev/dri/renderD{node.properties['drm_render_minor']}",
                memory_mib=_part_memory(root, node) if parts[node.pci_bus_id] > 1 else _memory(node.device, "total"),
                driver=driver,
                runtime=runtime,
                pci_bus_id=node.pci_bus_id,
                partition="/".join(filter(None, (_mode(node, "compute"), _mode(node, "memory")))),
                source=NAME,
                settings=_settings(node.device),
            )
            for index, node in enumerate(nodes)
        )
    )


def render_gpus(root: Path = ROOT) -> Reading[Gpu]:
    """Return AMD's GPUs by their render nodes alone, which is what a container without /dev/kfd may read.

    A GPU in parts is left out: which part a render node is, only the driver's topology says.
    """
    return Reading(
        tuple(
            Gpu(
                "AMD",
                index,
                name=_read(device / "product_name"),
                render_node=f"/dev/dri/{node}",
                memory_mib=_memory(device, "total"),
                driver=driver_version(root),
                pci_bus_id=device.name,
                source=NAME,
            )
            for index, (node, device) in enumerate(_render_devices(root).items())
        )
    )


def _render_devices(root: Path) -> dict[str, Path]:
    """Return the PCI device of each render node that is a whole GPU of AMD."""
    devices = {}
    for node in sorted((root / DRM).glob("renderD*"), key=lambda node: (len(node.name), node.name)):
        device = root / PCI / Path(os.path.realpath(node / "device")).name
        mode = smi.text(_read(device / "current_compute_partition"))
        if _read(device / "vendor") == AMD_VENDOR and mode in ("", "SPX"):
            devices[node.name] = device
    return devices


def samples(root: Path = ROOT) -> Reading[GpuSample]:
    """Return a sample of every PCI device, because the parts of a GPU share its counters."""
    places = [(node.pci_bus_id, node.device) for node in _nodes(root)]
    places = places or [(device.name, device) for device in _render_devices(root).values()]
    first: dict[str, tuple[int, Path]] = {}
    for index, (address, device) in enumerate(places):
        first.setdefault(address, (index, device))
    readings = [_sample(device, address, index) for address, (index, device) in first.items()]
    known = tuple(sample for sample in readings if sample is not None)
    silent = f"{root / PCI}: no counters of {len(readings) - len(known)} of {len(readings)} GPUs"
    return Reading(known, _no_nodes(root) if not places else silent if len(known) < len(readings) else "")


def processes(root: Path = ROOT) -> Reading[GpuProcess]:
    """Return the processes that KFD serves, one entry per GPU (or part of one) that they have memory on."""
    places = {node.gpu_id: (index, node.pci_bus_id) for index, node in enumerate(_nodes(root))}
    users = []
    for folder in _numbered(root / KFD / "proc"):
        name = _read(root / "proc" / folder.name / "comm")
        for file in sorted(folder.glob("vram_*")):
            used = _number(file)
            place = places.get(file.name.removeprefix("vram_"))
            # A process that uses one GPU has such a file for every GPU.
            if place is not None and used != 0:
                memory = None if used is None else used / MIB
                users.append(GpuProcess(int(folder.name), name, memory, pci_bus_id=place[1], index=place[0]))
    return Reading(tuple(users), "" if places else _no_nodes(root))


def driver_version(root: Path = ROOT) -> str:
    """Return the amdgpu driver's own version, else the kernel's, which the driver is then a part of."""
    return _read(root / "sys/module/amdgpu/version") or _read(root / "proc/sys/kernel/osrelease")


def rocm_version(root: Path = ROOT) -> str:
    """Return the version of ROCm, such as `6.4.1`."""
    in_default_folder = _read(root / "opt/rocm/.info/version").partition("-")[0]
    rocm = installed() if root == ROOT else None
    return rocm.version if rocm else in_default_folder


def _nodes(root: Path) -> list[Node]:
    """Return the nodes with a render node; others are CPUs, or GPUs that we may not open."""
    nodes = []
    for folder in _numbered(root / KFD / "topology/nodes"):
        properties = _properties(folder / "properties")
        if properties.get("drm_render_minor", 0) > 0:
            device = _device(root, properties)
            nodes.append(Node(int(folder.name), _read(folder / "gpu_id"), properties, device.name, device))
    return sorted(nodes, key=lambda node: node.place)


def _device(root: Path, properties: dict[str, int]) -> Path:
    location = properties.get("location_id", 0)
    bus, slot, function = location >> 8 & 0xFF, location >> 3 & 0x1F, location & 7
    slot_address = f"{properties.get('domain', 0):04x}:{bus:02x}:{slot:02x}"
    device = root / PCI / f"{slot_address}.{function}"
    # Some kernels write the number of the part instead of the PCI function.
    return device if device.exists() else root / PCI / f"{slot_address}.0"


def _no_nodes(root: Path) -> str:
    topology = root / KFD / "topology/nodes"
    if not topology.is_dir():
        return f"{topology}: missing; the amdgpu driver is not loaded"
    return f"{topology}: no readable GPU"


def _numbered(folder: Path) -> list[Path]:
    try:
        entries = list(folder.iterdir())
    except OSError:
        return []
    return sorted((entry for entry in entries if entry.name.isdecimal()), key=lambda entry: int(entry.name))


def _properties(file: Path) -> dict[str, int]:
    values = {}
    for line in _read(file).splitlines():
        name, _, value = line.partition(" ")
        with suppress(ValueError):
            values[name] = int(value)
    return values


def _gfx(version: int) -> str:
    """Return the name for the kernel's number, such as gfx942 for 90402: two digits for minor and stepping each."""
    return f"gfx{version // 10000}{version // 100 % 100}{version % 100:x}" if version > 0 else ""


def _mode(node: Node, kind: str) -> str:
    return smi.text(_read(node.device / f"current_{kind}_partition"))


def _part_memory(root: Path, node: Node) -> int | None:
    """Return the MiB of a part of a GPU: its own banks, not the whole GPU's."""
    banks = (root / KFD / "topology/nodes" / str(node.number) / "mem_banks").glob("*/properties")
    # Heap types 1 and 2 are the device's own memory, visible to the host or not.
    own = [bank.get("size_in_bytes", 0) for file in banks if (bank := _properties(file)).get("heap_type") in (1, 2)]
    return sum(own) // MIB or None


def _memory(device: Path, kind: str) -> int | None:
    """Return the MiB of a GPU's memory; of the host's memory that it maps (GTT), if it has none of its own."""
    heap = "vram" if _number(device / "mem_info_vram_total") else "gtt"
    size = _number(device / f"mem_info_{heap}_{kind}")
    return None if size is None else size // MIB


def _sample(device: Path, address: str, index: int) -> GpuSample | None:
    memory = _memory(device, "used")
    busy = _number(device / "gpu_busy_percent")
    hwmon = _hwmon(device)
    power = next(
        (watts for name in ("average", "input") if (watts := _number(hwmon / f"power1_{name}")) is not None), None
    )
    heat = _temperature(hwmon)
    if memory is busy is power is heat is None:
        return None
    return GpuSample(
        NAME,
        time.time(),
        index,
        pci_bus_id=address,
        memory_used_mib=memory,
        utilization=busy,
        power_w=None if power is None else power / 1e6,
        temperature_c=None if heat is None else heat / 1000,
    )


def _hwmon(device: Path) -> Path:
    return next(iter(sorted(device.glob("hwmon/hwmon*"))), device / "hwmon")


def _settings(device: Path) -> GpuSettings:
    hwmon = _hwmon(device)
    return GpuSettings(
        power_cap_w=_scaled(_number(hwmon / "power1_cap"), 1e-6),
        performance_level=smi.text(_read(device / "power_dpm_force_performance_level")),
        max_clock_mhz=_highest(device / "pp_dpm_sclk"),
        max_memory_clock_mhz=_highest(device / "pp_dpm_mclk"),
        clock_mhz=_scaled(_number(hwmon / "freq1_input"), 1e-6),
        memory_clock_mhz=_scaled(_number(hwmon / "freq2_input"), 1e-6),
    )


def _scaled(value: int | None, factor: float) -> float | None:
    return None if value is None else round(value * factor, 3)


def _highest(file: Path) -> float | None:
    """Return the highest clock of lines like `1: 2100Mhz *`."""
    levels = re.findall(r"^\S+: *(\d+)Mhz", _read(file), re.MULTILINE | re.IGNORECASE)
    return max(map(float, levels), default=None)


def _temperature(hwmon: Path) -> int | None:
    heats: dict[str, int | None] = {}
    for file in sorted(hwmon.glob("temp*_input")):
        label = _read(file.with_name(file.name.replace("_input", "_label")))
        heats.setdefault(label, _number(file))
    return next((heat for sensor in SENSORS if (heat := heats.get(sensor)) is not None), None)


def _number(file: Path) -> int | None:
    try:
        return int(_read(file))
    except ValueError:
        return None


def _read(file: Path) -> str:
    """Return the file's text; empty if it is missing, or the driver refuses to fill it."""
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""
