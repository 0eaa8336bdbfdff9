"""What squeue and sacct say of a task: nothing that is unknown is a success."""

from __future__ import annotations

import pytest

from madengine.errors import CommandError
from madengine.programs.slurm import TaskState, task_states
from tests.conftest import StandIns


@pytest.mark.parametrize(
    ("squeue", "sacct", "expected"),
    [
        ("echo '7|0|RUNNING|None|h1'", "exit 1", [TaskState(7, 0, "RUNNING", node="h1")]),
        ("echo '7|0|RUNNING|None|h1|9'", "exit 1", [TaskState(7, 0, "RUNNING", node="h1", own_job=9)]),
        ("echo '7|0|PENDING|BeginTime|'", "exit 1", [TaskState(7, 0, "PENDING", "BeginTime")]),
        (
            "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1",
            "echo '7_0|CANCELLED by 1000|h1'; echo '7_1|NODE_FAIL|h2'; echo '7_0.batch|COMPLETED|h1'",
            [TaskState(7, 0, "CANCELLED", node="h1"), TaskState(7, 1, "NODE_FAIL", node="h2")],
        ),
        (
            "echo '7|0|RUNNING|None|h1'",
            "echo '7_0|RUNNING|h1'; echo '7_1|CANCELLED by 0|None assigned'",
            [TaskState(7, 0, "RUNNING", node="h1"), TaskState(7, 1, "CANCELLED")],
        ),
        ("echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", "echo disabled >&2; exit 1", []),
        ("echo '7|x|COMPLETED|None|h1'; echo 'COMPLETED'", "echo '7|COMPLETED|h1'; echo", []),
    ],
)
def test_a_task_is_what_slurm_says(stand_ins: StandIns, squeue: str, sacct: str, expected: list[TaskState]) -> None:
    stand_ins.add("squeue", squeue)
    stand_ins.add("sacct", sacct)
    assert task_states({7: (0, 1)}) == expected


def test_a_controller_that_does_not_answer_is_an_error(stand_ins: StandIns) -> None:
    stand_ins.add("squeue", "echo Unable to contact slurm controller >&2; exit 1")
    with pytest.raises(CommandError, match="Unable to contact"):
        task_states({7: (0, 1)})


@pytest.mark.parametrize(
    ("state", "has_ended"),
    [
        ("RUNNING", False),
        ("REQUEUED", False),
        ("PENDING", False),
        ("PREEMPTED", True),
        ("NODE_FAIL", True),
        ("X", True),
    ],
)
def test_a_word_that_is_unknown_is_an_end(state: str, has_ended: bool) -> None:
    assert TaskState(7, 0, state).has_ended is has_ended
