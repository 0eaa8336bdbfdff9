"""What a model's job asks for: by option, by the context, by its entry; the rest is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from madengine.config.context import Context
from madengine.deploy.slurm.settings import JobShape, SlurmSettings, sbatch_lines
from madengine.errors import ConfigurationError
from madengine.records import Model


def shape(entry: dict[str, Any], context: dict[str, Any], **values: Any) -> JobShape:
    model = Model("m", "docker/m", "scripts/m", extra=entry)
    return SlurmSettings(values, Context({"slurm": context})).of_model(model)


MULTI = {"distributed": {"launcher": "slurm_multi", "nnodes": 4}}


def test_an_option_wins_over_the_context_and_this_over_the_entry() -> None:
    entry = {"slurm": {"partition": "entry", "time": "01:00:00", "qos": "low", "_comment": "x"}}
    asked = shape(entry, {"partition": "context", "qos": None, "network_interface": "ib0"}, partition="option")
    assert sbatch_lines(asked.options) == ["--partition=option", "--time=01:00:00"]
    assert asked.variables == {"NCCL_SOCKET_IFNAME": "ib0", "GLOO_SOCKET_IFNAME": "ib0"}


@pytest.mark.parametrize(
    ("entry", "context", "nodes"),
    [(MULTI, {}, 4), (MULTI, {"nodes": 2}, 2), ({**MULTI, "slurm": {"nodes": "3"}}, {}, 3), ({}, {"nodes": 1}, 1)],
)
def test_the_nodes_are_those_of_slurm_else_of_distributed(
    entry: dict[str, Any], context: dict[str, Any], nodes: int
) -> None:
    assert shape(entry, context).nodes == nodes


@pytest.mark.parametrize(
    ("entry", "context", "problem"),
    [
        ({"slurm": {"output_dir": "x"}}, {}, "m: slurm: 'output_dir' is one for all jobs; set it in the context"),
        (
            {"slurm": {"ntasks_per_node": 8}},
            {},
            "m: slurm.ntasks_per_node: 8 is unsupported: a node runs",
        ),
        ({"slurm": []}, {"nodes": 0}, "context: slurm.nodes: expected a number of nodes, got 0"),
        ({"slurm": "x"}, {}, "m: slurm: expected an object, got 'x'"),
        ({}, {"results_dir": "x"}, "context: slurm.results_dir: 'x' is unsupported: it is for scripts that run on"),
        (
            {},
            {"shared_workspace": "/x"},
            "context: slurm.shared_workspace: '/x' is unsupported: jobs work",
        ),
        ({}, {"partitions": "x"}, "context: slurm: unsupported key 'partitions'; expected some of partition, "),
    ],
)
def test_what_a_job_cannot_have_is_refused_by_name(
    entry: dict[str, Any], context: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        shape(entry, context)
    assert str(raised.value).startswith(problem)
