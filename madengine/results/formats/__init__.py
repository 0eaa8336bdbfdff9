"""Results for other systems: one writer for each format, all of them in the table of `formats.options`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from madengine.results.rows import Row


@dataclass(frozen=True)
class Results:
    """What a report is written from."""

    #: of perf.csv
    rows: Sequence[Row] = ()
    #: why the command ended before its results were complete; empty if they are
    error: str = ""
