"""What a pod left of its run, from its workspace or from entry.sh's report; the model may have written any of it."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from madengine.build.payload import model_directory
from madengine.config.hooks import SCRIPT_MARK
from madengine.deploy.kubernetes.gpu_notes import noted_gpus
from madengine.deploy.kubernetes.names import one_line
from madengine.deploy.kubernetes.pod import Pod
from madengine.errors import RunError
from madengine.files import open_untrusted, read_untrusted
from madengine.records import Gpu, Metric
from madengine.results.exceptions import first_exception
from madengine.results.metrics import MetricScan, parse_multiple_results
from madengine.run.entry_json import parse_entry, read_entry

LOG = Path("model.run.live.log")
#: rows of multiple_results, and characters of their cells, that a sidecar has the memory for
ROWS_LIMIT = 20_000
_CELLS_LIMIT = 16 * 2**20
# Sizes in bytes; more can't be read in the time that a pod has left.
_NOTE_LIMIT = 64 * 2**10
_LOG_LIMIT = 16 * 2**30
_RESULTS_LIMIT = 2**30
_LINE_LIMIT = 2**20
_CHUNK = 2**20
_LITTLE_SPACE = 4096


@dataclass(frozen=True)
class Measurement:
    """The metrics of a run, or why there are none."""

    metrics: tuple[Metric, ...] = ()
    problem: str = ""
    #: How many rows of multiple_results are beyond the limit.
    omitted: int = 0


@dataclass(frozen=True)
class Remains:
    """What a pod left of its run, checked."""

    #: What entry.sh wrote at its end; empty if it didn't get there.
    entry: Mapping[str, Any] = field(default_factory=dict)
    measurement: Measurement = field(default_factory=Measurement)
    gpus: tuple[Gpu, ...] = ()
    #: Whether entry.sh began, and whether it had to stop.
    started: bool = True
    stopped: bool = False
    #: Why entry.sh or the sidecar gave up.
    problem: str = ""
    disk_full: bool = False
    #: The first line of the log that matches log_error_patterns, as a reason.
    log_error: str = ""
    #: That of one of several processes, by the log.
    exception: str = ""


# --- the workspace, for the sidecar ---


def read_workspace(workspace: Path, pod: Pod) -> Remains:
    """Return what is in a pod's workspace. What can't be read is a problem of the remains, never an error."""
    entry, problem = read_entry(workspace)
    measurement, log_error, exception = _read_log(workspace, pod)
    if pod.model.multiple_results:
        measurement = _read_results(workspace, pod)
    return Remains(
        entry=entry,
        measurement=measurement,
        gpus=noted_gpus(note(workspace, ".gpus"), on_node=True),
        started=_exists(workspace, ".gpus"),
        stopped=_exists(workspace, ".stopped"),
        problem=problem or ("" if entry else one_line(note(workspace, ".failed"))),
        disk_full=_is_full(workspace),
        log_error=log_error,
        exception=exception,
    )


def log_tail(workspace: Path, limit: int) -> tuple[bytes, int]:
    """Return the log's last `limit` bytes, and its size."""
    with suppress(OSError), open_untrusted(workspace, LOG, _LOG_LIMIT) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - limit))
        return file.read(limit), size
    return b"", 0


def _read_log(workspace: Path, pod: Pod) -> tuple[Measurement, str, str]:
    scan, log_error, exception, problem = _scan(pod), "", "", ""
    try:
        with open_untrusted(workspace, LOG, _LOG_LIMIT) as log:
            for chunk in iter(lambda: log.read(_CHUNK), b""):
                scan.feed(chunk)
            log.seek(0)
            log_error = pod.log_errors.first_in(log)
            exception = first_exception(log)
    except FileNotFoundError:
        pass  # entry.sh didn't get there
    except OSError as error:
        problem = f"{LOG}: {error.strerror}"
    measurement = _scanned(scan)
    return Measurement(measurement.metrics, problem or measurement.problem), log_error, exception


def _scan(pod: Pod) -> MetricScan:
    """Return a scan of a log; a number that a pre-script prints is no metric."""
    return MetricScan(SCRIPT_MARK.encode() if pod.has_pre_scripts else b"")


def _scanned(scan: MetricScan) -> Measurement:
    scan.finish()
    return Measurement((scan.metric,) if scan.metric else (), scan.problem)


def _read_results(workspace: Path, pod: Pod) -> Measurement:
    name = pod.model.multiple_results
    for path in (Path(name), Path(model_directory(pod.model), name)):
        try:
            with open_untrusted(workspace, path, _RESULTS_LIMIT) as file:
                return _parsed(_lines(file), name, ROWS_LIMIT)
        except FileNotFoundError:
            continue
        except OSError as error:
            return Measurement(problem=f"{path}: {error.strerror}")
    return Measurement(problem=_no_results(name))


def _no_results(name: str) -> str:
    return f"{name}: the script left no such file in its folder or the one above"


def _lines(file: IO[bytes]) -> Iterator[str]:
    with io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        for line in iter(lambda: text.readline(_LINE_LIMIT), ""):
            if len(line) == _LINE_LIMIT:
                raise csv.Error(f"a line is longer than {_LINE_LIMIT} characters")
            yield line


def _parsed(lines: Iterable[str], name: str, limit: int | None = None) -> Measurement:
    metrics: list[Metric] = []
    characters = omitted = 0
    try:
        for metric in parse_multiple_results(lines, Path(name)):
            characters += sum(map(len, (metric.model, metric.metric, *metric.extra.values())))
            if limit is None or (len(metrics) < limit and characters <= _CELLS_LIMIT):
                metrics.append(metric)
            else:
                omitted += 1
    except RunError as error:
        return Measurement(problem=one_line(str(error)))
    except (UnicodeDecodeError, csv.Error) as error:
        return Measurement(problem=f"{name}: not a CSV file in UTF-8: {one_line(str(error))}")
    return Measurement(tuple(metrics), "" if metrics else f"{name}: no row below its header", omitted)


def note(workspace: Path, name: str) -> str:
    with suppress(OSError):
        return read_untrusted(workspace, name, _NOTE_LIMIT).decode(errors="replace")
    return ""


def _is_full(workspace: Path) -> bool:
    with suppress(OSError):
        disk = os.statvfs(workspace)
        return disk.f_blocks > 0 and disk.f_bavail * disk.f_frsize < _LITTLE_SPACE
    return False


def _exists(workspace: Path, name: str) -> bool:
    return os.path.lexists(workspace / name)


# --- entry.sh's report: a termination message, or the marked lines of a log ---


def parse_report(text: str, pod: Pod) -> tuple[Remains, bool]:
    """Return what entry.sh reported, and whether it is complete: a kubelet keeps 4096 bytes of it.

    Raises ValueError if the text is no report, or an invalid one.
    """
    first, *rest = text.split("\n")
    entry = parse_entry(first)
    notes = [line for line in rest if line.startswith("gpu: ")]
    lines = [line for line in rest if not line.startswith("gpu: ")]
    while lines and not lines[-1]:
        lines.pop()
    complete = lines[-1:] == ["end"]
    # A number that is cut off would be another number.
    measurement = _reported("\n".join(lines[:-1]).strip("\n"), pod) if complete else Measurement()
    return Remains(entry, measurement, noted_gpus("\n".join(notes))), complete


def _reported(text: str, pod: Pod) -> Measurement:
    name = pod.model.multiple_results
    if not name:
        return scan_text(text, pod)
    if not text.strip():
        return Measurement(problem=_no_results(name))
    return _parsed(io.StringIO(f"{text}\n", newline=""), name)


def scan_text(text: str, pod: Pod) -> Measurement:
    """Return the metric in the text of a log."""
    scan = _scan(pod)
    scan.feed(text.encode("utf-8", "replace"))
    return _scanned(scan)
