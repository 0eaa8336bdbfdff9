from __future__ import annotations

from typing import Any

import pytest

from madengine.config.launchers import DEFAULTS, LAUNCHERS, check_distributed, launch_of, launcher_named, runner
from madengine.errors import ConfigurationError
from madengine.records import Model

MODEL = Model("m", "docker/m", "scripts/m")


@pytest.mark.parametrize(
    ("values", "gpus", "expected"),
    [
        ({}, 8, "torchrun --standalone --nproc_per_node=8"),
        ({}, 0, "torchrun --standalone --nproc_per_node=1"),
        (
            {"MASTER_PORT": 6007},
            8,
            "torchrun --nproc_per_node 8 --nnodes 1 --node_rank 0 --master_addr localhost --master_port 6007",
        ),
        (
            {"NNODES": 2, "NODE_RANK": "1", "MASTER_ADDR": "n0", "MASTER_PORT": 29500, "MAD_RUNTIME_NGPUS": 8},
            4,
            "torchrun --nproc_per_node 4 --nnodes 2 --node_rank 1 --master_addr n0 --master_port 29500",
        ),
        (
            {"MAD_RUNTIME_NGPUS": "3", "RUNNER": "other"},
            0,
            "torchrun --standalone --nproc_per_node=3",
        ),
        ({"RUNNER": "mpirun"}, 4, "mpirun -np 4 --host localhost:4"),
        ({"RUNNER": "mpirun", "NNODES": "2", "HOST_LIST": "a:8,b:8"}, 8, "mpirun -np 16 --host a:8,b:8"),
    ],
)
def test_the_runner_starts_a_process_on_each_gpu_of_the_run(values: dict[str, Any], gpus: int, expected: str) -> None:
    assert runner(values, gpus) == expected


def test_a_rank_that_others_fill_in_stands_as_it_is() -> None:
    command = runner({"NNODES": 2, "MASTER_ADDR": "$(x)"}, 1, "$(NODE_RANK)")
    assert command.endswith(" --nnodes 2 --node_rank $(NODE_RANK) --master_addr '$(x)' --master_port 6006")
    assert "NODE_RANK" not in runner({"NNODES": 2, "RUNNER": "mpirun"}, 1, "$(NODE_RANK)")


def test_interfaces_are_set_for_both_libraries() -> None:
    command = runner({"NCCL_SOCKET_IFNAME": "ib0", "GLOO_SOCKET_IFNAME": "eth0"}, 1)
    assert command.startswith("env NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=eth0 torchrun ")
    # One that isn't set stays as the image or the user has it.
    assert runner({"NCCL_SOCKET_IFNAME": "ib0"}, 1).startswith("env NCCL_SOCKET_IFNAME=ib0 torchrun ")


@pytest.mark.parametrize("key", DEFAULTS)
def test_no_key_has_to_be_there(key: str) -> None:
    several = {"NNODES": 2}
    assert runner({**several, key: {**DEFAULTS, **several}[key]}, 2) == runner(several, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"NODES": 2}, "unknown key 'NODES'; expected one of RUNNER"),
        ({"NNODES": 0}, "NNODES: expected a number from 1 to 100000, got '0'"),
        ({"NNODES": "two"}, "NNODES: expected a number from 1 to 100000, got 'two'"),
        ({"NNODES": 2, "NODE_RANK": 2}, "NODE_RANK: expected less than NNODES, which is 2, got '2'"),
        ({"MASTER_PORT": True}, "MASTER_PORT: expected a string or a number, got true"),
        ({"MASTER_PORT": 65536}, "MASTER_PORT: expected a number from 1 to 65535, got '65536'"),
        ({"NNODES": 30_000_000}, "NNODES: expected a number from 1 to 100000, got '30000000'"),
        ({"NNODES": 10**5000}, "NNODES: expected a number from 1 to 100000, got '9999"),
        ({"NNODES": "9" * 5000}, "NNODES: expected a number from 1 to 100000, got '9999"),
        ({"x" * 5000: 1}, "unknown key 'xxxx"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        runner(values, 1)
    assert message in str(error.value)
    assert len(str(error.value)) < 250


# --- launchers, as madengine 2 documents them ---

ONE_NODE = {"NNODES": "1", "NPROC_PER_NODE": "8", "MASTER_PORT": "29500"}
STANDALONE = "torchrun --standalone --nproc_per_node=8"


@pytest.mark.parametrize(
    ("launcher", "command", "more"),
    [
        ("torchrun", STANDALONE, {}),
        (
            "megatron",
            STANDALONE,
            {
                "TENSOR_MODEL_PARALLEL_SIZE": "8",
                "PIPELINE_MODEL_PARALLEL_SIZE": "1",
                "CONTEXT_PARALLEL_SIZE": "1",
            },
        ),
        ("torchtitan", STANDALONE, {"TORCHTITAN_TENSOR_PARALLEL_SIZE": "8", "TORCHTITAN_PIPELINE_PARALLEL_SIZE": "1"}),
        ("deepspeed", "deepspeed --num_gpus=8", {}),
        ("mpirun", "mpirun -np 8 --host localhost:8", {}),
        ("primus", "", {"PRIMUS_CONFIG_PATH": "exp_pretrain.yaml"}),
        (
            "vllm",
            "",
            {
                "VLLM_TENSOR_PARALLEL_SIZE": "8",
                "VLLM_PIPELINE_PARALLEL_SIZE": "1",
                "VLLM_DISTRIBUTED_BACKEND": "auto",
            },
        ),
        ("sglang", "", {"SGLANG_TENSOR_PARALLEL_SIZE": "8", "SGLANG_PIPELINE_PARALLEL_SIZE": "1"}),
    ],
)
def test_each_launcher_sets_its_variables_on_one_node(launcher: str, command: str, more: dict[str, str]) -> None:
    launch = launch_of({"launcher": launcher}, {}, MODEL, {})
    assert launch.variables(8) == {**ONE_NODE, **more, "MAD_MULTI_NODE_RUNNER": command}


def test_several_nodes_that_are_started_by_hand_are_counted() -> None:
    nodes = {"NNODES": 2, "NODE_RANK": 1, "MASTER_ADDR": "n0"}
    variables = launch_of({"launcher": "megatron-lm", "port": 29600}, nodes, MODEL, {}).variables(8)
    assert (variables["TENSOR_MODEL_PARALLEL_SIZE"], variables["PIPELINE_MODEL_PARALLEL_SIZE"]) == ("8", "2")
    command = "torchrun --nproc_per_node 8 --nnodes 2 --node_rank 1 --master_addr n0 --master_port 29600"
    assert (variables["MAD_MULTI_NODE_RUNNER"], variables["MASTER_PORT"]) == (command, "29600")
    assert launch_of({"launcher": "torchtitan"}, nodes, MODEL, {}).variables(4)["TORCHTITAN_FSDP_ENABLED"] == "1"
    with pytest.raises(ConfigurationError, match=r"^launcher deepspeed: several nodes need a hostfile"):
        launch_of({"launcher": "deepspeed"}, nodes, MODEL, {}).variables(4)


def test_the_context_names_the_launcher_then_the_entry_then_the_environment() -> None:
    entry = Model("m", "docker/m", "scripts/m", extra={"distributed": {"launcher": "vllm", "nproc_per_node": 2}})
    names = [
        launch_of(of_context, {}, model, environ).launcher
        for of_context, model, environ in (
            ({"launcher": "sglang"}, entry, {"MAD_LAUNCHER": "primus"}),
            ({"backend": "nccl"}, entry, {"MAD_LAUNCHER": "primus"}),
            (None, MODEL, {"MAD_LAUNCHER": "Primus"}),
            (None, MODEL, {"MAD_LAUNCHER": "jenkins"}),
            (None, MODEL, {}),
        )
    ]
    assert [launcher.name if launcher else "" for launcher in names] == ["sglang", "vllm", "primus", "", ""]
    assert launch_of(None, {}, entry, {}).variables(8)["VLLM_TENSOR_PARALLEL_SIZE"] == "2"
    assert launch_of(None, {}, MODEL, {}).variables(8) == {"MAD_MULTI_NODE_RUNNER": STANDALONE}


def test_primus_takes_its_backend_from_the_settings_or_the_models_name() -> None:
    model = Model("primus_pretrain/megatron_bridge_llama3", "docker/m", "scripts/m")
    settings = {"config_path": "a.yaml", "cli_extra": "--x 1"}
    variables = launch_of({"launcher": "primus", "primus": settings}, {}, model, {}).variables(8)
    assert variables["BACKEND"] == "megatron_bridge"
    assert (variables["PRIMUS_CONFIG_PATH"], variables["PRIMUS_CLI_EXTRA"]) == ("a.yaml", "--x 1")
    chosen = launch_of({"launcher": "primus", "primus": {"backend": "MaxText"}}, {}, model, {}).variables(8)
    assert chosen["BACKEND"] == "MaxText"


def test_aliases_mean_the_same() -> None:
    names = {"megatron": "megatron-lm", "sglang_disagg": "sglang-disagg", "slurm-multi": "slurm_multi", "vLLM ": "vllm"}
    assert {alias: getattr(launcher_named(alias), "name", "") for alias in names} == names
    assert all(launcher_named(name) is launcher for name, launcher in LAUNCHERS.items())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("torchrun", "distributed: expected an object, got 'torchrun'"),
        ({"launcher": "torchrum"}, "distributed.launcher: expected one of torchrun, "),
        ({"launcher": 3}, "distributed.launcher: expected one of torchrun, "),
        ({"nproc_per_node": 0}, "distributed.nproc_per_node: expected a number from 1 to 10000, got 0"),
        ({"port": "http"}, "distributed.port: expected a number from 1 to 65535, got 'http'"),
    ],
)
def test_a_distributed_that_is_wrong_is_named(value: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        check_distributed(value, "distributed")
    assert str(error.value).startswith(message)
