"""The one place that writes the report files of a command, wherever its models ran."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from madengine.errors import MadengineError
from madengine.files import write_whole
from madengine.results.formats import Results
from madengine.results.formats.options import Format, is_github_job

logger = logging.getLogger(__name__)


def publish(
    report: Results, files: Mapping[Path, Format], environ: Mapping[str, str], print_line: Callable[[str], None]
) -> bool:
    """Write the report files, and what GitHub shows of its job; return whether all could be written.

    `print_line` gets the lines that GitHub Actions looks for in the output of a step.
    """
    complete = True
    for path, one in files.items():
        try:
            write_whole(path, one.text(report).encode("utf-8", "backslashreplace").decode())
        except MadengineError as error:
            complete = False
            logger.warning(f"{one.flag}: {error}")
    if is_github_job(environ):
        complete = _tell_github(report, environ, print_line) and complete
    return complete


def _tell_github(report: Results, environ: Mapping[str, str], print_line: Callable[[str], None]) -> bool:
    from madengine.results.formats.github import add_summary, failure_lines

    for line in failure_lines(report):
        print_line(line)
    try:
        add_summary(report, environ)
    except OSError as error:
        logger.warning(f"GITHUB_STEP_SUMMARY: {error.filename}: can't be written: {error.strerror}")
        return False
    return True
