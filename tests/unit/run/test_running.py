"""What runs now, by labels and locks, and its log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from madengine.distributed_cli import main
from madengine.machine import lock_files
from madengine.machine.gpu_locks import lock_holders, locked_gpus
from madengine.process import own_process_id
from madengine.records import Gpu
from madengine.run.orphans import GPU_LABEL, LOG_LABEL, MODEL_LABEL, OWNER_LABEL, RUN_LABEL
from madengine.run.running_table import duration, record_of
from tests.conftest import StandIns

GPU = Gpu("NVIDIA", 3, uuid="GPU-3")
LOG = "m_m.ubuntu.run.live.log"


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locks = tmp_path / "locks"
    locks.mkdir()
    locks.chmod(0o1777)
    monkeypatch.setattr(lock_files, "FOLDERS", (locks,))
    monkeypatch.chdir(tmp_path)


def add_engine(stand_ins: StandIns, *containers: dict[str, Any], wait: str = "sleep 60") -> None:
    (stand_ins.folder / "all.json").write_text(json.dumps(containers))
    ids = " ".join(str(one["Name"]) for one in containers)
    answers = f"ps) echo {ids} ;; container) cat {stand_ins.folder}/all.json ;; version) echo 20.10 ;; wait) {wait} ;;"
    stand_ins.add("docker", f"case $1 in {answers} esac")
    stand_ins.add("nvidia-smi", "exit 1")


def running(log: str = "", run_id: str = "r1", owner: str | None = own_process_id(), gpus: str = "") -> dict[str, Any]:
    labels = {RUN_LABEL: run_id, MODEL_LABEL: "m", LOG_LABEL: log}
    labels |= {OWNER_LABEL: owner} if owner else {}
    labels |= {GPU_LABEL: gpus} if gpus else {}
    created = "2026-11-28T12:00:00.123456789+02:00"
    config, state = {"Labels": labels}, {"Status": "running"}
    return {"Name": f"/madengine-{run_id}-m", "Created": created, "Config": config, "State": state}


def write_log(folder: Path, text: str = "line\n") -> Path:
    path = folder / "m" / LOG
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def status(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert main(["status", "--engine=docker", "--json"]) == 0
    models: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["models"]
    return models


def test_status_names_model_since_gpus_and_log(
    stand_ins: StandIns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "runs/r1/m" / LOG
    boot, namespace, _, _ = own_process_id().split(":")
    exited = running(run_id="r2", owner=f"{boot}:{namespace}:1:0", gpus="nvidia-GPU-3 nvidia-GPU-4")
    add_engine(stand_ins, running(str(log)), exited, running(run_id="r3", owner=None))
    models = {model["run_id"]: model for model in status(capsys)}
    assert (models["r1"]["model"], models["r1"]["state"], models["r1"]["log"]) == ("m", "running", str(log))
    assert models["r1"]["since"] == "2026-11-28T10:00:00Z"
    assert (models["r2"]["state"], models["r2"]["gpus"]) == ("orphan", ["nvidia-GPU-3", "nvidia-GPU-4"])
    assert models["r3"]["state"] == "kept alive"
    assert main(["status", "--engine=docker"]) == 0
    table = capsys.readouterr().out
    assert "m        running     2026-11-28T10:00:00Z" in table
    assert str(log) in table


def test_nothing_runs(stand_ins: StandIns, capsys: pytest.CaptureFixture[str]) -> None:
    add_engine(stand_ins)
    assert main(["status", "--engine=docker"]) == 0
    assert capsys.readouterr().out == "nothing runs\n"


def test_a_gpu_that_is_locked_for_a_model_without_a_container_is_starting(
    stand_ins: StandIns, capsys: pytest.CaptureFixture[str]
) -> None:
    add_engine(stand_ins)
    with locked_gpus([GPU], 1, "big/model"):
        (model,) = status(capsys)
        assert lock_holders()["nvidia-GPU-3"].pid == os.getpid()
    assert (model["model"], model["state"], model["gpus"]) == ("big/model", "starting", ["nvidia-GPU-3"])
    assert model["user"]
    # the file is still there, and nobody holds it
    assert status(capsys) == []


@pytest.mark.parametrize(
    "log", ["/etc/shadow", "/runs/r1/m/x.csv", f"/x/../runs/r1/m/{LOG}", f"/runs/other/m/{LOG}", f"runs/r1/m/{LOG}"]
)
def test_a_label_that_names_no_log_of_its_run_is_ignored(
    stand_ins: StandIns, capsys: pytest.CaptureFixture[str], log: str
) -> None:
    add_engine(stand_ins, running(log))
    assert status(capsys)[0]["log"] == ""


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"models": [3]}', '{"models": 3}', "[" * 9999])
def test_what_a_host_prints_is_checked(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        record_of(text, "h1")
    record = record_of('{"models": [{"model": ["x"], "gpus": "y", "seconds": "z", "more": 1}]}', "h1")
    assert record["models"][0] | {"model": "", "gpus": [], "seconds": None} == record["models"][0] | {"model": ""}


def test_durations() -> None:
    assert [duration(seconds) for seconds in (None, 0, 75, 3723)] == ["", "0:00", "1:15", "1:02:03"]


# --- logs ---


def test_the_log_of_the_model_that_runs_comes_first(
    stand_ins: StandIns, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    write_log(tmp_path / "runs/r0", "old\n")
    write_log(tmp_path / "elsewhere/runs/r1", "now \x1b[2J\x1b[31mred\x1b[0m\n")
    add_engine(stand_ins, running(str(tmp_path / "elsewhere/runs/r1/m" / LOG)))
    assert main(["logs", "m", "--engine=docker"]) == 0
    assert capfdbinary.readouterr().out == b"now \\x1b[2J\x1b[31mred\x1b[0m\n"
    assert main(["logs", "m", "--engine=docker", "--run-id=r0"]) == 0
    assert capfdbinary.readouterr().out == b"old\n"


def test_the_newest_log_of_a_model_that_has_ended(
    stand_ins: StandIns, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    add_engine(stand_ins)
    for number, place in enumerate(("runs/r1", "runs/r2", "results/r3/h1/runs/r3")):
        os.utime(write_log(tmp_path / place, f"{place}\n"), (number, number))
    (tmp_path / "runs/r2/m_2").mkdir()
    (tmp_path / "runs/r2/m_2" / LOG).write_text("of the second in that run\n")
    os.utime(tmp_path / "runs/r2/m_2" / LOG, (1, 1))
    (tmp_path / "runs/r2/m_large").mkdir()
    (tmp_path / "runs/r2/m_large" / LOG).write_text("another model\n")
    assert main(["logs", "m", "--engine=docker"]) == 0
    assert capfdbinary.readouterr().out == b"results/r3/h1/runs/r3\n"
    assert main(["logs", "n", "--engine=docker"]) == 3
    assert capfdbinary.readouterr().err.endswith(b"there are: m, m_2, m_large\n")


def test_a_link_in_a_logs_place_is_not_followed(
    stand_ins: StandIns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_engine(stand_ins)
    log = write_log(tmp_path / "runs/r1")
    log.unlink()
    log.symlink_to("/etc/passwd")
    assert main(["logs", "m", "--engine=docker"]) == 1
    assert "symbolic link" in capsys.readouterr().err


def test_follow_goes_on_until_the_container_ends_or_the_reader_leaves(stand_ins: StandIns, tmp_path: Path) -> None:
    log = write_log(tmp_path / "runs/r1", "first\n")
    add_engine(stand_ins, running(str(log)), wait=f"while [ ! -e {tmp_path}/ended ]; do sleep 0.02; done; echo 0")
    words = [sys.executable, "-m", "madengine", "logs", "m", "-f", "--engine=docker"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        assert process.stdout.readline() == b"first\n"
        with log.open("a") as file:
            file.write("second\n")
        assert process.stdout.readline() == b"second\n"
        (tmp_path / "ended").touch()
        assert process.wait(10) == 0
    (tmp_path / "ended").unlink()
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(10) == 0
