"""The GPU tools of each vendor, and what each of them offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from madengine.programs import amd_smi, amd_sysfs, nvidia_smi, rocm_smi
from madengine.programs.smi import SampleStream
from madengine.records import Gpu, GpuProcess, GpuSample, Reading


class GpuTool(Protocol):
    """A module for one tool. What the tool doesn't know is empty or None in what it returns."""

    NAME: str
    #: Least seconds between two calls of `samples`, which cost CPU time.
    SAMPLE_SECONDS: float

    def gpus(self) -> Reading[Gpu]:
        """Return the GPUs of this machine."""

    def samples(self) -> Reading[GpuSample]:
        """Return a sample of every GPU."""

    def processes(self) -> Reading[GpuProcess]:
        """Return the processes that use a GPU."""

    def stream(self, seconds: float) -> SampleStream | None:
        """Return how the tool itself samples all GPUs at this interval; None if it has to be polled."""


# The cheapest first. Where a machine has both vendors' GPUs, NVIDIA's count, as in older madengine.
TOOLS: Mapping[str, tuple[GpuTool, ...]] = {"NVIDIA": (nvidia_smi,), "AMD": (amd_sysfs, amd_smi, rocm_smi)}
