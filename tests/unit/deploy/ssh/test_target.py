"""Hosts over ssh as a target."""

from __future__ import annotations

from pathlib import Path

import pytest

from madengine.config.manifest import save_manifest
from madengine.distributed_cli import main
from tests.unit.deploy.ssh.conftest import manifest_of


def test_the_nodes_get_the_callers_words_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_manifest(manifest_of("reg.example.com/a"), tmp_path / "m.json")
    words = ["--tags=m0", "--timeout=60", "--live-output", "--run-id=r1", "--output=local.csv", "--forks=2"]
    assert main(["run", "--host=me@h:22", "--manifest-file=m.json", "--dry-run", *words]) == 0
    assert capfd.readouterr().out.splitlines() == [
        "madengine bundle --output madengine.pyz",
        "ssh -o BatchMode=yes -o Port=22 me@h mkdir -p madengine",
        "scp -o BatchMode=yes -o Port=22 madengine.pyz me@h:madengine/madengine.pyz",
        "scp -o BatchMode=yes -o Port=22 m.json me@h:madengine/build_manifest.json",
        "ssh -o BatchMode=yes -o Port=22 me@h 'cd madengine && python3 madengine.pyz run "
        "--target=local --manifest-file=build_manifest.json --run-id=r1 --output=runs/r1/perf.csv "
        "--summary-output=runs/r1/run_summary.json --timeout=60 --tags=m0 --live-output'",
        "mkdir -p results/r1/me@h_22",
        "scp -o BatchMode=yes -o Port=22 -r me@h:madengine/runs/r1 results/r1/me@h_22/",
        "madengine collect --output local.csv results/r1",
    ]
