"""What a task of the array has left in its folder, checked, with a row for each model whatever happened to it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from madengine.deploy.returned_files import set_aside_broken_files
from madengine.deploy.slurm.job import ArrayTask, log_path
from madengine.errors import MadengineError
from madengine.files import open_untrusted, read_untrusted
from madengine.programs.slurm import COMPLETED, LAST_SEEN, STEP_END, UNKNOWN, TaskState
from madengine.records import FAILURE
from madengine.results.failed_hosts import note_failure
from madengine.results.perf_csv import Table
from madengine.results.rows import ATTEMPT_VARIABLE
from madengine.results.table import printable

# A network file system shows another node's file late.
_LATE_SECONDS = 20.0
# Models may print anything; the end is enough.
_LOG_BYTES = 1 << 50
_END_BYTES = 64 << 10
_LINE_CHARACTERS = 300
# How the job's script, and the node's madengine, begin the line that says why they end.
_OUR_ERROR = "madengine: error: "
_SAYS_NOTHING = ("", "none", "None", "NonZeroExitCode")
# The folder of an attempt after the first, as the job's script names it.
_AGAIN = re.compile(r"-attempt-(\d{1,6})$")


@dataclass(frozen=True)
class TaskOutcome:
    """How a task ended."""

    has_failed: bool
    #: why, where that isn't only in its rows
    problem: str = ""


def task_outcome(
    task: ArrayTask, run_folder: Path, state: TaskState, environ: Mapping[str, str], lost: str | None = None
) -> TaskOutcome:
    """Check the files of a task that has ended, and add a FAILURE for each model without a row in an attempt.

    `environ` is what its job was given for the rows' cells. The last attempt says how the task ended. `lost` is which
    files did not come back from nodes that share nothing, and why; None where the folder is shared.
    """
    folder, run_id = task.folder_in(run_folder), run_folder.name
    log = log_path(run_folder, state.job, task.number)
    if lost is None:
        _wait_for_rows(folder, state)
    last = next(iter(_attempts(folder)[::-1]), folder / (state.node or "no-node"))
    for earlier in _attempts(folder)[:-1]:
        problems = set_aside_broken_files(earlier, run_id)
        reason = "; ".join(problems) or f"{_name(state)}: ended without a result, and was queued again"
        note_failure(earlier, task.manifest, run_id, _host(earlier), reason, _of_attempt(environ, earlier))
    problems = set_aside_broken_files(last, run_id)
    reason = "; ".join(problems) or _reason(state, log, lost)
    missing = note_failure(last, task.manifest, run_id, _host(last), reason, _of_attempt(environ, last))
    failures = _failures(last)
    has_failed = bool(failures or lost) or state.state != COMPLETED
    is_explained = not problems and not missing and not lost and (failures or not has_failed)
    return TaskOutcome(has_failed, "" if is_explained else f"{task.name}: {reason}")


def _attempts(folder: Path) -> list[Path]:
    """Return the folders of a task's attempts, the first one first; each is named after its node.

    Of an attempt on several nodes it is that of the first, which has the rows.
    """
    with suppress(FileNotFoundError):
        entries = (Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
        folders = [path for path in entries if _rank(path) in ("", "0")]
        return sorted(folders, key=lambda path: (_attempt_number(path), path.name))
    return []


def _rank(folder: Path) -> str:
    """Return a node's rank, as the job's script has written it; empty of a run on one."""
    with suppress(FileNotFoundError, MadengineError):
        return read_untrusted(folder, "rank", _LINE_CHARACTERS).decode(errors="replace").strip()
    return ""


def _attempt_number(folder: Path) -> int:
    again = _AGAIN.search(folder.name)
    return int(again[1]) if again else 1


def _host(folder: Path) -> str:
    return "" if folder.name == "no-node" else _AGAIN.sub("", folder.name)


def _of_attempt(environ: Mapping[str, str], folder: Path) -> Mapping[str, str]:
    return {**environ, ATTEMPT_VARIABLE: str(_attempt_number(folder))}


def _wait_for_rows(folder: Path, state: TaskState) -> None:
    """Wait for what a completed task must have left: a result, and no failure, or it had not exited with 0."""
    deadline = time.monotonic() + (_LATE_SECONDS if state.state == COMPLETED else 0)
    while not _is_complete(folder) and time.monotonic() < deadline:
        time.sleep(0.5)


def _is_complete(folder: Path) -> bool:
    attempts = _attempts(folder)
    return bool(attempts) and (attempts[-1] / "run_summary.json").exists() and not _failures(attempts[-1])


def _failures(node: Path) -> int:
    """Return how many of a node's rows are failures."""
    with suppress(MadengineError), Table(node / "perf.csv") as table:
        column = list(table.columns).index("status")
        return sum(row[column] == FAILURE for row in table if len(row) > column)
    return 0


def _reason(state: TaskState, log: Path, lost: str | None) -> str:
    """Return why a model has no row: Slurm's word, and what its job printed at the end."""
    word = state.state.lower()
    if state.state == UNKNOWN:
        # Of a task that was cancelled while it waited, the accounting has nothing either.
        is_gone = state.reason == LAST_SEEN.format("pending")
        word = "gone from the queue, so cancelled" if is_gone else "unknown to Slurm, without accounting"
    end = f"{_name(state)}: {word}{f' ({state.reason})' if state.reason not in _SAYS_NOTHING else ''}"
    line = _last_line(log)
    if lost:
        return f"{end}; {lost}{f'; its log ends with: {line}' if line else ''}"
    if line.startswith(_OUR_ERROR):
        message = line.removeprefix(_OUR_ERROR)
        # Which of several it was, the script says.
        is_named = message.startswith(f"{state.node}: ") or "[" in state.node
        return f"{message if is_named else f'{state.node}: {message}'}; {end}"
    if line:
        return f"{end}; its log ends with: {line}"
    return (
        f"{end}; it left no log: do all nodes share its folder, and has it room?"
        if state.node
        else f"{end}; it never ran"
    )


def _name(state: TaskState) -> str:
    return f"Slurm job {state.job}_{state.number}"


def _last_line(log: Path) -> str:
    """Return the last line that says why a job of ours ended, else the last of all; empty without a log."""
    with suppress(OSError, MadengineError), open_untrusted(log.parent, log.name, _LOG_BYTES) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _END_BYTES))
        lines = file.read(_END_BYTES).decode(errors="replace").splitlines()
        rest = [line for line in lines if line.strip() and not STEP_END.match(line)]
        ours = [line for line in rest if line.startswith(_OUR_ERROR)]
        return printable((ours or rest or [""])[-1])[:_LINE_CHARACTERS]
    return ""
