"""What GitHub Actions shows of a job: its summary, and an annotation for each failure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from madengine.results.formats import Results, markdown
from madengine.results.formats.causes import is_failure, is_infrastructure
from madengine.results.rows import Row

# More annotations of a step are dropped by GitHub without a word.
_MOST = 10


def add_summary(report: Results, environ: Mapping[str, str]) -> None:
    """Append the results to the job's summary. Raises OSError where it can't be written."""
    if path := environ.get("GITHUB_STEP_SUMMARY"):
        handle = os.open(Path(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        with os.fdopen(handle, "wb") as file:
            file.write(markdown.text(report).encode("utf-8", "backslashreplace") + b"\n")


def failure_lines(report: Results) -> list[str]:
    """Return the lines that make GitHub show what failed."""
    lines = [_line("madengine", report.error)] if report.error else []
    lines += [
        _line(_title(row), row.get("reason") or "it failed; see its log") for row in report.rows if is_failure(row)
    ]
    if len(lines) <= _MOST:
        return lines
    rest = len(lines) - _MOST + 1
    return [*lines[: _MOST - 1], _line("madengine", f"{rest} more failures are in the job's summary")]


def _title(row: Row) -> str:
    cause = "infrastructure" if is_infrastructure(row) else "model"
    name = " ".join(filter(None, (row.get("model", ""), row.get("metric", ""))))
    return f"{name[:200]} on {row.get('machine_name', '')[:100]} ({cause})"


def _line(title: str, message: str) -> str:
    return f"::error title={_property(title)}::{_escaped(message[:1000])}"


def _escaped(value: str) -> str:
    value = value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    # A line that is split at any other character could begin with a command of its own.
    return "".join(character if character.isprintable() else " " for character in value)


def _property(value: str) -> str:
    return _escaped(value).replace(":", "%3A").replace(",", "%2C")
