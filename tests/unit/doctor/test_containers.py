"""Whether a container gets the GPUs and can use them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shlex
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from madengine.doctor import containers, gpus
from madengine.doctor.check import FAILED, NOTE, OK, Check
from madengine.doctor.tiny_image import write_tiny_image
from tests.unit.doctor.conftest import H100, ID, LOCAL, Engine, amd, checks, machine, write, written


def test_gpus_can_be_handed_over(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, H100)
    results = checks()
    assert results["CDI"] == Check("CDI", NOTE, "no specification")
    assert results["GPU access"] == Check("GPU access", OK, '--gpus "device=GPU-a"')


def test_a_docker_without_the_toolkit(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, H100)
    engine.add(info='case "$*" in *Runtimes*) echo \'{"runc":{}}\' ;; *) echo / ;; esac')
    step = "apt-get install nvidia-container-toolkit && nvidia-ctk runtime configure && systemctl restart docker"
    assert checks()["container toolkit"] == Check(
        "container toolkit", FAILED, "docker has no runtime for these GPUs", step
    )
    engine.stand_ins.add("nvidia-container-runtime-hook")
    assert checks()["GPU access"].status == OK


def test_a_missing_cdi_specification(engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, H100)
    check = checks(mode="cdi")["GPU access"]
    assert (check.status, check.fix) == (FAILED, "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml")
    write(tmp_path / "cdi/nvidia.json", '{"kind": "nvidia.com/gpu", "devices": [{"name": "all"}]}')
    assert checks(mode="cdi")["CDI"] == Check("CDI", OK, "1 device specified")
    write(tmp_path / "cdi/nvidia.json", '{"kind": "nvidia.com/gpu", "devices": [{"name": "GPU-a"}, {"name": "all"}]}')
    results_then = checks(mode="cdi")
    assert results_then["CDI"] == Check("CDI", OK, "2 devices specified")
    assert results_then["GPU access"] == Check("GPU access", OK, "--device=nvidia.com/gpu=GPU-a")


def test_a_mode_that_the_engine_has_not(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, amd(Path("/dev/null")), tool="sysfs")
    check = checks(mode="gpus")["GPU access"]
    assert (check.status, check.fix) == (FAILED, "--gpu-mode auto")
    assert check.result.startswith("--gpu-mode gpus: docker 27.5.1 supports NVIDIA GPUs only")


def test_the_images_of_the_manifest_are_here_and_start(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, H100)
    written(LOCAL)
    results = checks()
    assert results["images"] == Check("images", OK, "1 of 1 in build_manifest.json are on this machine")
    assert results["container"] == Check(
        "container", OK, f"starts with the GPUs, without the driver's nvidia-smi to test them ({ID[:60]})"
    )
    (run,) = [shlex.split(call) for call in engine.stand_ins.calls() if call.startswith("docker run ")]
    assert run[:4] == ["docker", "run", "--rm", "--init"]
    assert run[4].startswith("--label=madengine.owner=")
    assert run[5:] == [
        *("--user=0:0", "--gpus", '"device=GPU-a"', "--entrypoint=sh", ID, "-c", containers.TRIALS["NVIDIA"])
    ]


def test_a_container_without_a_gpu_tries_none(engine: Engine) -> None:
    written(LOCAL)
    assert checks()["container"] == Check("container", OK, f"starts without a GPU ({ID[:60]})")
    (run,) = [call for call in engine.stand_ins.calls() if call.startswith("docker run ")]
    assert run.endswith(f" --entrypoint=sh {ID} -c :")


# --- before any image is there ---


def test_without_an_image_one_of_our_own_is_started_and_removed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "urandom", bytes)
    assert checks()["container"] == Check("container", OK, "starts")
    load, run, remove = [
        shlex.split(call) for call in engine.stand_ins.calls() if call.split()[1] in ("load", "run") or " rm " in call
    ]
    name = "localhost/madengine-doctor:000000000000"
    assert load[1:3] == ["load", "--input"]
    assert run[-1] == remove[-1] == name
    assert remove[1:4] == ["image", "rm", "--force"]
    machine(monkeypatch, H100)
    result = "starts; GPUs not tested: no image of a manifest is on this machine"
    assert checks()["container"] == Check("container", NOTE, result)


def test_an_engine_in_which_no_container_starts_is_a_fault(engine: Engine) -> None:
    engine.add(run="echo 'Error: crun: setrlimit `RLIMIT_NOFILE`: Operation not permitted' >&2; exit 126")
    results = checks()
    assert results["engine"].status == OK
    assert results["container"] == Check(
        *("container", FAILED, "crun: setrlimit `RLIMIT_NOFILE`: Operation not permitted"),
        "repair docker, or choose another engine with --engine",
    )
    engine.add(load="echo 'Error: no space left on device' >&2; exit 1")
    assert checks()["container"].result == "an image can't be loaded: no space left on device"


def test_on_an_unknown_processor_no_container_is_started(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert checks()["container"].status == NOTE
    assert not any(call.startswith(("docker run", "docker load")) for call in engine.stand_ins.calls())


@pytest.mark.parametrize("has_image", [True, False])
def test_an_engine_without_an_init_is_a_note(engine: Engine, has_image: bool) -> None:
    engine.add(run="case \" $* \" in *' --init '*) echo 'Error: container-init binary not found' >&2; exit 125 ;; esac")
    if has_image:
        written(LOCAL)
    results = checks()
    assert results["container"].status == OK
    assert results["init"] == Check(
        "init", NOTE, "docker has none; containers start without one", "apt-get install tini"
    )


@pytest.mark.parametrize("machine_name", ["x86_64", "aarch64"])
def test_our_own_image_is_an_archive_that_holds_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine_name: str
) -> None:
    here = platform.machine()
    monkeypatch.setattr(platform, "machine", lambda: machine_name)
    assert write_tiny_image(tmp_path / "image.tar", "localhost/x:1")
    with tarfile.open(tmp_path / "image.tar") as archive:
        files = {member.name: (archive.extractfile(member) or io.BytesIO()).read() for member in archive}
    (manifest,) = json.loads(files["manifest.json"])
    config = json.loads(files[manifest["Config"]])
    (layer,) = manifest["Layers"]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(files[layer]).hexdigest()}"]
    assert config["architecture"] == {"x86_64": "amd64", "aarch64": "arm64"}[machine_name]
    with tarfile.open(fileobj=io.BytesIO(files[layer])) as archive:
        archive.extractall(tmp_path, filter="data")
    (program,) = config["config"]["Entrypoint"]
    if here == machine_name:
        assert subprocess.run([f"{tmp_path}{program}"], check=False).returncode == 0


# --- with an image of the manifest ---


def inside(engine: Engine, folder: Path, nvidia_smi: str | None = None) -> None:
    """A docker whose containers run their script, with no program but this one."""
    folder.mkdir()
    if nvidia_smi is not None:
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{nvidia_smi}\n")
        (folder / "nvidia-smi").chmod(0o755)
    engine.add(run=f'while [ "$1" != -c ]; do shift; done; PATH={folder} exec /bin/sh "$@"')


NAMED = "echo 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-a)'"


def test_the_gpus_are_tried_where_the_container_has_the_tool(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(monkeypatch, H100)
    written(LOCAL)
    inside(engine, tmp_path / "image", f'[ "$*" = -L ] || exit 9; {NAMED}')
    assert checks()["container"] == Check("container", OK, f"starts with the GPUs, nvidia-smi -L works ({ID[:60]})")


@pytest.mark.parametrize(
    ("script", "result"),
    [
        (
            "echo 'Failed to initialize NVML: Unknown Error'; exit 255",
            "nvidia-smi -L: Failed to initialize NVML: Unknown Error",
        ),
        (
            "echo 'WARNING: infoROM is corrupted at gpu 0000:1B:00.0' >&2; echo 'No devices were found' >&2; exit 6",
            "nvidia-smi -L: No devices were found",
        ),
        (
            f"{NAMED}; echo; echo 'Unable to determine the device handle for GPU1: GPU is lost.'; exit 15",
            "nvidia-smi -L: Unable to determine the device handle for GPU1: GPU is lost.",
        ),
        (f"{NAMED}; exit 3", "nvidia-smi -L: exit code 3"),
        (NAMED, "nvidia-smi -L lists 1 of 2 GPUs in the container"),
        ("exit 0", "nvidia-smi -L lists 0 of 2 GPUs in the container"),
    ],
)
def test_gpus_that_a_container_can_not_use_come_with_the_tools_own_line(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, result: str
) -> None:
    machine(monkeypatch, H100, replace(H100, index=1, uuid="GPU-b"))
    written(LOCAL)
    inside(engine, tmp_path / "image", script)
    check = checks()["container"]
    assert (check.status, check.result) == (FAILED, result)
    assert check.fix.startswith("docker run --rm --init ")


def test_device_files_alone_are_not_tried_with_a_tool_of_the_images_own(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(monkeypatch, H100)
    written(LOCAL)
    inside(engine, tmp_path / "image", 'echo "couldn\'t find libnvidia-ml.so"; exit 12')
    assert checks(mode="gpus")["container"].status == FAILED
    assert checks(mode="devices")["container"].result.startswith(
        "starts with the GPUs, without the driver's nvidia-smi"
    )


def test_amds_device_nodes_are_opened_in_the_container(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(monkeypatch, amd(Path("/dev/null")), tool="sysfs")
    monkeypatch.setattr(gpus, "KFD", "/dev/zero")
    written(LOCAL)
    inside(engine, tmp_path / "image")
    assert checks()["container"] == Check(
        "container", OK, f"starts with the GPUs, opening /dev/kfd and the render nodes works ({ID[:60]})"
    )
    monkeypatch.setattr(gpus, "KFD", str(tmp_path / "kfd"))
    check = checks()["container"]
    opening = "opening /dev/kfd and the render nodes"
    assert (check.status, check.result) == (FAILED, f"{opening}: {tmp_path / 'kfd'}: missing")
    # It is there, and has no terminal to open.
    monkeypatch.setattr(gpus, "KFD", "/dev/tty")
    check = checks()["container"]
    assert check.status == FAILED
    assert check.result.startswith(f"{opening}: sh: ")
    assert "/dev/tty" in check.result


@pytest.mark.parametrize(
    ("error", "reason", "fix"),
    [
        (
            'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]]',
            'could not select device driver "" with capabilities: [[gpu]]',
            "apt-get install nvidia-container-toolkit && nvidia-ctk runtime configure && systemctl restart docker",
        ),
        (
            "docker: Error response from daemon: error gathering device information while adding custom device "
            '"/dev/kfd": no such file or directory',
            'error gathering device information while adding custom device "/dev/kfd": no such file or directory',
            "docker run --rm ",
        ),
        (
            "Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all",
            "setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all",
            "docker run --rm ",
        ),
    ],
)
def test_a_container_that_does_not_start_with_the_gpus(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, error: str, reason: str, fix: str
) -> None:
    machine(monkeypatch, H100)
    engine.add(run=f"echo '{error}' >&2; echo >&2; echo \"Run 'docker run --help' for more information\" >&2; exit 125")
    written(LOCAL)
    check = checks()["container"]
    assert (check.status, check.result) == (FAILED, reason)
    assert check.fix.startswith(fix)


def test_an_engine_without_a_store_is_tested_by_its_version(engine: Engine) -> None:
    engine.stand_ins.add("apptainer", "echo apptainer version 1.4.5")
    results = checks(engine="apptainer")
    assert results["engine"].status == OK
    assert (results["container"].status, results["container"].result[:27]) == (NOTE, "not tested: apptainer start")
