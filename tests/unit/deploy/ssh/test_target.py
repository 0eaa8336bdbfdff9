"""Hosts over ssh as a target."""

from __future__ import annotations

import re
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


def test_hosts_that_run_a_model_together_are_started_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_manifest(manifest_of("reg.example.com/a"), tmp_path / "m.json")
    words = ["run", "--manifest-file=m.json", "--dry-run", "--run-id=r1", "--nodes=2"]
    assert main([*words, "--host=me@a,b"]) == 0
    lines = capfd.readouterr().out.splitlines()
    started = [line for line in lines if line.endswith(" &")]
    assert lines.index("wait") == lines.index(started[-1]) + 1
    starts = [re.findall(r"MADENGINE_([A-Z_]+)=(\S+)", line) for line in started]
    first, second = (dict(pairs) for pairs in starts)
    assert [one.pop("NODE_RANK") for one in (first, second)] == ["0", "1"]
    assert first == second
    assert (first["NODES"], first["RENDEZVOUS"].partition(":")[0]) == ("2", "a")
    assert all(" --nodes=2" in line for line in started)
    assert main([*words, "--host=a,b,c"]) == 4
    assert "--nodes 2: expected 2 hosts, got 3; name as many with --host" in capfd.readouterr().err
    assert main([*words, "--host=a,b", "--against=m.json"]) == 4
    assert "--against: unsupported on several nodes together" in capfd.readouterr().err
