from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from madengine.process import own_process_id, process_has_ended
from madengine.programs.engine import Docker
from madengine.run.orphans import GPU_LABEL, OWNER_LABEL, gpu_users, remove_orphans
from tests.conftest import StandIns, collect_messages


def label(pid: int) -> str:
    """The label that a process of ours with this id would give its containers."""
    boot, namespace, _, _ = own_process_id().split(":")
    started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{boot}:{namespace}:{pid}:{started}"


def test_a_process_that_runs_owns_its_containers() -> None:
    assert own_process_id() == label(os.getpid())
    assert not process_has_ended(own_process_id())


def test_a_container_is_an_orphan_when_its_process_is_gone() -> None:
    process = subprocess.Popen(["sleep", "60"])
    its = label(process.pid)
    assert not process_has_ended(its)
    process.kill()
    process.wait()
    assert process_has_ended(its)


def test_a_process_that_ended_and_that_nobody_collects_is_gone_too() -> None:
    process = subprocess.Popen(["sleep", "60"])
    its = label(process.pid)
    process.kill()
    limit = time.monotonic() + 5
    while " Z " not in Path(f"/proc/{process.pid}/stat").read_text():
        assert time.monotonic() < limit
        time.sleep(0.01)
    assert process_has_ended(its)
    process.wait()


def test_another_process_with_the_same_id_is_not_the_owner() -> None:
    boot, namespace, pid, started = own_process_id().split(":")
    assert process_has_ended(f"{boot}:{namespace}:{pid}:{int(started) - 1}")


def test_a_process_whose_name_has_brackets_and_blanks_is_recognised(tmp_path: Path) -> None:
    program = tmp_path / "a) S 1 (b"
    program.symlink_to(sys.executable)
    process = subprocess.Popen([str(program), "-c", "input()"], stdin=subprocess.PIPE)
    its = label(process.pid)
    assert not process_has_ended(its)
    process.communicate(b"\n")
    assert process_has_ended(its)


@pytest.mark.parametrize("part", [0, 1])
def test_a_container_of_another_machine_or_namespace_is_nobodys_business_here(part: int) -> None:
    words = own_process_id().split(":")
    words[part], words[3] = "elsewhere", "0"
    assert not process_has_ended(":".join(words))


@pytest.mark.parametrize(
    "text", ["", "x", ":::", "a:b:c:d", f"{own_process_id().rpartition(':')[0].rpartition(':')[0]}:x:1"]
)
def test_a_label_that_is_none_of_ours_makes_no_orphan(text: str) -> None:
    assert not process_has_ended(text)


def sweep(stand_ins: StandIns, labels: dict[str, str], removing: str = "exit 0") -> tuple[list[str], list[str]]:
    """Return what was removed, and the messages, if the engine has containers with these owners."""
    containers = [{"Name": f"/{name}", "Config": {"Labels": {OWNER_LABEL: text}}} for name, text in labels.items()]
    (stand_ins.folder / "containers.json").write_text(json.dumps(containers))
    cases = f"ps) echo {' '.join(labels)} ;; container) cat {stand_ins.folder}/containers.json ;; rm) {removing} ;;"
    stand_ins.add("docker", f"case $1 in {cases} esac")
    messages = collect_messages()
    remove_orphans(Docker())
    return [line.split()[-1] for line in stand_ins.calls() if line.startswith("docker rm")], messages


def test_only_orphans_are_removed_and_each_is_named(stand_ins: StandIns) -> None:
    boot, namespace, _, _ = own_process_id().split(":")
    labels = {"mine": own_process_id(), "orphan": f"{boot}:{namespace}:1:0", "foreign": f"other:{namespace}:1:0"}
    removed, messages = sweep(stand_ins, labels)
    assert removed == ["orphan"]
    assert messages == ["removed orphan orphan: its madengine process has exited"]


def test_an_orphan_that_can_not_be_removed_is_said_and_the_next_one_is_removed(stand_ins: StandIns) -> None:
    boot, namespace, _, _ = own_process_id().split(":")
    labels = {"first": f"{boot}:{namespace}:1:0", "second": f"{boot}:{namespace}:1:0"}
    failing = '[ "$4" = second ] || { echo device busy >&2; exit 1; }'
    removed, messages = sweep(stand_ins, labels, failing)
    assert removed == ["first", "second"]
    assert "device busy" in messages[0]
    assert messages[1].startswith("removed orphan second")


def test_nothing_is_asked_of_an_engine_without_containers(stand_ins: StandIns) -> None:
    assert sweep(stand_ins, {}) == ([], [])
    assert len(stand_ins.calls()) == 1


def test_a_container_of_an_image_that_was_committed_from_ours_is_not_ours(stand_ins: StandIns) -> None:
    boot, namespace, _, _ = own_process_id().split(":")
    inherited = {OWNER_LABEL: f"{boot}:{namespace}:1:0", "madengine.run": "r1", GPU_LABEL: "nvidia-GPU-1"}
    names = ("users-own", "madengine-r1-model")
    containers = [{"Name": f"/{name}", "Config": {"Labels": inherited}} for name in names]
    (stand_ins.folder / "containers.json").write_text(json.dumps(containers))
    cases = f"ps) echo {' '.join(names)} ;; container) cat {stand_ins.folder}/containers.json ;;"
    stand_ins.add("docker", f"case $1 in {cases} esac")
    assert remove_orphans(Docker()) == []
    assert [line.split()[-1] for line in stand_ins.calls() if line.startswith("docker rm")] == ["madengine-r1-model"]


def test_running_containers_name_the_gpus_that_they_use(stand_ins: StandIns) -> None:
    gpus = "nvidia-GPU-1 nvidia-GPU-2"
    labels = {OWNER_LABEL: "elsewhere:1:1:0", "madengine.run": "r1", GPU_LABEL: gpus}
    (stand_ins.folder / "containers.json").write_text(
        json.dumps([{"Name": "/madengine-r1-model", "Config": {"Labels": labels}}])
    )
    stand_ins.add("docker", f"case $1 in ps) echo id ;; container) cat {stand_ins.folder}/containers.json ;; esac")
    user = "the container madengine-r1-model"
    assert gpu_users(Docker()) == {"nvidia-GPU-1": user, "nvidia-GPU-2": user}
    assert "docker ps --no-trunc --quiet --filter=label=madengine.gpus" in stand_ins.calls()
