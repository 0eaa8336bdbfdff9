"""What came of a host, out of the folder that was brought back from it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from madengine import programs
from madengine.config.manifest import load_manifest
from madengine.deploy.ssh import node
from madengine.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_RUN_FAILED
from madengine.files import read_json
from madengine.records import FAILURE
from madengine.results.failed_hosts import failed_rows
from madengine.run.selection import narrowed

STATES = {EXIT_DONE: "done", EXIT_RUN_FAILED: "failed", EXIT_INTERRUPTED: "stopped"}


@dataclass(frozen=True)
class Outcome:
    """What came of one host: `code` is the exit code of its madengine (None: nobody knows), `state` one word.

    `folder` is what came back, empty for nothing; `seconds` is the whole time from the first word to the last row.
    """

    host: str
    state: str
    code: int | None = None
    reason: str = ""
    rows: int = 0
    seconds: float = 0.0
    folder: str = ""

    @property
    def is_good(self) -> bool:
        return self.code == EXIT_DONE

    @property
    def line(self) -> list[str]:
        """Its line of a table."""
        seconds = f"{self.seconds:.1f}" if self.seconds else ""
        return [self.host, self.state, str(self.rows or ""), seconds, self.reason]


def host_exit_code(folder: Path) -> int | None:
    """The exit code of the host's madengine; None where it left none."""
    try:
        return int((folder / node.CODE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def failure_reason(folder: Path, code: int | None) -> str:
    """What a run's exit code means, in the run's own last words where it has some."""
    if code in (EXIT_DONE, EXIT_INTERRUPTED):
        return ""
    if code == EXIT_RUN_FAILED:
        found = host_rows(folder)
        return f"{sum(row['status'] == FAILURE for row in found)} of {len(found)} rows are failures"
    mark = "madengine: error: "
    with suppress(OSError):
        lines = (folder / node.LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        for line in reversed(lines):
            if line.startswith(mark):
                return programs.redact(line.removeprefix(mark))
    return "killed, or the machine went down" if code is None else f"exit code {code}"


def host_rows(folder: Path) -> list[dict[str, str]]:
    """The rows that a host's folder holds."""
    import csv

    try:
        with (folder / "perf.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def rows_of_the_missing(folder: Path, run_id: str, host: str, reason: str) -> list[dict[str, str]]:
    """A failure for each model of the run that has no row at all."""
    words = read_json(folder / node.CARD).get("words", [])
    tags = [word.removeprefix("--tags=") for word in words if word.startswith("--tags=")]
    wanted = narrowed(load_manifest(folder / node.MANIFEST), tags)
    there = [row["model"] for row in host_rows(folder)]
    return [
        row
        for row in failed_rows(wanted, run_id, host, reason)
        if not any(name == row["model"] or name.startswith(f"{row['model']}_") for name in there)
    ]


def host_summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The summaries of all hosts in one, each entry with its host, and what came of the hosts themselves."""
    joined: dict[str, list[Any]] = {"successful_runs": [], "failed_runs": [], "skipped_runs": []}
    for outcome in outcomes:
        found = read_json(Path(outcome.folder) / "run_summary.json", missing={}) if outcome.folder else {}
        for kind, entries in joined.items():
            entries.extend({**entry, "host": outcome.host} for entry in found.get(kind, []))
    return {**joined, "hosts": [asdict(outcome) for outcome in outcomes]}
