"""RunResults as rows of perf.csv."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence

from madengine.records import FAILURE, SUCCESS, GpuCost, Image, Metric, RunResult
from madengine.results.numbers import is_number

Row = Mapping[str, str]


# madengine 2.1's 29 columns in its order, then ours.
COLUMNS = (
    "model", "n_gpus", "nnodes", "gpus_per_node", "training_precision", "pipeline", "args", "tags",
    "docker_file", "base_docker", "docker_sha", "docker_image", "git_commit", "machine_name", "deployment_type",
    "launcher", "gpu_architecture", "performance", "metric", "relative_change", "status", "build_duration",
    "test_duration", "dataname", "data_provider_type", "data_size", "data_download_duration", "build_number",
    "additional_docker_run_options", "run_id", "reason", "image_digest", "engine", "exit_code", "run_duration",
    "started", "environment_id", "gpus", "packed", "foreign_processes", "peak_gpu_memory_mib", "idle_gpu_memory_mib",
    "mean_gpu_utilization", "p95_gpu_utilization", "energy_j", "mean_power_w", "peak_power_w", "peak_temperature_c",
    "throttled_percent", "sample_hz", "telemetry_source", "variant", "contaminated", "repeat", "side", "attempt",
    "aggregation",
)  # fmt: skip

#: which attempt at a run this is, where a scheduler starts one again
ATTEMPT_VARIABLE = "MADENGINE_ATTEMPT"
# What a perf.csv takes of the further columns of multiple_results: a header has to stay readable.
_MOST_COLUMNS = 100
_NAME_CHARACTERS = 100
# Readers of CSV refuse cells that are too long, Python's those of more than 131,072 characters; results.json has all.
_CELL_CHARACTERS = 100_000
_VARIANT_CHARACTERS = 200
# Further columns that tell what became of a result, not which one it is.
_OUTCOMES = ("status", "test_duration")


# The fields of GpuCost that have a column of their own.
COST_COLUMNS = (
    "peak_gpu_memory_mib", "idle_gpu_memory_mib", "mean_gpu_utilization", "p95_gpu_utilization", "energy_j",
    "mean_power_w", "peak_power_w", "peak_temperature_c", "throttled_percent", "sample_hz",
)  # fmt: skip


def result_rows(result: RunResult, environ: Mapping[str, str] = os.environ) -> list[dict[str, str]]:
    """Return the perf.csv rows of a run: one for each metric, at least one.

    A warm-up that succeeded has none, and of several nodes only the first has them.

    Beside COLUMNS a row has the extra columns of its multiple_results, for a perf.csv that has them too.
    """
    if result.rank:
        return []
    run = _run_cells(result, environ)
    rows = [
        {
            **metric.extra,
            **run,
            "model": row_model(result, metric),
            "variant": variant(metric),
            # Readers of a perf.csv take every number in this column for a valid measurement.
            "performance": metric.performance if status == SUCCESS else "",
            "metric": metric.metric,
            "aggregation": metric.aggregation if status == SUCCESS else "",
            "status": status,
            "reason": reason,
        }
        for metric, status, reason in metric_outcomes(result)
    ]
    return [{name: shortened(cell, _CELL_CHARACTERS) for name, cell in row.items()} for row in rows]


def shortened(text: str, characters: int) -> str:
    """Return a text of at most so many characters, before what tells it from others that begin alike."""
    if len(text) <= characters:
        return text
    import hashlib

    return f"{text[:characters]}...{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:12]}"


def _run_cells(result: RunResult, environ: Mapping[str, str]) -> dict[str, str]:
    return {
        **_subject_cells(result),
        "pipeline": environ.get("pipeline", ""),
        "git_commit": result.git_commit,
        "machine_name": result.machine_name,
        "deployment_type": environ.get("MAD_DEPLOYMENT_TYPE") or "local",
        "launcher": result.launcher or environ.get("MAD_LAUNCHER") or "docker",
        "gpu_architecture": result.gpu_architecture,
        "relative_change": "",
        "test_duration": str(rounded_seconds(result.test_duration)),
        "dataname": result.dataname,
        "data_provider_type": result.data_provider_type,
        "data_size": result.data_size,
        "data_download_duration": result.data_download_duration,
        "build_number": environ.get("BUILD_NUMBER") or "0",
        "run_id": result.run_id,
        "image_digest": result.image_digest,
        "engine": result.engine,
        "exit_code": "" if result.exit_code is None else str(result.exit_code),
        "run_duration": str(rounded_seconds(result.run_duration)),
        "started": result.started,
        "environment_id": result.environment_id,
        "attempt": environ.get(ATTEMPT_VARIABLE, ""),
        "gpus": ";".join(map(_gpu_list, result.parts or (result,))).strip(";"),
        "packed": "true" if result.packed else "",
        "foreign_processes": "" if result.foreign_processes is None else str(result.foreign_processes),
        "contaminated": "" if result.contaminated is None else str(result.contaminated).lower(),
        **_cost_cells(result.cost),
        "repeat": str(result.repeat) if result.repeat and not result.is_warmup else "",
        "side": result.side,
    }


def _gpu_list(result: RunResult) -> str:
    return ",".join(str(gpu.index) for gpu in result.gpus)


def _subject_cells(result: RunResult) -> dict[str, str]:
    """Return the cells of what ran: the model, on how many GPUs, and the image."""
    model, image = result.model, result.image or Image(key="", docker_image="")
    return {
        **_size_cells(result),
        "training_precision": model.training_precision,
        "args": model.args,
        "tags": ",".join(model.tags),
        "additional_docker_run_options": model.additional_docker_run_options,
        "docker_file": image.dockerfile or model.dockerfile,
        "base_docker": image.base_docker,
        "docker_sha": image.docker_sha,
        "docker_image": image_name(image),
        "build_duration": str(rounded_seconds(image.build_duration)),
    }


def _size_cells(result: RunResult) -> dict[str, str]:
    """Return on how many nodes and GPUs a model ran; of nodes that differ, each one's GPUs."""
    counts = [part.n_gpus or part.model.n_gpus for part in result.parts or (result,)]
    are_known = result.nnodes > 1 and all(count.isdigit() for count in counts)
    nodes = 1 if result.parts else result.nnodes
    return {
        "n_gpus": str(sum(map(int, counts)) * nodes) if are_known else counts[0],
        "nnodes": str(result.nnodes),
        "gpus_per_node": ",".join(counts) if len(set(counts)) > 1 else counts[0],
    }


def _cost_cells(cost: GpuCost | None) -> dict[str, str]:
    cost = cost or GpuCost()
    values = {name: getattr(cost, name) for name in COST_COLUMNS}
    cells = {name: "" if value is None else f"{value:.1f}" for name, value in values.items()}
    return {**cells, "telemetry_source": cost.telemetry_source}


def metric_outcomes(result: RunResult) -> Iterator[tuple[Metric, str, str]]:
    """Yield each metric of a run with its own status and reason: without a number there is no success.

    Of a warm-up only what failed is yielded: its measurements don't count.
    """
    reason = " ".join(result.reason.split())
    which = f"warm-up {result.repeat}: " if result.is_warmup else ""
    for metric in result.metrics or (Metric("", ""),):
        if result.status == SUCCESS and not is_number(metric.performance):
            yield metric, FAILURE, f"{which}{reason or 'performance is not a number'}"
        elif not (result.is_warmup and result.status == SUCCESS):
            yield metric, result.status, f"{which}{reason}"


def has_failure(result: RunResult) -> bool:
    """Return whether a row of this run is a failure, or a part of another node's row that is one."""
    if result.rank:
        return result.status == FAILURE
    return any(status == FAILURE for _, status, _ in metric_outcomes(result))


def variant(metric: Metric) -> str:
    """Return what tells a result from others of its name, `dtype=bf16 batch=8`: the further columns that it has.

    Read by a shell it is one word a column, with blanks in quotes.
    """
    cells = (
        (name, shortened(" ".join(cell.split()), _VARIANT_CHARACTERS))
        for name, cell in metric.extra.items()
        if name not in _OUTCOMES
    )
    return shlex.join(f"{name}={cell}" for name, cell in cells if cell)


def columns_for(rows: Iterable[Row], columns: Sequence[str] = COLUMNS) -> Sequence[str]:
    """Return the columns of a perf.csv for these rows: `columns`, then the further ones of their multiple_results."""
    further = dict.fromkeys(name for row in rows for name in row if name not in columns and _is_column(name))
    return (*columns, *further)[: max(len(columns), len(COLUMNS) + _MOST_COLUMNS)]


def _is_column(name: str) -> bool:
    return name.isprintable() and name == name.strip() and 0 < len(name) <= _NAME_CHARACTERS


def row_model(result: RunResult, metric: Metric) -> str:
    """Return the model's name in a row; one of several results has its own name as a suffix."""
    return f"{result.model.name}_{metric.model}" if metric.model else result.model.name


def image_name(image: Image | None) -> str:
    """Return the image's name in its registry, else on this machine; empty without an image."""
    return (image.registry_image or image.docker_image) if image else ""


def rounded_seconds(duration: float) -> float:
    """Return seconds, rounded to milliseconds."""
    return round(float(duration), 3)
