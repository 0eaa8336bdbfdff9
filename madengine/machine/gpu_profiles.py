"""The samples of a run's GPUs in the form that the GPU profilers of older madengine have: a row a moment."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from io import TextIOWrapper
from pathlib import Path, PurePath

from madengine.files import create_untrusted, csv_rows, open_untrusted
from madengine.records import Artifact, Gpu

logger = logging.getLogger(__name__)

_SERIES_LIMIT = 1 << 32


@dataclass(frozen=True)
class _Profile:
    column: str
    #: of the variables of the tool, and of its file
    name: str
    value: Callable[[Mapping[str, str], Gpu], float]


PROFILES = {
    "power": _Profile("Power(Watt) GPU", "POWER", lambda row, gpu: float(row["power_w"])),
    "vram": _Profile(
        "vram(%) GPU", "VRAM", lambda row, gpu: round(100 * float(row["memory_used_mib"]) / (gpu.memory_mib or 0), 2)
    ),
}


def write_gpu_profiles(
    folder: Path, series: str, kinds: Iterable[str], gpus: Sequence[Gpu], environment: Mapping[str, str]
) -> tuple[Artifact, ...]:
    """Write a CSV for each kind (`power`, `vram`) beside the series of a run; return the files.

    A tool's variable `POWER_OUTPUT_FILE` names the file. What can't be read or written is logged.
    """
    artifacts = []
    for kind in kinds:
        profile = PROFILES[kind]
        name = (
            PurePath(environment.get(f"{profile.name}_OUTPUT_FILE", "")).name or f"gpu_info_{kind}_profiler_output.csv"
        )
        try:
            artifacts.append(_write(folder, series, profile, gpus, name))
        except OSError as error:
            logger.info(f"{folder / name}: can't be written: {error.strerror or error}")
    return tuple(artifacts)


def _write(folder: Path, series: str, profile: _Profile, gpus: Sequence[Gpu], name: str) -> Artifact:
    columns = {str(gpu.index): f"{profile.column}{gpu.index}" for gpu in gpus}
    with (
        open_untrusted(folder, series, _SERIES_LIMIT) as source,
        TextIOWrapper(source, "utf-8", errors="replace", newline="") as lines,
        create_untrusted(folder, name) as file,
        TextIOWrapper(file, "utf-8", newline="") as target,
    ):
        writer = csv.DictWriter(target, ["time", *columns.values()], lineterminator="\n")
        writer.writeheader()
        writer.writerows(_moments(csv_rows(lines), profile, {str(gpu.index): gpu for gpu in gpus}, columns))
        target.flush()
        return Artifact(name, os.fstat(file.fileno()).st_size)


def _moments(
    rows: Iterable[Mapping[str, str]], profile: _Profile, gpus: Mapping[str, Gpu], columns: Mapping[str, str]
) -> Iterator[dict[str, object]]:
    """Yield a row for each moment: what was sampled until a GPU comes again."""
    moment: dict[str, object] = {}
    for row in rows:
        index = row.get("gpu") or ""
        if index not in gpus:
            continue
        if columns[index] in moment:
            yield moment
            moment = {}
        try:
            moment[columns[index]] = profile.value(row, gpus[index])
            moment.setdefault("time", f"{datetime.fromtimestamp(float(row['time'])):%Y-%m-%d %H:%M:%S.%f}")
        except (KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError):
            moment.setdefault(columns[index], "")
    if "time" in moment:
        yield moment
