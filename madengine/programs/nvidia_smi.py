"""nvidia-smi: which NVIDIA GPUs are here."""

from __future__ import annotations

import re

from madengine import programs
from madengine.errors import CommandError
from madengine.records import Gpu

# A driver that hangs must not hold up a run for long.
SECONDS = 20.0

_GPU = re.compile(r"^GPU (\d+): (.*?) \(UUID: (\S+)\)\s*$", re.MULTILINE)


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that `nvidia-smi -L` lists; none where the tool is missing, fails or hangs."""
    try:
        answer = programs.attempt(programs.program("nvidia-smi", "-L"), seconds=SECONDS)
    except CommandError:
        return ()
    if answer.code != 0:
        return ()
    return tuple(
        Gpu("NVIDIA", int(index), name=name, architecture=name, uuid=uuid)
        for index, name, uuid in _GPU.findall(answer.out)
    )
