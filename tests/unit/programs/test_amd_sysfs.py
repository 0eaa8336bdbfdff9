"""AMD GPUs as the kernel tells them, on made-up trees."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madengine.programs import amd_sysfs
from madengine.records import Gpu, GpuProcess, GpuSettings

GIB = 2**30
KFD = "sys/class/kfd/kfd"
CPU = {"cpu_cores_count": 96, "simd_count": 0, "drm_render_minor": 0, "gfx_target_version": 0, "location_id": 0}
MI300X_BUSES = (0x05, 0x15, 0x65, 0x75, 0x85, 0x95, 0xE5, 0xF5)


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")


def topology(root: Path, *nodes: Mapping[str, int]) -> Path:
    """A tree with these KFD nodes; `size` is what a node's own memory bank holds."""
    for number, node in enumerate(nodes):
        folder = root / KFD / "topology/nodes" / str(number)
        write(folder / "properties", "\n".join(f"{name} {value}" for name, value in node.items() if name != "size"))
        write(folder / "gpu_id", str(1000 + number if node.get("drm_render_minor") else 0))
        write(folder / "mem_banks/0/properties", f"heap_type 1\nsize_in_bytes {node.get('size', 0)}\nwidth 8192")
    return root


def device(root: Path, address: str, **files: Any) -> None:
    """A PCI device with these files; `hwmon_` stands for its hwmon folder."""
    for name, value in files.items():
        name = name.replace("hwmon_", "hwmon/hwmon3/")
        write(root / "sys/bus/pci/devices" / address / name, str(value))


def gpu_node(bus: int, minor: int, gfx: int = 90402, **more: int) -> dict[str, int]:
    return {"simd_count": 304, "drm_render_minor": minor, "gfx_target_version": gfx, "location_id": bus << 8, **more}


@pytest.fixture
def eight(tmp_path: Path) -> Path:
    """Eight MI300X behind two CPUs; the kernel found them in another order than their PCI addresses have."""
    order = [4, 5, 6, 7, 0, 1, 2, 3]
    nodes = [gpu_node(MI300X_BUSES[place], 128 + 8 * place, unique_id=0xAB00 + place) for place in order]
    topology(tmp_path, CPU, CPU, *nodes)
    for place, bus in enumerate(MI300X_BUSES):
        device(
            tmp_path,
            f"0000:{bus:02x}:00.0",
            product_name="AMD Instinct MI300X OAM",
            mem_info_vram_total=192 * GIB,
            mem_info_vram_used=place * GIB,
            gpu_busy_percent=10 * place,
            current_compute_partition="SPX",
            current_memory_partition="NPS1",
            hwmon_power1_average="N/A",
            hwmon_power1_input=(100 + place) * 1_000_000,
            hwmon_temp2_input=45_500,
            hwmon_temp2_label="junction",
            hwmon_temp3_input=38_000,
            hwmon_temp3_label="mem",
        )
    write(tmp_path / "sys/module/amdgpu/version", "6.12.12")
    write(tmp_path / "opt/rocm/.info/version", "6.4.1-83")
    return tmp_path


def test_gpus_are_in_the_order_of_their_pci_addresses_as_the_tools_have_it(eight: Path) -> None:
    reading = amd_sysfs.gpus(eight)
    assert reading.problem == ""
    assert [gpu.pci_bus_id for gpu in reading.items] == [f"0000:{bus:02x}:00.0" for bus in MI300X_BUSES]
    assert [gpu.render_node for gpu in reading.items] == [f"/dev/dri/renderD{128 + 8 * place}" for place in range(8)]
    assert reading.items[7] == Gpu(
        "AMD",
        7,
        name="AMD Instinct MI300X OAM",
        architecture="gfx942",
        uuid="GPU-000000000000ab07",
        render_node="/dev/dri/renderD184",
        memory_mib=192 * 1024,
        driver="6.12.12",
        runtime="6.4.1",
        pci_bus_id="0000:f5:00.0",
        partition="SPX/NPS1",
        source="sysfs",
    )


def test_a_sample_has_what_the_counters_say(eight: Path) -> None:
    before = time.time()
    reading = amd_sysfs.samples(eight)
    assert reading.problem == ""
    assert [sample.index for sample in reading.items] == list(range(8))
    last = reading.items[7]
    assert (last.source, last.pci_bus_id) == ("sysfs", "0000:f5:00.0")
    assert before <= last.time <= time.time()
    values = (last.memory_used_mib, last.utilization, last.power_w, last.temperature_c, last.throttled)
    assert values == (7 * 1024, 70, 107.0, 45.5, None)


def test_each_part_of_a_partitioned_gpu_is_a_device_and_their_gpu_is_sampled_once(tmp_path: Path) -> None:
    nodes = [
        gpu_node(bus, 128 + 8 * place + part, location_id=part << 28 | bus << 8, size=24 * GIB)
        for place, bus in enumerate(MI300X_BUSES)
        for part in range(8)
    ]
    topology(tmp_path, CPU, CPU, *reversed(nodes))
    for bus in MI300X_BUSES:
        device(
            tmp_path,
            f"0000:{bus:02x}:00.0",
            mem_info_vram_total=192 * GIB,
            mem_info_vram_used=GIB,
            current_compute_partition="CPX",
            current_memory_partition="NPS4",
        )
    reading = amd_sysfs.gpus(tmp_path).items
    assert [gpu.render_node for gpu in reading] == [f"/dev/dri/renderD{128 + number}" for number in range(64)]
    assert {(gpu.memory_mib, gpu.partition, gpu.architecture) for gpu in reading} == {(24 * 1024, "CPX/NPS4", "gfx942")}
    assert [gpu.pci_bus_id for gpu in reading[8:16]] == ["0000:15:00.0"] * 8
    samples = amd_sysfs.samples(tmp_path).items
    assert [(sample.index, sample.memory_used_mib) for sample in samples] == [(8 * place, 1024) for place in range(8)]


def test_a_kernel_that_numbers_parts_as_pci_functions_is_understood(tmp_path: Path) -> None:
    topology(tmp_path, *(gpu_node(5, 128 + part, location_id=5 << 8 | part, size=GIB) for part in range(4)))
    device(tmp_path, "0000:05:00.0", mem_info_vram_total=4 * GIB, current_compute_partition="CPX")
    reading = amd_sysfs.gpus(tmp_path).items
    assert [(gpu.pci_bus_id, gpu.memory_mib) for gpu in reading] == [("0000:05:00.0", 1024)] * 4
    assert [gpu.render_node for gpu in reading] == [f"/dev/dri/renderD{128 + part}" for part in range(4)]


def test_an_apu_beside_a_card_uses_the_hosts_memory(tmp_path: Path) -> None:
    apu = {**CPU, **gpu_node(0xC4, 129, gfx=110003), "cpu_cores_count": 16}
    topology(tmp_path, CPU, apu, gpu_node(0x03, 128, gfx=100300))
    device(tmp_path, "0000:03:00.0", mem_info_vram_total=16 * GIB, mem_info_vram_used=GIB, mem_info_gtt_total=GIB)
    device(
        tmp_path,
        "0000:c4:00.0",
        mem_info_vram_total=0,
        mem_info_vram_used=0,
        mem_info_gtt_total=8 * GIB,
        mem_info_gtt_used=3 * GIB,
    )
    card, host = amd_sysfs.gpus(tmp_path).items
    assert (card.architecture, card.memory_mib, card.render_node) == ("gfx1030", 16 * 1024, "/dev/dri/renderD128")
    assert (host.architecture, host.memory_mib, host.render_node) == ("gfx1103", 8 * 1024, "/dev/dri/renderD129")
    used = [sample.memory_used_mib for sample in amd_sysfs.samples(tmp_path).items]
    assert used == [1024, 3 * 1024]


@pytest.mark.parametrize(
    ("version", "name"),
    [(90010, "gfx90a"), (90402, "gfx942"), (90500, "gfx950"), (100300, "gfx1030"), (110001, "gfx1101"), (0, "")],
)
def test_the_architecture_is_named_as_compilers_do(version: int, name: str, tmp_path: Path) -> None:
    topology(tmp_path, gpu_node(5, 128, gfx=version))
    assert [gpu.architecture for gpu in amd_sysfs.gpus(tmp_path).items] == [name]


def test_what_is_not_there_is_unknown_and_not_zero(tmp_path: Path) -> None:
    topology(tmp_path, gpu_node(5, 128, gfx=0))
    assert amd_sysfs.gpus(tmp_path).items == (
        Gpu("AMD", 0, render_node="/dev/dri/renderD128", pci_bus_id="0000:05:00.0", source="sysfs"),
    )
    reading = amd_sysfs.samples(tmp_path)
    assert reading.items == ()
    assert reading.problem.endswith("sys/bus/pci/devices: no counters of 1 of 1 GPUs")


def test_a_counter_that_is_missing_is_unknown_in_its_sample(tmp_path: Path) -> None:
    topology(tmp_path, gpu_node(5, 128))
    device(tmp_path, "0000:05:00.0", gpu_busy_percent=3, hwmon_temp1_input=41_000, hwmon_power1_average=25_000_000)
    (sample,) = amd_sysfs.samples(tmp_path).items
    values = (sample.memory_used_mib, sample.utilization, sample.power_w, sample.temperature_c)
    assert values == (None, 3, 25.0, 41.0)


def test_the_kernels_version_stands_for_a_driver_that_has_none(tmp_path: Path) -> None:
    topology(tmp_path, gpu_node(5, 128))
    write(tmp_path / "proc/sys/kernel/osrelease", "6.8.0-40-generic")
    assert amd_sysfs.gpus(tmp_path).items[0].driver == "6.8.0-40-generic"


def test_a_machine_without_the_driver_and_one_without_a_gpu_are_told_apart(tmp_path: Path) -> None:
    bare = amd_sysfs.gpus(tmp_path)
    topology(tmp_path, CPU, CPU)
    cpus = amd_sysfs.gpus(tmp_path)
    assert (bare.items, cpus.items) == ((), ())
    assert bare.problem.endswith("topology/nodes: missing; the amdgpu driver is not loaded")
    assert cpus.problem.endswith("topology/nodes: no readable GPU")
    assert amd_sysfs.processes(tmp_path).problem == amd_sysfs.samples(tmp_path).problem == cpus.problem


def test_a_process_is_on_the_gpus_that_it_has_memory_on(eight: Path) -> None:
    # gpu_id 1002 is the first GPU node, bus 85: the fifth of the tools.
    for pid, node, used in ((4242, 1002, 3 * GIB), (4242, 1006, 0), (4300, 1006, GIB), (4300, 7, GIB)):
        write(eight / KFD / f"proc/{pid}/vram_{node}", str(used))
    write(eight / "proc/4242/comm", "python3")
    assert amd_sysfs.processes(eight).items == (
        GpuProcess(4242, "python3", 3072.0, pci_bus_id="0000:85:00.0", index=4),
        GpuProcess(4300, "", 1024.0, pci_bus_id="0000:05:00.0", index=0),
    )


def test_a_container_without_kfd_knows_gpus_by_their_render_nodes(tmp_path: Path) -> None:
    """Of three GPUs one is in parts, and beside them is another vendor's device."""
    for bus, minor, vendor, mode in (
        (5, 128, "1002", "SPX"),
        (6, 129, "1002", "CPX"),
        (7, 130, "1002", ""),
        (8, 131, "10de", ""),
    ):
        address = f"0000:{bus:02x}:00.0"
        files = {"vendor": f"0x{vendor}", "mem_info_vram_total": 64 * GIB, "mem_info_vram_used": GIB}
        device(tmp_path, address, **files, hwmon_power1_average=250_000_000)
        if mode:
            write(tmp_path / "sys/bus/pci/devices" / address / "current_compute_partition", mode)
        node = tmp_path / f"sys/class/drm/renderD{minor}"
        node.mkdir(parents=True)
        (node / "device").symlink_to(f"../../../bus/pci/devices/{address}")
    gpus = amd_sysfs.render_gpus(tmp_path).items
    assert [(gpu.render_node, gpu.pci_bus_id, gpu.memory_mib) for gpu in gpus] == [
        ("/dev/dri/renderD128", "0000:05:00.0", 65536),
        ("/dev/dri/renderD130", "0000:07:00.0", 65536),
    ]
    assert amd_sysfs.gpus(tmp_path).items == ()
    samples = amd_sysfs.samples(tmp_path).items
    assert [(one.pci_bus_id, one.memory_used_mib, one.power_w, one.utilization) for one in samples] == [
        ("0000:05:00.0", 1024, 250.0, None),
        ("0000:07:00.0", 1024, 250.0, None),
    ]


NAMES = ["drm_render_minor", "location_id", "domain", "gfx_target_version", "unique_id", "heap_type", "size_in_bytes"]
LINES = st.lists(st.builds("{} {}".format, st.sampled_from(NAMES), st.integers())).map("\n".join).map(str.encode)


@given(files=st.dictionaries(st.sampled_from(["properties", "gpu_id", "mem_banks/0/properties"]), st.binary() | LINES))
def test_no_content_of_the_tree_is_an_error(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    root = topology(tmp_path_factory.mktemp("tree"), gpu_node(5, 128), gpu_node(5, 129))
    device(root, "0000:05:00.0", mem_info_vram_total="-", gpu_busy_percent="", hwmon_temp1_input="hot")
    for name, content in files.items():
        (root / KFD / "topology/nodes/1" / name).write_bytes(content)
    reading = amd_sysfs.gpus(root).items
    assert "/dev/dri/renderD128" in {gpu.render_node for gpu in reading}
    assert 0 not in {gpu.memory_mib for gpu in reading}
    assert amd_sysfs.samples(root).items == ()
    assert amd_sysfs.processes(root).items == ()


def test_how_a_gpu_is_set_is_in_its_device(tmp_path: Path) -> None:
    topology(tmp_path, CPU, gpu_node(0x05, 128), gpu_node(0x15, 136))
    device(
        tmp_path,
        "0000:05:00.0",
        power_dpm_force_performance_level="manual",
        pp_dpm_sclk="S: 19Mhz *\n0: 500Mhz\n1: 2100Mhz",
        pp_dpm_mclk="0: 900Mhz *\n1: 1300Mhz",
        hwmon_power1_cap=750_000_000,
        hwmon_freq1_input=132_000_000,
        hwmon_freq2_input=900_000_000,
    )
    described, bare = (gpu.settings for gpu in amd_sysfs.gpus(tmp_path).items)
    assert described == GpuSettings(750, None, "manual", None, None, 2100, 1300, 132, 900)
    assert bare == GpuSettings()
