"""The one place that writes the results of a run on this machine: its rows as they come, then its documents."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from madengine.errors import MadengineError
from madengine.files import read_json, write_json
from madengine.files.locks import alone_with
from madengine.records import Image, Model, RunResult
from madengine.results.perf_csv import append_rows
from madengine.results.results_json import results_json
from madengine.results.rows import Row, has_failure, result_rows
from madengine.results.summaries import run_summary

logger = logging.getLogger(__name__)


@dataclass
class ResultWriter:
    """Writes the results of one run; several threads may add some."""

    run_id: str
    #: The run's folder, for results.json, and for rows that perf.csv can't take.
    directory: Path
    #: The perf.csv.
    output: Path
    summary_output: Path
    #: The environment variables of the CI job.
    environ: Mapping[str, str]
    results: list[RunResult] = field(default_factory=list)
    #: Whether all was written to where it belongs.
    complete: bool = True
    #: Whether perf.csv is this run's own, whose columns it may add to.
    _made_output: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, result: RunResult) -> None:
        """Append the rows of a result to perf.csv; rows that it can't take go to the run's folder, or to the log."""
        with self._lock:
            self.results.append(result)
            rows = result_rows(result, self.environ)
            try:
                self._made_output |= append_rows(self.output, rows, may_widen=self._made_output)
            except Exception as error:
                self.complete = False
                self._save_elsewhere(rows, error)

    def _save_elsewhere(self, rows: Sequence[Row], problem: Exception) -> None:
        other = self.directory / "perf.csv"
        try:
            append_rows(other, rows)
            logger.info(f"{problem}; the row is in {other}")
        except Exception:
            logger.info(f"{problem}; the row: {json.dumps(rows)}")

    def finish(
        self, environment: Mapping[str, Any], skipped: Sequence[tuple[Image, Model, str]], seconds: float
    ) -> None:
        """Write results.json and the summary; `skipped` holds the images for other machines, each with the reason."""
        own = [result for result in self.results if not result.rank]
        summary = run_summary(own, skipped, seconds, socket.gethostname(), str(self.output), self.run_id)
        document = results_json(self.run_id, self.results, environment)
        for write in (partial(self._add_results, document), partial(write_json, self.summary_output, summary)):
            try:
                write()
            except (MadengineError, OSError) as error:
                self.complete = False
                logger.info(str(error))

    def _add_results(self, document: Mapping[str, Any]) -> None:
        """Write results.json, with the results of other processes that have this run id too."""
        path = self.directory / "results.json"
        self.directory.mkdir(parents=True, exist_ok=True)
        with alone_with(path):
            others = read_json(path, MadengineError, missing={})
            results = others.get("results", []) if isinstance(others, dict) else []
            write_json(path, {**document, "results": [*results, *document["results"]]})

    @property
    def has_failure(self) -> bool:
        """Whether a row is a failure, or a part of another node's row."""
        return any(map(has_failure, self.results))


def remove_entries() -> None:
    """Remove what older versions leave of their latest results in the current folder, whatever its age."""
    for stem, suffix in product(("perf_entry", "perf_entry_super"), (".csv", ".json")):
        with suppress(OSError):
            Path(f"{stem}{suffix}").unlink()
