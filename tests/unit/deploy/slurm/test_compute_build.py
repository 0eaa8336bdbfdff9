"""A build on a node of Slurm: the line of srun, and the mark in the manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from madengine.distributed_cli import main
from tests.conftest import StandIns

MANIFEST = {"built_images": {"k": {"docker_image": "i"}}, "built_models": {}}


def test_the_same_build_runs_on_a_node(tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.json").write_text("[]")
    stand_ins.add("srun", f"echo '{json.dumps(MANIFEST)}' >build_manifest.json")
    context = json.dumps({"slurm": {"partition": "cpu", "reservation": "r"}})
    words = ["build", "--build-on-compute", "--registry=reg:5000", "--tags", "a", "b", "-c", context]
    assert main(words) == 0
    [line] = stand_ins.calls()
    start, _, rest = line.partition(" python3 ")
    assert start == "srun --nodes=1 --ntasks=1 --partition=cpu --reservation=r --time=02:00:00"
    assert rest.startswith(f"{tmp_path}/results/build.pyz build ")
    assert {"--registry=reg:5000", "--tags=a", "--tags=b"} <= {*rest.split()}
    assert "--build-on-compute" not in rest
    image = json.loads((tmp_path / "build_manifest.json").read_text())["built_images"]["k"]
    assert image["built_on_compute"] is True
    stand_ins.add("srun", "exit 9")
    assert main(words) == 9


def test_without_a_registry_the_images_would_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.json").write_text("[]")
    assert main(["build", "--build-on-compute"]) == 4
