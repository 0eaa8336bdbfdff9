"""The files that a run leaves: no row lost, none half written, no cell changed."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import madengine
from madengine.errors import ConfigurationError, MadengineError
from madengine.files import human_size, locked
from madengine.records import FAILURE, SKIPPED, SUCCESS, Gpu, GpuCost, Image, Metric, Model, RunResult
from madengine.results.rows import (
    COLUMNS,
    BuiltImage,
    FailedBuild,
    append_rows,
    build_summary,
    check_perf_csv,
    result_json,
    result_rows,
    results_json,
    results_table,
    run_summary,
    succeeded_models,
)

C_HEADER = (
    "model, n_gpus, training_precision, pipeline, args, tags, docker_file, base_docker, docker_sha, docker_image, "
    "git_commit, machine_name, gpu_architecture, performance, metric, relative_change, status, build_duration, "
    "test_duration, dataname, data_provider_type, data_size, data_download_duration, build_number, "
    "additional_docker_run_options\n"
)
J_HEADER = C_HEADER.replace(", ", ",")
V2_HEADER = (
    "model,n_gpus,nnodes,gpus_per_node,training_precision,pipeline,args,tags,docker_file,base_docker,docker_sha,"
    "docker_image,git_commit,machine_name,deployment_type,launcher,gpu_architecture,performance,metric,"
    "relative_change,status,build_duration,test_duration,dataname,data_provider_type,data_size,"
    "data_download_duration,build_number,additional_docker_run_options\n"
)
HEADER = (
    V2_HEADER[:-1] + ",run_id,reason,image_digest,engine,exit_code,run_duration,started,environment_id,gpus,packed,"
    "foreign_processes,peak_gpu_memory_mib,idle_gpu_memory_mib,mean_gpu_utilization,p95_gpu_utilization,energy_j,"
    "mean_power_w,peak_power_w,peak_temperature_c,throttled_percent,sample_hz,telemetry_source\n"
)

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

MODEL = Model(
    name="dummy",
    dockerfile="docker/dummy",
    scripts="scripts/dummy/run.sh",
    n_gpus="8",
    args='--x "a, b"\n--y 007',
    tags=("a", "b"),
    training_precision="fp16",
    additional_docker_run_options="--ipc=host",
)
IMAGE = Image(
    key="ci-dummy_ubuntu_amd",
    docker_image="ci-dummy_ubuntu_amd",
    dockerfile="docker/dummy.ubuntu.amd.Dockerfile",
    base_docker="ubuntu:22.04",
    docker_sha="sha256:1e5",
    build_duration=3.14159,
    registry_image="localhost:5000/ci-dummy_ubuntu_amd",
    size_bytes=1_234_000_000,
    log_file="build.log",
)
DONE = RunResult(
    run_id="r1",
    model=MODEL,
    image=IMAGE,
    status=SUCCESS,
    metrics=(Metric("007", "tokens/s"),),
    exit_code=0,
    test_duration=12.34567,
    run_duration=45.2,
    started="2024-01-15T10:30:00Z",
    machine_name="gpu-node-01",
    gpu_architecture="gfx942",
    n_gpus="4",
    engine="docker",
    image_digest="sha256:abc",
    log_file="runs/r1/dummy/run.log",
)
FAILED = replace(DONE, status=FAILURE, reason="the script ended with\nexit code 3", metrics=(), exit_code=3)
SEVERAL = replace(DONE, metrics=(Metric("1", "ms", "small", {"note": "n"}), Metric("", "ms", "large")))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [{(name or "").strip(): cell for name, cell in row.items()} for row in csv.DictReader(file, strict=True)]


def one(result: RunResult, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    (row,) = result_rows(result, environ or {})
    return row


def test_the_columns_are_those_of_madengine_2_1_then_ours() -> None:
    assert ",".join(COLUMNS) + "\n" == HEADER
    assert len(COLUMNS) == 29 + 22


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


def test_a_new_file_gets_the_header_and_the_row(tmp_path: Path) -> None:
    path = tmp_path / "new" / "perf.csv"
    append_rows(path, result_rows(DONE, {}))
    assert path.read_text().startswith(HEADER)
    assert read(path) == [one(DONE)]


def test_an_empty_file_gets_the_header_once(tmp_path: Path) -> None:
    path = tmp_path / "perf.csv"
    path.touch()
    append_rows(path, result_rows(DONE, {}))
    append_rows(path, result_rows(FAILED, {}) + result_rows(DONE, {}))
    assert path.read_text().count("model,n_gpus") == 1
    assert read(path) == [one(DONE), one(FAILED), one(DONE)]


def test_no_rows_make_no_file(tmp_path: Path) -> None:
    append_rows(tmp_path / "perf.csv", [])
    assert not (tmp_path / "perf.csv").exists()


@pytest.mark.parametrize("header", [C_HEADER, J_HEADER, V2_HEADER, HEADER])
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_known_header_is_appended_to_by_column_name(tmp_path: Path, header: str, end: str, mark: str) -> None:
    path = tmp_path / "perf.csv"
    before = (mark + header[:-1] + end).encode()
    path.write_bytes(before)
    check_perf_csv(path)
    append_rows(path, result_rows(DONE, {}))
    assert path.read_bytes().startswith(before)
    with path.open(encoding="utf-8-sig", newline="") as file:
        names, cells = csv.reader(file)
    assert dict(zip(map(str.strip, names), cells, strict=True)) == {
        name: cell for name, cell in one(DONE).items() if name in map(str.strip, names)
    }


def test_columns_are_matched_by_name_in_any_order_and_foreign_ones_stay_empty(tmp_path: Path) -> None:
    path = tmp_path / "perf.csv"
    path.write_text('status,"note",metric,mine,performance,model\n')
    check_perf_csv(path)
    append_rows(path, result_rows(SEVERAL, {}))
    assert path.read_text().splitlines()[1:] == ["SUCCESS,n,ms,,1,dummy_small", "FAILURE,,ms,,,dummy_large"]


@pytest.mark.parametrize("row", ["a,1,x,SUCCESS", "a,1"])
def test_a_missing_last_newline_is_repaired(tmp_path: Path, row: str) -> None:
    path = tmp_path / "perf.csv"
    path.write_text(f"model,performance,metric,status\n{row}")
    append_rows(path, result_rows(DONE, {}))
    assert path.read_text() == f"model,performance,metric,status\n{row}\ndummy,007,tokens/s,SUCCESS\n"


@pytest.mark.parametrize(
    "content",
    [
        b"name,age\nx,1\n",
        b"model,performance,metric\na,1,x\n",
        b"Model,Performance,Metric,Status\n",
        b"model;performance;metric;status\n",
        b"model\tperformance\tmetric\tstatus\n",
        b"\n",
        b"\nmodel,performance,metric,status\n",
        b"model,performance,metric,status\ra,1,x,SUCCESS\r",
        b"\xff\xfem\x00o\x00d\x00e\x00l\x00",
        b"\x00" * 100,
        b"%PDF-1.4",
        b"model,performance,metric,status," + b"x" * 70_000 + b"\n",
        b'{"model": 1}\n',
    ],
)
def test_an_unknown_header_is_refused_and_untouched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "perf.csv"
    path.write_bytes(content)
    for attempt in (check_perf_csv, append_done):
        with pytest.raises(ConfigurationError) as error:
            attempt(path)
        assert str(error.value).startswith(f"{path}: is not a perf.csv")
        assert "\n" not in str(error.value)
        assert path.read_bytes() == content


def append_done(path: Path) -> None:
    append_rows(path, result_rows(DONE, {}))


TRICKY = [
    "007", "1e5", "0x10", "8", "+1", "sha256:00e5", "TRUE", "nan", "-", " padded ", 'say "hi"', '"', "a,b", "a\nb",
    "a\r\nb", "a\rb", "größe ☃ 𝔘", "=1+1", "\t", "'", "\\", "", "\\n", "\u2028",
]  # fmt: skip


@pytest.mark.parametrize("header", [HEADER, J_HEADER])
def test_every_cell_is_kept_as_text_exactly(tmp_path: Path, header: str) -> None:
    path = tmp_path / "perf.csv"
    path.write_text(header)
    for text in TRICKY:
        append_rows(path, result_rows(replace(DONE, model=replace(MODEL, args=text), git_commit=text), {}))
    assert [(row["args"], row["git_commit"]) for row in read(path)] == [(text, text) for text in TRICKY]


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20), min_size=1, max_size=4
    )
)
def test_any_text_survives_the_file(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("any") / "perf.csv"
    append_rows(path, [{"model": text, "args": text} for text in texts])
    assert [(row["model"], row["args"]) for row in read(path)] == [(text, text) for text in texts]


def test_a_name_that_utf8_cannot_hold_loses_no_row_and_breaks_no_file(tmp_path: Path) -> None:
    append_rows(tmp_path / "perf.csv", result_rows(replace(DONE, machine_name="a\ud83d", dataname="b\udcff"), {}))
    (row,) = read(tmp_path / "perf.csv")
    assert (row["machine_name"], row["dataname"]) == ("a\\ud83d", "b\\udcff")


def bytes_read() -> int:
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["rchar"])


def test_a_million_rows_are_neither_read_nor_written_again(tmp_path: Path) -> None:
    path = tmp_path / "perf.csv"
    path.write_bytes(HEADER.encode() + b"dummy,1,1,1\n" * 1_000_000)
    size, inode, before = path.stat().st_size, path.stat().st_ino, bytes_read()
    check_perf_csv(path)
    append_rows(path, result_rows(DONE, {}))
    assert bytes_read() - before < 256 * 1024
    assert path.stat().st_ino == inode
    with path.open("rb") as file:
        file.seek(size)
        assert file.read().startswith(b"dummy,4,1,4,fp16,")


APPEND_FIFTY = """
import sys
from pathlib import Path
from madengine.results.rows import append_rows as append
for number in range(50):
    append(Path(sys.argv[1]), [{"model": sys.argv[2], "args": "x" * 9000 + str(number), "status": "SUCCESS"}])
"""


def python(script: str, *arguments: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": str(Path(madengine.__file__).parent.parent)}
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_processes_that_append_at_once_lose_and_mix_nothing(tmp_path: Path) -> None:
    path = tmp_path / "perf.csv"
    writers = [python(APPEND_FIFTY, str(path), name) for name in ("a", "b", "c")]
    said = [writer.communicate(timeout=60) for writer in writers]
    assert [(writer.returncode, *text) for writer, text in zip(writers, said, strict=True)] == [(0, "", "")] * 3
    found = read(path)
    assert len(found) == 150
    assert {row["status"] for row in found} == {"SUCCESS"}
    for name in ("a", "b", "c"):
        assert [row["args"].lstrip("x") for row in found if row["model"] == name] == [str(n) for n in range(50)]


APPEND_ONE = """
import sys
from pathlib import Path
from madengine.results.rows import append_rows as append
print("ready", flush=True)
append(Path(sys.argv[1]), [{"model": "late", "performance": "1", "metric": "x", "status": "SUCCESS"}])
"""


def test_a_writer_waits_for_the_one_that_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "perf.csv"
    with locked(path) as handle:
        writer = python(APPEND_ONE, str(path))
        assert writer.stdout and writer.stdout.readline() == "ready\n"
        time.sleep(0.2)
        os.write(handle, b"status,model,performance,metric\n")
    assert writer.communicate(timeout=60) == ("", "")
    assert path.read_text() == "status,model,performance,metric\nSUCCESS,late,1,x\n"


APPEND_BEYOND_THE_LIMIT = """
import resource, sys
from pathlib import Path
from madengine.errors import MadengineError
from madengine.results.rows import append_rows as append
path, room = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
try:
    append(path, [{"model": "x" * 1000, "status": "SUCCESS"}] * 2)
except MadengineError as error:
    print(error)
"""


@pytest.mark.parametrize("before", ["", HEADER, HEADER + "a,1\n", HEADER + "a,1"])
@pytest.mark.parametrize("room", [0, 1, 500, 1500])
def test_where_the_space_ends_no_half_row_stays_behind(tmp_path: Path, before: str, room: int) -> None:
    path = tmp_path / "perf.csv"
    path.write_text(before)
    writer = python(APPEND_BEYOND_THE_LIMIT, str(path), str(len(before) + room))
    said, complaint = writer.communicate(timeout=60)
    assert (writer.returncode, complaint) == (0, "")
    assert said == f"{path}: can't be written: File too large; make room or name another file with --output\n"
    assert path.read_text() == before


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "perf.csv"
    with pytest.raises(ConfigurationError, match=re.escape(f"{path}: can't be written: ")):
        check_perf_csv(path)
    with pytest.raises(MadengineError, match=re.escape(f"{path}: can't be written: ")):
        append_rows(path, result_rows(DONE, {}))


def test_check_makes_a_missing_directory_and_no_file(tmp_path: Path) -> None:
    check_perf_csv(tmp_path / "a" / "b" / "perf.csv")
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "b"]
    assert not list((tmp_path / "a" / "b").iterdir())


def test_check_leaves_a_known_file_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "perf.csv"
    path.write_text(V2_HEADER + "a")
    check_perf_csv(path)
    assert path.read_text() == V2_HEADER + "a"


def test_check_refuses_what_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(ConfigurationError, match=f"{re.escape(str(path))}: can't be written: it is not a regular"):
            check_perf_csv(path)


CHECK_AS_NOBODY = """
import os, sys
from pathlib import Path
from madengine.errors import ConfigurationError
from madengine.results.rows import check_perf_csv as check
if os.getuid() == 0:
    os.setuid(65534)
for name in sys.argv[1:]:
    try:
        check(Path(name))
    except ConfigurationError as error:
        print(error)
"""


def test_check_refuses_what_the_user_may_not_write() -> None:
    said, complaint = python(CHECK_AS_NOBODY, "/proc/perf.csv", "/proc/version", "/proc/no/perf.csv").communicate()
    assert complaint == ""
    assert [line.partition(": can't be written: ")[0] for line in said.splitlines()] == [
        "/proc/perf.csv",
        "/proc/version",
        "/proc/no/perf.csv",
    ]


def test_a_result_becomes_json_with_everything_in_it() -> None:
    document = json.loads(json.dumps(result_json(SEVERAL)))
    assert list(document) == list(RunResult.__dataclass_fields__)
    assert (document["model"]["name"], document["model"]["args"]) == ("dummy", MODEL.args)
    assert document["image"]["docker_sha"] == "sha256:1e5"
    assert document["metrics"] == [
        {"performance": "1", "metric": "ms", "model": "small", "extra": {"note": "n"}},
        {"performance": "", "metric": "ms", "model": "large", "extra": {}},
    ]
    assert (document["exit_code"], document["run_duration"]) == (0, 45.2)


def test_the_build_command_of_an_older_manifest_stays_out_of_json() -> None:
    image = replace(IMAGE, extra={"build_command": "docker build --build-arg TOKEN=hunter2"})
    assert "hunter2" not in json.dumps(result_json(replace(DONE, image=image)))


def test_a_run_without_an_image_becomes_json() -> None:
    assert result_json(replace(DONE, image=None, exit_code=None))["image"] is None


def test_results_json_is_versioned() -> None:
    document = results_json("r1", [DONE, FAILED], {"engine": "docker"})
    assert list(document) == ["schema_version", "madengine_version", "run_id", "environment", "results"]
    assert (document["schema_version"], document["madengine_version"]) == (1, madengine.__version__)
    assert document["environment"] == {"engine": "docker"}
    assert [result["status"] for result in document["results"]] == [SUCCESS, FAILURE]


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


def test_the_table_shows_every_value_as_text_and_numbers_to_the_right() -> None:
    fast = replace(DONE, metrics=(Metric("1e5", "x"),), run_duration=1.04)
    assert results_table([DONE, fast, FAILED]).splitlines() == [
        "model    image                status      performance  metric      seconds  reason",
        "-------  -------------------  --------  -------------  --------  ---------  ---------------------------------",
        "dummy    ci-dummy_ubuntu_amd  SUCCESS             007  tokens/s       45.2",
        "dummy    ci-dummy_ubuntu_amd  SUCCESS             1e5  x               1.0",
        "dummy    ci-dummy_ubuntu_amd  FAILURE                                 45.2  the script ended with exit code 3",
    ]


def test_the_table_shortens_a_long_reason_and_lets_nothing_steer_the_terminal() -> None:
    loud = replace(FAILED, reason="r" * 200, metrics=(Metric("", "\x1b[2J\nx"),))
    last = results_table([loud]).splitlines()[-1]
    assert last.endswith(" " + "r" * 59 + "…")
    assert "\x1b" not in last
    assert len(results_table([loud]).splitlines()) == 3


def test_the_table_of_no_results_is_its_header() -> None:
    assert results_table([]).split()[:3] == ["model", "image", "status"]


def test_an_image_has_succeeded_where_every_row_of_one_of_its_runs_did(tmp_path: Path) -> None:
    runs = {
        "all": (SUCCESS, SUCCESS),
        "half": (SUCCESS, FAILURE),
        "skipped": (SKIPPED,),
        "": (SUCCESS,),
    }
    lines = [f"m,1,x,{status},r1,{digest}" for digest, statuses in runs.items() for status in statuses]
    lines += [f"m,1,x,{status},r{number},later" for number, status in enumerate((FAILURE, SUCCESS))]
    path = tmp_path / "perf.csv"
    path.write_text("\n".join(["model,performance,metric,status,run_id,image_digest", *lines, ""]))
    assert succeeded_models(path) == {"all", "later"}


def test_nothing_has_succeeded_by_a_table_that_is_not_there(tmp_path: Path) -> None:
    assert succeeded_models(tmp_path / "none.csv") == set()


def test_a_table_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"^{tmp_path}: can't be read as a perf.csv: "):
        succeeded_models(tmp_path)
