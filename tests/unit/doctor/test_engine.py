"""The engine, and what to do if none answers."""

from __future__ import annotations

import pytest

from madengine.doctor.check import FAILED, Check
from tests.conftest import StandIns
from tests.unit.doctor.conftest import checks


@pytest.mark.parametrize(
    ("script", "result", "fix"),
    [
        (
            "echo 'Cannot connect to the Docker daemon at unix:///nonexistent.sock. Is the docker daemon running?' >&2"
            "; exit 1",
            "docker doesn't answer: Cannot connect to the Docker daemon at unix:///nonexistent.sock. "
            "Is the docker daemon running?; install or start it, or choose another with --engine",
            "apt-get install podman, or: systemctl start docker",
        ),
        (
            "echo 'permission denied while trying to connect to the Docker daemon socket' >&2; exit 1",
            "docker doesn't answer: permission denied while trying to connect to the Docker daemon socket; "
            "to get access: usermod --append --groups docker $USER, then log in again; or use sudo or podman",
            "usermod --append --groups docker $USER, then log in again",
        ),
    ],
)
def test_an_engine_that_does_not_answer_comes_with_its_reason(
    stand_ins: StandIns, script: str, result: str, fix: str
) -> None:
    stand_ins.add("docker", script)
    assert checks()["engine"] == Check("engine", FAILED, result, fix)


def test_without_any_engine_each_one_is_named(stand_ins: StandIns) -> None:
    for name in ("docker", "podman", "nerdctl"):
        stand_ins.add(name, f"echo '{name} is ill' >&2; exit 1")
    results = checks(registry="localhost:1", engine="auto")
    assert results["engine"].status == FAILED
    assert all(f"{name} is ill" in results["engine"].result for name in ("docker", "podman", "nerdctl"))
    assert "registry" not in results
