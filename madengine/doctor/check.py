"""One check's result, and what the checks look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from madengine.machine.gpus import detected_vendor
from madengine.programs.engine import Docker
from madengine.records import Gpu, Image, Reading

OK, NOTE, FAILED = "ok", "note", "FAILED"


@dataclass(frozen=True)
class Check:
    """One thing that a run needs."""

    name: str
    #: OK, NOTE (a run may still start) or FAILED.
    status: str
    result: str
    #: The command or step that fixes a failure.
    fix: str = ""


@dataclass
class Subject:
    """What the checks look at; a check adds what it finds for those after it."""

    #: As in `--engine`.
    engine_name: str
    #: Empty if the user named none.
    registry: str
    gpu_mode: str
    #: By the tool that was asked.
    readings: Mapping[str, Reading[Gpu]]
    gpus: tuple[Gpu, ...]
    #: None until the engine has answered.
    engine: Docker | None = None
    #: Those of the manifest.
    images: list[Image] = field(default_factory=list)

    @property
    def vendor(self) -> str:
        """AMD, NVIDIA or NONE."""
        return detected_vendor(self.gpus)


def join_groups(groups: str) -> str:
    """Return the step that makes the user a member of these groups."""
    return f"usermod --append --groups {groups} $USER, then log in again"
