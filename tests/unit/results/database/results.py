"""Results of runs as files, for databases."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from madengine.results.rows import COLUMNS

SAMPLES = """\
time,gpu,memory_used_mib,utilization_percent,power_w,temperature_c,throttled
1000.000,0,512.0,90.0,300.0,60.0,0
1000.500,0,1024.0,,310.0,61.0,1
1001.000,1,10.0,1.0,50.0,30.0,
not,a,sample
"""


def row(run_id: str, value: str = "10.5", **cells: str) -> dict[str, str]:
    """A successful row."""
    return {
        "run_id": run_id,
        "model": "bert",
        "metric": "tokens_per_second",
        "performance": value,
        "status": "SUCCESS",
        "machine_name": "node-1",
        "started": "2026-11-28T10:00:00Z",
        "run_duration": "12.5",
        "environment_id": "env1",
        "gpu_architecture": "H100",
        **cells,
    }


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [*COLUMNS, *sorted({name for one in rows for name in one} - set(COLUMNS))]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_run(folder: Path, run_id: str, value: str = "10.5") -> Path:
    """A run's folder with results.json and the samples of its GPUs."""
    directory = folder / "runs" / run_id
    (directory / "bert").mkdir(parents=True)
    (directory / "bert/gpu_series.csv").write_text(SAMPLES)
    entry: dict[str, Any] = {
        "run_id": run_id,
        "model": {"name": "bert", "dockerfile": "docker/bert", "scripts": "scripts/bert", "n_gpus": "1", "args": ""},
        "image": None,
        "status": "SUCCESS",
        "metrics": [{"performance": value, "metric": "tokens_per_second", "model": "", "extra": {"batch": "8"}}],
        "machine_name": "node-1",
        "started": "2026-11-28T10:00:00Z",
        "run_duration": 12.5,
        "environment_id": "env1",
        "directory": f"runs/{run_id}/bert",
    }
    environment = {
        "environment_id": "env1", "machine_name": "node-1", "os": "Debian 12", "kernel": "6.1", "cpu": "EPYC",
        "memory_mib": 524288, "engine": "docker 28", "gpus": [{"name": "H100", "driver": "550"}] * 2,
    }  # fmt: skip
    document = {
        "schema_version": 1,
        "madengine_version": "0.2.0",
        "run_id": run_id,
        "environment": environment,
        "results": [entry],
    }
    (directory / "results.json").write_text(json.dumps(document))
    return directory
