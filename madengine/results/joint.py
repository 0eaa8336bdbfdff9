"""The results of all nodes that ran a model together -> the one result of the run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from madengine.records import FAILURE, SKIPPED, SUCCESS, GpuCost, RunResult
from madengine.results.aggregation import aggregated

logger = logging.getLogger(__name__)

# Fields of GpuCost that add up over nodes, and those of which the largest counts.
_SUMS = ("peak_gpu_memory_mib", "idle_gpu_memory_mib", "energy_j", "mean_power_w", "peak_power_w")
_LARGEST = ("p95_gpu_utilization", "peak_temperature_c", "throttled_percent")


def joint_result(parts: Sequence[RunResult], reason: str, nodes: int, culprit: int | None = None) -> RunResult:
    """Return the result of a run on several nodes, out of those that its ranks have reported, ordered by rank.

    `reason` is why it failed, with the rank that did so first, the `culprit`; empty if none has. Of a success at least
    one node has to print a metric.
    """
    first = parts[0]
    outcome = aggregated([part.metrics for part in parts], first.model.extra.get("aggregate"))
    for name in outcome.unknown:
        logger.warning(
            f"{first.model.name}: {name or 'a metric without a name'} is printed by several nodes and added up; "
            "`aggregate` of the model entry says how else"
        )
    skipped = {part.status for part in parts} == {SKIPPED}
    reason = "" if skipped else reason or ("" if outcome.metrics else first.reason)
    machines = ",".join(dict.fromkeys(part.machine_name for part in parts if part.machine_name))
    return replace(
        first,
        status=SKIPPED if skipped else FAILURE if reason else SUCCESS,
        reason=first.reason if skipped else reason,
        metrics=outcome.metrics,
        exit_code=next((part.exit_code for part in parts if part.rank == culprit), first.exit_code),
        test_duration=max(part.test_duration for part in parts),
        run_duration=max(part.run_duration for part in parts),
        machine_name=machines,
        cost=_joint_cost([part.cost for part in parts if part.cost]),
        foreign_processes=_total([part.foreign_processes for part in parts]),
        nnodes=nodes,
        parts=tuple(parts),
    )


def _total(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _joint_cost(costs: Sequence[GpuCost]) -> GpuCost | None:
    """Return what the GPUs of all nodes cost together; a peak is at most what is reported."""
    if not costs:
        return None

    def known(name: str) -> list[float]:
        values = [getattr(cost, name) for cost in costs]
        return [] if None in values else values

    utilization = known("mean_gpu_utilization")
    values: dict[str, Any] = {
        **{name: sum(known(name)) if known(name) else None for name in _SUMS},
        **{name: max(known(name), default=None) for name in _LARGEST},
        "mean_gpu_utilization": sum(utilization) / len(utilization) if utilization else None,
        "peak_gpu_memory_mib_per_gpu": {},
    }
    return replace(costs[0], **values)
