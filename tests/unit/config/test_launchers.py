from __future__ import annotations

from typing import Any

import pytest

from madengine.config.launchers import DEFAULTS, runner
from madengine.errors import ConfigurationError

PLAIN = "env NCCL_SOCKET_IFNAME= GLOO_SOCKET_IFNAME= "


@pytest.mark.parametrize(
    ("values", "gpus", "expected"),
    [
        ({}, 8, "torchrun --nproc_per_node 8 --nnodes 1 --node_rank 0 --master_addr localhost --master_port 6006"),
        ({}, 0, "torchrun --nproc_per_node 1 --nnodes 1 --node_rank 0 --master_addr localhost --master_port 6006"),
        (
            {"NNODES": 2, "NODE_RANK": "1", "MASTER_ADDR": "n0", "MASTER_PORT": 29500, "MAD_RUNTIME_NGPUS": 8},
            4,
            "torchrun --nproc_per_node 4 --nnodes 2 --node_rank 1 --master_addr n0 --master_port 29500",
        ),
        (
            {"MAD_RUNTIME_NGPUS": "3", "RUNNER": "other"},
            0,
            "torchrun --nproc_per_node 3 --nnodes 1 --node_rank 0 --master_addr localhost --master_port 6006",
        ),
        ({"RUNNER": "mpirun"}, 4, "mpirun -np 4 --host localhost:4"),
        ({"RUNNER": "mpirun", "NNODES": "2", "HOST_LIST": "a:8,b:8"}, 8, "mpirun -np 16 --host a:8,b:8"),
    ],
)
def test_the_runner_starts_a_process_on_each_gpu_of_the_run(values: dict[str, Any], gpus: int, expected: str) -> None:
    assert runner(values, gpus) == PLAIN + expected


def test_a_rank_that_others_fill_in_stands_as_it_is() -> None:
    command = runner({"NNODES": 2, "MASTER_ADDR": "$(x)"}, 1, "$(NODE_RANK)")
    assert command.endswith(" --nnodes 2 --node_rank $(NODE_RANK) --master_addr '$(x)' --master_port 6006")
    assert "NODE_RANK" not in runner({"NNODES": 2, "RUNNER": "mpirun"}, 1, "$(NODE_RANK)")


def test_interfaces_are_set_for_both_libraries() -> None:
    command = runner({"NCCL_SOCKET_IFNAME": "ib0", "GLOO_SOCKET_IFNAME": "eth0"}, 1)
    assert command.startswith("env NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=eth0 torchrun ")


@pytest.mark.parametrize("key", DEFAULTS)
def test_no_key_has_to_be_there(key: str) -> None:
    assert runner({key: DEFAULTS[key]}, 2) == runner({}, 2)


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
