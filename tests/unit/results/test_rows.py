"""The rows of a result: what every cell says."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from madengine.records import FAILURE, SKIPPED, SUCCESS, Gpu, GpuCost, Metric
from madengine.results.rows import COLUMNS, columns_for, result_rows
from tests.unit.results.samples import DONE, FAILED, HEADER, SEVERAL, one

COST = [
    "peak_gpu_memory_mib",
    "idle_gpu_memory_mib",
    "mean_gpu_utilization",
    "p95_gpu_utilization",
    "energy_j",
    "mean_power_w",
    "peak_power_w",
    "peak_temperature_c",
    "throttled_percent",
    "sample_hz",
]


def test_the_columns_are_those_of_madengine_2_1_then_ours() -> None:
    assert ",".join(COLUMNS) + "\n" == HEADER
    assert len(COLUMNS) == 29 + 28


def test_a_row_says_all_that_is_known_of_a_run() -> None:
    assert one(DONE) == {
        "model": "dummy",
        "n_gpus": "4",
        "nnodes": "1",
        "gpus_per_node": "4",
        "training_precision": "fp16",
        "pipeline": "",
        "args": '--x "a, b"\n--y 007',
        "tags": "a,b",
        "docker_file": "docker/dummy.ubuntu.amd.Dockerfile",
        "base_docker": "ubuntu:22.04",
        "docker_sha": "sha256:1e5",
        "docker_image": "localhost:5000/ci-dummy_ubuntu_amd",
        "git_commit": "",
        "machine_name": "gpu-node-01",
        "deployment_type": "local",
        "launcher": "docker",
        "gpu_architecture": "gfx942",
        "performance": "007",
        "metric": "tokens/s",
        "relative_change": "",
        "status": "SUCCESS",
        "build_duration": "3.142",
        "test_duration": "12.346",
        "dataname": "",
        "data_provider_type": "",
        "data_size": "",
        "data_download_duration": "",
        "build_number": "0",
        "additional_docker_run_options": "--ipc=host",
        "run_id": "r1",
        "reason": "",
        "image_digest": "sha256:abc",
        "engine": "docker",
        "exit_code": "0",
        "run_duration": "45.2",
        "started": "2024-01-15T10:30:00Z",
        "environment_id": "",
        "gpus": "",
        "packed": "",
        "foreign_processes": "",
        "telemetry_source": "",
        "variant": "",
        "contaminated": "",
        "repeat": "",
        "side": "",
        "attempt": "",
        "aggregation": "",
        **dict.fromkeys(COST, ""),
    }


def test_a_row_carries_what_the_run_cost_on_its_gpus_and_leaves_the_unknown_empty() -> None:
    gpus = (Gpu("AMD", 2), Gpu("AMD", 5))
    cost = GpuCost(peak_gpu_memory_mib=2048.25, energy_j=0.0, throttled_percent=12.5, telemetry_source="amdgpu")
    row = one(replace(DONE, gpus=gpus, cost=cost, packed=True, foreign_processes=0, environment_id="0123456789ab"))
    assert (row["gpus"], row["packed"], row["foreign_processes"]) == ("2,5", "true", "0")
    assert row["environment_id"] == "0123456789ab"
    known = {name: row[name] for name in COST if row[name]}
    assert known == {"peak_gpu_memory_mib": "2048.2", "energy_j": "0.0", "throttled_percent": "12.5"}
    assert row["telemetry_source"] == "amdgpu"


def test_the_ci_job_says_pipeline_build_number_deployment_and_launcher() -> None:
    environ = {"pipeline": "nightly", "BUILD_NUMBER": "42", "MAD_DEPLOYMENT_TYPE": "slurm", "MAD_LAUNCHER": "torchrun"}
    row = one(DONE, environ)
    assert [row[name] for name in ("pipeline", "build_number", "deployment_type", "launcher")] == [*environ.values()]


def test_a_failure_is_one_row_with_a_reason_of_one_line() -> None:
    row = one(FAILED)
    assert (row["status"], row["performance"], row["metric"], row["exit_code"]) == ("FAILURE", "", "", "3")
    assert row["reason"] == "the script ended with exit code 3"


def test_a_skipped_model_without_an_image_is_a_row() -> None:
    row = one(replace(DONE, status=SKIPPED, reason="no image for NVIDIA", image=None, metrics=(), exit_code=None))
    assert (row["status"], row["reason"], row["exit_code"]) == ("SKIPPED", "no image for NVIDIA", "")
    assert (row["docker_image"], row["docker_file"]) == ("", "docker/dummy")


@pytest.mark.parametrize("performance", ["", "nan", "inf", "abc", "1,234", "run.csv"])
def test_a_success_without_a_number_is_written_as_a_failure(performance: str) -> None:
    row = one(replace(DONE, metrics=(Metric(performance, "x"),)))
    assert (row["status"], row["performance"]) == ("FAILURE", "")
    assert row["reason"] == "performance is not a number"
    assert one(replace(DONE, metrics=()))["status"] == "FAILURE"


def test_a_failure_that_printed_a_number_reports_none() -> None:
    row = one(replace(DONE, status=FAILURE, reason="exit code 1"))
    assert (row["status"], row["performance"], row["reason"]) == ("FAILURE", "", "exit code 1")


def test_each_of_several_results_has_its_own_row_and_status() -> None:
    small, large = result_rows(SEVERAL, {})
    assert (small["model"], small["performance"], small["status"]) == ("dummy_small", "1", "SUCCESS")
    assert (large["model"], large["performance"], large["status"]) == ("dummy_large", "", "FAILURE")
    assert small["note"] == "n"


def test_extra_columns_never_replace_ours() -> None:
    assert one(replace(DONE, metrics=(Metric("1", "x", "", {"status": "fine", "args": "z"}),)))["status"] == "SUCCESS"


def test_the_further_columns_of_a_result_are_its_variant() -> None:
    cells = {"dtype": "bf16", "batch": "8", "note": "two\n words", "empty": "", "status": "OK", "n_gpus": "2"}
    row = one(replace(DONE, metrics=(Metric("1", "x", "", cells),)))
    assert row["variant"] == "dtype=bf16 batch=8 'note=two words' n_gpus=2"
    assert shlex.split(row["variant"]) == ["dtype=bf16", "batch=8", "note=two words", "n_gpus=2"]
    assert (row["dtype"], row["n_gpus"], row["status"]) == ("bf16", "4", SUCCESS)


def test_a_table_has_the_further_columns_that_a_header_can_hold() -> None:
    odd = {"": "", "a\nb": "", " c": "", "x" * 101: "", "é": "", "x" * 100: ""}
    assert columns_for([{"batch": "1"}, {"dtype": "", "batch": "2"}, odd]) == (
        *COLUMNS,
        "batch",
        "dtype",
        "é",
        "x" * 100,
    )
    assert columns_for([{"tp": "1", "model": ""}], ("model", "mine")) == ("model", "mine", "tp")
    many = {f"column{number}": "" for number in range(1000)}
    assert len(columns_for([many])) == len(COLUMNS) + 100
    assert columns_for([many], [*COLUMNS, *many]) == (*COLUMNS, *many)


@pytest.mark.parametrize(("value", "cell"), [(None, ""), (False, "false"), (True, "true")])
def test_whether_others_used_the_gpus_is_unknown_or_not(value: bool | None, cell: str) -> None:
    assert one(replace(DONE, contaminated=value))["contaminated"] == cell


@pytest.mark.parametrize("length", [100_001, 200_000])
def test_no_cell_is_too_long_for_a_reader_and_long_ones_are_told_apart(length: int) -> None:
    metrics = (Metric("1", "x", "", {"config": "a" * length}), Metric("2", "x", "", {"config": "a" * length + "b"}))
    rows = result_rows(replace(DONE, metrics=metrics, model=replace(DONE.model, args="b" * length)), {})
    assert max(len(cell) for row in rows for cell in row.values()) < 100_100
    assert len({row["config"] for row in rows}) == len({row["variant"] for row in rows}) == 2
    assert all(row["variant"].startswith("config=aaa") and len(row["variant"]) < 300 for row in rows)
