"""What `cleanup` lists and removes, and what it leaves alone."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from madengine.distributed_cli import main
from madengine.files.locks import in_use
from madengine.process import own_process_id
from madengine.programs.engine_answers import LabelledContainer
from madengine.run.leftovers import GpuHolder, gpu_holders, still_alive
from madengine.run.orphans import GPU_LABEL, MODEL_LABEL, OWNER_LABEL, RUN_LABEL
from tests.conftest import StandIns

BOOT, NAMESPACE, _, _ = own_process_id().split(":")
EXITED = f"{BOOT}:{NAMESPACE}:1:0"
OF_A_CONTAINER = f"{BOOT}:another:1:0"


def container(name: str, owner: str | None, running: bool = True, **more: Any) -> dict[str, Any]:
    """A container of run r1, as the engine describes it; no owner is one that stays."""
    labels = {RUN_LABEL: "r1", MODEL_LABEL: "m", **({} if owner is None else {OWNER_LABEL: owner})}
    state = {"Status": "running" if running else "exited"}
    return {"Name": f"/{name}", "Id": f"id-{name}", "Config": {"Labels": labels}, "State": state, **more}


def add_engine(stand_ins: StandIns, *containers: dict[str, Any], remove: str = "exit 0") -> None:
    """Let docker have these containers; the removed ones are gone."""
    (stand_ins.folder / "all.json").write_text(json.dumps(containers))
    gone = f"*.State}}*) echo 'Error: No such container' >&2; exit 1 ;; *) cat {stand_ins.folder}/all.json ;;"
    ids = shlex.quote("\n".join(str(one["Id"]) for one in containers))
    cases = f'ps) echo {ids} ;; container) case "$3" in {gone} esac ;; rm) {remove} ;; version) echo 20.10 ;;'
    stand_ins.add("docker", f"case $1 in {cases} esac")


def removed(stand_ins: StandIns) -> list[str]:
    return [line.split()[-1] for line in stand_ins.calls() if line.startswith("docker rm")]


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's caches: a bundle, a data set and a folder of a model, all of them 40 days old."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    home = tmp_path / "cache/madengine"
    for name in ("madengine-1.pyz", "data/set-1/file", "data/.set-1.json", "data/.set-1.lock", "caches/%2Froot/file"):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x" * 5000)
    age(home, 40)
    return home


def age(folder: Path, days: float) -> None:
    moment = time.time() - days * 24 * 3600
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (moment, moment))


def names(home: Path) -> set[str]:
    return {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("words", "gone"),
    [
        ((), ["orphan"]),
        (("--all",), ["orphan", "stays", "ended-elsewhere"]),
    ],
)
def test_only_containers_whose_madengine_has_exited_are_removed(
    stand_ins: StandIns, caches: Path, words: tuple[str, ...], gone: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    add_engine(
        stand_ins,
        container("madengine-r1-orphan", EXITED, SizeRw=1_500_000),
        container("madengine-r1-mine", own_process_id()),
        container("madengine-r1-stays", None),
        container("madengine-r1-elsewhere", OF_A_CONTAINER),
        container("madengine-r1-ended-elsewhere", OF_A_CONTAINER, running=False),
        container("of-an-image-committed-from-ours", EXITED),
    )
    assert main(["cleanup", "--engine=docker", "--dry-run", *words]) == 0
    listed = capsys.readouterr().out
    assert removed(stand_ins) == []
    assert "would remove container madengine-r1-orphan: 1.5MB, model m, its madengine has exited" in listed
    assert main(["cleanup", "--engine=docker", *words]) == 0
    assert capsys.readouterr().out == listed.replace("would remove", "removed")
    assert removed(stand_ins) == [f"madengine-r1-{name}" for name in gone]


def test_a_container_that_can_not_be_removed_is_named_and_the_rest_is_removed(
    stand_ins: StandIns, caches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = container("madengine-r1-first", EXITED), container("madengine-r1-second", EXITED)
    failing = 'case "$*" in *first) echo did not receive an exit event >&2; exit 1 ;; esac'
    add_engine(stand_ins, first, second, remove=failing)
    assert main(["cleanup", "--engine=docker"]) == 1
    assert removed(stand_ins) == ["madengine-r1-first", "madengine-r1-second"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("container madengine-r1-first")
    assert line.endswith("did not receive an exit event")


def test_caches_go_by_their_age(stand_ins: StandIns, caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_engine(stand_ins)
    everything = names(caches)
    assert main(["cleanup", "--engine=docker", "--older-than=41"]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"
    assert main(["cleanup", "--engine=docker", "--dry-run"]) == 0
    assert names(caches) == everything
    # a file of it was read yesterday
    os.utime(caches / "caches/%2Froot/file", (time.time() - 86400, time.time() - 40 * 86400))
    assert main(["cleanup", "--engine=docker"]) == 0
    assert names(caches) == {"caches/%2Froot/file"}
    assert "data set, last used 40 days ago" in capsys.readouterr().out
    assert main(["cleanup", "--engine=docker", "--all"]) == 0
    assert names(caches) == set()


def test_a_cache_that_a_run_uses_stays(stand_ins: StandIns, caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mounted = container("madengine-r1-m", own_process_id(), Mounts=[{"Source": str(caches / "caches/%2Froot")}])
    add_engine(stand_ins, mounted)
    with in_use(caches / "data/set-1", caches / "missing"):
        assert main(["cleanup", "--engine=docker", "--all"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "data/set-1" in line
    assert line.endswith("in use")
    assert names(caches) == {"data/set-1/file", "data/.set-1.json", "data/.set-1.lock", "caches/%2Froot/file"}


def test_the_caches_of_a_workspace_are_removed_and_nothing_else_of_it(
    stand_ins: StandIns, caches: Path, tmp_path: Path
) -> None:
    add_engine(stand_ins)
    workspace = tmp_path / "workspace"
    for name in (".caches/%2Fdata/file", "results/file", ".caches/out.csv.lock"):
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text("x")
    age(workspace, 40)
    assert main(["cleanup", "--engine=docker", f"--workspace={workspace}"]) == 0
    assert names(workspace) == {"results/file", ".caches/out.csv.lock"}


def test_a_private_folder_of_a_killed_process_is_listed_with_its_size(
    stand_ins: StandIns, caches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_engine(stand_ins)
    code = "import madengine.process as p; print(p.own_prefix('madengine-private-'))"
    prefix = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    folder = tmp_path / "tmp" / f"{prefix}abc"
    folder.mkdir()
    (folder / "secret").write_text("x" * 5000)
    assert main(["cleanup", "--engine=docker", "--dry-run"]) == 0
    listed = capsys.readouterr().out
    assert re.search(rf"would remove folder {re.escape(str(folder))}: [\d.]+kB, its madengine has exited", listed)
    assert folder.exists()
    assert main(["cleanup", "--engine=docker"]) == 0
    assert not folder.exists()


def test_without_an_engine_the_rest_is_removed(stand_ins: StandIns, caches: Path) -> None:
    for name in ("docker", "podman", "nerdctl"):
        stand_ins.add(name, "echo Cannot connect to the Docker daemon >&2; exit 1")
    assert main(["cleanup"]) == 0
    assert names(caches) == set()


def test_a_process_that_keeps_its_gpu_is_found_by_its_control_group(stand_ins: StandIns) -> None:
    own = Path("/proc/self/cgroup").read_text()
    csv = f"{os.getpid()}, GPU-1, 10, python3\\n0, GPU-1, 10, other\\n"
    stand_ins.add("nvidia-smi", f"printf '{csv}'")
    labels = {GPU_LABEL: "nvidia-GPU-1"}
    (holder, *_) = gpu_holders([LabelledContainer("madengine-r1-m", labels, id=own)])
    assert holder == GpuHolder(os.getpid(), "python3", "madengine-r1-m")
    assert gpu_holders([LabelledContainer("madengine-r1-m", labels, id="no such id")]) == []
    assert holder.is_alive
    process = subprocess.Popen(["sleep", "60"])
    process.kill()
    assert still_alive([GpuHolder(process.pid, "sleep", "c")]) == []
    process.wait()
