"""What a task has left: its last attempt says how it ended, every attempt has rows."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from madengine.config.manifest import Manifest
from madengine.deploy.slurm import task_results
from madengine.deploy.slurm.job import ArrayTask
from madengine.deploy.slurm.options import SlurmOptions
from madengine.deploy.slurm.settings import JobShape
from madengine.deploy.slurm.task_results import task_outcome
from madengine.programs.slurm import COMPLETED, LAST_SEEN, UNKNOWN, TaskState
from madengine.records import FAILURE, SUCCESS, Image, Model
from madengine.results.perf_csv import append_rows

TASK = ArrayTask(0, "m", Manifest((Image("k", "i"),), {"k": Model("m", "d", "s")}), 0, JobShape(SlurmOptions()))


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_results, "_LATE_SECONDS", 0.0)


def attempt(run: Path, folder: str, status: str = "") -> Path:
    """The folder of an attempt, with a row of this status; empty is none."""
    node = run / "0-m" / folder
    node.mkdir(parents=True)
    if status:
        append_rows(node / "perf.csv", [{"model": "m", "status": status, "run_id": run.name, "performance": "1"}])
        (node / "run_summary.json").write_text('{"successful_runs": [], "failed_runs": [], "skipped_runs": []}')
    return node


def rows(node: Path) -> list[tuple[str, str, str, str]]:
    with (node / "perf.csv").open(newline="") as file:
        return [(row["status"], row["attempt"], row["machine_name"], row["reason"]) for row in csv.DictReader(file)]


def test_the_last_attempt_decides_and_an_earlier_one_gets_a_row(tmp_path: Path) -> None:
    first, second = attempt(tmp_path, "h1"), attempt(tmp_path, "h1-attempt-2", SUCCESS)
    attempt(tmp_path, "h2-attempt-10", SUCCESS)
    outcome = task_outcome(TASK, tmp_path, TaskState(7, 0, COMPLETED, node="h2"), {})
    assert (outcome.has_failed, outcome.problem) == (False, "")
    assert rows(first) == [(FAILURE, "1", "h1", "Slurm job 7_0: ended without a result, and was queued again")]
    assert len(rows(second)) == 1


@pytest.mark.parametrize("state", [UNKNOWN, "NODE_FAIL", "TIMEOUT", "CANCELLED", COMPLETED])
def test_a_task_without_a_row_is_a_failure_whatever_slurm_says(tmp_path: Path, state: str) -> None:
    outcome = task_outcome(TASK, tmp_path, TaskState(7, 0, state, node="h1"), {})
    assert outcome.problem.startswith("m: Slurm job 7_0: ")
    [(status, number, _, reason)] = rows(tmp_path / "0-m/h1")
    assert (status, number) == (FAILURE, "1")
    assert reason.endswith("it left no log: do all nodes share its folder, and has it room?")


@pytest.mark.parametrize(
    ("node", "log", "expected"),
    [
        ("", "", "Slurm job 7_0: failed; it never ran"),
        ("h1", "one\n\ntwo\n\n", "Slurm job 7_0: failed; its log ends with: two"),
        ("h1", "madengine: error: no engine\n", "h1: no engine; Slurm job 7_0: failed"),
        ("h1", "madengine: error: h1: no engine\n", "h1: no engine; Slurm job 7_0: failed"),
        (
            "h[1-2]",
            "madengine: error: h2: no engine\ndisk   ok\nsrun: error: h2: task 1: Exited with exit code 1\n",
            "h2: no engine; Slurm job 7_0: failed",
        ),
        ("h1", "srun: error: h1: task 0: Exited with exit code 1\n", "Slurm job 7_0: failed; it left no log"),
    ],
)
def test_the_reason_is_what_the_job_said_itself(tmp_path: Path, node: str, log: str, expected: str) -> None:
    if log:
        (tmp_path / "slurm-7_0.log").write_text(log)
    outcome = task_outcome(TASK, tmp_path, TaskState(7, 0, "FAILED", "NonZeroExitCode", node=node), {})
    assert outcome.problem.startswith(f"m: {expected}")


def test_a_state_that_is_unknown_is_no_success_of_the_task(tmp_path: Path) -> None:
    attempt(tmp_path, "h1", SUCCESS)
    outcome = task_outcome(TASK, tmp_path, TaskState(7, 0, UNKNOWN), {})
    assert outcome.has_failed
    assert "unknown to Slurm" in outcome.problem


def test_a_task_that_is_gone_while_it_waited_was_cancelled(tmp_path: Path) -> None:
    state = TaskState(7, 0, UNKNOWN, LAST_SEEN.format("pending"))
    assert task_outcome(TASK, tmp_path, state, {}).problem == (
        "m: Slurm job 7_0: gone from the queue, so cancelled (last seen pending); it never ran"
    )
    lost = replace(state, reason=LAST_SEEN.format("running"), node="h1")
    problem = task_outcome(TASK, tmp_path / "other", lost, {}).problem
    assert problem.startswith(
        "m: Slurm job 7_0: unknown to Slurm, without accounting (last seen running); it left no log"
    )
