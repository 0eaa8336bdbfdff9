"""The GPUs, their tools and their device nodes."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from madengine.doctor.check import FAILED, NOTE, OK, Check
from madengine.machine import gpus as gpu_finder
from madengine.programs import nvidia_smi
from madengine.records import Reading
from tests.unit.doctor.conftest import DATA, H100, Engine, amd, checks, machine, write


def test_the_gpus_and_who_told_of_them(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, H100)
    results = checks()
    assert results["nvidia-smi"] == Check("nvidia-smi", OK, "1 × NVIDIA H100 80GB HBM3 (driver 570.1, 12.8)")
    assert results["GPUs"] == Check("GPUs", OK, "1 × NVIDIA (0: NVIDIA H100 80GB HBM3)")


def test_a_tool_that_is_not_there_is_no_fault_of_a_machine_without_gpus(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, problem="nvidia-smi is not installed, or not on PATH")
    results = checks()
    assert results["nvidia-smi"] == Check("nvidia-smi", NOTE, "nvidia-smi is not installed, or not on PATH")
    assert results["GPUs"] == Check("GPUs", NOTE, "none; images for gpu_vendor NONE run here")


def test_the_tools_are_really_asked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_finder, "TOOLS", {"NVIDIA": (nvidia_smi,)})
    engine.stand_ins.add("nvidia-smi", f'[ "$*" = "-q -x" ] || exit 1\ncat {DATA}/nvidia-smi_q_x.xml')
    assert checks()["GPUs"].status == OK


def test_a_tool_that_fails_is_a_fault_unless_another_one_lists_gpus(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_finder, "TOOLS", {"NVIDIA": (nvidia_smi,)})
    engine.stand_ins.add("nvidia-smi", "echo 'NVIDIA-SMI has failed' ; exit 9")
    results = checks()
    assert results["nvidia-smi"].status == FAILED
    assert results["nvidia-smi"].result.endswith("nvidia-smi -q -x: exit code 9: NVIDIA-SMI has failed")
    assert "'gpu_vendor': 'NONE'" in results["nvidia-smi"].fix
    assert (results["GPUs"].status, results["GPUs"].result) == (FAILED, "unknown, because nvidia-smi failed")
    gpu = amd(Path("renderD128"))
    sysfs = SimpleNamespace(NAME="sysfs", gpus=lambda: Reading((gpu,)))
    monkeypatch.setattr(gpu_finder, "TOOLS", {"NVIDIA": (nvidia_smi,), "AMD": (sysfs,)})
    results = checks()
    assert (results["GPUs"].status, results["nvidia-smi"].status) == (OK, NOTE)


@pytest.mark.parametrize(
    ("vendor", "number", "kind", "module"),
    [
        ("NVIDIA", "0x10de", "0x030200", "nvidia"),
        ("AMD", "0x1002", "0x120000", "amdgpu"),
        ("AMD", "0x1002", "0x038000", "amdgpu"),
    ],
)
def test_a_gpu_that_is_plugged_in_and_has_no_driver_is_a_fault(
    engine: Engine, tmp_path: Path, vendor: str, number: str, kind: str, module: str
) -> None:
    write(tmp_path / "pci/0000:00:00.0/class", "0x060000\n")
    write(tmp_path / "pci/0000:05:00.0/class", kind + "\n")
    write(tmp_path / "pci/0000:05:00.0/vendor", number + "\n")
    assert checks()["GPUs"] == Check(
        "GPUs", FAILED, f"an {vendor} GPU is on the PCI bus, but no tool lists it", f"modprobe {module}"
    )


@pytest.mark.parametrize(("number", "kind"), [("0x1a03", "0x030000"), ("0x1002", "0x030000"), ("0x8086", "0x120000")])
def test_a_servers_own_display_is_no_gpu(engine: Engine, tmp_path: Path, number: str, kind: str) -> None:
    write(tmp_path / "pci/0000:05:00.0/class", kind + "\n")
    write(tmp_path / "pci/0000:05:00.0/vendor", number + "\n")
    assert checks()["GPUs"].status == NOTE


def test_variables_that_restrict_the_gpus_are_named(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, H100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert checks()["CUDA_VISIBLE_DEVICES"].status == NOTE
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert checks()["visible gpus"].status == FAILED


def test_a_device_node_that_is_not_there(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, amd(tmp_path / "renderD128"), tool="sysfs")
    results = checks()
    node = str(tmp_path / "renderD128")
    assert results[node] == Check(node, FAILED, "missing", "modprobe amdgpu")


@pytest.mark.parametrize(("name", "status"), [("podman", FAILED), ("docker", NOTE)])
def test_a_device_node_that_we_may_not_open_is_a_fault_where_the_engine_runs_as_us(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, status: str
) -> None:
    engine.stand_ins.add("podman", "case $1 in version) echo 4.9.3 ;; info) echo / ;; esac")
    node = tmp_path / "renderD128"
    node.touch()
    machine(monkeypatch, amd(node), tool="sysfs")
    assert checks()[str(node)] == Check(str(node), OK, "readable and writable")
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(node))
    assert checks(engine=name)[str(node)] == Check(
        str(node), status, "permission denied", "usermod --append --groups render,video $USER, then log in again"
    )
