"""The summaries of builds and runs."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from madengine.files import human_size
from madengine.records import SKIPPED
from madengine.results.summaries import BuiltImage, FailedBuild, build_summary, run_summary
from tests.unit.results.samples import DONE, FAILED, IMAGE, MODEL, SEVERAL


def test_the_run_summary_is_the_documents_then_ours() -> None:
    other = replace(IMAGE, docker_image="ci-dummy_ubuntu_nvidia", registry_image="")
    late = replace(DONE, status=SKIPPED, reason="gfx90a is skipped", metrics=(), exit_code=None)
    summary = run_summary(
        [DONE, FAILED, late], [(other, MODEL, "for NVIDIA")], 45.20004, "gpu-node-01", "perf.csv", "r1"
    )
    assert json.dumps(summary) == json.dumps(
        {
            "successful_runs": [
                {
                    "model_name": "dummy",
                    "execution_time": 45.2,
                    "gpu_used": "",
                    "peak_gpu_memory": "",
                    "exit_code": 0,
                    "output_file": "perf.csv",
                    "image": "localhost:5000/ci-dummy_ubuntu_amd",
                    "performance": "007",
                    "metric": "tokens/s",
                    "log_file": "runs/r1/dummy/run.log",
                }
            ],
            "failed_runs": [
                {
                    "model_name": "dummy",
                    "image": "localhost:5000/ci-dummy_ubuntu_amd",
                    "status": "FAILURE",
                    "reason": "the script ended with exit code 3",
                    "exit_code": 3,
                    "log_file": "runs/r1/dummy/run.log",
                    "execution_time": 45.2,
                }
            ],
            "skipped_runs": [
                {
                    "model_name": "dummy",
                    "image": "localhost:5000/ci-dummy_ubuntu_amd",
                    "reason": "gfx90a is skipped",
                },
                {"model_name": "dummy", "image": "ci-dummy_ubuntu_nvidia", "reason": "for NVIDIA"},
            ],
            "total_execution_time": 45.2,
            "gpu_node": "gpu-node-01",
            "run_id": "r1",
        }
    )


def test_the_run_summary_agrees_with_perf_csv_where_one_of_several_results_failed() -> None:
    summary = run_summary([SEVERAL, replace(DONE, metrics=())], [], 1, "node", "perf.csv", "r1")
    assert [run["model_name"] for run in summary["successful_runs"]] == ["dummy_small"]
    assert [(run["model_name"], run["reason"]) for run in summary["failed_runs"]] == [
        ("dummy_large", "performance is not a number"),
        ("dummy", "performance is not a number"),
    ]


def test_the_build_summary_is_the_documents_then_ours() -> None:
    at = datetime(2024, 1, 15, 12, 30, tzinfo=timezone(timedelta(hours=2)))
    built = BuiltImage(IMAGE, MODEL, "localhost:5000/madengine/dummy:latest", at)
    failed = FailedBuild("broken", "docker/broken.Dockerfile", "exit code 1", "broken.log")
    assert json.dumps(build_summary([built], [failed], 180.5, "localhost:5000")) == json.dumps(
        {
            "successful_builds": [
                {
                    "model_name": "dummy",
                    "image_tag": "localhost:5000/madengine/dummy:latest",
                    "build_time": "2024-01-15T10:30:00Z",
                    "image_size": "1.23GB",
                    "image": "ci-dummy_ubuntu_amd",
                    "dockerfile": "docker/dummy.ubuntu.amd.Dockerfile",
                    "build_duration": 3.142,
                    "log_file": "build.log",
                }
            ],
            "failed_builds": [
                {
                    "model_name": "broken",
                    "dockerfile": "docker/broken.Dockerfile",
                    "error": "exit code 1",
                    "log_file": "broken.log",
                }
            ],
            "total_build_time": 180.5,
            "registry_url": "localhost:5000",
        }
    )


def test_an_unknown_size_is_not_made_up() -> None:
    built = BuiltImage(replace(IMAGE, size_bytes=0), MODEL, "x", datetime.now(timezone.utc))
    assert build_summary([built], [], 0, "")["successful_builds"][0]["image_size"] == ""


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (13_256, "13.3kB"),
        (72_800_000, "72.8MB"),
        (999_400, "999kB"),
        (999_999, "1MB"),
        (1_200_000_000, "1.2GB"),
        (45_678_000_000, "45.7GB"),
        (1_500_000_000_000, "1.5TB"),
    ],
)
def test_sizes_are_written_as_docker_prints_them(size: int, text: str) -> None:
    assert human_size(size) == text
