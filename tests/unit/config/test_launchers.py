from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from madengine.config.context import Context
from madengine.config.launchers import (
    DEFAULTS,
    LAUNCHERS,
    Launch,
    World,
    check_distributed,
    launch_of,
    launcher_named,
    runner,
)
from madengine.config.nodes import common_node_count, node_count, refuse_other_nodes
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
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


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
        ("mpirun", "mpirun -np 8 --host localhost:8", AS_ROOT),
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
        ({"nnodes": "0"}, "distributed.nnodes: expected a number from 1 to 100000, got '0'"),
        ({"sglang_disagg": {"prefill_nodes": 0}}, "distributed.sglang_disagg.prefill_nodes: expected a number of"),
        ({"port": "http"}, "distributed.port: expected a number from 1 to 65535, got 'http'"),
    ],
)
def test_a_distributed_that_is_wrong_is_named(value: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        check_distributed(value, "distributed")
    assert str(error.value).startswith(message)


# --- several nodes ---

WORLD = World(1, ("10.0.0.1", "10.0.0.2"), 20100, "ib0")
TORCHRUN = "torchrun --nproc_per_node 8 --nnodes 2 --node_rank 1 --master_addr 10.0.0.1 --master_port 20100"
RANKS = {
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "20100",
    "NNODES": "2",
    "NODE_RANK": "1",
    "RANK": "1",
    "WORLD_SIZE": "2",
    "NPROC_PER_NODE": "8",
    "GPUS_PER_NODE": "8",
}
MEGATRON = {"TENSOR_MODEL_PARALLEL_SIZE": "8", "PIPELINE_MODEL_PARALLEL_SIZE": "2", "CONTEXT_PARALLEL_SIZE": "1"}
TORCHTITAN = {
    "TORCHTITAN_TENSOR_PARALLEL_SIZE": "8",
    "TORCHTITAN_PIPELINE_PARALLEL_SIZE": "2",
    "TORCHTITAN_FSDP_ENABLED": "1",
    "TORCHTITAN_CONTEXT_PARALLEL_SIZE": "1",
}
DEEPSPEED = "deepspeed --hostfile=/w/hostfile --no_ssh --node_rank=1 --master_addr=10.0.0.1 --master_port=20100"
VLLM = {
    "VLLM_TENSOR_PARALLEL_SIZE": "8",
    "VLLM_PIPELINE_PARALLEL_SIZE": "1",
    "VLLM_DISTRIBUTED_BACKEND": "none",
    "VLLM_HOST_IP": "10.0.0.2",
}
SGLANG = {
    "SGLANG_TENSOR_PARALLEL_SIZE": "8",
    "SGLANG_PIPELINE_PARALLEL_SIZE": "1",
    "NCCL_INIT_ADDR": "10.0.0.1:20100",
    "SGLANG_HOST_IP": "10.0.0.2",
}
DISAGG = {
    "SGLANG_DISAGG_MODE": "enabled",
    "SGLANG_DISAGG_PREFILL_NODES": "1",
    "SGLANG_DISAGG_DECODE_NODES": "1",
    "SGLANG_DISAGG_TOTAL_NODES": "2",
    "SGLANG_TP_SIZE": "8",
    "SGLANG_NODE_IPS": "10.0.0.1,10.0.0.2",
    "SGLANG_NODE_RANK": "1",
}


@pytest.mark.parametrize(
    ("launcher", "command", "more"),
    [
        ("", TORCHRUN, {}),
        ("torchrun", TORCHRUN, {}),
        ("megatron", TORCHRUN, MEGATRON),
        ("torchtitan", TORCHRUN, TORCHTITAN),
        ("deepspeed", DEEPSPEED, {}),
        ("primus", "", {"PRIMUS_CONFIG_PATH": "exp_pretrain.yaml"}),
        ("vllm", "", VLLM),
        ("sglang", "", SGLANG),
        ("sglang_disagg", "", DISAGG),
    ],
)
def test_each_launcher_sets_its_variables_on_several_nodes(launcher: str, command: str, more: dict[str, str]) -> None:
    launch = launch_of({"launcher": launcher, "nnodes": 2}, {}, MODEL, {}).on(WORLD, "/w/hostfile")
    assert launch.variables(8) == {**RANKS, **more, "MAD_MULTI_NODE_RUNNER": command}
    assert launch.hosts(8) == "10.0.0.1 slots=8\n10.0.0.2 slots=8\n"


@pytest.mark.parametrize(
    "launch",
    [
        launch_of({"launcher": "mpirun", "nnodes": 2}, {}, MODEL, {}).on(WORLD),
        launch_of(None, {"RUNNER": "mpirun"}, MODEL, {}).on(WORLD),
        launch_of(None, {"RUNNER": "mpirun", "NNODES": 2}, MODEL, {}),
    ],
)
def test_mpirun_reaches_other_nodes_only_where_the_user_lists_them(launch: Launch) -> None:
    with pytest.raises(ConfigurationError, match=r"^launcher mpirun: it starts the processes of other nodes by ssh"):
        launch.variables(8)
    listed = replace(launch, multi_node_args={**launch.multi_node_args, "HOST_LIST": "a:8,b:8"})
    assert listed.variables(8)["MAD_MULTI_NODE_RUNNER"] == "mpirun -np 16 --host a:8,b:8"


def test_what_the_user_sets_of_the_nodes_counts() -> None:
    own = {"MASTER_ADDR": "n0", "MASTER_PORT": 7000, "NNODES": 4, "NODE_RANK": 3, "NCCL_SOCKET_IFNAME": "eth1"}
    runner = launch_of({"port": 6000}, own, MODEL, {}).on(WORLD).variables(1)["MAD_MULTI_NODE_RUNNER"]
    assert runner == (
        "env NCCL_SOCKET_IFNAME=eth1 torchrun --nproc_per_node 1 --nnodes 2 --node_rank 1 --master_addr n0 "
        "--master_port 7000"
    )
    assert launch_of({"port": 6000}, {}, MODEL, {}).on(WORLD).variables(1)["MASTER_PORT"] == "6000"
    # A launcher without a command takes the interface from there.
    variables = launch_of({"launcher": "vllm"}, own, MODEL, {}).on(WORLD).variables(1)
    assert (variables["NCCL_SOCKET_IFNAME"], "GLOO_SOCKET_IFNAME" in variables) == ("eth1", False)
    kubernetes = launch_of({"master_port": 6001, "backend": "gloo"}, {}, MODEL, {}).on(WORLD).variables(1)
    assert (kubernetes["MASTER_PORT"], kubernetes["DISTRIBUTED_BACKEND"]) == ("6001", "gloo")


@pytest.mark.parametrize(
    ("nodes", "split", "expected"),
    [
        (2, {}, "1 1"),
        (3, {}, "1 1"),
        (4, {}, "1 2"),
        (6, {}, "2 3"),
        (7, {"prefill_nodes": 4, "decode_nodes": 2}, "4 2"),
        (7, {"prefill_nodes": "4"}, "4 2"),
        (7, {"decode_nodes": 1}, "5 1"),
    ],
)
def test_nodes_are_split_for_prefill_and_decode(nodes: int, split: dict[str, Any], expected: str) -> None:
    settings = {"launcher": "sglang-disagg", "nnodes": nodes, "sglang_disagg": split}
    world = World(0, tuple(f"n{rank}" for rank in range(nodes)), 20000)
    variables = launch_of(settings, {}, MODEL, {}).on(world).variables(8)
    assert f"{variables['SGLANG_DISAGG_PREFILL_NODES']} {variables['SGLANG_DISAGG_DECODE_NODES']}" == expected


def test_a_split_that_does_not_fit_the_nodes_is_refused() -> None:
    settings = {"launcher": "sglang-disagg", "sglang_disagg": {"prefill_nodes": 4, "decode_nodes": 4}}
    world = World(0, ("a", "b", "c"), 20000)
    with pytest.raises(ConfigurationError, match="4 prefill_nodes and 4 decode_nodes: expected 2 in all on 3 nodes"):
        launch_of(settings, {}, MODEL, {}).on(world).variables(8)
    with pytest.raises(ConfigurationError, match=r"^launcher sglang-disagg: it needs several nodes, and this run is"):
        launch_of({"launcher": "sglang-disagg"}, {}, MODEL, {}).variables(8)


def test_every_launcher_is_pinned_on_one_node_and_on_several() -> None:
    pinned = {"torchrun", "megatron", "torchtitan", "deepspeed", "mpirun", "primus", "vllm", "sglang", "sglang_disagg"}
    names = {getattr(launcher_named(name), "name", "") for name in pinned}
    assert names == LAUNCHERS.keys() - {"slurm_multi"}


def test_the_number_of_nodes_is_that_of_the_option_the_context_or_the_entry() -> None:
    entry = Model("m", "docker/m", "scripts/m", extra={"distributed": {"nnodes": 2}})
    context = Context({"distributed": {"nnodes": "3"}, "multi_node_args": {"NNODES": 4}})
    by_hand = Context({"multi_node_args": {"NNODES": 4}})
    assert node_count(5, context, entry, {}) == 5
    assert [node_count(0, each, entry, {}) for each in (context, Context(), by_hand)] == [3, 2, 2]
    assert [node_count(0, each, MODEL, {}) for each in (context, Context(), by_hand)] == [3, 1, 4]
    with pytest.raises(ConfigurationError, match=r"^context: distributed.nnodes 3: this run is on 2$"):
        refuse_other_nodes(0, Context({"distributed": {"nnodes": 3}}), 2)
    with pytest.raises(ConfigurationError, match=r"^--nodes 2: this run is on one node; name that many hosts with"):
        refuse_other_nodes(2, Context())
    refuse_other_nodes(2, Context(), 2)
    refuse_other_nodes(0, Context({"distributed": {"nnodes": 4}, "multi_node_args": {"NNODES": 4}}))
    with pytest.raises(ConfigurationError, match="m on 2, n on 1; select them with --tags"):
        common_node_count(0, Context(), {"a": entry, "b": Model("n", "d", "s")})
    assert common_node_count(3, Context(), {"a": entry, "b": Model("n", "d", "s")}) == 3
