"""What a sidecar reads in its pod's workspace, where the model may have left anything in any place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from madengine.deploy.kubernetes.delivery import Report, fit, table
from madengine.deploy.kubernetes.gpu_figures import GpuFigures
from madengine.deploy.kubernetes.remains import ROWS_LIMIT
from madengine.deploy.kubernetes.report import build_report, gpu_figures
from madengine.records import GpuCost
from tests.k8s.test_files import generated, manifest, of_kind
from tests.k8s.test_report import ENTRY, POD

SECRET = "the service account's token: performance: 5 secrets"
CHECKOUT = Path(__file__).parents[2]
ENVIRON = {
    "MADENGINE_JOB": "madengine-dummy-job",
    "POD_NAMESPACE": "madengine",
    "POD_NAME": POD,
    "NODE_NAME": "n",
    "MADENGINE_RUN_ID": "r",
}


def laid_out(folder: Path, content: Mapping[str, Any], *words: str) -> tuple[Path, Path]:
    """Return the workspace of a pod that has ended well, and the folder of its input; a secret is beside them."""
    maps = of_kind(generated(folder, content, *words), "ConfigMap")
    for name, text in next(one for one in maps if one.get("immutable"))["data"].items():
        (folder / name).write_text(text)
    workspace = folder / "workspace"
    workspace.mkdir()
    (workspace / ".gpus").touch()
    (workspace / "entry.json").write_text(ENTRY)
    (workspace / "model.run.live.log").write_text("performance: 7 tokens\n")
    (folder / "secret").write_text(SECRET)
    return workspace, folder


def report(workspace: Path, config: Path) -> Report:
    began = time.monotonic()
    built = build_report(ENVIRON, workspace, config, datetime.now(timezone.utc))
    assert time.monotonic() - began < 10
    assert SECRET not in json.dumps(built.document) + table(built.rows).decode() + built.log
    return built


def link(path: Path) -> None:
    path.symlink_to("../secret")


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**43)


@pytest.mark.parametrize("make", [link, zeros, os.mkfifo, huge, Path.mkdir], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", ["model.run.live.log", "entry.json", "r.csv", ".gpus", ".failed", ".stopped"])
def test_what_is_no_regular_file_is_refused_in_one_row(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    results = {"multiple_results": "r.csv"} if name == "r.csv" else {}
    workspace, config = laid_out(tmp_path, manifest(results))
    (workspace / name).unlink(missing_ok=True)
    make(workspace / name)
    [row] = report(workspace, config).rows
    if name in (".gpus", ".failed"):
        assert (row["status"], row["performance"]) == ("SUCCESS", "7")
    else:
        assert (row["status"], row["performance"]) == ("FAILURE", "")
    if name in ("model.run.live.log", "entry.json", "r.csv"):
        assert row["reason"].startswith(f"{name}: ")


@pytest.mark.parametrize("path", ["out/r.csv", "run_directory/out/r.csv"])
def test_no_folder_on_the_way_is_followed_through_a_link(tmp_path: Path, path: str) -> None:
    workspace, config = laid_out(tmp_path, manifest({"multiple_results": "out/r.csv"}))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/r.csv").write_text("model,performance,metric\na,1,secrets\n")
    (workspace / path).parent.parent.mkdir(exist_ok=True)
    (workspace / path).parent.symlink_to(tmp_path / "elsewhere")
    [row] = report(workspace, config).rows
    assert row["reason"] == f"{path}: a symbolic link or a file, expected a folder"


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", "7", '"x"', "null", "[" * 100_000, '{"exit_code": NaN, "started": 0, "ended": 0}',
        '{"exit_code": 0, "started": 1e999, "ended": 0}', '{"exit_code": 0.5, "started": 0, "ended": 0}',
        '{"exit_code": true, "started": 0, "ended": 0}', '{"exit_code": -1, "started": 0, "ended": 0}',
        '{"exit_code": ' + "9" * 5000 + ', "started": 0, "ended": 0}', '{"exit_code": 0, "started": "0", "ended": 0}',
        '{"exit_code": 0}', '{"exit_code": 0, "started": 0, "ended": 0, "x": ' + "[" * 5000 + "]" * 5000 + "}",
        "\udcff\udcfe",
    ],
)  # fmt: skip
def test_an_invalid_end_is_one_failure_with_a_reason_in_one_line(tmp_path: Path, text: str) -> None:
    workspace, config = laid_out(tmp_path, manifest({}))
    (workspace / "entry.json").write_text(text, errors="surrogateescape")
    [row] = report(workspace, config).rows
    assert row["status"] == "FAILURE" and row["reason"].startswith("entry.json: ")
    assert "\n" not in row["reason"] and len(row["reason"]) < 500


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"model,performance\na,1\n", "r.csv: no column 'metric'; its columns are model, performance"),
        (b"model,performance,metric\na,1,t,9\n", "r.csv: line 2: expected 3 cells, got 4"),
        (b"model,performance,metric\na,1,\xff\n", "r.csv: not a CSV file in UTF-8: 'utf-8' codec can't decode"),
        (b"model,performance,metric\na,1,\0\n", ""),
        (b'model,performance,metric\n"a,1,t\n', "r.csv: not a CSV file in UTF-8: unexpected end of data"),
        (b"model,performance,metric\n" + b"x" * 3_000_000, "r.csv: not a CSV file in UTF-8: a line is longer than"),
        (b"model,performance,metric\n", "r.csv: no row below its header"),
        (b"", "r.csv: empty; the script must write the columns"),
    ],
)
def test_an_invalid_table_is_one_failure(tmp_path: Path, content: bytes, reason: str) -> None:
    workspace, config = laid_out(tmp_path, manifest({"multiple_results": "r.csv"}))
    (workspace / "r.csv").write_bytes(content)
    [row] = report(workspace, config).rows
    assert row["reason"].startswith(reason) and (row["status"] == "FAILURE") == bool(reason)


def test_a_table_of_150_000_rows_fits_into_the_memory_of_a_sidecar(tmp_path: Path) -> None:
    workspace, config = laid_out(tmp_path, manifest({"multiple_results": "r.csv"}))
    lines = (f"layer-{n},{n}.25,tokens_per_second,{n % 7},some words\n" for n in range(150_000))
    (workspace / "r.csv").write_text("model,performance,metric,batch,note\n" + "".join(lines))
    script = (
        "import re, sys, pathlib, datetime\n"
        "from madengine.deploy.kubernetes.report import build_report\n"
        "from madengine.deploy.kubernetes.delivery import fit\n"
        "now = datetime.datetime.now(datetime.timezone.utc)\n"
        "workspace, config = map(pathlib.Path, sys.argv[1:])\n"
        f"report = build_report({ENVIRON!r}, workspace, config, now)\n"
        "patch = fit('p', report, 0, 900 * 1024)\n"
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', pathlib.Path('/proc/self/status').read_text())[1]\n"
        "print(len(report.rows), report.omitted, patch.omitted, peak)\n"
    )
    line = [sys.executable, "-c", script, str(workspace), str(config)]
    done = subprocess.run(line, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(CHECKOUT)})
    rows, omitted, left_out, kibibytes = map(int, done.stdout.split())
    assert (rows, omitted) == (ROWS_LIMIT, 150_000 - ROWS_LIMIT)
    assert left_out >= omitted
    assert kibibytes < 200 * 1024, "the sidecar has 256 MiB"


def test_rows_beyond_the_memory_are_said_to_be_left_out() -> None:
    rows = [{"model": "a", "performance": "1"}]
    patch = fit("p", Report(rows, {"results": []}, omitted=9), 0, 900 * 1024)
    document = json.loads(patch.content["data"]["p.result.json"])
    assert (patch.omitted, document["rows_omitted"]) == (9, 9)
    assert document["truncated"] == "9 of 10 rows are left out"


@pytest.mark.parametrize("entry", [ENTRY, ENTRY[:-1] + ', "stopped": true}'])
def test_a_script_that_was_told_to_stop_has_not_succeeded_whatever_its_exit_code(tmp_path: Path, entry: str) -> None:
    workspace, config = laid_out(tmp_path, manifest({}))
    (workspace / "entry.json").write_text(entry)
    if entry == ENTRY:
        (workspace / ".stopped").touch()
    [row] = report(workspace, config).rows
    assert (row["status"], row["performance"], row["exit_code"]) == ("FAILURE", "", "143")
    assert row["reason"] == "stopped before its script ended: evicted, deleted, or past the Job's deadline"


@pytest.mark.parametrize(("stopped", "code"), [(True, "143"), (False, "137")])
def test_the_exit_code_of_a_script_that_never_came_to_its_end_is_the_signals(
    tmp_path: Path, stopped: bool, code: str
) -> None:
    workspace, config = laid_out(tmp_path, manifest({}))
    (workspace / "entry.json").unlink()
    if stopped:
        (workspace / ".stopped").touch()
    [row] = report(workspace, config).rows
    assert (row["status"], row["exit_code"]) == ("FAILURE", code)


def runner(folder: Path) -> tuple[Path, Path]:
    """Return the workspace and the input of a pod that runs a whole manifest."""
    maps = of_kind(generated(folder, manifest({}), "--mode", "runner"), "ConfigMap")
    (folder / "jobs.json").write_text(next(one for one in maps if one.get("immutable"))["data"]["jobs.json"])
    workspace = folder / "workspace"
    (workspace / "runs/r").mkdir(parents=True)
    (folder / "secret").write_text(SECRET)
    return workspace, folder


def test_the_machine_of_a_runner_is_the_node_and_not_the_pod(tmp_path: Path) -> None:
    workspace, config = runner(tmp_path)
    (workspace / "perf.csv").write_text(f"model,performance,metric,status,machine_name\nm,1,t,SUCCESS,{POD}\n")
    entry = {"metrics": [], "machine_name": POD}
    document = {"run_id": "r", "environment": {"machine_name": POD}, "results": [entry]}
    (workspace / "runs/r/results.json").write_text(json.dumps(document))
    environ = {**ENVIRON, "MADENGINE_JOB": "madengine-runner-job"}
    built = build_report(environ, workspace, config, datetime.now(timezone.utc))
    assert [row["machine_name"] for row in built.rows] == ["n"]
    assert built.document["environment"]["machine_name"] == built.document["results"][0]["machine_name"] == "n"


@pytest.mark.parametrize("make", [link, zeros, os.mkfifo, huge], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", ["perf.csv", "runs/r/results.json", "runs"])
def test_a_runner_reports_nothing_of_files_that_are_elsewhere(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    workspace, config = runner(tmp_path)
    if name == "runs":
        (workspace / "runs/r").rmdir()
        (workspace / "runs").rmdir()
    make(workspace / name)
    environ = {**ENVIRON, "MADENGINE_JOB": "madengine-runner-job"}
    built = build_report(environ, workspace, config, datetime.now(timezone.utc))
    assert (built.rows, built.document["problem"]) == ([], "madengine left no perf.csv; see the pod's log")


def test_no_file_stays_open(tmp_path: Path) -> None:
    workspace, config = laid_out(tmp_path, manifest({"multiple_results": "r.csv"}))
    before = len(list(Path("/proc/self/fd").iterdir()))
    (workspace / "r.csv").write_text("model,performance,metric\na,x\n")
    for _ in range(3):
        report(workspace, config)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_figures_of_a_pods_gpus_are_in_its_row_unless_it_is_one_of_several(tmp_path: Path) -> None:
    class Measured(GpuFigures):
        def stop(self) -> GpuCost:
            return GpuCost(peak_gpu_memory_mib=5.0, telemetry_source="sysfs")

    for nodes, figures in ((1, ("5.0", "", "sysfs")), (2, ("", "", ""))):
        folder = tmp_path / str(nodes)
        folder.mkdir()
        workspace, config = laid_out(folder, manifest({}), "--nodes", str(nodes))
        environ = {**ENVIRON, **({"JOB_COMPLETION_INDEX": "0"} if nodes > 1 else {})}
        measured = gpu_figures(environ, workspace, config)
        assert measured
        measured.__class__ = Measured
        [row] = build_report(environ, workspace, config, datetime.now(timezone.utc), measured).rows
        assert (row["peak_gpu_memory_mib"], row["energy_j"], row["telemetry_source"]) == figures
