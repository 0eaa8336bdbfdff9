"""The outcome of a container: status, reason and metrics, from what it left in its workspace."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from io import FileIO
from pathlib import Path, PurePath
from typing import Any

from madengine.build import payload
from madengine.config import artifacts
from madengine.config.hooks import HOOKS_FOLDER
from madengine.config.log_errors import LogErrors, may_have_errors
from madengine.errors import RunError
from madengine.files import create_untrusted, disarm, inner_path, open_untrusted
from madengine.programs.engine_answers import State
from madengine.records import FAILURE, SERIES_FILE, SUCCESS, Metric, Model, RunResult
from madengine.results.exceptions import first_exception
from madengine.results.metrics import MetricScan, read_multiple_results
from madengine.run.entry_json import read_entry

logger = logging.getLogger(__name__)

_FULL_DISK_BYTES = 4096  # a disk with less is full
# Of the end of a log, for the patterns that nobody asked for.
_SEARCHED_BYTES = 16 << 20


def run_outcome(
    result: RunResult,
    state: State | None,
    scan: MetricScan,
    reason: str,
    limit: int,
    engine_output: str,
    hooked: bool = False,
    joint: bool = False,
) -> RunResult:
    """Return the result with status, reason and metrics; `hooked` if the container had hooks to run.

    A success of `joint` nodes may have no metric, because another one measures; its reason says why.
    """
    workspace = Path(result.directory)
    entry, problem = read_entry(workspace)
    seconds = max(0.0, entry.get("ended", 0.0) - entry.get("started", 0.0))
    code = entry.get("exit_code", state.exit_code if state else None)
    result = replace(result, exit_code=code, test_duration=round(seconds, 3))
    reason = reason or problem or why_failed(entry, state, code, limit, engine_output)
    if not reason and hooked and "failed_hook" not in entry:
        reason = "the image's entry.sh is of an older madengine, which ran no hooks and no tools; build the image again"
    metrics: tuple[Metric, ...] = ()
    unmeasured = ""
    try:
        metrics = _metrics(result.model, workspace, scan)
    except RunError as error:
        unmeasured = str(error)
    reason = reason or ("" if joint else unmeasured)
    if reason and _is_full(workspace):
        reason += f"; the disk of {workspace} is full"
    elif reason and entry.get("log_complete") is False:
        reason += "; the log is incomplete, it could not be written to the end"
    # A failed run keeps its metrics in results.json, but no row reports them as measured.
    status = FAILURE if reason else SUCCESS
    return replace(result, status=status, reason=reason or unmeasured, metrics=metrics)


def unless_log_errors(result: RunResult, errors: LogErrors, log: FileIO) -> RunResult:
    """Return a failure if the log of a success has one of the user's error patterns, else the result as it is."""
    if result.status != SUCCESS or not errors.patterns:
        return result
    log.seek(0)
    with os.fdopen(os.dup(log.fileno()), "rb") as lines:
        reason = errors.first_in(lines)
    return replace(result, status=FAILURE, reason=reason) if reason else result


def with_exception(result: RunResult, log: FileIO) -> RunResult:
    """Return a failure by its exit code with the exception that its log has of one of several processes."""
    if not result.exit_code or result.reason != exit_reason(result.exit_code):
        return result
    with os.fdopen(os.dup(log.fileno()), "rb") as lines:
        exception = first_exception(lines)
    return replace(result, reason=f"{result.reason}; {exception}") if exception else result


def log_default_errors(result: RunResult, errors: LogErrors, log: FileIO) -> None:
    """Say where madengine 2, which searches every log, would make a failure of a success; of a long log, of its end."""
    if result.status != SUCCESS or not errors.patterns:
        return
    with os.fdopen(os.dup(log.fileno()), "rb") as lines:
        start = max(0, lines.seek(0, os.SEEK_END) - _SEARCHED_BYTES)
        lines.seek(start)
        if not may_have_errors(lines):
            return
        lines.seek(start)
        if error := errors.first_line(lines):
            logger.info(
                f"{result.model.name}: {error}; a FAILURE for madengine 2, and here with log_error_pattern_scan: true "
                "(false ends this line)"
            )


def script_start(workspace: Path) -> float:
    """Return when the script began, in seconds since the epoch; 0 if entry.sh didn't get that far."""
    started = read_entry(workspace)[0].get("started", 0.0)
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - float(started)) if started else 0.0


def with_artifacts(result: RunResult, patterns: Sequence[str], may_move: bool) -> RunResult:
    """Return the result with its artifacts, copied to one folder, or moved if the model's directory is removed."""
    if not patterns:
        return result
    workspace = Path(result.directory)
    files = artifacts.bring(
        workspace,
        payload.model_directory(result.model),
        patterns,
        besides=(Path(result.log_file).name, SERIES_FILE),
        may_move=may_move,
    )
    message = f"no artifacts match {', '.join(patterns)}"
    if files:
        size = sum(file.size_bytes for file in files)
        message = f"{len(files)} artifacts, {size} bytes, in {workspace / artifacts.FOLDER}"
    logger.info(f"{result.model.name}: {message}")
    return replace(result, artifacts=files)


def tidy_workspace(result: RunResult, with_model_directory: bool) -> None:
    """Remove our hooks and, as older versions did, the model's directory; and what gives others rights here."""
    workspace = Path(result.directory)
    folders = (payload.model_directory(result.model), "scripts") if with_model_directory else ()
    for name in (*folders, HOOKS_FOLDER):
        shutil.rmtree(workspace / name, ignore_errors=True)
    if failures := disarm(workspace):
        logger.info(
            f"{workspace}: {failures} files are devices, have setuid or setgid bits, or can be written to by all "
            "users, and can't be changed; remove them as root"
        )


def why_failed(entry: Mapping[str, Any], state: State | None, code: int | None, limit: int, engine_output: str) -> str:
    """Return why a script failed, by what entry.sh and the engine report; empty if it didn't."""
    if entry.get("timed_out"):
        return f"timeout: the script ran longer than {limit} s"
    if entry.get("failed_hook"):
        return f"{entry['failed_hook']}: {exit_reason(int(code or 0))}"
    if entry and code == 0:
        return ""
    if entry.get("out_of_memory") or (state and state.oom_killed):
        return "out of memory: the kernel killed it"
    if entry:
        return exit_reason(int(code or 0))
    if state is None:
        return "the container was removed by another process"
    last_line = state.error or engine_output.rpartition("\n")[2]
    reason = f"the container ended before its script did ({exit_reason(state.exit_code)})"
    if "Permission denied" in engine_output and "can't be made" in last_line:
        last_line += (
            "; the container's root may not write to the run's folder (NFS with root_squash?): run on a local disk"
        )
    return f"{reason}: {last_line}" if last_line else reason


def exit_reason(code: int) -> str:
    """Return an exit code as a reason, with the signal that it means."""
    name = ""
    with suppress(ValueError):
        name = f" ({signal.Signals(code - 128).name})" if code > 128 else ""
    return f"exit code {code}{name}"


def _metrics(model: Model, workspace: Path, scan: MetricScan) -> tuple[Metric, ...]:
    if not model.multiple_results:
        if scan.metric is None:
            raise RunError(scan.problem)
        return (scan.metric,)
    name = model.multiple_results
    for place in (PurePath(name), PurePath(payload.model_directory(model), name)):
        try:
            file = inner_path(workspace, place)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise RunError(f"{place}: {error.strerror}") from None
        metrics = read_multiple_results(workspace, file)
        if not os.path.lexists(workspace / name):
            _copy(workspace, file, name)
        return metrics
    raise RunError(f"{name}: the script left no such file in its folder or the one above")


def _copy(workspace: Path, file: PurePath, name: str) -> None:
    with (
        suppress(OSError),
        open_untrusted(workspace, file, sys.maxsize) as source,
        create_untrusted(workspace, name) as target,
    ):
        shutil.copyfileobj(source, target)


def _is_full(directory: Path) -> bool:
    with suppress(OSError):
        disk = os.statvfs(directory)
        return disk.f_blocks > 0 and disk.f_bavail * disk.f_frsize < _FULL_DISK_BYTES
    return False
