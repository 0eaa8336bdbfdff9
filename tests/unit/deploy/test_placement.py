"""Where a manifest runs that says so in its model entries alone."""

from __future__ import annotations

import pytest

from madengine.config.context import Context
from madengine.deploy.placement import Placement, placement
from madengine.records import Model

PLAIN = Model("a", "d", "s")
JOB = Model("b", "d", "s", extra={"slurm": {"nodes": 2}})
SCRIPT = Model("c", "d", "s", extra={**JOB.extra, "distributed": {"launcher": "slurm-multi"}})
REASON = "all model entries have `slurm` and a launcher that runs on the host"


@pytest.mark.parametrize(
    ("models", "option", "expected"),
    [
        ([SCRIPT], "", Placement("slurm", REASON)),
        ([SCRIPT], "local", Placement("local")),
        ([SCRIPT, PLAIN], "", Placement("local")),
        ([JOB], "", Placement("local")),
        ([], "", Placement("local")),
    ],
)
def test_model_entries_count_last_and_together(models: list[Model], option: str, expected: Placement) -> None:
    assert placement(option, False, Context(), Context(), models) == expected
    assert placement("", False, Context({"k8s": {"gpu_count": 1}}), Context(), models).target == "kubernetes"
