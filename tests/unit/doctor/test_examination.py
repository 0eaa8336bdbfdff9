"""All checks together, as a table and as JSON."""

from __future__ import annotations

import json
import shutil

import pytest

from madengine.distributed_cli import main
from madengine.doctor.check import FAILED, OK, Check
from madengine.doctor.examination import examine, is_fit
from tests.conftest import StandIns
from tests.unit.doctor.conftest import Engine, checks


def test_a_machine_without_gpus_is_fit(engine: Engine) -> None:
    results = examine("docker", "", "auto")
    assert is_fit(results)
    names = [check.name for check in results]
    assert names == [
        "python", "engine", "GPUs", "images", "container", "models", "disk (here)", "disk (images)", "shared memory"
    ]  # fmt: skip


def test_json_says_all_that_the_table_says(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--engine", "docker", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["fit"] is True
    assert {"name": "engine", "status": "ok", "result": "docker 27.5.1", "fix": ""} in results["checks"]
    assert main(["doctor", "--engine", "docker"]) == 0
    table = capsys.readouterr().out
    for check in results["checks"]:
        assert check["name"] in table
        assert check["result"].split()[0] in table


def test_a_machine_that_is_not_fit_ends_with_1_and_the_step_that_mends_it(
    stand_ins: StandIns, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins.add("docker", "echo 'Cannot connect to the Docker daemon at unix:///var/run/docker.sock.' >&2; exit 1")
    assert main(["doctor", "--engine", "docker"]) == 1
    results = capsys.readouterr()
    assert "engine: apt-get install podman, or: systemctl start docker" in results.out.splitlines()
    assert results.err == ""
    assert main(["doctor", "--engine", "docker", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["fit"] is False


def test_what_a_check_does_not_expect_is_a_failed_check(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(shutil, "disk_usage", broken)
    results = checks()
    assert results["disk"] == Check("disk", FAILED, "[Errno 5] Input/output error")
    assert results["shared memory"].status == OK
