"""Which GPUs this machine has, and which of them a model gets."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from madengine.errors import RunError
from madengine.machine import gpus as gpu_finder
from madengine.machine.gpus import (
    detected_context,
    detected_vendor,
    eligible_gpus,
    find_gpus,
    foreign_processes,
    gpu_readings,
    requested_count,
    skipped_architecture,
    wants_gpus,
)
from madengine.programs import amd_sysfs, rocm_smi, smi
from madengine.records import Gpu, Reading
from tests.conftest import StandIns
from tests.unit.programs.test_amd_sysfs import CPU, KFD, device, gpu_node, topology, write

DATA = Path(__file__).parents[2] / "data" / "smi"
EIGHT = tuple(Gpu("AMD", index) for index in range(8))


def test_nvidias_gpus_are_those_that_its_tool_names(stand_ins: StandIns) -> None:
    stand_ins.add("nvidia-smi", f'[ "$*" = "-q -x" ] || exit 1\ncat {DATA}/nvidia-smi_q_x.xml')
    gpus = find_gpus().items
    assert gpus
    assert {gpu.vendor for gpu in gpus} == {detected_vendor(gpus)} == {"NVIDIA"}
    assert find_gpus("NVIDIA").items == gpus


@pytest.mark.parametrize("script", ["exit 127", "exit 9", "echo 'No devices were found'", "echo '<nvidia_smi_log>'"])
def test_a_tool_that_knows_nothing_names_no_gpu(stand_ins: StandIns, script: str) -> None:
    stand_ins.add("nvidia-smi", script)
    assert find_gpus("NVIDIA").items == ()


def test_names_that_the_kernel_does_not_know_come_from_the_next_tool(
    stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    topology(tmp_path, CPU, gpu_node(0x05, 128), gpu_node(0x15, 136))
    device(tmp_path, "0000:05:00.0", product_name="AMD Instinct MI300X OAM")
    monkeypatch.setattr(amd_sysfs, "gpus", partial(amd_sysfs.gpus, tmp_path))
    stand_ins.add("amd-smi", f'[ "$1" = static ] && cat {DATA}/amd-smi_static.json')
    stand_ins.add("rocm-smi", "exit 1")
    gpus = find_gpus("AMD").items
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
    assert {gpu.source for gpu in find_gpus().items} == {"amd-smi"}
    readings = gpu_readings()
    assert list(readings) == ["nvidia-smi", "sysfs", "amd-smi", "rocm-smi"]
    assert [bool(reading.items) for reading in readings.values()] == [False, False, True, False]


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_ins: StandIns) -> StandIns:
    """A machine without GPUs, and with none of the tools."""
    monkeypatch.setattr(amd_sysfs, "gpus", partial(amd_sysfs.gpus, tmp_path))
    monkeypatch.setattr(gpu_finder, "PCI", tmp_path / "pci")
    monkeypatch.setenv("ROCM_PATH", str(tmp_path))
    return stand_ins


IDLE_MIG = '<nvidia_smi_log><gpu id="1"><mig_mode><current_mig>Enabled</current_mig></mig_mode></gpu></nvidia_smi_log>'
MISMATCH = (
    "echo 'Failed to initialize NVML: Driver/library version mismatch'; echo 'NVML library version: 550.54'; exit 18"
)


@pytest.mark.parametrize(
    ("tool", "script", "problem"),
    [
        ("nvidia-smi", MISMATCH, "nvidia-smi -q -x: exit code 18: Failed to initialize NVML: Driver/library version"),
        ("nvidia-smi", "echo 'No devices were found'; exit 6", "exit code 6: No devices were found"),
        ("nvidia-smi", "kill -SEGV $$", "exit code -11: no output"),
        ("nvidia-smi", "exec sleep 60", "no answer in 0.2 s"),
        ("nvidia-smi", "echo garbage", "unexpected output: garbage"),
        ("nvidia-smi", "[ $2 = -x ] && echo '<nvidia_smi_log>' || echo 0, GPU-1", "unexpected output"),
        ("nvidia-smi", f"[ $2 = -x ] && echo '{IDLE_MIG}'", "in MIG mode without instances"),
        ("amd-smi", "echo 'AmdSmiException: driver not loaded' >&2; exit 255", "AmdSmiException: driver not loaded"),
        ("amd-smi", "echo '[{'", "unexpected output: [{"),
        ("rocm-smi", "echo 'ModuleNotFoundError: rsmiBindings' >&2; exit 1", "ModuleNotFoundError: rsmiBindings"),
        ("rocm-smi", "echo 'cannot read /dev/kfd'", "unexpected output: cannot read /dev/kfd"),
    ],
)
def test_a_tool_that_is_there_and_fails_does_not_mean_no_gpu(
    bare_machine: StandIns, monkeypatch: pytest.MonkeyPatch, tool: str, script: str, problem: str
) -> None:
    monkeypatch.setattr(smi, "SECONDS", 0.2 if "sleep" in script else 20.0)
    bare_machine.add(tool, script)
    reading = find_gpus()
    assert (reading.items, reading.fails) == ((), True)
    assert problem in reading.problem and tool in reading.problem
    assert detected_context(reading) == {}
    assert find_gpus("NONE") == Reading()


def test_a_tool_whose_interpreter_is_missing_fails(bare_machine: StandIns) -> None:
    tool = bare_machine.add("amd-smi")
    tool.write_text("#!/nowhere/python3\n")
    reading = find_gpus()
    assert reading.fails and reading.problem == f"{tool}: can't be started: its interpreter is missing"


@pytest.mark.parametrize(
    ("tool", "script"),
    [
        ("nvidia-smi", ""),
        ("nvidia-smi", "echo 'No devices were found'"),
        ("nvidia-smi", "echo '<nvidia_smi_log><attached_gpus>0</attached_gpus></nvidia_smi_log>'"),
        ("amd-smi", ""),
        ("amd-smi", "echo '[]'"),
        ("amd-smi", "echo '{\"gpu_data\": []}'"),
        ("amd-smi", "echo '[{\"cpu\": 0}]'"),
        ("rocm-smi", ""),
        ("rocm-smi", "echo 'No AMD GPUs' >&2"),
        ("rocm-smi", 'echo \'{"system": {"Driver version": "6.8"}}\''),
    ],
)
def test_a_tool_that_answers_that_there_are_none_is_believed(bare_machine: StandIns, tool: str, script: str) -> None:
    bare_machine.add(tool, script)
    reading = find_gpus()
    assert (reading.items, reading.fails) == ((), False)
    assert detected_context(reading) == {"gpu_vendor": "NONE"}


def test_without_any_tool_a_machine_has_no_gpu(bare_machine: StandIns) -> None:
    assert find_gpus() == Reading()


def test_gpus_of_one_vendor_count_and_the_other_s_broken_tool_is_named(bare_machine: StandIns) -> None:
    bare_machine.add("nvidia-smi", MISMATCH)
    bare_machine.add("amd-smi", f'[ "$1" = static ] && cat {DATA}/amd-smi_static.json')
    reading = find_gpus()
    assert detected_context(reading) == {"gpu_vendor": "AMD"}
    assert "Driver/library version mismatch" in reading.problem
    assert find_gpus("AMD").problem == ""


def test_a_gpu_on_the_bus_that_no_tool_lists_is_named(bare_machine: StandIns, tmp_path: Path) -> None:
    for name, text in (("class", "0x030200\n"), ("vendor", "0x10de\n")):
        write(tmp_path / "pci/0000:05:00.0" / name, text)
    reading = find_gpus()
    assert (reading.problem, reading.fails) == ("an NVIDIA GPU is on the PCI bus, but no tool lists it", False)
    assert find_gpus("AMD").problem == find_gpus("NONE").problem == ""


@pytest.mark.parametrize(
    ("n_gpus", "vendors", "expected"),
    [
        ("0", {"NONE"}, False),
        ("0", {""}, False),
        ("0", {"NVIDIA", "NONE"}, True),
        ("0", {"AMD"}, True),
        ("", {"NONE"}, False),
        ("", {""}, True),
        ("", {"AMD"}, True),
        ("1", {"NONE"}, True),
        ("-1", {"NONE"}, True),
        ("8", set(), True),
    ],
)
def test_which_models_would_use_a_gpu(n_gpus: str, vendors: set[str], expected: bool) -> None:
    assert wants_gpus(n_gpus, vendors) is expected


def test_an_unknown_vendor_has_no_gpus() -> None:
    assert find_gpus("VOODOO") == Reading()


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
        ("3", EIGHT[:2], EIGHT, "n_gpus is 3, this machine has 8, docker_gpus or *_VISIBLE_DEVICES allow 2"),
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
