"""The summaries of a build and of a run: the document's fields, then ours."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

from madengine.files import human_size
from madengine.records import SKIPPED, SUCCESS, GpuCost, Image, Metric, Model, RunResult
from madengine.results.rows import image_name, metric_outcomes, rounded_seconds, row_model, variant


class BuiltImage(NamedTuple):
    """An image that was built."""

    image: Image
    model: Model
    #: Its name in the registry, else on this machine.
    image_tag: str
    #: With a time zone.
    built_at: datetime


class FailedBuild(NamedTuple):
    """An image that was not built, or not pushed."""

    model_name: str
    dockerfile: str
    error: str
    log_file: str = ""
    #: Set where only the push failed.
    image: Image | None = None


def run_summary(
    results: Sequence[RunResult],
    skipped: Sequence[tuple[Image, Model, str]],
    total_execution_time: float,
    gpu_node: str,
    output_file: str,
    run_id: str,
) -> dict[str, Any]:
    """Return the run summary; its entries are the rows of perf.csv.

    `skipped` holds the images that are not for this node, each with the reason; times are in seconds.
    """
    outcomes = [(result, *outcome) for result in results for outcome in metric_outcomes(result)]
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
            _skipped(row_model(run, metric), run.image, reason)
            for run, metric, status, reason in outcomes
            if status == SKIPPED
        ]
        + [_skipped(model.name, image, reason) for image, model, reason in skipped],
        "total_execution_time": rounded_seconds(total_execution_time),
        "gpu_node": gpu_node,
        "run_id": run_id,
    }


def _done(result: RunResult, metric: Metric, output_file: str) -> dict[str, Any]:
    return {
        "model_name": row_model(result, metric),
        "execution_time": rounded_seconds(result.run_duration),
        "gpu_used": ",".join(f"GPU-{gpu.index}" for gpu in result.gpus),
        "peak_gpu_memory": _peak_memory(result.cost),
        "exit_code": result.exit_code,
        "output_file": output_file,
        "image": image_name(result.image),
        "performance": metric.performance,
        "metric": metric.metric,
        "log_file": result.log_file,
        **_variant(metric),
    }


def _peak_memory(cost: GpuCost | None) -> str:
    if cost is None or cost.peak_gpu_memory_mib is None:
        return ""
    return human_size(round(cost.peak_gpu_memory_mib * 2**20))


def _failed(result: RunResult, metric: Metric, status: str, reason: str) -> dict[str, Any]:
    return {
        "model_name": row_model(result, metric),
        "image": image_name(result.image),
        "status": status,
        "reason": reason,
        "exit_code": result.exit_code,
        "log_file": result.log_file,
        "execution_time": rounded_seconds(result.run_duration),
        **_variant(metric),
    }


def _variant(metric: Metric) -> dict[str, str]:
    """What tells a result from others of its name, where there are further columns."""
    text = variant(metric)
    return {"variant": text} if text else {}


def _skipped(model_name: str, image: Image | None, reason: str) -> dict[str, Any]:
    return {"model_name": model_name, "image": image_name(image), "reason": reason}


def build_summary(
    built: Sequence[BuiltImage], failed: Sequence[FailedBuild], total_build_time: float, registry: str
) -> dict[str, Any]:
    """Return the build summary; times are in seconds, an unknown size is empty."""
    return {
        "successful_builds": [_built(build) for build in built],
        "failed_builds": [_not_built(build) for build in failed],
        "total_build_time": rounded_seconds(total_build_time),
        "registry_url": registry,
    }


def _not_built(build: FailedBuild) -> dict[str, Any]:
    return {name: value for name, value in build._asdict().items() if name != "image"}


def _built(build: BuiltImage) -> dict[str, Any]:
    image = build.image
    return {
        "model_name": build.model.name,
        "image_tag": build.image_tag,
        "build_time": build.built_at.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "image_size": human_size(image.size_bytes) if image.size_bytes else "",
        "image": image.docker_image,
        "dockerfile": image.dockerfile,
        "build_duration": rounded_seconds(image.build_duration),
        "log_file": image.log_file,
    }
