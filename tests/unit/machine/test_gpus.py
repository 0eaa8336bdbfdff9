"""Which GPUs this machine has, and which of them a model gets."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from madengine.errors import RunError
from madengine.machine.gpus import (
    detected_vendor,
    eligible_gpus,
    find_gpus,
    foreign_processes,
    gpu_readings,
    requested_count,
    skipped_architecture,
)
from madengine.programs import amd_sysfs, rocm_smi
from madengine.records import Gpu
from tests.conftest import StandIns
from tests.unit.programs.test_amd_sysfs import CPU, KFD, device, gpu_node, topology, write

DATA = Path(__file__).parents[2] / "data" / "smi"
EIGHT = tuple(Gpu("AMD", index) for index in range(8))


def test_nvidias_gpus_are_those_that_its_tool_names(stand_ins: StandIns) -> None:
    stand_ins.add("nvidia-smi", f'[ "$*" = "-q -x" ] || exit 1\ncat {DATA}/nvidia-smi_q_x.xml')
    gpus = find_gpus()
    assert gpus
    assert {gpu.vendor for gpu in gpus} == {detected_vendor(gpus)} == {"NVIDIA"}
    assert find_gpus("NVIDIA") == gpus


@pytest.mark.parametrize("script", ["exit 127", "exit 9", "echo 'No devices were found'", "echo '<nvidia_smi_log>'"])
def test_a_tool_that_knows_nothing_names_no_gpu(stand_ins: StandIns, script: str) -> None:
    stand_ins.add("nvidia-smi", script)
    assert find_gpus("NVIDIA") == ()


def test_names_that_the_kernel_does_not_know_come_from_the_next_tool(
    stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    topology(tmp_path, CPU, gpu_node(0x05, 128), gpu_node(0x15, 136))
    device(tmp_path, "0000:05:00.0", product_name="AMD Instinct MI300X OAM")
    monkeypatch.setattr(amd_sysfs, "gpus", partial(amd_sysfs.gpus, tmp_path))
    stand_ins.add("amd-smi", f'[ "$1" = static ] && cat {DATA}/amd-smi_static.json')
    stand_ins.add("rocm-smi", "exit 1")
    gpus = find_gpus("AMD")
    assert [(gpu.source, gpu.name) for gpu in gpus] == [
        ("sysfs", "AMD Instinct MI300X OAM"),
        ("sysfs", "AMD Instinct MI300X"),
    ]
    assert not any(call.startswith("rocm-smi") for call in stand_ins.calls())


def test_the_next_tool_is_asked_only_where_one_names_no_gpu(
    stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(amd_sysfs, "gpus", partial(amd_sysfs.gpus, tmp_path))
    stand_ins.add("nvidia-smi", "exit 9")
    stand_ins.add("amd-smi", f'[ "$1" = static ] && cat {DATA}/amd-smi_static.json')
    stand_ins.add("rocm-smi", "exit 1")
    assert {gpu.source for gpu in find_gpus()} == {"amd-smi"}
    readings = gpu_readings()
    assert list(readings) == ["nvidia-smi", "sysfs", "amd-smi", "rocm-smi"]
    assert [bool(reading.items) for reading in readings.values()] == [False, False, True, False]


def test_an_unknown_vendor_has_no_gpus() -> None:
    assert find_gpus("VOODOO") == ()


def test_the_vendor_is_that_of_the_gpus_or_none() -> None:
    assert detected_vendor(EIGHT) == "AMD"
    assert detected_vendor(()) == "NONE"


@pytest.mark.parametrize(
    ("docker_gpus", "indexes"),
    [
        ("", [0, 1, 2, 3, 4, 5, 6, 7]),
        (" ", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("0", [0]),
        ("3,1", [3, 1]),
        ("0,2-4, 7", [0, 2, 3, 4, 7]),
        ("1,1-2,1", [1, 2]),
        ("6-9", [6, 7]),
        ("5-3", []),
        ("7,0-999999999", [7, 0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_a_context_leaves_the_gpus_of_its_list_in_its_order(docker_gpus: str, indexes: list[int]) -> None:
    assert [gpu.index for gpu in eligible_gpus(EIGHT, docker_gpus)] == indexes


@pytest.mark.parametrize(
    ("n_gpus", "candidates", "count"),
    [("-1", EIGHT, 8), ("-1", EIGHT[:3], 3), ("-1", (), 0), ("0", EIGHT, 0), ("8", EIGHT, 8), ("2", EIGHT[:3], 2)],
)
def test_a_card_asks_for_a_number_of_gpus_or_all(n_gpus: str, candidates: tuple[Gpu, ...], count: int) -> None:
    assert requested_count(n_gpus, candidates, EIGHT) == count


@pytest.mark.parametrize(
    ("n_gpus", "candidates", "machine", "output"),
    [
        ("9", EIGHT, EIGHT, "n_gpus is 9, this machine has 8"),
        ("3", EIGHT[:2], EIGHT, "n_gpus is 3, this machine has 8, docker_gpus allows 2"),
        ("1", (), (), "n_gpus is 1, this machine has none"),
    ],
)
def test_more_gpus_than_there_are_is_an_error_with_the_numbers(
    n_gpus: str, candidates: tuple[Gpu, ...], machine: tuple[Gpu, ...], output: str
) -> None:
    with pytest.raises(RunError) as caught:
        requested_count(n_gpus, candidates, machine)
    assert str(caught.value) == f"too many GPUs requested: {output}"


# --- unset n_gpus ---


@pytest.mark.parametrize(("candidates", "count"), [(EIGHT, 1), (EIGHT[:1], 1), ((), 0)])
def test_a_card_that_does_not_say_gets_one_gpu_where_there_is_one(candidates: tuple[Gpu, ...], count: int) -> None:
    assert requested_count("", candidates, EIGHT) == count


# --- skip_gpu_arch ---

MI300X = Gpu("AMD", 0, name="AMD Instinct MI300X OAM", architecture="gfx942")
A100 = Gpu("NVIDIA", 0, name="NVIDIA A100-SXM4-40GB", architecture="A100")
H100 = Gpu("NVIDIA", 0, name="NVIDIA H100 80GB HBM3", architecture="H100")


@pytest.mark.parametrize(
    ("listed", "gpu", "entry"),
    [
        ("", MI300X, ""),
        ("gfx942", MI300X, "gfx942"),
        ("gfx908, GFX942 ,gfx90a", MI300X, "GFX942"),
        ("gfx94", MI300X, ""),
        ("gfx908,gfx90a", MI300X, ""),
        ("A100", A100, "A100"),
        ("a100-sxm4-40gb", A100, "a100-sxm4-40gb"),
        ("A10", A100, ""),
        ("V100,H100", H100, "H100"),
        (",,", H100, ""),
        ("NVIDIA", H100, ""),
        ("H100", Gpu("NVIDIA", 0), ""),
        ("", Gpu("NVIDIA", 0), ""),
    ],
)
def test_a_card_names_the_architectures_that_it_is_not_for(listed: str, gpu: Gpu, entry: str) -> None:
    assert skipped_architecture(listed, [gpu]) == entry
    assert skipped_architecture(listed, ()) == ""


# --- processes of others ---

MIG = Gpu("NVIDIA", 0, uuid="MIG-0", parent="GPU-a", pci_bus_id="0000:05:00.0")
CPX = [Gpu("AMD", i, uuid="GPU-a", pci_bus_id="0000:05:00.0", partition="CPX/NPS4") for i in range(8)]


def nvidia_smi(stand_ins: StandIns, *lines: str) -> None:
    stand_ins.add("nvidia-smi", "\n".join(f"echo '{line}'" for line in lines))


def test_processes_on_the_gpus_of_a_run_are_counted_once(stand_ins: StandIns) -> None:
    gpus = [Gpu("NVIDIA", 0, uuid="GPU-a"), Gpu("NVIDIA", 1, uuid="GPU-b"), Gpu("NVIDIA", 2, uuid="GPU-c")]
    nvidia_smi(
        stand_ins,
        "100, GPU-a, 500, python",
        "100, GPU-b, 500, python",
        "101, GPU-b, [N/A], a, b",
        "102, GPU-c, 1, other",
    )
    assert foreign_processes(gpus[:1]) == 1
    assert foreign_processes(gpus[:2]) == 2
    assert foreign_processes(gpus) == 3


def test_the_processes_on_a_gpu_are_those_on_its_instances(stand_ins: StandIns) -> None:
    nvidia_smi(stand_ins, "100, GPU-a, 500, python", "101, GPU-b, 500, python")
    assert foreign_processes([MIG]) == 1


@pytest.mark.parametrize("output", [(), ("No running processes found",)])
def test_gpus_that_nobody_uses_have_no_processes(stand_ins: StandIns, output: tuple[str, ...]) -> None:
    nvidia_smi(stand_ins, *output)
    assert foreign_processes([Gpu("NVIDIA", 0, uuid="GPU-a")]) == 0


@pytest.mark.parametrize("script", ["exit 9", "echo garbage"])
def test_a_count_that_nobody_knows_is_not_zero(stand_ins: StandIns, script: str) -> None:
    stand_ins.add("nvidia-smi", script)
    assert foreign_processes([Gpu("NVIDIA", 0, uuid="GPU-a")]) is None


def test_a_run_without_gpus_has_none_on_them(stand_ins: StandIns) -> None:
    nvidia_smi(stand_ins, "100, GPU-a, 500, python")
    assert foreign_processes([]) == 0
    assert stand_ins.calls() == []


def kfd(root: Path, parts: int) -> None:
    """A GPU in parts; process 100 has memory on the part 1, process 101 on none."""
    nodes = [gpu_node(0x05, 128 + part) | {"location_id": part << 28 | 0x0500} for part in range(parts)]
    topology(root, CPU, *nodes)
    device(root, "0000:05:00.0", mem_info_vram_total=2**30)
    for process, sizes in ((100, {1002: 4096}), (101, {1001: 0})):
        for node in range(parts):
            write(root / KFD / "proc" / str(process) / f"vram_{1001 + node}", str(sizes.get(1001 + node, 0)))


def test_the_neighbours_on_other_parts_of_a_gpu_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kfd(tmp_path, 4)
    monkeypatch.setattr(amd_sysfs, "processes", partial(amd_sysfs.processes, tmp_path))
    assert [foreign_processes([part]) for part in CPX[:4]] == [0, 1, 0, 0]
    assert foreign_processes(CPX[:4]) == 1


def test_a_tool_that_does_not_say_which_gpu_a_process_uses_is_no_answer(
    stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_ins.add("amd-smi", "exit 1")
    stand_ins.add("rocm-smi", f"cat {DATA}/rocm-smi_pids.json")
    monkeypatch.setattr(amd_sysfs, "processes", partial(amd_sysfs.processes, tmp_path))
    assert rocm_smi.processes().items
    assert foreign_processes(EIGHT[:1]) is None
