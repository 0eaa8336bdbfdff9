"""What a launcher puts into pods, as madengine 2 documents it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from madengine.config.launchers import LAUNCHERS, launch_of
from madengine.deploy.kubernetes.generate import CONFIGMAP, JOB, render_files
from madengine.deploy.kubernetes.launch import fields, variables
from madengine.errors import ConfigurationError
from madengine.records import Model
from tests.unit.deploy.kubernetes.test_section import plan

MODEL = Model("pyt/primus_pretrain/megatron_llama", "docker/m", "scripts/m")
FIRST = "madengine-m-job-0.madengine-m"
SECOND = "madengine-m-job-1.madengine-m"
THIRD = "madengine-m-job-2.madengine-m"
ALONE = {"NNODES": "1", "NPROC_PER_NODE": "8", "MASTER_PORT": "29500"}
TOGETHER = {
    "MASTER_ADDR": FIRST,
    "MASTER_PORT": "29500",
    "NNODES": "3",
    "WORLD_SIZE": "3",
    "NPROC_PER_NODE": "8",
    "GPUS_PER_NODE": "8",
}
STANDALONE = "torchrun --standalone --nproc_per_node=8"
TORCHRUN = f"torchrun --nproc_per_node 8 --nnodes 3 --node_rank $(NODE_RANK) --master_addr {FIRST} --master_port 29500"
MEGATRON = {"TENSOR_MODEL_PARALLEL_SIZE": "8", "CONTEXT_PARALLEL_SIZE": "1"}
TITAN = {"TORCHTITAN_TENSOR_PARALLEL_SIZE": "8", "TORCHTITAN_CONTEXT_PARALLEL_SIZE": "1"}
VLLM = {"VLLM_TENSOR_PARALLEL_SIZE": "8", "VLLM_PIPELINE_PARALLEL_SIZE": "1"}
SGLANG = {"SGLANG_TENSOR_PARALLEL_SIZE": "8", "SGLANG_PIPELINE_PARALLEL_SIZE": "1"}
PRIMUS = {
    "PRIMUS_CONFIG_PATH": "exp_pretrain.yaml",
    "BACKEND": "megatron",
    "PRIMUS_ROOT": "/workspace/Primus",
    "GPUS_PER_NODE": "8",
}
MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
IN_ONE_POD: dict[str, tuple[str, dict[str, str]]] = {
    "torchrun": (STANDALONE, {}),
    "megatron-lm": (STANDALONE, {**MEGATRON, "PIPELINE_MODEL_PARALLEL_SIZE": "1"}),
    "torchtitan": (
        STANDALONE,
        {**TITAN, "TORCHTITAN_PIPELINE_PARALLEL_SIZE": "1", "TORCHTITAN_FSDP_ENABLED": "0"},
    ),
    "deepspeed": ("deepspeed --num_gpus=8", {}),
    "mpirun": ("mpirun -np 8 --host localhost:8", MPI),
    "primus": ("", PRIMUS),
    "vllm": ("", {**VLLM, "VLLM_DISTRIBUTED_BACKEND": "auto"}),
    "sglang": ("", SGLANG),
}
IN_THREE_PODS: dict[str, tuple[str, dict[str, str]]] = {
    "torchrun": (TORCHRUN, {}),
    "megatron-lm": (TORCHRUN, {**MEGATRON, "PIPELINE_MODEL_PARALLEL_SIZE": "3"}),
    "torchtitan": (
        TORCHRUN,
        {**TITAN, "TORCHTITAN_PIPELINE_PARALLEL_SIZE": "3", "TORCHTITAN_FSDP_ENABLED": "1"},
    ),
    "deepspeed": (
        "deepspeed --hostfile=/opt/madengine-nodes/hostfile --no_ssh --node_rank=$(NODE_RANK) "
        f"--master_addr={FIRST} --master_port=29500",
        {},
    ),
    "primus": ("", PRIMUS),
    "vllm": ("", {**VLLM, "VLLM_DISTRIBUTED_BACKEND": "ray", "VLLM_HOST_IP": "$(POD_IP)"}),
    "sglang": ("", {**SGLANG, "SGLANG_HOST_IP": "$(POD_IP)", "NCCL_INIT_ADDR": f"{FIRST}:29500"}),
    "sglang-disagg": (
        "",
        {
            "SGLANG_DISAGG_MODE": "enabled",
            "SGLANG_DISAGG_PREFILL_NODES": "1",
            "SGLANG_DISAGG_DECODE_NODES": "1",
            "SGLANG_DISAGG_TOTAL_NODES": "3",
            "SGLANG_TP_SIZE": "8",
            "SGLANG_NODE_IPS": f"{FIRST},{SECOND},{THIRD}",
            "SGLANG_NODE_RANK": "$(NODE_RANK)",
            "POD_INDEX": "$(NODE_RANK)",
            "TOTAL_PODS": "3",
            "PREFILL_COUNT": "1",
            "DECODE_COUNT": "1",
            "TP_SIZE": "8",
        },
    ),
}


def of_pods(launcher: str, count: int) -> dict[str, str]:
    launch = launch_of({"launcher": launcher}, {}, MODEL, {})
    return variables(launch, "madengine-m-job", "madengine-m", count, 8)


def test_every_launcher_of_pods_is_in_the_tables() -> None:
    on_pods = {name for name, launcher in LAUNCHERS.items() if not launcher.on_host}
    assert on_pods == {*IN_THREE_PODS, "mpirun"} == {*IN_ONE_POD, "sglang-disagg"}


@pytest.mark.parametrize("launcher", IN_ONE_POD)
def test_one_pod(launcher: str) -> None:
    command, more = IN_ONE_POD[launcher]
    assert of_pods(launcher, 1) == {**ALONE, **more, "MAD_MULTI_NODE_RUNNER": command}


@pytest.mark.parametrize("launcher", IN_THREE_PODS)
def test_several_pods(launcher: str) -> None:
    command, more = IN_THREE_PODS[launcher]
    assert of_pods(launcher, 3) == {**TOGETHER, **more, "MAD_MULTI_NODE_RUNNER": command}
    # What the kubelet fills in is declared before it.
    assert {"NODE_RANK", "POD_IP"} <= fields(several=True).keys()


@pytest.mark.parametrize(
    ("launcher", "count", "message"),
    [
        ("mpirun", 3, "launcher mpirun: it starts the processes of other nodes by ssh"),
        ("sglang-disagg", 1, "launcher sglang-disagg: it needs several nodes"),
        ("slurm_multi", 1, "launcher slurm_multi: its script starts containers"),
    ],
)
def test_what_no_pod_can_start_is_refused(launcher: str, count: int, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        of_pods(launcher, count)


def test_deepspeed_finds_a_file_of_the_pods(tmp_path: Any) -> None:
    generated = plan(
        tmp_path,
        {"gpu_count": 4, "gpu_resource_name": "amd.com/gpu"},
        {"distributed": {"launcher": "deepspeed"}},
        nodes=2,
    )
    files = render_files(generated)
    maps = [one["data"] for one in yaml.safe_load_all(files[CONFIGMAP]) if one["kind"] == "ConfigMap"]
    task = generated.tasks[0]
    service = task.name.removesuffix("-job")
    hosts = f"{task.name}-0.{service} slots=4\n{task.name}-1.{service} slots=4\n"
    assert [data[f"hostfile-{task.name}"] for data in maps] == [hosts]
    job = next(one for one in yaml.safe_load_all(files[JOB]) if one["metadata"]["name"] == task.name)
    pod = job["spec"]["template"]["spec"]
    assert {"name": "nodes", "mountPath": "/opt/madengine-nodes", "readOnly": True} in pod["containers"][0][
        "volumeMounts"
    ]
    source = {"name": generated.configs[0].name, "items": [{"key": f"hostfile-{task.name}", "path": "hostfile"}]}
    assert {"name": "nodes", "configMap": source} in pod["volumes"]
