"""What a pod's run costs on its GPUs, measured by its sidecar: from the devices, else from an exporter on the node."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from madengine.deploy.kubernetes.gpu_exporter import Exporter, ExporterSampler
from madengine.deploy.kubernetes.gpu_notes import noted_gpus
from madengine.deploy.kubernetes.pod import Pod
from madengine.deploy.kubernetes.remains import LOG, note
from madengine.machine.telemetry import Sampler
from madengine.programs import amd_sysfs, nvidia_smi, smi
from madengine.records import SERIES_FILE, Gpu, GpuCost

#: samples that a sidecar has the memory for
_SAMPLES = 150_000
_ENDLESS_SECONDS = 10.0


class GpuFigures:
    """Samples the GPUs that a pod has noted, from then until it is stopped."""

    def __init__(self, pod: Pod, workspace: Path, environ: Mapping[str, str]) -> None:
        self.problem = ""
        self._pod, self._workspace = pod, workspace
        self._url = environ.get("MADENGINE_GPU_METRICS_URL", "")
        self._direct: Sampler | None = None
        self._exporter: ExporterSampler | None = None
        self._started = False

    def start_once_noted(self) -> None:
        """Start if the pod has noted its GPUs, which it has before it opens its log."""
        if self._started or not self._pod.gpus or not os.path.lexists(self._workspace / LOG):
            return
        self._started = True
        gpus = noted_gpus(note(self._workspace, ".gpus"), on_node=True)
        if gpus and _is_visible(gpus[0]):
            self._direct = Sampler(gpus, _machine(gpus), self._workspace / SERIES_FILE, self._seconds)
            self._direct.start()
        if self._url:
            uuids = frozenset(gpu.uuid for gpu in gpus if gpu.uuid)
            exporter = Exporter(self._url, self._pod.namespace, self._pod.name, uuids)
            self._exporter = ExporterSampler(exporter, self._pod.gpus)
            self._exporter.start()

    def stop(self) -> GpuCost | None:
        """Return the cost, of the device itself if that gave any; None without figures."""
        problems = []
        samplers: list[Sampler | ExporterSampler | None] = [self._direct, self._exporter]
        for sampler in samplers:
            if sampler is None:
                continue
            cost = sampler.stop()
            if cost.telemetry_source:
                self.problem = sampler.problem
                return cost
            problems.append(sampler.problem)
        self.problem = "; ".join(problems)
        return None

    @property
    def _seconds(self) -> float:
        if not self._pod.timeout:
            return _ENDLESS_SECONDS
        return max(1.0, self._pod.timeout * self._pod.gpus / _SAMPLES)


def _is_visible(gpu: Gpu) -> bool:
    """Whether this container can measure the GPU: the kernel shows AMD's to all; NVIDIA's need its tool in here."""
    return bool(gpu.pci_bus_id) if gpu.vendor == "AMD" else smi.is_installed(nvidia_smi.NAME)


def _machine(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """Return all GPUs of this node, as far as they are visible."""
    known = (
        amd_sysfs.gpus().items or amd_sysfs.render_gpus().items if gpus[0].vendor == "AMD" else nvidia_smi.gpus().items
    )
    return known or gpus
