"""What came of a container: status, reason and figures, out of what it left in its workspace."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

from madengine.build import payload
from madengine.config import artifacts
from madengine.config.hooks import HOOKS_FOLDER
from madengine.config.log_errors import LogErrors
from madengine.errors import RunError
from madengine.programs.engine import State
from madengine.records import FAILURE, SUCCESS, Metric, Model, RunResult
from madengine.results.metrics import MetricScan, read_multiple_results

logger = logging.getLogger(__name__)

SERIES_FILE = "gpu_series.csv"
_LITTLE_SPACE = 4096  # bytes: less is a full disk


def run_outcome(
    result: RunResult, state: State | None, scan: MetricScan, reason: str, limit: int, said: str, hooked: bool = False
) -> RunResult:
    """Status, reason and figures out of what the container left; `hooked` says that it was given hooks to run."""
    workspace = Path(result.directory)
    entry = _entry(workspace)
    seconds = max(0.0, entry.get("ended", 0.0) - entry.get("started", 0.0))
    code = entry.get("exit_code", state.exit_code if state else None)
    result = replace(result, exit_code=code, test_duration=round(seconds, 3))
    reason = reason or why_failed(entry, state, code, limit, said)
    if not reason and hooked and "failed_hook" not in entry:
        reason = "the image's entry.sh is of an older madengine, which ran no hooks and no tools; build the image again"
    metrics: tuple[Metric, ...] = ()
    try:
        metrics = _metrics(result.model, workspace, scan)
    except RunError as error:
        reason = reason or str(error)
    if reason and _is_full(workspace):
        reason += f"; the disk of {workspace} is full"
    elif reason and entry.get("log_complete") is False:
        reason += "; the log is incomplete, it could not be written to the end"
    # The figures of a run that failed are kept in its result, but no row reports them as measured.
    return replace(result, status=FAILURE if reason else SUCCESS, reason=reason, metrics=metrics)


def unless_log_errors(result: RunResult, asked: LogErrors, log: FileIO) -> RunResult:
    """A failure where the user's error patterns are in the log of what would be a success."""
    if result.status != SUCCESS or not asked.patterns:
        return result
    log.seek(0)
    with os.fdopen(os.dup(log.fileno()), "rb") as lines:
        reason = asked.found_in(lines)
    return replace(result, status=FAILURE, reason=reason) if reason else result


def with_artifacts(result: RunResult, patterns: Sequence[str], may_move: bool) -> RunResult:
    """The result with what matches in its workspace, brought to one folder; moved there where the rest goes away."""
    if not patterns:
        return result
    workspace = Path(result.directory)
    brought = artifacts.bring(
        workspace,
        payload.model_directory(result.model),
        patterns,
        besides=(Path(result.log_file).name, SERIES_FILE),
        may_move=may_move,
    )
    told = f"no artifacts match {', '.join(patterns)}"
    if brought:
        size = sum(one.size_bytes for one in brought)
        told = f"{len(brought)} artifacts, {size} bytes, in {workspace / artifacts.FOLDER}"
    logger.info(f"{result.model.name}: {told}")
    return replace(result, artifacts=brought)


def tidy_workspace(result: RunResult, with_model_directory: bool) -> None:
    """Remove what nobody reads any more: our hooks and, as older versions did, the model's directory."""
    workspace = Path(result.directory)
    ours = (payload.model_directory(result.model), "scripts") if with_model_directory else ()
    for name in (*ours, HOOKS_FOLDER):
        shutil.rmtree(workspace / name, ignore_errors=True)


def why_failed(entry: Mapping[str, Any], state: State | None, code: int | None, limit: int, said: str) -> str:
    """Return why a script failed, by what entry.sh and the engine report; empty if it didn't."""
    if entry.get("timed_out"):
        return f"timeout: the script ran longer than {limit} s"
    if entry.get("failed_hook"):
        return f"{entry['failed_hook']}: {_exit_code(int(code or 0))}"
    if entry and code == 0:
        return ""
    if entry.get("out_of_memory") or (state and state.oom_killed):
        return "out of memory: the kernel killed it"
    if entry:
        return _exit_code(int(code or 0))
    if state is None:
        return "the container was removed by somebody else"
    last = state.error or said.rpartition("\n")[2]
    how = f"the container ended before its script did ({_exit_code(state.exit_code)})"
    return f"{how}: {last}" if last else how


def _exit_code(code: int) -> str:
    name = ""
    with suppress(ValueError):
        name = f" ({signal.Signals(code - 128).name})" if code > 128 else ""
    return f"exit code {code}{name}"


def _metrics(model: Model, workspace: Path, scan: MetricScan) -> tuple[Metric, ...]:
    if not model.multiple_results:
        if scan.metric is None:
            raise RunError(scan.problem)
        return (scan.metric,)
    places = [workspace / model.multiple_results, workspace / payload.model_directory(model) / model.multiple_results]
    found = next((place for place in places if _is_left_by_script(place, workspace)), None)
    if found is None:
        raise RunError(f"{model.multiple_results}: the script left no such file in its folder or the one above")
    metrics = read_multiple_results(found)
    if found != places[0] and not os.path.lexists(places[0]):
        shutil.copyfile(found, places[0])
    return metrics


def _is_left_by_script(path: Path, workspace: Path) -> bool:
    """Whether it is a file of the workspace; a link in there may point at any file of this machine."""
    return path.is_file() and path.resolve().is_relative_to(workspace.resolve())


def _entry(workspace: Path) -> dict[str, Any]:
    """What entry.sh left; nothing where it did not get that far, or where something else lies in its place."""
    try:
        found = json.loads((workspace / "entry.json").read_text())
        numbers = {name: found[name] for name in ("exit_code", "started", "ended")}
        return found if all(isinstance(value, int | float) for value in numbers.values()) else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _is_full(directory: Path) -> bool:
    with suppress(OSError):
        disk = os.statvfs(directory)
        return disk.f_blocks > 0 and disk.f_bavail * disk.f_frsize < _LITTLE_SPACE
    return False
