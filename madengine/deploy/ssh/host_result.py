"""How a host's run ended, by the folder of its files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from madengine import programs
from madengine.config.manifest import Manifest, load_manifest
from madengine.deploy.ssh import node
from madengine.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_RUN_FAILED
from madengine.files import read_json
from madengine.records import FAILURE
from madengine.results.failed_hosts import failed_rows
from madengine.results.perf_csv import Table
from madengine.results.table import printable
from madengine.run.selection import narrowed

STATES = {EXIT_DONE: "done", EXIT_RUN_FAILED: "failed", EXIT_INTERRUPTED: "stopped"}
_ERROR_MARK = "madengine: error: "
_LOG_BYTES = 64 << 10
_REASON_LENGTH = 500


@dataclass(frozen=True)
class HostOutcome:
    """How the work on one host ended."""

    host: str
    #: done, failed, stopped or lost
    state: str
    #: exit code of its madengine, None if unknown
    code: int | None = None
    reason: str = ""
    rows: int = 0
    #: from connecting to the last row
    seconds: float = 0.0
    #: of the files that came back, empty if none did
    folder: str = ""

    @property
    def is_good(self) -> bool:
        return self.state == "done" and self.code == EXIT_DONE

    @property
    def line(self) -> list[str]:
        """The cells of its line in a table."""
        seconds = f"{self.seconds:.1f}" if self.seconds else ""
        return [self.host, self.state, str(self.rows or ""), seconds, printable(self.reason)]


def one_line(reason: str) -> str:
    """Return a reason as a row and a terminal take it: redacted, without control characters, not too long."""
    return printable(" ".join(programs.redact(reason).split()))[:_REASON_LENGTH]


def host_exit_code(folder: Path) -> int | None:
    """Return the exit code of the host's madengine, None if it left none."""
    try:
        return int((folder / node.EXIT_CODE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def failure_reason(folder: Path, code: int | None) -> str:
    """Return what a run's exit code means, in the words of the run's own error if it logged one."""
    if code in (EXIT_DONE, EXIT_INTERRUPTED):
        return ""
    if code == EXIT_RUN_FAILED:
        rows = host_rows(folder)
        if not rows:
            return "its part of a run on several nodes failed"
        return f"{sum(row['status'] == FAILURE for row in rows)} of {len(rows)} rows are failures"
    for line in reversed(_log_end(folder)):
        if line.startswith(_ERROR_MARK):
            return one_line(line.removeprefix(_ERROR_MARK))
    return "killed, or the machine went down" if code is None else f"exit code {code}"


def host_rows(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a host's folder."""
    path = folder / "perf.csv"
    if not path.exists():
        return []
    with Table(path) as table:
        return [dict(zip(table.columns, row, strict=True)) for row in table if len(row) == len(table.columns)]


def _log_end(folder: Path) -> list[str]:
    """Return the last lines of a run's log."""
    with suppress(OSError), (folder / node.LOG).open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_BYTES))
        return log.read(_LOG_BYTES).decode(errors="replace").splitlines()
    return []


def recorded_manifest(folder: Path) -> Manifest:
    """Return the images that a run which was started earlier was to run, by its host's own record.

    Raises ConfigurationError for a manifest that can't be used.
    """
    record = read_json(folder / node.RECORD, missing={})
    manifest = narrowed(load_manifest(folder / node.MANIFEST), record.get("tags", []))
    # The rows of a run on several nodes are those of its first.
    return replace(manifest, images=()) if record.get("rank") else manifest


def rows_of_missing_models(
    folder: Path, manifest: Manifest, run_id: str, host: str, reason: str
) -> list[dict[str, str]]:
    """Return a failure for each model of the manifest that has no row in the host's folder."""
    names = [row["model"] for row in host_rows(folder)]
    return [
        row
        for row in failed_rows(manifest, run_id, host, reason)
        if not any(name == row["model"] or name.startswith(f"{row['model']}_") for name in names)
    ]


def host_summary(outcomes: Sequence[HostOutcome]) -> dict[str, Any]:
    """Return the summaries of all hosts as one, each entry with its host, and how the hosts themselves ended."""
    joint: dict[str, list[Any]] = {"successful_runs": [], "failed_runs": [], "skipped_runs": []}
    for outcome in outcomes:
        summary = read_json(Path(outcome.folder) / "run_summary.json", missing={}) if outcome.folder else {}
        for kind, entries in joint.items():
            entries.extend({**entry, "host": outcome.host} for entry in summary.get(kind, []))
    return {**joint, "hosts": [asdict(outcome) for outcome in outcomes]}
