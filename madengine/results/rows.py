"""RunResults -> perf.csv rows, results.json, summaries, and the table for the terminal."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from madengine import __version__
from madengine.errors import ConfigurationError, MadengineError
from madengine.files import human_size, locked
from madengine.records import FAILURE, SKIPPED, SUCCESS, Artifact, Gpu, GpuCost, Image, Metric, Model, RunResult
from madengine.results.metrics import is_number

SCHEMA_VERSION = 1

# madengine 2.1's 29 columns in its order, then ours.
COLUMNS = (
    "model", "n_gpus", "nnodes", "gpus_per_node", "training_precision", "pipeline", "args", "tags",
    "docker_file", "base_docker", "docker_sha", "docker_image", "git_commit", "machine_name", "deployment_type",
    "launcher", "gpu_architecture", "performance", "metric", "relative_change", "status", "build_duration",
    "test_duration", "dataname", "data_provider_type", "data_size", "data_download_duration", "build_number",
    "additional_docker_run_options", "run_id", "reason", "image_digest", "engine", "exit_code", "run_duration",
    "started", "environment_id", "gpus", "packed", "foreign_processes", "peak_gpu_memory_mib", "idle_gpu_memory_mib",
    "mean_gpu_utilization", "p95_gpu_utilization", "energy_j", "mean_power_w", "peak_power_w", "peak_temperature_c",
    "throttled_percent", "sample_hz", "telemetry_source",
)  # fmt: skip

# The figures of GpuCost that have a column of their own.
_COST_COLUMNS = (
    "peak_gpu_memory_mib", "idle_gpu_memory_mib", "mean_gpu_utilization", "p95_gpu_utilization", "energy_j",
    "mean_power_w", "peak_power_w", "peak_temperature_c", "throttled_percent", "sample_hz",
)  # fmt: skip

_NEEDED_COLUMNS = frozenset({"model", "performance", "metric", "status"})
_HEADER_LIMIT = 64 * 1024  # bytes
_REASON_WIDTH = 60


class BuiltImage(NamedTuple):
    """An image that was built: its name where it can be pulled (else here), and when, with a time zone."""

    image: Image
    model: Model
    image_tag: str
    built_at: datetime


class FailedBuild(NamedTuple):
    """An image that was not built, or not pushed."""

    model_name: str
    dockerfile: str
    error: str
    log_file: str = ""
    #: Set where only the push failed.
    image: Image | None = None


def result_rows(result: RunResult, environ: Mapping[str, str] = os.environ) -> list[dict[str, str]]:
    """The perf.csv rows of a run: one for each metric, at least one.

    Beside COLUMNS a row has the extra columns of its multiple_results, for a perf.csv that has them too.
    """
    run = _run_cells(result, environ)
    return [
        {
            **metric.extra,
            **run,
            "model": _name(result, metric),
            # Many a reader takes every number in this column for a measurement that counts.
            "performance": metric.performance if status == SUCCESS else "",
            "metric": metric.metric,
            "status": status,
            "reason": reason,
        }
        for metric, status, reason in _outcomes(result)
    ]


def _run_cells(result: RunResult, environ: Mapping[str, str]) -> dict[str, str]:
    model, image = result.model, result.image or Image(key="", docker_image="")
    n_gpus = result.n_gpus or model.n_gpus
    nnodes = result.nnodes
    return {
        "n_gpus": str(int(n_gpus) * nnodes) if nnodes > 1 and n_gpus.isdigit() else n_gpus,
        "nnodes": str(nnodes),
        "gpus_per_node": n_gpus,
        "training_precision": model.training_precision,
        "pipeline": environ.get("pipeline", ""),
        "args": model.args,
        "tags": ",".join(model.tags),
        "docker_file": image.dockerfile or model.dockerfile,
        "base_docker": image.base_docker,
        "docker_sha": image.docker_sha,
        "docker_image": _image_name(image),
        "git_commit": result.git_commit,
        "machine_name": result.machine_name,
        "deployment_type": environ.get("MAD_DEPLOYMENT_TYPE") or "local",
        "launcher": environ.get("MAD_LAUNCHER") or "docker",
        "gpu_architecture": result.gpu_architecture,
        "relative_change": "",
        "build_duration": str(_seconds(image.build_duration)),
        "test_duration": str(_seconds(result.test_duration)),
        "dataname": result.dataname,
        "data_provider_type": result.data_provider_type,
        "data_size": result.data_size,
        "data_download_duration": result.data_download_duration,
        "build_number": environ.get("BUILD_NUMBER") or "0",
        "additional_docker_run_options": model.additional_docker_run_options,
        "run_id": result.run_id,
        "image_digest": result.image_digest,
        "engine": result.engine,
        "exit_code": "" if result.exit_code is None else str(result.exit_code),
        "run_duration": str(_seconds(result.run_duration)),
        "started": result.started,
        "environment_id": result.environment_id,
        "gpus": ",".join(str(gpu.index) for gpu in result.gpus),
        "packed": "true" if result.packed else "",
        "foreign_processes": "" if result.foreign_processes is None else str(result.foreign_processes),
        **_cost_cells(result.cost),
    }


def _cost_cells(cost: GpuCost | None) -> dict[str, str]:
    """The cells of what a run cost on its GPUs; what is unknown stays empty."""
    cost = cost or GpuCost()
    figures = {name: getattr(cost, name) for name in _COST_COLUMNS}
    cells = {name: "" if value is None else f"{value:.1f}" for name, value in figures.items()}
    return {**cells, "telemetry_source": cost.telemetry_source}


def _outcomes(result: RunResult) -> Iterator[tuple[Metric, str, str]]:
    """Each metric of a run with its own status and reason: without a number there is no success."""
    reason = " ".join(result.reason.split())
    for metric in result.metrics or (Metric("", ""),):
        if result.status == SUCCESS and not is_number(metric.performance):
            yield metric, FAILURE, reason or "performance is not a number"
        else:
            yield metric, result.status, reason


def _name(result: RunResult, metric: Metric) -> str:
    return f"{result.model.name}_{metric.model}" if metric.model else result.model.name


def _image_name(image: Image | None) -> str:
    return (image.registry_image or image.docker_image) if image else ""


def _seconds(duration: float) -> float:
    return round(float(duration), 3)


def check_perf_csv(path: Path) -> None:
    """Make sure, before anything runs, that rows can be appended to a perf.csv; its directory is made if missing.

    Raises ConfigurationError where the file has an unknown header or can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            with path.open("r+b") as file:
                _columns(path, file.fileno())
        elif path.exists():
            raise OSError("it is not a regular file")
        elif not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(f"no file can be made in {path.parent.resolve()}")
    except OSError as error:
        raise ConfigurationError(
            f"{path}: can't be written: {error.strerror or error}; name another file with --output"
        ) from error


def append_rows(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Append rows to a perf.csv, all of them or none, under its lock; a new file gets the header first.

    An existing file's own columns decide, by name, which cells are written. However long it is, only its
    header and its last byte are read.

    Raises ConfigurationError where its header is unknown, MadengineError where it can't be written; both
    leave it as it was.
    """
    pending = list(rows)
    if not pending:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path) as handle:
            columns = _columns(path, handle)
            lines = [_line([row.get(column, "") for column in columns]) for row in pending]
            # Names may hold characters that UTF-8 can't; they must not make the file unreadable or lose the row.
            _write(handle, (_opening(handle) + "".join(lines)).encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise MadengineError(
            f"{path}: can't be written: {error.strerror or error}; make room or name another file with --output"
        ) from error


def succeeded_models(path: Path) -> set[str]:
    """The digests of the images that have a run in a perf.csv of which every row is a success.

    An image carries its model and arguments, so its digest says what ran. A file that isn't there has none.
    Raises ConfigurationError where it can't be read.
    """
    outcomes: dict[tuple[str, str], set[str]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                key = (row.get("image_digest") or "", row.get("run_id") or "")
                outcomes.setdefault(key, set()).add(row.get("status") or "")
    except FileNotFoundError:
        return set()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{path}: can't be read as a perf.csv: {error}") from error
    return {digest for (digest, _), statuses in outcomes.items() if digest and statuses == {SUCCESS}}


def _columns(path: Path, handle: int) -> Sequence[str]:
    """The columns of an open perf.csv, COLUMNS for an empty one. Raises ConfigurationError for an unknown header."""
    if os.fstat(handle).st_size == 0:
        return COLUMNS
    line = os.pread(handle, _HEADER_LIMIT, 0).partition(b"\n")[0]
    columns = _cells(line) if len(line) < _HEADER_LIMIT else []
    if not _NEEDED_COLUMNS.issubset(columns):
        missing = ", ".join(sorted(_NEEDED_COLUMNS.difference(columns)))
        raise ConfigurationError(
            f"{path}: is not a perf.csv: its first line has no column {missing}; name another file with --output"
        )
    return columns


def _cells(header: bytes) -> list[str]:
    """A header's names; none where it is not CSV in UTF-8. Older madengine writes it with blanks after the commas."""
    try:
        cells = next(csv.reader([header.decode("utf-8-sig")], skipinitialspace=True), [])
    except (UnicodeDecodeError, csv.Error):
        return []
    return [cell.strip() for cell in cells]


def _opening(handle: int) -> str:
    """What comes before the rows: the header of an empty file, the newline that a file's last line lacks."""
    size = os.fstat(handle).st_size
    if size == 0:
        return _line(COLUMNS)
    return "" if os.pread(handle, 1, size - 1) == b"\n" else "\n"


def _line(cells: Sequence[str]) -> str:
    # The writer quotes only line breaks that are in its own terminator, so that one has both kinds.
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue()[:-2] + "\n"


def _write(handle: int, content: bytes) -> None:
    """Append all of the content, or leave the file as it was."""
    size = os.fstat(handle).st_size
    rest = memoryview(content)
    try:
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    except BaseException:
        os.ftruncate(handle, size)
        raise


def result_json(result: RunResult) -> dict[str, Any]:
    """Everything known about a run, for results.json."""
    return {field.name: _json(getattr(result, field.name)) for field in fields(result)}


def results_json(run_id: str, results: Iterable[RunResult], environment: Mapping[str, Any]) -> dict[str, Any]:
    """The document results.json; `environment` is what is known of the node (never its environment variables)."""
    return {
        "schema_version": SCHEMA_VERSION,
        "madengine_version": __version__,
        "run_id": run_id,
        "environment": dict(environment),
        "results": [result_json(result) for result in results],
    }


def _json(value: Any) -> Any:
    if isinstance(value, Model):
        from madengine.config.models_json import entry_of

        return entry_of(value)
    if isinstance(value, Image):
        # The extra keys of an older madengine's manifest hold build commands, with secrets in them.
        return {field.name: getattr(value, field.name) for field in fields(value) if field.name != "extra"}
    if isinstance(value, Gpu | GpuCost | Artifact):
        return asdict(value)
    if isinstance(value, Metric):
        return {**{field.name: getattr(value, field.name) for field in fields(value)}, "extra": dict(value.extra)}
    return [_json(item) for item in value] if isinstance(value, tuple) else value


def run_summary(
    results: Sequence[RunResult],
    skipped: Sequence[tuple[Image, Model, str]],
    total_execution_time: float,
    gpu_node: str,
    output_file: str,
    run_id: str,
) -> dict[str, Any]:
    """The run summary: the document's fields, then ours; its entries are the rows of perf.csv.

    `skipped` holds the images that are not for this node, each with the reason; times are in seconds.
    """
    outcomes = [(result, *outcome) for result in results for outcome in _outcomes(result)]
    return {
        "successful_runs": [
            _done(run, metric, output_file) for run, metric, status, _ in outcomes if status == SUCCESS
        ],
        "failed_runs": [
            _failed(run, metric, status, reason)
            for run, metric, status, reason in outcomes
            if status not in (SUCCESS, SKIPPED)
        ],
        "skipped_runs": [
            _skipped(_name(run, metric), run.image, reason)
            for run, metric, status, reason in outcomes
            if status == SKIPPED
        ]
        + [_skipped(model.name, image, reason) for image, model, reason in skipped],
        "total_execution_time": _seconds(total_execution_time),
        "gpu_node": gpu_node,
        "run_id": run_id,
    }


def _done(result: RunResult, metric: Metric, output_file: str) -> dict[str, Any]:
    return {
        "model_name": _name(result, metric),
        "execution_time": _seconds(result.run_duration),
        "gpu_used": ",".join(f"GPU-{gpu.index}" for gpu in result.gpus),
        "peak_gpu_memory": _peak_memory(result.cost),
        "exit_code": result.exit_code,
        "output_file": output_file,
        "image": _image_name(result.image),
        "performance": metric.performance,
        "metric": metric.metric,
        "log_file": result.log_file,
    }


def _peak_memory(cost: GpuCost | None) -> str:
    if cost is None or cost.peak_gpu_memory_mib is None:
        return ""
    return human_size(round(cost.peak_gpu_memory_mib * 2**20))


def _failed(result: RunResult, metric: Metric, status: str, reason: str) -> dict[str, Any]:
    return {
        "model_name": _name(result, metric),
        "image": _image_name(result.image),
        "status": status,
        "reason": reason,
        "exit_code": result.exit_code,
        "log_file": result.log_file,
        "execution_time": _seconds(result.run_duration),
    }


def _skipped(model_name: str, image: Image | None, reason: str) -> dict[str, Any]:
    return {"model_name": model_name, "image": _image_name(image), "reason": reason}


def build_summary(
    built: Sequence[BuiltImage], failed: Sequence[FailedBuild], total_build_time: float, registry: str
) -> dict[str, Any]:
    """The build summary: the document's fields, then ours. Times are in seconds; a size that isn't known is empty."""
    return {
        "successful_builds": [_built(build) for build in built],
        "failed_builds": [_not_built(build) for build in failed],
        "total_build_time": _seconds(total_build_time),
        "registry_url": registry,
    }


def _built(build: BuiltImage) -> dict[str, Any]:
    image = build.image
    return {
        "model_name": build.model.name,
        "image_tag": build.image_tag,
        "build_time": build.built_at.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "image_size": human_size(image.size_bytes) if image.size_bytes else "",
        "image": image.docker_image,
        "dockerfile": image.dockerfile,
        "build_duration": _seconds(image.build_duration),
        "log_file": image.log_file,
    }


def _not_built(build: FailedBuild) -> dict[str, Any]:
    return {name: value for name, value in build._asdict().items() if name != "image"}


def results_table(results: Sequence[RunResult]) -> str:
    """The result table for a terminal or a CI log, one line for each row of perf.csv; values exactly as text."""
    from tabulate import tabulate

    lines = [
        [printable(cell) for cell in _table_cells(result, *outcome)]
        for result in results
        for outcome in _outcomes(result)
    ]
    return tabulate(
        lines,
        headers=["model", "image", "status", "performance", "metric", "seconds", "reason"],
        colalign=("left", "left", "left", "right", "left", "right", "left") if lines else None,
        disable_numparse=True,
    )


def _table_cells(result: RunResult, metric: Metric, status: str, reason: str) -> list[str]:
    return [
        _name(result, metric),
        result.image.docker_image if result.image else "",
        status,
        metric.performance if is_number(metric.performance) else "",
        metric.metric,
        f"{result.run_duration:.1f}",
        reason if len(reason) <= _REASON_WIDTH else f"{reason[: _REASON_WIDTH - 1]}…",
    ]


def printable(cell: str) -> str:
    """A cell that stays on its line and can't steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in cell)
