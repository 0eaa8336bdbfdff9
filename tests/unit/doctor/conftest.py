"""A machine for the doctor: a stand-in for docker, and no GPUs unless a test adds some."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from madengine.config.manifest import Manifest, save_manifest
from madengine.doctor.check import Check
from madengine.doctor.examination import examine
from madengine.machine import gpus as gpu_finder
from madengine.programs import devices
from madengine.records import Gpu, Image, Model, Reading
from tests.conftest import StandIns

DATA = Path(__file__).parents[2] / "data" / "smi"
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
    monkeypatch.setattr(gpu_finder, "PCI", tmp_path / "pci")
    monkeypatch.setattr(gpu_finder, "TOOLS", {})
    return folder


@pytest.fixture
def engine(stand_ins: StandIns) -> Engine:
    docker = Engine(stand_ins)
    docker.add()
    return docker


def machine(monkeypatch: pytest.MonkeyPatch, *gpus: Gpu, tool: str = "nvidia-smi", problem: str = "") -> None:
    """Add GPUs, as a tool of this name lists them."""
    vendor = gpus[0].vendor if gpus else "NVIDIA"
    tools = (SimpleNamespace(NAME=tool, gpus=lambda: Reading(gpus, problem)),)
    monkeypatch.setattr(gpu_finder, "TOOLS", {vendor: tools})


def checks(registry: str = "", mode: str = "auto", engine: str = "docker") -> dict[str, Check]:
    return {check.name: check for check in examine(engine, registry, mode)}


def written(*images: Image) -> None:
    save_manifest(Manifest(images, {image.key: MODEL for image in images}), Path("build_manifest.json"))


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def amd(node: Path) -> Gpu:
    return Gpu("AMD", 0, name="AMD Instinct MI300X", render_node=str(node))
