"""A script that starts containers itself: what it is given, what is made of what it leaves, and when it ends."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from madengine.config.context import Context
from madengine.errors import RunError
from madengine.programs.engine import Docker
from madengine.programs.slurm import Allocation
from madengine.records import FAILURE, SUCCESS, Image, Model, RunResult
from madengine.run.container_setup import Setup
from madengine.run.host_script import HostScript
from madengine.run.options import RunOptions
from tests.conftest import StandIns

HEADER = "model,performance,metric,status"


def run(
    folder: Path,
    script: str,
    card: dict[str, Any] | None = None,
    image: str = "local",
    allocation: Allocation | None = None,
    timeout: int = 20,
) -> RunResult:
    (folder / "scripts").mkdir(exist_ok=True)
    (folder / "scripts/run.sh").write_text(script)
    model = Model("m", "docker/m", "scripts/run.sh", args="-N '2 3'", extra=card or {})
    setup = Setup(Docker(), "r1", Context(), RunOptions(timeout=timeout), root=folder)
    result = RunResult("r1", model, Image("m", image), FAILURE, log_file=str(folder / "log"))
    return HostScript(setup, model, Image("m", image), threading.Event(), allocation).run(result)


def until_gone(process: int) -> None:
    limit = time.monotonic() + 5
    stat = Path(f"/proc/{process}/stat")
    while stat.exists() and " Z " not in stat.read_text():
        assert time.monotonic() < limit
        time.sleep(0.05)


def outcome(result: RunResult) -> tuple[str, str, list[tuple[str, str, str]]]:
    return result.status, result.reason, [(one.model, one.performance, one.metric) for one in result.metrics]


def test_the_new_rows_of_its_own_table_are_the_results(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/perf.csv").write_text(f"{HEADER}\nold,1,t,SUCCESS\n")
    result = run(tmp_path, "echo 'm_a,2,t,SUCCESS\nm,3,u,SUCCESS' >>perf.csv; echo performance: 9 x")
    assert outcome(result) == (SUCCESS, "", [("a", "2", "t"), ("", "3", "u")])


def test_it_has_its_arguments_and_the_users_variables(tmp_path: Path) -> None:
    card: dict[str, Any] = {"env_vars": {"SIZE": "big"}, "distributed": {"sglang_disagg": {"prefill_nodes": 3}}}
    script = 'echo "performance: 1 $1-$2-$SIZE-$xP-$yD-$DOCKER_IMAGE_NAME"; pwd'
    result = run(tmp_path, script, card, image="base")
    assert outcome(result) == (SUCCESS, "", [("", "1", "-N-2")])
    assert (tmp_path / "log").read_text() == f"performance: 1 -N-2 3-big-3-1-base\n{tmp_path / 'scripts'}\n"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo performance: 1 x; exit 4", "exit code 4"),
        ("true", 'the script left no row in a perf.csv, and no line "performance: <number> <metric>" in the log'),
        ("echo not,a,table >perf.csv", "the script left no row in a perf.csv, and no line"),
        ("sleep 60 & echo $! >child; wait", "timeout: the script ran longer than 1 s"),
    ],
)
def test_a_failure_has_its_reason(tmp_path: Path, script: str, reason: str) -> None:
    result = run(tmp_path, script, timeout=1)
    assert result.status == FAILURE
    assert result.reason.startswith(reason)
    if "child" in script:
        child = (tmp_path / "scripts/child").read_text().strip()
        until_gone(int(child))


def test_a_registrys_image_is_pulled_on_all_nodes_at_once(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.add("srun", "")
    card = {"distributed": {"nnodes": 2}}
    run(tmp_path, "echo performance: 1 x", card, "org/image:1", Allocation(7, 2))
    assert stand_ins.calls() == [
        "srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=1 docker pull org/image:1"
    ]
    stand_ins.add("srun", "echo no such image >&2; exit 1")
    with pytest.raises(RunError, match="pull org/image:1: no such image"):
        run(tmp_path, "true", card, "org/image:1", Allocation(7, 2))


def test_an_allocation_with_fewer_nodes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="needs 3 nodes, and Slurm job 7 has 2"):
        run(tmp_path, "true", {"slurm": {"nodes": 3}}, allocation=Allocation(7, 2))
