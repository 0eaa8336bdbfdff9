"""What a machine is fit for: every check, ok and failing, with what mends it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from time import time

import pytest

from madengine import doctor
from madengine.config.manifest import Manifest, save_manifest
from madengine.distributed_cli import main
from madengine.doctor import FAILED, NOTE, OK, Check
from madengine.machine import gpus as gpu_finder
from madengine.programs import devices, nvidia_smi
from madengine.records import Gpu, Image, Model, Reading
from tests.conftest import StandIns

DATA = Path(__file__).parents[1] / "data" / "smi"
ID = "sha256:" + "1" * 64
DIGEST = "sha256:" + "2" * 64
H100 = Gpu("NVIDIA", 0, name="NVIDIA H100 80GB HBM3", uuid="GPU-a", driver="570.1", runtime="12.8", source="nvidia-smi")
LOCAL = Image(key="ci-m_ubuntu", docker_image="ci-m_ubuntu", image_id=ID)
PUSHED = Image(
    key="ci-m_ubuntu",
    docker_image="ci-m_ubuntu",
    image_id=ID,
    registry_image="localhost:5999/ci-m_ubuntu",
    registry_digest=DIGEST,
)
MODEL = Model(name="m", dockerfile="docker/m", scripts="scripts/m")


@dataclass
class Engine:
    """A stand-in for docker: what each of its words does, as shell."""

    stand_ins: StandIns
    answers: dict[str, str] = field(
        default_factory=lambda: {
            "version": "echo 27.5.1",
            "info": 'case "$*" in *Runtimes*) echo \'{"nvidia":{},"runc":{}}\' ;; *) echo / ;; esac',
            "image": f'echo \'[{{"Id": "{ID}"}}]\'',
            "run": "",
            "pull": "echo 'manifest unknown: manifest unknown' >&2; exit 1",
        }
    )

    def add(self, **answers: str) -> None:
        cases = "".join(f"{word}) {script or ':'}\n;;\n" for word, script in {**self.answers, **answers}.items())
        self.stand_ins.add("docker", f"case $1 in\n{cases}esac")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own on a machine without GPUs, CDI specifications and PCI devices."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MODEL_DIR", raising=False)
    monkeypatch.delenv("MADENGINE_ENGINE", raising=False)
    monkeypatch.setattr(devices, "CDI_FOLDERS", (tmp_path / "cdi",))
    monkeypatch.setattr(doctor, "PCI", tmp_path / "pci")
    monkeypatch.setattr(gpu_finder, "SOURCES", {})
    return folder


@pytest.fixture
def engine(stand_ins: StandIns) -> Engine:
    docker = Engine(stand_ins)
    docker.add()
    return docker


def machine(monkeypatch: pytest.MonkeyPatch, *gpus: Gpu, source: str = "nvidia-smi", problem: str = "") -> None:
    vendor = gpus[0].vendor if gpus else "NVIDIA"
    monkeypatch.setattr(gpu_finder, "SOURCES", {vendor: {source: lambda: Reading(gpus, problem)}})


def checks(registry: str = "", mode: str = "auto", engine: str = "docker") -> dict[str, Check]:
    return {check.name: check for check in doctor.examine(engine, registry, mode)}


def written(*images: Image) -> None:
    save_manifest(Manifest(images, {image.key: MODEL for image in images}), Path("build_manifest.json"))


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


# --- the whole ---


def test_a_machine_without_gpus_is_fit(engine: Engine) -> None:
    found = doctor.examine("docker", "", "auto")
    assert doctor.is_fit(found)
    names = [check.name for check in found]
    assert names == [
        "python", "engine", "GPUs", "images", "container", "models", "disk here", "disk of images", "shared memory"
    ]  # fmt: skip


def test_json_says_all_that_the_table_says(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--engine", "docker", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fit"] is True
    assert {"name": "engine", "status": "ok", "found": "docker 27.5.1", "fix": ""} in told["checks"]
    assert main(["doctor", "--engine", "docker"]) == 0
    table = capsys.readouterr().out
    for check in told["checks"]:
        assert check["name"] in table
        assert check["found"].split()[0] in table


def test_a_machine_that_is_not_fit_ends_with_1_and_the_step_that_mends_it(
    stand_ins: StandIns, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins.add("docker", "echo 'Cannot connect to the Docker daemon at unix:///var/run/docker.sock.' >&2; exit 1")
    assert main(["doctor", "--engine", "docker"]) == 1
    told = capsys.readouterr()
    assert "engine: apt-get install podman, or: systemctl start docker" in told.out.splitlines()
    assert told.err == ""
    assert main(["doctor", "--engine", "docker", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["fit"] is False


def test_what_a_check_does_not_expect_is_a_failed_check(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(shutil, "disk_usage", broken)
    found = checks()
    assert found["disk"] == Check("disk", FAILED, "[Errno 5] Input/output error")
    assert found["shared memory"].status == OK


# --- python, engine ---


def test_an_old_python_is_named(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks()["python"].status == OK
    monkeypatch.setattr(sys, "version_info", (3, 9, 18, "final", 0))
    assert checks()["python"] == Check("python", FAILED, "3.9.18", "apt-get install python3 (3.10 or newer)")


@pytest.mark.parametrize(
    ("script", "found", "fix"),
    [
        (
            "echo 'Cannot connect to the Docker daemon at unix:///nonexistent.sock. Is the docker daemon running?' >&2"
            "; exit 1",
            "docker doesn't answer: Cannot connect to the Docker daemon at unix:///nonexistent.sock. "
            "Is the docker daemon running?; install or start it, or choose another with --engine",
            "apt-get install podman, or: systemctl start docker",
        ),
        (
            "echo 'permission denied while trying to connect to the Docker daemon socket' >&2; exit 1",
            "docker doesn't answer: permission denied while trying to connect to the Docker daemon socket; "
            "install or start it, or choose another with --engine",
            "usermod --append --groups docker $USER, then log in anew",
        ),
    ],
)
def test_an_engine_that_does_not_answer_comes_with_its_reason(
    stand_ins: StandIns, script: str, found: str, fix: str
) -> None:
    stand_ins.add("docker", script)
    assert checks()["engine"] == Check("engine", FAILED, found, fix)


def test_without_any_engine_each_one_is_named(stand_ins: StandIns) -> None:
    for name in ("docker", "podman", "nerdctl"):
        stand_ins.add(name, f"echo '{name} is ill' >&2; exit 1")
    told = checks(registry="localhost:1", engine="auto")
    assert told["engine"].status == FAILED
    assert all(f"{name} is ill" in told["engine"].found for name in ("docker", "podman", "nerdctl"))
    assert "registry" not in told


# --- GPUs ---


def test_the_gpus_and_who_told_of_them(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, H100)
    told = checks()
    assert told["nvidia-smi"] == Check("nvidia-smi", OK, "1 × NVIDIA H100 80GB HBM3 (driver 570.1, 12.8)")
    assert told["GPUs"] == Check("GPUs", OK, "1 of NVIDIA (0: NVIDIA H100 80GB HBM3)")


def test_a_tool_that_is_not_there_is_no_fault_of_a_machine_without_gpus(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, problem="nvidia-smi is not installed, or not on PATH")
    told = checks()
    assert told["nvidia-smi"] == Check("nvidia-smi", NOTE, "nvidia-smi is not installed, or not on PATH")
    assert told["GPUs"] == Check("GPUs", NOTE, "none: images for gpu_vendor NONE run here")


def test_the_tools_are_really_asked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_finder, "SOURCES", {"NVIDIA": {"nvidia-smi": nvidia_smi.gpus}})
    engine.stand_ins.add("nvidia-smi", f'[ "$*" = "-q -x" ] || exit 1\ncat {DATA}/nvidia-smi_q_x.xml')
    assert checks()["GPUs"].status == OK
    engine.stand_ins.add("nvidia-smi", "echo 'NVIDIA-SMI has failed' ; exit 9")
    told = checks()
    assert told["nvidia-smi"].found.endswith("nvidia-smi -q -x: exit code 9: NVIDIA-SMI has failed")
    assert told["GPUs"].status == NOTE


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
        "GPUs", FAILED, f"one of {vendor} is plugged in, nothing names it", f"modprobe {module}"
    )


@pytest.mark.parametrize(("number", "kind"), [("0x1a03", "0x030000"), ("0x1002", "0x030000"), ("0x8086", "0x120000")])
def test_a_servers_own_display_is_no_gpu(engine: Engine, tmp_path: Path, number: str, kind: str) -> None:
    write(tmp_path / "pci/0000:05:00.0/class", kind + "\n")
    write(tmp_path / "pci/0000:05:00.0/vendor", number + "\n")
    assert checks()["GPUs"].status == NOTE


# --- device nodes ---


def amd(node: Path) -> Gpu:
    return Gpu("AMD", 0, name="AMD Instinct MI300X", render_node=str(node))


def test_a_device_node_that_is_not_there(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, amd(tmp_path / "renderD128"), source="sysfs")
    told = checks()
    node = str(tmp_path / "renderD128")
    assert told[node] == Check(node, FAILED, "not there", "modprobe amdgpu")


@pytest.mark.parametrize(("name", "status"), [("podman", FAILED), ("docker", NOTE)])
def test_a_device_node_that_we_may_not_open_is_a_fault_where_the_engine_runs_as_us(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, status: str
) -> None:
    engine.stand_ins.add("podman", "case $1 in version) echo 4.9.3 ;; info) echo / ;; esac")
    node = tmp_path / "renderD128"
    node.touch()
    machine(monkeypatch, amd(node), source="sysfs")
    assert checks()[str(node)] == Check(str(node), OK, "readable and writable")
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(node))
    assert checks(engine=name)[str(node)] == Check(
        str(node), status, "no permission", "usermod --append --groups render,video $USER, then log in anew"
    )


# --- handing GPUs over ---


def test_gpus_can_be_handed_over(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, H100)
    told = checks()
    assert told["CDI"] == Check("CDI", NOTE, "no specification")
    assert told["handing GPUs over"] == Check("handing GPUs over", OK, '--gpus "device=GPU-a"')


def test_a_docker_without_the_toolkit(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, H100)
    engine.add(info='case "$*" in *Runtimes*) echo \'{"runc":{}}\' ;; *) echo / ;; esac')
    step = "apt-get install nvidia-container-toolkit && nvidia-ctk runtime configure && systemctl restart docker"
    assert checks()["container toolkit"] == Check(
        "container toolkit", FAILED, "docker has no runtime for these GPUs", step
    )
    engine.stand_ins.add("nvidia-container-runtime-hook")
    assert checks()["handing GPUs over"].status == OK


def test_a_missing_cdi_specification(engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, H100)
    told = checks(mode="cdi")["handing GPUs over"]
    assert (told.status, told.fix) == (FAILED, "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml")
    write(tmp_path / "cdi/nvidia.json", '{"kind": "nvidia.com/gpu", "devices": [{"name": "all"}]}')
    assert checks(mode="cdi")["CDI"] == Check("CDI", OK, "1 device specified")
    write(tmp_path / "cdi/nvidia.json", '{"kind": "nvidia.com/gpu", "devices": [{"name": "GPU-a"}, {"name": "all"}]}')
    told_then = checks(mode="cdi")
    assert told_then["CDI"] == Check("CDI", OK, "2 devices specified")
    assert told_then["handing GPUs over"] == Check("handing GPUs over", OK, "--device=nvidia.com/gpu=GPU-a")


def test_a_mode_that_the_engine_has_not(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, amd(Path("/dev/null")), source="sysfs")
    told = checks(mode="gpus")["handing GPUs over"]
    assert (told.status, told.fix) == (FAILED, "--gpu-mode auto")
    assert told.found.startswith("--gpu-mode gpus: docker 27.5.1 knows NVIDIA's only")


# --- images and a container ---


def test_the_images_of_the_manifest_are_here_and_start(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, H100)
    written(LOCAL)
    told = checks()
    assert told["images"] == Check("images", OK, "1 of 1 of build_manifest.json are here")
    assert told["container"] == Check(
        "container", OK, f"starts with the GPUs, without the driver's nvidia-smi to try them ({ID[:60]})"
    )
    (run,) = [shlex.split(call) for call in engine.stand_ins.calls() if call.startswith("docker run ")]
    assert run[:4] == ["docker", "run", "--rm", "--init"]
    assert run[4].startswith("--label=madengine.owner=")
    assert run[5:] == [
        *("--user=0:0", "--gpus", '"device=GPU-a"', "--entrypoint=sh", ID, "-c", doctor.TRIALS["NVIDIA"])
    ]


def test_a_container_without_a_gpu_tries_none(engine: Engine) -> None:
    written(LOCAL)
    assert checks()["container"] == Check("container", OK, f"starts without a GPU ({ID[:60]})")
    (run,) = [call for call in engine.stand_ins.calls() if call.startswith("docker run ")]
    assert run.endswith(f" --entrypoint=sh {ID} -c :")


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
    ("script", "found"),
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
        (NAMED, "nvidia-smi -L names 1 of 2 GPUs there"),
        ("exit 0", "nvidia-smi -L names 0 of 2 GPUs there"),
    ],
)
def test_gpus_that_a_container_can_not_use_come_with_the_tools_own_line(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, found: str
) -> None:
    machine(monkeypatch, H100, replace(H100, index=1, uuid="GPU-b"))
    written(LOCAL)
    inside(engine, tmp_path / "image", script)
    told = checks()["container"]
    assert (told.status, told.found) == (FAILED, found)
    assert told.fix.startswith("docker run --rm --init ")


def test_device_files_alone_are_not_tried_with_a_tool_of_the_images_own(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(monkeypatch, H100)
    written(LOCAL)
    inside(engine, tmp_path / "image", 'echo "couldn\'t find libnvidia-ml.so"; exit 12')
    assert checks(mode="gpus")["container"].status == FAILED
    assert checks(mode="devices")["container"].found.startswith("starts with the GPUs, without the driver's nvidia-smi")


def test_amds_device_nodes_are_opened_in_the_container(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(monkeypatch, amd(Path("/dev/null")), source="sysfs")
    monkeypatch.setattr(doctor, "KFD", "/dev/zero")
    written(LOCAL)
    inside(engine, tmp_path / "image")
    assert checks()["container"] == Check(
        "container", OK, f"starts with the GPUs, opening /dev/kfd and the render nodes works ({ID[:60]})"
    )
    monkeypatch.setattr(doctor, "KFD", str(tmp_path / "kfd"))
    told = checks()["container"]
    opening = "opening /dev/kfd and the render nodes"
    assert (told.status, told.found) == (FAILED, f"{opening}: {tmp_path / 'kfd'}: not there")
    # It is there, and has no terminal to open.
    monkeypatch.setattr(doctor, "KFD", "/dev/tty")
    told = checks()["container"]
    assert told.status == FAILED
    assert told.found.startswith(f"{opening}: sh: ")
    assert "/dev/tty" in told.found


def test_images_that_are_not_here_will_be_pulled_or_are_lost(engine: Engine) -> None:
    engine.add(image="echo '[]'; echo 'Error: No such image' >&2; exit 1")
    written(PUSHED)
    told = checks()
    assert told["images"] == Check("images", NOTE, "0 of 1 of build_manifest.json are here, the others will be pulled")
    assert told["container"] == Check("container", NOTE, "not tried: no image of a manifest is here")
    written(LOCAL)
    assert checks()["images"] == Check(
        "images", FAILED, "ci-m_ubuntu: neither here nor in a registry", "madengine build --registry …"
    )


def test_a_broken_manifest(engine: Engine, here: Path) -> None:
    (here / "build_manifest.json").write_text('{"built_images": ')
    told = checks()["images"]
    assert told.status == FAILED
    assert told.found.startswith("build_manifest.json")
    assert told.fix == "copy build_manifest.json anew from where it was built"


@pytest.mark.parametrize(
    ("error", "said", "fix"),
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
    engine: Engine, monkeypatch: pytest.MonkeyPatch, error: str, said: str, fix: str
) -> None:
    machine(monkeypatch, H100)
    engine.add(run=f"echo '{error}' >&2; echo >&2; echo \"Run 'docker run --help' for more information\" >&2; exit 125")
    written(LOCAL)
    told = checks()["container"]
    assert (told.status, told.found) == (FAILED, said)
    assert told.fix.startswith(fix)


# --- model discovery ---


def test_the_models_of_this_folder(engine: Engine, here: Path) -> None:
    assert checks()["models"] == Check("models", NOTE, "no models.json here")
    card = {"name": "m", "dockerfile": "docker/m", "scripts": "scripts/m", "tags": []}
    (here / "models.json").write_text(json.dumps([{**card, "n_gpus": "1", "args": ""}]))
    assert checks()["models"] == Check("models", OK, f"1 in {here}")
    (here / "models.json").write_text("[{]")
    told = checks()["models"]
    assert told.status == FAILED
    assert told.found.startswith("models.json")
    assert told.fix == f"fix it; `madengine discover` in {here} reads it again"


def test_a_package_that_is_not_where_model_dir_says(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "none"))
    told = checks()["models"]
    assert told.status == FAILED
    assert "MODEL_DIR" in told.found


# --- disk ---

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("free", "status"), [(2**29, FAILED), (5 * 2**30, NOTE), (2**40, OK)])
def test_the_room_on_the_disks(engine: Engine, monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**41, 0, free if path == Path("/") else 2**40))
    told = checks()
    assert told["disk here"].status == OK
    assert told["disk of images"].status == status
    assert told["disk of images"].found == f"{free / 2**30:.1f} GiB free in /"
    assert bool(told["disk of images"].fix) == (status == FAILED)


def test_the_shared_memory_of_a_container_is_half_of_the_hosts(engine: Engine) -> None:
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**31
    assert checks()["shared memory"] == Check("shared memory", OK, f"a container gets {half:.1f} GiB as /dev/shm")


# --- the registry ---

REGISTRY = "localhost:1"
CURL = "curl -v http://localhost:1/v2/_catalog; is it up, and its port open (ufw status)?"


@pytest.mark.parametrize(
    "error",
    [
        "Error response from daemon: manifest for localhost:1/madengine/doctor:none not found: manifest unknown: "
        "manifest unknown",
        "Error: initializing source docker://localhost:1/madengine/doctor:none: reading manifest none in "
        "localhost:1/madengine/doctor: manifest unknown: manifest unknown",
        "Error response from daemon: name unknown: repository name not known to registry",
        'time="2026" level=fatal msg="x"\nlocalhost:1/madengine/doctor:none: not found',
    ],
)
def test_a_registry_that_does_not_know_what_can_not_be_there_is_reached(engine: Engine, error: str) -> None:
    engine.add(pull=f"echo '{error}' >&2; exit 1")
    assert checks(REGISTRY)["registry"] == Check("registry", OK, "localhost:1 answers and lets us in")
    assert "docker pull localhost:1/madengine/doctor:none" in engine.stand_ins.calls()


@pytest.mark.parametrize(
    ("error", "said", "fix"),
    [
        (
            'Error response from daemon: Get "http://localhost:1/v2/": dial tcp 127.0.0.1:1: connect: '
            "connection refused",
            'Get "http://localhost:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused',
            CURL,
        ),
        (
            "Error response from daemon: read tcp 127.0.0.1:49730->127.0.0.1:1: read: connection reset by peer",
            "read tcp 127.0.0.1:49730->127.0.0.1:1: read: connection reset by peer",
            CURL,
        ),
        (
            'Error response from daemon: Get "https://hub/v2/": dial tcp: lookup hub on 10.0.0.1:53: no such host',
            'Get "https://hub/v2/": dial tcp: lookup hub on 10.0.0.1:53: no such host',
            CURL,
        ),
        (
            'Error response from daemon: Get "https://localhost:1/v2/": x509: certificate signed by unknown authority',
            'Get "https://localhost:1/v2/": x509: certificate signed by unknown authority',
            CURL,
        ),
        ("Error response from daemon: error parsing HTTP 404 response body: 404 page not found",
         "error parsing HTTP 404 response body: 404 page not found", CURL),
        (
            'Error response from daemon: Head "http://localhost:1/v2/x/manifests/none": no basic auth credentials',
            'Head "http://localhost:1/v2/x/manifests/none": no basic auth credentials',
            "docker login localhost:1",
        ),
        (
            "Error response from daemon: unauthorized: authentication required",
            "unauthorized: authentication required",
            "docker login localhost:1",
        ),
        (
            "Error response from daemon: pull access denied for x, repository does not exist or may require docker "
            "login: denied: requested access to the resource is denied",
            "pull access denied for x, repository does not exist or may require docker "
            "login: denied: requested access to the resource is denied",
            "docker login localhost:1",
        ),
    ],
)  # fmt: skip
def test_a_registry_that_is_down_or_shut_comes_with_what_to_try(
    engine: Engine, error: str, said: str, fix: str
) -> None:
    engine.add(pull=f"echo '{error}' >&2; exit 1")
    assert checks(REGISTRY)["registry"] == Check("registry", FAILED, f"localhost:1: {said}", fix)


def test_a_registry_that_never_answers(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "REGISTRY_SECONDS", 0.3)
    engine.add(pull="exec sleep 30")
    assert checks(REGISTRY)["registry"] == Check("registry", FAILED, "localhost:1: no answer", CURL)


def test_the_registry_is_by_default_that_of_the_manifest(engine: Engine) -> None:
    written(PUSHED)
    assert checks()["registry"].found == "localhost:5999 answers and lets us in"


# --- the clock ---


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[str]:
    """A registry on loopback whose clock is so many seconds off, and its answer's code."""
    off, code = request.param

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(code)
            self.send_header("Date", formatdate(time() + off, usegmt=True) if off is not None else "yesterday")
            self.end_headers()

        def log_message(self, format: str, *words: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("served", "status"),
    [((0, 200), OK), ((0, 401), OK), ((300, 200), FAILED), ((-300, 401), FAILED)],
    indirect=["served"],
)
def test_the_clock_is_compared_with_the_registrys(engine: Engine, served: str, status: str) -> None:
    clock = checks(served)["clock"]
    assert clock.status == status
    assert clock.fix == ("timedatectl set-ntp true" if status == FAILED else "")


@pytest.mark.parametrize("served", [(None, 200)], indirect=True)
def test_a_clock_that_says_nothing_is_no_error(engine: Engine, served: str) -> None:
    told = checks(served)
    assert told["registry"].status == OK
    assert "clock" not in told
