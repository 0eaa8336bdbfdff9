from __future__ import annotations

import pytest

from madengine.config.launchers import arguments, runner
from madengine.run.inherited import inherited_variables, launched_nodes


def test_containers_get_what_a_launcher_sets_and_no_choice_of_gpus() -> None:
    launched = {"MASTER_ADDR": "n1", "RANK": "3", "NODE_RANK": "1", "NNODES": "2", "NCCL_DEBUG": "INFO", "RCCL_X": "1"}
    others = {
        "HIP_VISIBLE_DEVICES": "0",
        "CUDA_VISIBLE_DEVICES": "0",
        "HOME": "/root",
        "MASTER_PORT": "",
        "ANCCL_": "1",
    }
    assert inherited_variables({**launched, **others}) == launched
    assert inherited_variables(others) == {}


@pytest.mark.parametrize("environ", [{}, {"NNODES": "1", "NODE_RANK": "0"}, {"NNODES": ""}, {"MASTER_ADDR": "n1"}])
def test_one_node_is_no_launch_on_several(environ: dict[str, str]) -> None:
    assert launched_nodes(environ) == {}


def test_the_processes_of_several_nodes_meet_where_the_launcher_says() -> None:
    environ = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "n1", "NCCL_SOCKET_IFNAME": "ib0", "RANK": "1"}
    launched = launched_nodes(environ)
    assert arguments(launched)["NNODES"] == "2"
    assert "--nnodes 2 --node_rank 1 --master_addr n1 --master_port 6006" in runner(launched, 8)
