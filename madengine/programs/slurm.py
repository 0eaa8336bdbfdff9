"""Slurm's commands: a job is submitted, looked at and cancelled."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from madengine import programs
from madengine.errors import CommandError, MadengineError

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

SUBMIT = "sbatch"
#: what srun prints beside a node's own last line
STEP_END = re.compile(r"srun: error: \S+: tasks? \S+: Exited with exit code \d+")
#: after the name of a script: the file with the number of its job
NUMBER_SUFFIX = ".job"
_UNKNOWN_JOB = "Invalid job id"
# What sacct prints as the nodes of a job that never ran.
_NO_NODE = "None assigned"
# Tasks that squeue shows as going on, or not yet begun; it knows more words, all of which mean an end.
_GOING_ON = frozenset(
    ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
     "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
)  # fmt: skip
COMPLETED = "COMPLETED"
UNKNOWN = "UNKNOWN"
#: the reason of a task that Slurm has forgotten, with its state before
LAST_SEEN = "last seen {}"


@dataclass(frozen=True)
class TaskState:
    """What Slurm says of one task of an array."""

    job: int
    #: its number in the array
    number: int
    #: Slurm's word, such as RUNNING; UNKNOWN if Slurm has forgotten the task
    state: str
    #: why it waits or has ended, empty if Slurm gives no reason
    reason: str = ""
    node: str = ""
    #: Slurm's number of this task alone, once it has begun; 0 if unknown. What it is before that may change.
    own_job: int = field(default=0, compare=False)

    @property
    def has_ended(self) -> bool:
        return self.state not in _GOING_ON


@dataclass(frozen=True)
class Allocation:
    """The nodes that a job of Slurm has, seen from inside of it."""

    job: int
    nodes: int


def own_allocation(environ: Mapping[str, str]) -> Allocation | None:
    """Return the allocation that this process is in; None outside of Slurm."""
    job, nodes = environ.get("SLURM_JOB_ID", ""), environ.get("SLURM_JOB_NUM_NODES") or environ.get("SLURM_NNODES", "")
    if not (job.isdecimal() and nodes.isdecimal()):
        return None
    return Allocation(int(job), int(nodes))


def step(command: BaseCommand, nodes: int) -> BaseCommand:
    """Return a command that runs another once on each of so many nodes of the allocation; one failure is all's."""
    how = (f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1")
    return programs.program("srun", *how, *command.formulate())


def submit(script: Path) -> int:
    """Submit a script; return the number of its job.

    Raises CommandError where sbatch refuses it, MadengineError where it prints no number.
    """
    output = programs.ask(programs.program(SUBMIT, "--parsable", str(script)))
    number = re.match(r"(\d{1,18})(;|$)", (output.split() or [""])[-1])
    if not number:
        raise MadengineError(f"sbatch: expected the number of a job, got {output[:100]!r}")
    return int(number[1])


def node_names(nodes: str) -> list[str]:
    """Return the names of a list of nodes as Slurm writes it, such as `n[1-3]`.

    Raises CommandError where it is none.
    """
    return programs.ask(programs.program("scontrol", "show", "hostnames", nodes)).split() if nodes else []


def attached_step(job: int, rank: int, words: Sequence[str]) -> BaseCommand:
    """Return a command beside what a job runs, on one of its nodes, which has our stdin and stdout."""
    return _stream_step((f"--jobid={job}", "--overlap", f"--relative={rank}"), words)


def small_job(node: str, seconds: int, place: Sequence[str], words: Sequence[str]) -> BaseCommand:
    """Return a command as a job of its own on one node, which has our stdin and stdout.

    It fails where it can't start in so many seconds; `place` are options of sbatch that say where it waits.
    """
    how = (f"--nodelist={node}", f"--immediate={seconds}", "--time=30", "--job-name=madengine-fetch", *place)
    return _stream_step(how, words)


def _stream_step(how: Sequence[str], words: Sequence[str]) -> BaseCommand:
    # Nothing of this machine's environment and folders is there; bytes come as they are written.
    same = ("--nodes=1", "--ntasks=1", "--chdir=/", "--export=NONE", "--unbuffered", "--quiet")
    return programs.program("srun", *how, *same, *words)


def submit_line(script: Path) -> str:
    """Return the line that submits a script and waits for its end."""
    return programs.shell_line(programs.program(SUBMIT, "--wait", str(script)))


def note_line(script: Path) -> str:
    """Return the line that submits a script, and writes the number of its job to a file named after it."""
    line = programs.shell_line(programs.program(SUBMIT, "--parsable", str(script)))
    return f"{line} >{shlex.quote(f'{script}{NUMBER_SUFFIX}')}"


def cancel(jobs: Iterable[int]) -> None:
    """Cancel jobs; those that have ended stay as they are. Raises CommandError where scancel fails."""
    programs.ask(programs.program("scancel", *map(str, sorted(set(jobs)))))


def task_states(tasks: Mapping[int, Iterable[int]]) -> list[TaskState]:
    """Return the state of every task of these jobs that Slurm still knows; the numbers of a job's tasks are by the job.

    Raises CommandError where the controller doesn't answer.
    """
    queued = list(_queued(tasks))
    known = {(state.job, state.number) for state in queued}
    # One that was cancelled while it waited is gone from the queue before the others of its job.
    missing = [job for job, numbers in tasks.items() if any((job, number) not in known for number in numbers)]
    return [*queued, *(state for state in _accounted(missing) if (state.job, state.number) not in known)]


def _queued(jobs: Iterable[int]) -> Iterator[TaskState]:
    """Yield what squeue says; the controller forgets a job some minutes after its end."""
    for job in jobs:
        command = programs.program(
            "squeue", "--noheader", "--array", "--states=all", "--format=%F|%K|%T|%r|%N|%A", f"--jobs={job}"
        )
        answer = programs.attempt(command)
        if answer.code == 0:
            yield from _parsed(answer.out)
        elif _UNKNOWN_JOB not in answer.err:
            raise programs.failure(command, answer)


def _parsed(output: str) -> Iterator[TaskState]:
    for line in output.splitlines():
        cells = line.strip().split("|")
        if len(cells) >= 5 and all(cell.isdecimal() for cell in (*cells[:2], *cells[5:])):
            job, number, state, reason, node, *own_job = cells
            yield TaskState(
                int(job), int(number), state, "" if reason == "None" else reason, node, *map(int, own_job[:1])
            )


def _accounted(jobs: Sequence[int]) -> Iterator[TaskState]:
    """Yield what the accounting has, where a cluster has one."""
    if not jobs:
        return
    command = programs.program(
        "sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State,NodeList",
        f"--jobs={','.join(map(str, jobs))}",
    )  # fmt: skip
    try:
        answer = programs.attempt(command)
    except CommandError:  # not installed
        return
    for line in answer.out.splitlines() if answer.code == 0 else ():
        cells = line.split("|")
        task = re.fullmatch(r"(\d{1,18})_(\d{1,9})", cells[0])
        if task and len(cells) == 3:
            # CANCELLED by 1000
            state = (cells[1].split() or [UNKNOWN])[0]
            yield TaskState(int(task[1]), int(task[2]), state, node="" if cells[2] == _NO_NODE else cells[2])
