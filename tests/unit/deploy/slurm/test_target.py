"""What a run under Slurm writes for its nodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from madengine.distributed_cli import main
from tests.conftest import StandIns

MANIFEST = {
    "built_images": {"k": {"docker_image": "i", "image_id": f"sha256:{'1' * 64}", "self_contained": True}},
    "built_models": {"k": {"name": "m", "dockerfile": "d", "scripts": "s"}},
    "deployment_config": {"target": "slurm", "slurm": {}, "env_file": "site.sh"},
}


def test_nodes_source_the_file_of_variables_where_it_is(
    tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stand_ins.add("sbatch", "echo 7")
    (tmp_path / "build_manifest.json").write_text(json.dumps(MANIFEST))
    (tmp_path / "site.sh").write_text("A=1\n")
    assert main(["generate", "slurm", "--manifest-file=build_manifest.json", "--run-id=r1"]) == 0
    [script] = (tmp_path / "results/r1").glob("job-*.sh")
    assert f"--additional-context-file={tmp_path}/results/r1/context.json" in script.read_text()
    assert json.loads((tmp_path / "results/r1/context.json").read_text()) == {"env_file": str(tmp_path / "site.sh")}
