"""The pods of a run on several nodes -> its one attempt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from madengine.deploy.kubernetes.attempts import Attempt, job_of
from madengine.deploy.kubernetes.objects import JobStatus
from madengine.records import FAILURE


def join_ranks(attempts: Iterable[Attempt], jobs: Mapping[str, JobStatus]) -> list[Attempt]:
    """Return the attempts, of several nodes one for each run; none while its Job is unfinished.

    The first rank measures; a rank that fails, also after the first has ended, makes a failure of it.
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
    measuring = next((rank for rank in reversed(ranks) if not rank.index), None)
    failed = [rank for rank in ranks if rank.index and rank.failed]
    failures = [f"rank {rank.index} ({rank.pod}): {rank.rows[0]['reason']}" for rank in failed]
    if job and job.condition == "Failed" and not failures:
        failures = [f"the Job failed: {job.reason or 'it has no reason'}"]
    if measuring is None:
        return next((rank for rank in ranks if rank.failed), ranks[0])
    machines = ",".join(dict.fromkeys(rank.machine for rank in ranks if rank.machine))
    if machines:
        measuring = _on(measuring, machines)
    if failures and not measuring.failed:
        reason = failures[0]
        measuring = measuring.with_rows(
            {"status": FAILURE, "performance": "", "reason": reason}, {"status": FAILURE, "reason": reason}
        )
    return measuring


def _on(attempt: Attempt, machines: str) -> Attempt:
    named = attempt.with_rows({"machine_name": machines}, {"machine_name": machines})
    environment = {**(named.document.get("environment") or {}), "machine_name": machines}
    return replace(named, document={**named.document, "environment": environment})
