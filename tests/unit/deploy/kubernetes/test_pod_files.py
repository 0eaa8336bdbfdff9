"""What a sidecar brings together of the files that a run has left."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from madengine.deploy.kubernetes.pod import Pod
from madengine.deploy.kubernetes.pod_files import bring_files
from madengine.records import SAMPLE_COLUMNS, SERIES_FILE, Gpu, Image, Model

MODEL = Model("dummy", "docker/x", "scripts/x")
POD = Pod(
    "bench", "pod-1", "job", "r", Image("k", "k"), MODEL, artifacts=("out/**",), wrapped=True,
    profiles=("power",), profile_names={"POWER_OUTPUT_FILE": "../watts.csv"},
)  # fmt: skip
GPU = Gpu("AMD", 0, memory_mib=1000)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace whose script left artifacts, a profiler's file in its directory, and samples of a GPU."""
    folder = tmp_path / "workspace"
    (folder / "run_directory/out").mkdir(parents=True)
    (folder / "run_directory/out/a.json").write_text("one")
    (folder / "run_directory/trace.pftrace").write_text("trace")
    (folder / "run_directory/old.db").write_text("old")
    os.utime(folder / "run_directory/old.db", (0, 0))
    cells = dict.fromkeys(SAMPLE_COLUMNS, "") | {"time": f"{time.time():.3f}", "gpu": "0", "power_w": "250.0"}
    (folder / SERIES_FILE).write_text("\n".join([",".join(cells), ",".join(cells.values()), ""]))
    started = time.clock_gettime(time.CLOCK_BOOTTIME) - 60
    entry = {"exit_code": 0, "timed_out": False, "out_of_memory": False, "started": started, "ended": started + 9}
    (folder / "entry.json").write_text(json.dumps({**entry, "log_complete": True}))
    return folder


@pytest.mark.parametrize("has_claim", [True, False])
def test_artifacts_and_profilers_files_come_with_their_sizes(tmp_path: Path, workspace: Path, has_claim: bool) -> None:
    claim = tmp_path / "claim"
    claim.mkdir()
    files = bring_files(POD, workspace, [GPU], claim if has_claim else None)
    home = claim / "r/pod-1" if has_claim else workspace
    assert {file.path: file.size_bytes for file in files} == {
        str(path.relative_to(home)): path.stat().st_size for path in (home / "artifacts").rglob("*") if path.is_file()
    }
    assert {file.path for file in files} == {"artifacts/out/a.json", "artifacts/trace.pftrace", "artifacts/watts.csv"}
    assert (workspace / "artifacts").exists() != has_claim, "the space is taken once"


def test_nothing_is_written_where_links_of_others_lead(tmp_path: Path, workspace: Path) -> None:
    claim, elsewhere = tmp_path / "claim", tmp_path / "elsewhere"
    for folder in (claim, elsewhere):
        folder.mkdir()
    (claim / "r").symlink_to(elsewhere)
    (workspace / "artifacts").symlink_to(elsewhere)
    for place in (claim, None):
        assert len(bring_files(POD, workspace, [GPU], place)) == 3
        assert list(elsewhere.iterdir()) == []
