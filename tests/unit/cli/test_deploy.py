"""`madengine deploy`: one line for every target, refused before anything is built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from madengine.distributed_cli import main
from madengine.errors import EXIT_CONFIGURATION, EXIT_DONE
from tests.conftest import StandIns

MODELS = '[{"name": "dummy", "dockerfile": "docker/dummy", "scripts": "scripts/dummy"}]'
BASE = ("deploy", "--registry=reg.example.com:5000", "--engine=docker")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_ins: StandIns) -> Path:
    """The current folder, a package of one model, and a docker that only notes its calls."""
    for name in ("MODEL_DIR", "MADENGINE_ENGINE"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "package"
    (folder / "docker").mkdir(parents=True)
    (folder / "scripts/dummy").mkdir(parents=True)
    (folder / "scripts/dummy/run.sh").write_text("echo performance: 1 s\n")
    (folder / "docker/dummy.ubuntu.Dockerfile").write_text("# CONTEXT {}\nFROM scratch\n")
    (folder / "models.json").write_text(MODELS)
    stand_ins.add("docker", "echo 27.0.0")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("target", ["ssh", "ansible", "kubernetes"])
@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--target-archs=gfx942", "MAD_SYSTEM_GPU_ARCHITECTURE=gfx942"),
        ("--clean-docker-cache", "--no-cache"),
        ("--use-image=my/image:1", "docker pull my/image:1"),
        ("--tools-json-file-name=tools.json", "docker build"),
    ],
)
def test_the_options_of_a_build_reach_it_on_every_target(
    package: Path, capfd: pytest.CaptureFixture[str], target: str, option: str, line: str
) -> None:
    (package / "tools.json").write_text('{"tools": {}}')
    assert main([*BASE, f"--target={target}", "--dry-run", option]) == EXIT_DONE
    assert line in capfd.readouterr().out


@pytest.mark.parametrize(
    ("target", "option"),
    [
        ("kubernetes", "--host=h"),
        ("kubernetes", "--gpu-mode=cdi"),
        ("kubernetes", "--inventory=nodes"),
        ("ssh", "--namespace=bench"),
        ("ssh", "--limit=h1"),
        ("ansible", "--runner-image=x"),
        ("ansible", "--pack"),
    ],
)
def test_an_option_of_another_target_is_refused_before_anything_runs(
    package: Path, capfd: pytest.CaptureFixture[str], stand_ins: StandIns, target: str, option: str
) -> None:
    assert main([*BASE, f"--target={target}", option]) == EXIT_CONFIGURATION
    flag = option.partition("=")[0]
    assert capfd.readouterr().err == f"madengine: error: {flag}: not an option of --target {target}\n"
    assert stand_ins.calls() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--target=kubernetes", "--data-config-file-name=no.json"), "no.json: no such file; --data-config-file-name"),
        (("--target=ansible", "--inventory=no"), "--inventory no: no such file"),
        (("--target=ansible",), "no inventory of nodes"),
        (("--target=ssh",), "--host: names no host"),
        (("--target=ssh", "--host=a b"), "'a b'"),
        (("--target=kubernetes", "--cpu=many"), "--cpu"),
        (("--target=kubernetes", "--template-dir=no"), "no: no such folder; --template-dir"),
    ],
)
def test_every_value_is_checked_before_anything_is_built(
    package: Path, capfd: pytest.CaptureFixture[str], stand_ins: StandIns, words: tuple[str, ...], message: str
) -> None:
    for name in ("kubectl", "ansible-playbook", "ssh"):
        stand_ins.add(name)
    assert main([*BASE, *words]) == EXIT_CONFIGURATION
    assert message in capfd.readouterr().err
    assert [call for call in stand_ins.calls() if call.startswith("docker")] == []


def test_the_registry_is_needed_to_build(package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "--target=kubernetes"]) == EXIT_CONFIGURATION
    assert "name it with --registry" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (
            {"slurm": {}, "k8s": {}},
            "the context: `slurm` means slurm, `k8s` means kubernetes: they contradict each other",
        ),
        (
            {"deploy": "moon"},
            "the context: deploy: expected one of local, docker, ssh, ansible, kubernetes, slurm, k8s",
        ),
        ({"slurm": {"typo": 1}}, "context: slurm: unsupported key 'typo'; expected some of partition, account"),
        ({"k8s": {"typo": 1}}, "context: k8s.typo: 1 is unsupported; expected some of"),
    ],
)
def test_a_build_for_a_place_where_nothing_could_run_is_refused(
    package: Path, capfd: pytest.CaptureFixture[str], context: dict[str, object], message: str
) -> None:
    assert main(["build", "--dry-run", "-c", json.dumps(context)]) == 4
    assert message in capfd.readouterr().err


def test_a_run_by_ansible_without_its_files_is_refused(package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (package / "build_manifest.json").write_text('{"built_images": {"k": {"docker_image": "i"}}, "built_models": {}}')
    assert main(["run", "--target=ansible", "--manifest-file=build_manifest.json"]) == EXIT_CONFIGURATION
    assert "name one with --inventory of `madengine deploy`" in capfd.readouterr().err
