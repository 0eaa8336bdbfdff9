"""The files of `generate k8s` byte by byte, so that a change of them is seen as one.

What was meant is written anew with

    MADENGINE_WRITE_GOLDEN=1 python -m pytest tests/k8s/test_golden.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from madengine.deploy.kubernetes import input_config, jobs, plan
from madengine.distributed_cli import main
from tests.k8s.test_files import DIGEST, manifest

GOLDEN = Path(__file__).parents[1] / "data/k8s"

SMALL = manifest({"n_gpus": "1"})
EVERYTHING = manifest(
    {
        "name": "team/llm",
        "n_gpus": "8",
        "args": '--note "it\'s: {odd}"',
        "timeout": 3600,
        "tags": ["nightly"],
        "data": "imagenet,tokenizer,scratch",
        "cred": "HUB",
        "owner": "ann@example.com",
        "training_precision": "fp16",
        "log_error_patterns": ["out of memory"],
    },
    {"name": "team/llm", "n_gpus": "8", "vendor": "NVIDIA", "multiple_results": "figures.csv"},
    {"name": "cpu", "n_gpus": "0", "vendor": "NONE", "timeout": 0},
    tools=[{"name": "traced", "env_vars": {"LEVEL": "$(HOME)"}}],
    pre_scripts=[{"path": "scripts/common/warm.sh", "args": "a 'b c' ü"}],
    docker_env_vars={"OMP_NUM_THREADS": "8", "NOTE": "no"},
)
TOOLS = {"traced": {"cmd": "trace --all", "post_scripts": ["scripts/common/sum.sh"], "env_vars": {"LEVEL": "1"}}}
CONFIGURED = {
    "docker_mounts": {"/cache": "/var/cache/models"},
    "post_scripts": ["scripts/site/after.sh"],
    "multi_node_args": {"NCCL_SOCKET_IFNAME": "ib0"},
    "SHM_SIZE": "64g",
}
DATA = {
    "imagenet": {"pvc": {"claim": "datasets", "path": "imagenet", "readwrite": "true"}},
    "tokenizer": {"nfs": {"server": "nas1.example.com", "path": "/export/tokenizer", "home": "/tokenizer"}},
}
WORDS = (
    *("--namespace=bench", "--create-namespace", "--kustomize", "--nodes=2", "--gpus-per-node=8", "--cpu=16"),
    *("--memory=128Gi", "--ephemeral-storage=50Gi", "--node-selector", "zone=a", "amd.com/gpu.vram=192G"),
    *("--toleration", "gpu=yes:NoSchedule", "--queue=gpus", "--image-pull-secret=registry", "--env-secret=hub"),
    *("--data-volume", "scratch=hostpath:/scratch", "--host-path", "--host-ipc", "--slack=600", "--retries=2"),
    *("--ttl=86400", "--run-id=night-7", f"--runner-image=reg.example.com/madengine/runner@{DIGEST}"),
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, of a madengine whose version never changes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODEL_DIR", raising=False)
    for module in (input_config, jobs, plan):
        monkeypatch.setattr(module, "__version__", "0.0.0")
    return tmp_path


def write(folder: Path, files: Mapping[str, Any]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def assert_golden(name: str, folder: Path) -> None:
    written = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in (*folder.glob("*.yaml"), *folder.glob("base/kust*"))
    }
    if os.environ.get("MADENGINE_WRITE_GOLDEN"):
        for file, content in written.items():
            (GOLDEN / name / file).parent.mkdir(parents=True, exist_ok=True)
            (GOLDEN / name / file).write_bytes(content)
    assert {str(path.relative_to(GOLDEN / name)) for path in (GOLDEN / name).rglob("*.yaml")} == written.keys()
    for file, content in written.items():
        assert content.decode() == (GOLDEN / name / file).read_bytes().decode(), file


def test_the_files_of_one_image_are_the_golden_ones(here: Path) -> None:
    write(here, {"build_manifest.json": SMALL})
    assert main(["generate", "k8s"]) == 0
    assert_golden("small", here)


def test_the_files_of_everything_at_once_are_the_golden_ones(here: Path) -> None:
    write(
        here,
        {
            "build_manifest.json": {**EVERYTHING, "tools": TOOLS},
            "execution_config.json": {"models": [], "context": CONFIGURED, "credentials_required": ["HUB"]},
            "data.json": DATA,
            "models.json": [{"name": "llm", "dockerfile": "docker/x", "scripts": "scripts/x"}],
            "scripts/site/after.sh": "#!/bin/sh\necho 'after: {{ it }}'\n",
        },
    )
    assert main(["generate", "k8s", *WORDS]) == 0
    assert_golden("everything", here)
