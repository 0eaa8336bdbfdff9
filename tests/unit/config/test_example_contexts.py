"""The example contexts of madengine 2, by their shapes: each runs, or is refused with the key that it can't have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from madengine.config.context import Context, load_context
from madengine.config.context_keys import JOB_FLAGS, KEYS
from madengine.config.hooks import resolve_hooks, tool_catalogue
from madengine.config.ignored_keys import ignored_keys
from madengine.config.nodes import refuse_other_nodes
from madengine.config.validation import refuse_unsupported
from madengine.deploy.kubernetes.section import with_section
from madengine.deploy.placement import placement
from madengine.deploy.slurm.settings import SlurmSettings, refuse_launched_nodes
from madengine.errors import ConfigurationError
from madengine.records import Model

SYSTEM = {"gpu_vendor": "AMD", "guest_os": "UBUNTU"}
NVIDIA = {"gpu_vendor": "NVIDIA", "guest_os": "UBUNTU"}
ENVIRONMENT = {"_comment_nccl": "for one network", "NCCL_DEBUG": "WARN", "OMP_NUM_THREADS": "8"}
SHARED = "context: slurm.shared_workspace: '/shared' is unsupported: jobs work in output_dir"


def k8s(gpus: int = 1, **more: Any) -> dict[str, Any]:
    limits = {"memory": "16Gi", "memory_limit": "32Gi", "cpu": "8", "cpu_limit": "16"}
    section = {"kubeconfig": "~/.kube/config", "namespace": "default", "gpu_count": gpus, **limits, **more}
    return {**SYSTEM, "k8s": {**section, "image_pull_policy": "Always", "backoff_limit": 3}, "env_vars": ENVIRONMENT}


def slurm(nodes: int = 1, gpus: int = 8, **more: Any) -> dict[str, Any]:
    section = {"partition": "gpu", "nodes": nodes, "gpus_per_node": gpus, "time": "04:00:00", "exclusive": True, **more}
    return {**SYSTEM, "slurm": {**section, "output_dir": "./slurm_results"}, "env_vars": ENVIRONMENT, "debug": False}


def distributed(launcher: str, nodes: int = 1, gpus: int = 8, **more: Any) -> dict[str, Any]:
    settings = {"enabled": True, "backend": "nccl", "port": 29500, "launcher": launcher, "nnodes": nodes}
    return {"distributed": {**settings, "nproc_per_node": gpus, **more}}


DISAGG: dict[str, Any] = {"sglang_disagg": {"prefill_nodes": 4, "decode_nodes": 2}}
PRIMUS: dict[str, Any] = {"primus": {"config_path": "configs/MI300X/pretrain.yaml", "cli_extra": ""}}
TOLERATIONS = [{"key": "gpu", "operator": "Equal", "value": "amd", "effect": "NoSchedule"}]
PRODUCT = {"node_selector": {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM"}}

# What is in the context, and how it ends: a reason for a refusal, a line, or nothing to say.
EXAMPLES: dict[str, tuple[dict[str, Any], str]] = {
    # This machine.
    "local vendor and system": (SYSTEM, ""),
    "local nvidia": (NVIDIA, ""),
    "local deploy": ({**SYSTEM, "deploy": "local"}, ""),
    "local base image": ({**SYSTEM, "docker_build_arg": {"BASE_DOCKER": "rocm/pytorch:latest"}}, ""),
    "local variables": ({**SYSTEM, "docker_env_vars": {"HSA_ENABLE_SDMA": "0", "PYTORCH_TUNABLEOP_ENABLED": 1}}, ""),
    "local mounts": ({**SYSTEM, "docker_mounts": {"/data": "/mnt/data"}}, ""),
    "local gpus": ({**SYSTEM, "docker_gpus": "0,2-4,7", "docker_cpus": "0-63"}, ""),
    "local all gpus": ({**SYSTEM, "docker_gpus": "all"}, ""),
    "local shared memory": ({**SYSTEM, "SHM_SIZE": "64g"}, ""),
    "local image": ({**SYSTEM, "MAD_CONTAINER_IMAGE": "rocm/pytorch:latest"}, ""),
    "local scripts": ({"pre_scripts": [{"path": "scripts/common/a.sh", "args": "-r"}], "encapsulate_script": "x"}, ""),
    "local data": ({"data": {"set": {"local": {"path": "/data/set", "mirrorlocal": ""}}}}, ""),
    "local arguments": ({**SYSTEM, "model_args": "--batch-size 512"}, ""),
    "local environment": ({**SYSTEM, "gen_sys_env_details": False, "rocenv_mode": "full"}, ""),
    "local log patterns": ({"log_error_pattern_scan": "false", "log_error_benign_patterns": ["note"]}, ""),
    "local rocm": ({**SYSTEM, "MAD_ROCM_PATH": "/opt/therock"}, ""),
    "local several nodes": ({"multi_node_args": {"RUNNER": "torchrun", "NNODES": "2", "NODE_RANK": "0"}}, ""),
    "local two nodes": (distributed("torchrun", 2), "context: distributed.nnodes 2: this run is on one node; name"),
    "local launcher": ({**SYSTEM, "docker_gpus": "all", **distributed("torchrun")}, ""),
    "local gpu count": ({**SYSTEM, "gpus_per_node": 4}, ""),
    "local debug": ({**SYSTEM, "debug": True}, ""),
    "local debug, misspelled": ({"debug": "yse"}, "--additional-context: debug: expected true or false, got 'yse'"),
    "local shared data": ({"shared_data": "/nfs/data"}, ""),
    "local monitor": ({"monitor": False}, "context: unsupported key monitor ignored; it is for jobs of Slurm"),
    "local cleanup": ({"cleanup_on_failure": "false"}, "context: unsupported key cleanup_on_failure ignored; it is"),
    "local defaults of jobs": ({"monitor": True, "cleanup_on_failure": True, "skip_perf_collection": False}, ""),
    "local without rows": ({"skip_perf_collection": True}, "context: skip_perf_collection: rows are what a run is"),
    "local vllm": ({"vllm": {"tensor_parallel": 2}}, "context: vllm: is unsupported; set the server's variables"),
    "local distributed, misspelled": ({"distributed": {"nnode": 2}}, "context: distributed: unsupported key 'nnode'"),
    "local primus, misspelled": ({"distributed": {"primus": {"conf": 2}}}, "context: distributed: unsupported key 'pr"),
    "local primus, no object": ({"distributed": {"primus": 2}}, "--additional-context: distributed.primus: expected"),
    "local backend": ({"distributed": {"backend": 2}}, "--additional-context: distributed.backend: expected a string"),
    "local split": ({"distributed": {"sglang_disagg": 3}}, "--additional-context: distributed.sglang_disagg: expect"),
    "local misspelled": ({"docker_build_args": {}}, "context: unknown key 'docker_build_args' ignored; did you mean"),
    "virtual machine": ({**SYSTEM, "baremetal_vm": {"enabled": True, "vcpus": 64}}, "context: baremetal_vm: virtual"),
    "virtual machines, many": ({"baremetal_vm": {"gpu_ids": [1]}, **distributed("torchrun")}, "context: baremetal_vm:"),
    # Tools.
    "tool": ({**SYSTEM, "tools": [{"name": "rocprof"}]}, ""),
    "tool with variables": ({"tools": [{"name": "rccl_trace", "env_vars": {"NCCL_DEBUG": "INFO"}}]}, ""),
    "tool with a command": ({"tools": [{"name": "rocprofv3", "cmd": "rocprofv3 --sys-trace --"}]}, ""),
    "traces": ({"tools": [{"name": f"{name}_trace"} for name in ("miopen", "rocblas", "tensile", "hipblaslt")]}, ""),
    "test tools": ({"tools": [{"name": "test_tools_A"}, {"name": "test_tools_B"}]}, ""),
    # Kubernetes.
    "k8s one gpu": (k8s(), ""),
    "k8s minimal": ({"k8s": {"gpu_count": 1}}, ""),
    "k8s two gpus": (k8s(2), ""),
    "k8s namespace": ({"k8s": {"gpu_count": 1, "namespace": "ml-team"}}, ""),
    "k8s nvidia": ({**NVIDIA, "k8s": {"gpu_count": 4, "gpu_resource_name": "nvidia.com/gpu"}}, ""),
    "k8s tools": ({**k8s(), "tools": [{"name": "rocprof"}]}, ""),
    "k8s torchrun": ({**k8s(2), **distributed("torchrun", gpus=2)}, ""),
    "k8s selector": ({**k8s(2, **PRODUCT, tolerations=[]), **distributed("megatron-lm", gpus=2)}, ""),
    "k8s primus": ({**k8s(2), **distributed("primus", gpus=2, **PRIMUS)}, ""),
    "k8s vllm": ({**k8s(4), **distributed("vllm", gpus=4)}, ""),
    "k8s sglang": ({**k8s(4), **distributed("sglang", gpus=4)}, ""),
    "k8s torchtitan": ({**k8s(8), **distributed("torchtitan")}, ""),
    "k8s deepspeed": ({**k8s(8), **distributed("deepspeed")}, ""),
    "k8s host ipc": (k8s(2, host_ipc=True), ""),
    "k8s secrets": (k8s(secrets={"strategy": "existing", "image_pull_secret_names": ["registry"]}), ""),
    "k8s secrets of here": (k8s(secrets={"strategy": "from_local_credentials"}), "context: k8s.secrets: expected"),
    "k8s claim": (k8s(data_pvc="datasets"), "context: k8s.data_pvc: 'datasets' is unsupported; expected some of"),
    "k8s results claim": (k8s(results_pvc="results"), "context: k8s.results_pvc: 'results' is unsupported"),
    "k8s monitor": ({**k8s(), "monitor": False}, "context: monitor: false is unsupported on Kubernetes: `madengine"),
    "k8s two nodes": ({**k8s(2), **distributed("torchrun", 2)}, ""),
    "k8s four nodes": ({**k8s(2, tolerations=TOLERATIONS), **distributed("torchrun", 4)}, ""),
    "k8s sglang-disagg": ({**k8s(8), **distributed("sglang-disagg", 7, **DISAGG)}, ""),
    # Slurm.
    "slurm one gpu": (slurm(gpus=1), ""),
    "slurm minimal": ({"slurm": {"partition": "gpu", "gpus_per_node": 1, "time": "01:00:00"}}, ""),
    "slurm eight gpus": (slurm(), ""),
    "slurm account": (slurm(account="research", qos="high", modules=["rocm/5.7.0"]), ""),
    "slurm reservation": (slurm(reservation="bench", nodelist="n1, n2"), ""),
    "slurm torchrun": ({**slurm(), **distributed("torchrun")}, ""),
    "slurm vllm": ({**slurm(gpus=4), **distributed("vllm", gpus=4), "pre_scripts": []}, ""),
    "slurm tools": ({**slurm(), "tools": [{"name": "rocprof"}]}, ""),
    "slurm node check": (slurm(enable_node_check=True, auto_cleanup_nodes=True), "context: slurm.auto_cleanup_nodes:"),
    "slurm left alone": ({**slurm(), "monitor": False, "cleanup_on_failure": False}, ""),
    "slurm interface": (slurm(network_interface="=ib0,ib1"), ""),
    "slurm interface, no name": (slurm(network_interface="ib 0"), "context: slurm.network_interface: expected names"),
    "slurm interfaces": (slurm(network_interface=["ib0"]), "context: slurm.network_interface: expected names of"),
    "slurm split": (
        {**slurm(3), **distributed("sglang-disagg", 3, **DISAGG)},
        "m: distributed.sglang_disagg: 4 prefill_nodes and 2 decode_nodes: expected 2 in all",
    ),
    "slurm sglang-disagg, one node": ({**slurm(1), **distributed("sglang-disagg")}, "m: launcher sglang-disagg: it "),
    "slurm mpirun, two nodes": (
        {**slurm(2), **distributed("mpirun", 2)},
        "m: launcher mpirun: it starts the processes",
    ),
    "slurm shared": (slurm(shared_workspace="/shared"), SHARED),
    "slurm two nodes": (slurm(2), ""),
    "slurm two nodes, torchrun": ({**slurm(2), **distributed("torchrun", 2)}, ""),
    "slurm sglang-disagg": ({**slurm(7), **distributed("sglang-disagg", 7, **DISAGG)}, ""),
    "slurm_multi": ({**slurm(3, results_dir="out"), **distributed("slurm_multi", 3)}, ""),
    # Both, and what a manifest has.
    "two clusters": ({"k8s": {"gpu_count": 1}, "slurm": {"nodes": 1}}, "the context: `slurm` means slurm, `k8s` means"),
    "deployment_config": ({"deployment_config": {"target": "local", "slurm": {}, "k8s": {}, "env_vars": {}}}, ""),
    "env_file": (
        {**SYSTEM, "deployment_config": {"env_file": "site.sh"}},
        "context: env_file: is sourced by no pod",
    ),
}


def ended(context: Context) -> str:
    """How a run with this context begins: the reason that it doesn't, else what is said of its keys."""
    try:
        target = placement("", False, context, Context()).target
        if target == "kubernetes":
            with_section({}, context)
        elif target == "slurm":
            refuse_launched_nodes(context)
            SlurmSettings({}, context).of_model(Model("m", "docker/m", "scripts/m"))
        else:
            refuse_unsupported(context)
            refuse_other_nodes(0, context)
        resolve_hooks(context, tool_catalogue({}))
    except ConfigurationError as error:
        return str(error)
    return "; ".join(ignored_keys(context, (), JOB_FLAGS if target == "slurm" else ()))


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_example_runs_or_is_refused_by_name(name: str) -> None:
    values, expected = EXAMPLES[name]
    comments = {"_comment": "an example", "_notes": {"partition": "yours"}}
    try:
        outcome = ended(load_context({}, {}, None, json.dumps({**comments, **values})))
    except ConfigurationError as error:
        outcome = str(error)
    assert outcome.startswith(expected)
    assert bool(outcome) == bool(expected), outcome


def test_the_examples_are_as_many_as_there_are() -> None:
    assert len(EXAMPLES) >= 61


def test_comments_among_variables_are_no_variables() -> None:
    assert load_context({}, {}, None, json.dumps(k8s())).env_vars == {"NCCL_DEBUG": "WARN", "OMP_NUM_THREADS": "8"}


def test_each_key_is_in_an_example_or_of_the_build() -> None:
    used = {key for values, _ in EXAMPLES.values() for key in (*values, *values.get("deployment_config", ()))}
    assert {"docker_gpus", "env_vars", "k8s", "slurm", "distributed", "tools", "env_file"} <= used & KEYS.keys()
