"""Who else uses a run's GPUs while it runs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from madengine.machine import strangers
from madengine.machine.strangers import UserWatch, watched
from madengine.records import Gpu
from tests.conftest import StandIns

GPUS = (Gpu("NVIDIA", 0, uuid="GPU-a"), Gpu("NVIDIA", 1, uuid="GPU-b"))
CONTAINER = "c0ffee" * 8
OURS, THEIRS, MISSING = 100, 200, 300


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The processes of a machine: one of the run's container, and one of others."""
    for pid, group in ((OURS, f"0::/system.slice/docker-{CONTAINER}.scope"), (THEIRS, "0::/user.slice")):
        (tmp_path / "proc" / str(pid)).mkdir(parents=True)
        (tmp_path / "proc" / str(pid) / "cgroup").write_text(f"{group}\n")
    monkeypatch.setattr(strangers, "PROC", tmp_path / "proc")
    monkeypatch.setattr(strangers, "LOOK_SECONDS", 0.05)
    return tmp_path / "proc"


def watch_while(stand_ins: StandIns, *answers: str, container: str = f"warning\n{CONTAINER}\n") -> UserWatch:
    """UserWatch while nvidia-smi gives these answers, one after the other, the last one again and again."""
    folder = stand_ins.folder
    for number, answer in enumerate(answers):
        (folder / f"answer.{number}").write_text(answer)
    stand_ins.add(
        "nvidia-smi",
        f"n=$(cat {folder}/n 2>/dev/null || echo 0)\n[ -e {folder}/answer.$((n + 1)) ] && echo $((n + 1)) >{folder}/n\n"
        f"cat {folder}/answer.$n",
    )
    with watched(GPUS[:1]) as watch:
        watch.begin(container)
        deadline = time.monotonic() + 20
        while len(stand_ins.calls()) < len(answers) + 1 and time.monotonic() < deadline:
            time.sleep(0.02)
    return watch


def users(*pids: int, gpu: str = "GPU-a") -> str:
    return "".join(f"{pid}, {gpu}, 512, python3\n" for pid in pids)


def test_the_runs_own_processes_are_no_strangers(proc: Path, stand_ins: StandIns) -> None:
    assert watch_while(stand_ins, users(), users(OURS)).strangers == ()


def test_one_that_comes_and_goes_during_the_run_is_one(proc: Path, stand_ins: StandIns) -> None:
    found = watch_while(stand_ins, users(OURS), users(OURS, THEIRS), users(OURS)).strangers
    assert found is not None
    assert [(one.pid, one.name) for one in found] == [(THEIRS, "python3")]


def test_one_on_other_gpus_is_none(proc: Path, stand_ins: StandIns) -> None:
    assert watch_while(stand_ins, users(OURS) + users(THEIRS, gpu="GPU-b")).strangers == ()


def test_one_that_has_just_ended_may_have_been_ours(proc: Path, stand_ins: StandIns) -> None:
    assert watch_while(stand_ins, users(OURS, MISSING), users(OURS)).strangers == ()


def test_one_that_stays_and_is_of_no_process_here_is_a_stranger(proc: Path, stand_ins: StandIns) -> None:
    found = watch_while(stand_ins, users(OURS, MISSING), users(OURS, MISSING)).strangers
    assert [one.pid for one in found or ()] == [MISSING]


@pytest.mark.parametrize("container", ["", "f00d" * 16, "slice"])
def test_nothing_is_known_where_the_container_is_not_seen(proc: Path, stand_ins: StandIns, container: str) -> None:
    with watched(GPUS) as watch:
        watch.begin(container)
        stand_ins.add("nvidia-smi", f"echo '{THEIRS}, GPU-a, 512, python3'")
        time.sleep(0.3)
    assert watch.strangers is None


@pytest.mark.parametrize("script", ["exit 9", "echo garbage", "sleep 60"])
def test_a_tool_that_fails_leaves_it_unknown_and_costs_little(proc: Path, stand_ins: StandIns, script: str) -> None:
    stand_ins.add("nvidia-smi", script)
    started = time.monotonic()
    with watched(GPUS) as watch:
        watch.begin(CONTAINER)
    assert time.monotonic() - started < 4
    assert watch.strangers is None


def test_without_gpus_or_a_container_nothing_is_asked(proc: Path, stand_ins: StandIns) -> None:
    stand_ins.add("nvidia-smi", "exit 9")
    with watched(()) as nothing, watched(GPUS) as never_started:
        nothing.begin(CONTAINER)
    assert (nothing.strangers, never_started.strangers) == (None, None)
    assert stand_ins.calls() == []
