"""What the user's own settings would change is set by us, or named in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from madengine import programs
from madengine.programs.ansible_playbook import run_playbook
from madengine.programs.buildkit import own_builder
from madengine.programs.engine import Docker
from madengine.programs.kubectl import Kubectl
from madengine.programs.nerdctl import Nerdctl
from madengine.programs.podman import Podman
from tests.conftest import collect_messages


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without settings."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / ".docker"))
    for name in ("KUBERC", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".docker/buildx").mkdir(parents=True)
    (tmp_path / ".kube").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, {}),
        ({"BUILDX_BUILDER": "remote"}, {"BUILDX_BUILDER": "default"}),
        ({"BUILDX_BUILDER": "remote", "DOCKER_CONTEXT": "desktop"}, {"BUILDX_BUILDER": "desktop"}),
        (
            {"BUILDX_BUILDER": "remote", "DOCKER_CONTEXT": "desktop", "DOCKER_HOST": "unix:///x"},
            {"BUILDX_BUILDER": "default"},
        ),
        ({"BUILDKIT_PROGRESS": "rawjson"}, {"BUILDKIT_PROGRESS": "plain"}),
        ({"BUILDX_GIT_LABELS": "full"}, {"BUILDX_GIT_LABELS": "false"}),
    ],
)
def test_docker_builds_in_its_own_daemon(environ: dict[str, str], expected: dict[str, str]) -> None:
    assert own_builder(environ) == expected


def test_a_builder_that_buildx_uses_is_replaced_by_that_of_the_context(home: Path) -> None:
    (home / ".docker/buildx/current").write_text('{"Name": "remote"}')
    (home / ".docker/config.json").write_text('{"currentContext": "rootless"}')
    assert own_builder({}) == {"BUILDX_BUILDER": "rootless"}
    line = programs.shell_line(Docker().build(["t"], "Dockerfile", "."))
    assert line.startswith("BUILDX_BUILDER=rootless BUILDX_NO_DEFAULT_ATTESTATIONS=1 docker build ")


@pytest.mark.parametrize(
    ("engine", "environ", "expected"),
    [
        (Docker(), {"HTTPS_PROXY": "http://ann:secret@proxy"}, []),
        (
            Docker(),
            {"DOCKER_DEFAULT_PLATFORM": "linux/arm64"},
            ["docker: DOCKER_DEFAULT_PLATFORM=linux/arm64 is set: images are pulled, built and run for it"],
        ),
        (
            Podman(),
            {"https_proxy": "http://ann:secret@proxy", "NO_PROXY": "x", "BUILDAH_FORMAT": "docker", "BUILDAH_X": ""},
            [
                "podman: NO_PROXY, https_proxy are set: builds and containers get them",
                "podman: BUILDAH_FORMAT=docker is set: podman follows them",
            ],
        ),
        (
            Nerdctl(),
            {"CONTAINERD_NAMESPACE": "k8s.io"},
            ["nerdctl: CONTAINERD_NAMESPACE=k8s.io is set: nerdctl follows them"],
        ),
    ],
)
def test_what_an_engine_follows_is_named(engine: Docker, environ: dict[str, str], expected: list[str]) -> None:
    messages = collect_messages()
    engine.log_caller_settings(environ)
    assert messages == expected


def test_the_proxies_of_dockers_settings_are_named(home: Path) -> None:
    (home / ".docker/config.json").write_text(json.dumps({"proxies": {"default": {"httpProxy": "http://proxy"}}}))
    messages = collect_messages()
    Docker().log_caller_settings({})
    assert messages == ["docker: its config.json names proxies: builds and containers get them"]


def test_a_playbook_is_run_whole_and_ansibles_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_SKIP_TAGS", "run")
    messages = collect_messages()
    line = programs.shell_line(run_playbook(Path("playbook.yml"), []))
    assert line.startswith("ANSIBLE_RUN_TAGS=all ANSIBLE_SKIP_TAGS='' ")
    assert "ansible-playbook: ANSIBLE_SKIP_TAGS=run is set: it follows them" in messages


def test_the_users_defaults_of_kubectl_are_kept_out_and_the_cluster_is_named(home: Path) -> None:
    command = Kubectl("madengine")("get", "pods")
    assert "KUBERC" not in programs.shell_line(command)
    (home / ".kube/kuberc").touch()
    assert programs.shell_line(Kubectl("madengine")("get", "pods")).startswith("KUBECTL_KUBERC=false KUBERC=off ")
    messages = collect_messages()
    Kubectl("madengine", "named").log_caller_settings({"KUBECONFIG": "/c"})
    Kubectl("madengine").log_caller_settings({"KUBECONFIG": "/c"})
    assert messages == ["kubectl: KUBECONFIG=/c is set: its current context is the cluster that is used"]
