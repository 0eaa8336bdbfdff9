"""Where a manifest runs that says so in its model entries alone."""

from __future__ import annotations

import pytest

from madengine.config.context import Context
from madengine.deploy.placement import Placement, placement
from madengine.records import Model

PLAIN = Model("a", "d", "s")
SLURM = Model("b", "d", "s", extra={"slurm": {"nodes": 2}})


@pytest.mark.parametrize(
    ("models", "option", "expected"),
    [
        ([SLURM], "", Placement("slurm", "all model entries have `slurm`")),
        ([SLURM], "local", Placement("local")),
        ([SLURM, PLAIN], "", Placement("local")),
        ([], "", Placement("local")),
    ],
)
def test_model_entries_count_last_and_together(models: list[Model], option: str, expected: Placement) -> None:
    assert placement(option, False, Context(), Context(), models) == expected
    assert placement("", False, Context({"k8s": {"gpu_count": 1}}), Context(), models).target == "kubernetes"
