"""All checks in their order, and their results as a table or JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from madengine.doctor.check import FAILED, Check, Subject
from madengine.doctor.containers import check_container, check_gpu_access
from madengine.doctor.engine import check_engine
from madengine.doctor.gpus import check_device_nodes, check_gpu_tools, check_gpus, check_visible_gpus
from madengine.doctor.images import check_images
from madengine.doctor.machine import check_disk, check_python, check_shared_memory
from madengine.doctor.models import check_models
from madengine.doctor.registry import check_clock, check_registry
from madengine.errors import MadengineError
from madengine.machine.gpus import gpu_readings
from madengine.results.table import text_table

# Each may use what those before it have added to the subject.
_CHECKS: Sequence[Callable[[Subject], Iterator[Check]]] = (
    check_python,
    check_engine,
    check_gpu_tools,
    check_gpus,
    check_visible_gpus,
    check_device_nodes,
    check_gpu_access,
    check_images,
    check_container,
    check_models,
    check_disk,
    check_shared_memory,
    check_registry,
    check_clock,
)


def examine(engine_name: str, registry: str, gpu_mode: str) -> list[Check]:
    """Check everything that a run needs here; a check that raises an error has failed."""
    readings = gpu_readings()
    gpus = next((reading.items for reading in readings.values() if reading.items), ())
    subject = Subject(engine_name, registry, gpu_mode, readings, gpus)
    checks: list[Check] = []
    for check in _CHECKS:
        try:
            checks.extend(check(subject))
        except (MadengineError, OSError, ValueError) as error:
            checks.append(Check(check.__name__.removeprefix("check_").replace("_", " "), FAILED, str(error)))
    return checks


def is_fit(checks: Sequence[Check]) -> bool:
    """Whether a run can start here."""
    return all(check.status != FAILED for check in checks)


def as_json(checks: Sequence[Check]) -> dict[str, Any]:
    return {"fit": is_fit(checks), "checks": [asdict(check) for check in checks]}


def table(checks: Sequence[Check]) -> str:
    """Return the checks for a terminal, and below them how to fix those that failed."""
    rows = [[check.name, check.status, check.result] for check in checks]
    fixes = [f"{check.name}: {check.fix}" for check in checks if check.fix]
    text = text_table(rows, ["check", "", "result"])
    return "\n".join([text, *([""] if fixes else []), *fixes])
