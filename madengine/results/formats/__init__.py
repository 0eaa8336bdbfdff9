"""Results for other systems: one writer for each format, all of them in the table of `formats.options`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from madengine.results.results_json import Run
    from madengine.results.rows import Row


@dataclass(frozen=True)
class Results:
    """What a report is written from."""

    #: of perf.csv
    rows: Sequence[Row] = ()
    #: those that perf.csv didn't have before
    new_rows: Sequence[Row] = ()
    #: of results.json files; `is_local` is set for those of this machine
    runs: Sequence[Run] = ()
    #: why the command ended before its results were complete; empty if they are
    error: str = ""
