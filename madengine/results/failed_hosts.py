"""The rows of hosts on which nothing could be run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from madengine.config.manifest import Manifest
from madengine.errors import MadengineError
from madengine.records import FAILURE, Image, Model, RunResult
from madengine.results.perf_csv import Table, append_rows
from madengine.results.rows import Row, result_rows


def failed_rows(
    manifest: Manifest, run_id: str, host: str, reason: str, environ: Mapping[str, str] = os.environ, nodes: int = 1
) -> list[dict[str, str]]:
    """Return the perf.csv rows of a host on which nothing could be run: one FAILURE for each model of the manifest.

    `nodes` is how many hosts were to run it together.

    They have no time, so that a failure that is reported twice is one row.
    """
    groups: list[tuple[Model, list[Image]]] = []
    for image in manifest.images:
        model = manifest.models.get(image.key) or Model(name=image.key, dockerfile=image.dockerfile, scripts="")
        same = next((images for other, images in groups if other == model), None)
        if same is None:
            groups.append((model, [image]))
        else:
            same.append(image)
    results = (replace(_not_run(model, images, run_id, host, reason), nnodes=nodes) for model, images in groups)
    return [row for result in results for row in result_rows(result, environ)]


def note_failure(
    folder: Path, manifest: Manifest, run_id: str, host: str, reason: str, environ: Mapping[str, str] = os.environ
) -> int:
    """Append to the perf.csv of a host's folder a FAILURE for every model that has no row of this run there.

    Return how many were missing. A perf.csv that can't be read is renamed to perf.csv.broken. Raises MadengineError
    where it can't be written.
    """
    table = folder / "perf.csv"
    existing: list[Row] = []
    try:
        if table.exists():
            with Table(table) as cells:
                existing = [dict(zip(cells.columns, row, strict=False)) for row in cells]
    except MadengineError:
        table.rename(folder / "perf.csv.broken")
    of_run = [row for row in existing if row.get("run_id") == run_id]
    names, digests = ({row.get(column, "") for row in of_run} for column in ("model", "image_digest"))
    # A row of several results has a longer name than its model; then it has the digest of what ran.
    ran = {model.name for key, model in manifest.models.items() if model.name in names} | {
        manifest.models[image.key].name
        for image in manifest.images
        if image.key in manifest.models and (image.registry_digest or image.image_id) in digests - {""}
    }
    # An image that has only a name is no proof by itself: other models may run in it too.
    results = {(row.get("docker_image", ""), row.get("model", "")) for row in of_run if not row.get("image_digest")}
    rows = failed_rows(manifest, run_id, host, reason, environ)
    missing = [row for row in rows if row["model"] not in ran and not _has_result(row, results)]
    append_rows(table, missing)
    return len(missing)


def _has_result(row: Row, results: Iterable[tuple[str, str]]) -> bool:
    return any(image == row["docker_image"] and name.startswith(f"{row['model']}_") for image, name in results)


def _not_run(model: Model, images: Sequence[Image], run_id: str, host: str, reason: str) -> RunResult:
    return RunResult(
        run_id=run_id,
        model=model,
        # Which of several it would have been depends on the host's GPUs, which are unknown.
        image=images[0] if len(images) == 1 else None,
        status=FAILURE,
        reason=reason or "nothing ran on this host",
        machine_name=host,
        n_gpus=model.n_gpus,
    )
