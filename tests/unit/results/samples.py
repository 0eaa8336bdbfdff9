"""Results of runs that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from madengine.records import FAILURE, SUCCESS, Image, Metric, Model, RunResult
from madengine.results.rows import result_rows

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
    "mean_power_w,peak_power_w,peak_temperature_c,throttled_percent,sample_hz,telemetry_source,"
    "variant,contaminated,repeat,side,attempt,aggregation\n"
)


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


def one(result: RunResult, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    (row,) = result_rows(result, environ or {})
    return row
