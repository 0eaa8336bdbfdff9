"""The samples that a run has left of its GPUs, read back."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from madengine.files import SIZE_LIMIT, csv_rows, read_untrusted
from madengine.records import SAMPLE_COLUMNS, SERIES_FILE

Sample = Mapping[str, float | None]


def read_series(folder: Path, entry: Mapping[str, Any]) -> Iterator[Sample]:
    """Yield the samples of an entry of the results.json in this folder, by the names in SAMPLE_COLUMNS.

    There are none without a file. `time` is in seconds since the epoch, `gpu` the GPU's index; None is unknown. A line
    that is no sample is left out.
    """
    directory = PurePath(str(entry.get("directory") or "")).name
    if not directory:
        return
    with suppress(OSError, csv.Error):
        text = read_untrusted(folder, PurePath(directory, SERIES_FILE), SIZE_LIMIT).decode("utf-8", "replace")
        for row in csv_rows(io.StringIO(text)):
            sample = {name: _number(row.get(name)) for name in SAMPLE_COLUMNS}
            if sample["time"] is not None and sample["gpu"] is not None:
                yield sample


def _number(cell: str | None) -> float | None:
    with suppress(ValueError, TypeError):
        value = float(cell or "")
        return value if math.isfinite(value) else None
    return None
