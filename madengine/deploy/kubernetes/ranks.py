"""The pods of a run on several nodes -> its one attempt."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from madengine.deploy.kubernetes.attempts import Attempt, job_of
from madengine.deploy.kubernetes.objects import JobStatus
from madengine.errors import MadengineError
from madengine.records import FAILURE
from madengine.results.joint import joint_result
from madengine.results.results_json import result_json, result_of
from madengine.results.rows import COLUMNS, COST_COLUMNS, result_rows

logger = logging.getLogger(__name__)

# The cells that say what was measured.
_MEASURED = frozenset(
    ("model", "performance", "metric", "aggregation", "variant", "status", "reason", "telemetry_source", *COST_COLUMNS)
)


def join_ranks(attempts: Iterable[Attempt], jobs: Mapping[str, JobStatus]) -> list[Attempt]:
    """Return the attempts, of several nodes one for each run; none while its Job is unfinished.

    The numbers of all ranks are joined; a rank that fails, also after the first has ended, makes a failure of it.
    """
    joined: list[Attempt] = []
    groups: dict[tuple[str, str], list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        if attempt.nodes > 1:
            groups[attempt.job, attempt.run_id].append(attempt)
        else:
            joined.append(attempt)
    for group in groups.values():
        job = job_of(group[0], jobs)
        if job is None or job.condition:
            joined.append(_join(sorted(group, key=lambda attempt: (attempt.index or 0, attempt.started)), job))
    return joined


def _join(ranks: Sequence[Attempt], job: JobStatus | None) -> Attempt:
    first = next((rank for rank in reversed(ranks) if not rank.index), None)
    if first is None:
        return next((rank for rank in ranks if rank.failed), ranks[0])
    failures = [f"rank {rank.index} ({rank.pod}): {rank.rows[0]['reason']}" for rank in ranks if _has_failed(rank)]
    if job and job.condition == "Failed" and not failures and first.index is not None:
        failures = [f"the Job failed: {job.reason or 'it has no reason'}"]
    machines = ",".join(dict.fromkeys(rank.machine for rank in ranks if rank.machine))
    joint = _measured(_on(first, machines) if machines else first, ranks)
    if not failures:
        return joint
    cells = {"status": FAILURE, "performance": "", "aggregation": "", "reason": failures[0]}
    return joint.with_rows(cells, {"status": FAILURE, "reason": failures[0]})


def _has_failed(rank: Attempt) -> bool:
    """Whether a rank has failed by itself; that it measured nothing is no failure."""
    results = rank.document.get("results") or [{}]
    return rank.index is not None and rank.failed and results[0].get("status", FAILURE) == FAILURE


def _measured(first: Attempt, ranks: Sequence[Attempt]) -> Attempt:
    """Return the first rank's attempt with what all ranks have measured; as it is where that isn't known."""
    by_index = {rank.index: rank for rank in ranks if rank.document.get("results")}
    if first.index is None or not by_index:
        return first
    if any("truncated" in rank.document for rank in by_index.values()):
        logger.info(f"{first.pod}: its ranks' numbers are not joined: a report is too large for the ConfigMap")
        return first
    try:
        parts = [result_of(rank.document["results"][0]) for rank in by_index.values()]
        joint = joint_result(parts, "", first.nodes)
        if len([part for part in parts if part.cost]) < first.nodes:  # what some cost would pass for what all did
            joint = replace(joint, cost=None)
        rows = [_cells_of(row, first.rows[0]) for row in result_rows(replace(joint, rank=0), {})]
    # A pod may report anything anywhere.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, MadengineError) as error:
        logger.info(f"{first.pod}: its ranks' numbers are not joined: a report is unusable: {error!r:.200}")
        return first
    entries = [rank.document["results"][0] for rank in by_index.values()]
    values = {name: result_json(joint)[name] for name in ("status", "reason", "metrics", "cost")}
    result = {**entries[0], **values, "parts": entries}
    [machine] = {row["machine_name"] for row in first.rows}
    document = {**first.document, "results": [{**result, "machine_name": machine}]}
    return replace(first, rows=rows, document=document)


def _cells_of(row: Mapping[str, str], first: Mapping[str, str]) -> dict[str, str]:
    """Return a row of the joint result, whose other cells are those of the first rank's row."""
    return {**row, **{name: first[name] for name in COLUMNS if name in first and name not in _MEASURED}}


def _on(attempt: Attempt, machines: str) -> Attempt:
    named = attempt.with_rows({"machine_name": machines}, {"machine_name": machines})
    environment = {**(named.document.get("environment") or {}), "machine_name": machines}
    return replace(named, document={**named.document, "environment": environment})
