"""A pod's GPUs as DCGM's or AMD's exporter on its node describes them, in Prometheus' text format."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from madengine.machine.telemetry import cost_of, reliable
from madengine.records import Gpu, GpuCost, GpuSample, Reading

#: seconds between two requests; exporters renew their figures every 30 s by default
SECONDS = 10.0
_AGE_SECONDS = 30.0
_TIMEOUT_SECONDS = 5.0
_SIZE_LIMIT = 16 * 2**20
# By the field of a sample, the names that exporters have for it, the best first; AMD's may have a prefix.
_NAMES = {
    "memory_used_mib": ("DCGM_FI_DEV_FB_USED", "gpu_used_vram"),
    "utilization": ("DCGM_FI_DEV_GPU_UTIL", "gpu_gfx_activity"),
    "power_w": ("DCGM_FI_DEV_POWER_USAGE", "gpu_package_power", "gpu_average_package_power"),
    "temperature_c": ("DCGM_FI_DEV_GPU_TEMP", "gpu_junction_temperature", "gpu_edge_temperature"),
}
_FIELDS = {name: (field, rank) for field, names in _NAMES.items() for rank, name in enumerate(names)}
_POD, _NAMESPACE = ("exported_pod", "pod", "pod_name"), ("exported_namespace", "namespace", "pod_namespace")
_UUID = ("UUID", "gpu_uuid")
# What tells devices apart: a part of a GPU has the UUID of the whole.
_DEVICE = (*_UUID, "gpu", "gpu_id", "GPU_I_ID", "gpu_partition_id")
_LINE = re.compile(r"(?:amd_)?(\w+)\{(.{0,4000})\}\s+(\S{1,40})(?:\s+-?[0-9]+)?")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Device = tuple[str, ...]
Labels = Mapping[str, str]


@dataclass(frozen=True)
class Exporter:
    """The exporter of a node, and the pod whose GPUs are meant."""

    url: str
    namespace: str
    pod: str
    #: UUIDs that the pod itself has noted, for an exporter that knows nothing of pods
    uuids: frozenset[str] = frozenset()

    def samples(self) -> Reading[GpuSample]:
        """Return a sample of each of the pod's devices."""
        # No proxy: a node's own address is never behind one.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.url, timeout=_TIMEOUT_SECONDS) as response:
                text = response.read(_SIZE_LIMIT).decode("utf-8", "replace")
        except (OSError, ValueError) as error:
            return Reading(problem=f"{self.url}: {error}")
        samples = tuple(samples_of(text, self))
        return Reading(samples, "" if samples else f"{self.url}: no figures of this pod's GPUs")


def samples_of(text: str, exporter: Exporter) -> Iterator[GpuSample]:
    """Yield a sample of each device of the exporter's pod out of the text of its metrics."""
    devices = _devices(text)
    mine = [device for device, (labels, _) in devices.items() if _is_pods(labels, exporter)]
    if not mine and not any(_first(labels, _POD) for labels, _ in devices.values()):
        mine = [device for device, (labels, _) in devices.items() if _first(labels, _UUID) in exporter.uuids]
    for device in mine:
        values = devices[device][1]
        source = "DCGM exporter" if "UUID" in devices[device][0] else "AMD exporter"
        yield GpuSample(
            source,
            time.time(),
            uuid="/".join(device),
            power_seconds=_AGE_SECONDS,
            **{field: values[field][1] if field in values else None for field in _NAMES},  # type: ignore[arg-type]
        )


def _devices(text: str) -> dict[Device, tuple[Labels, dict[str, tuple[int, float]]]]:
    """Return the labels of each device, and its values by field, each with its rank among the names of the field."""
    devices: dict[Device, tuple[Labels, dict[str, tuple[int, float]]]] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line.strip())
        if not match or match[1] not in _FIELDS:
            continue
        labels = dict(_LABEL.findall(match[2]))
        device = tuple(labels[name] for name in _DEVICE if labels.get(name))
        field, rank = _FIELDS[match[1]]
        with suppress(ValueError):
            value = float(match[3])
            values = devices.setdefault(device, (labels, {}))[1]
            # No number is no value.
            if value == value and rank <= values.get(field, (rank, 0.0))[0]:
                values[field] = (rank, value)
    return devices


def _is_pods(labels: Labels, exporter: Exporter) -> bool:
    namespace = _first(labels, _NAMESPACE)
    return _first(labels, _POD) == exporter.pod and namespace in ("", exporter.namespace)


def _first(labels: Labels, names: tuple[str, ...]) -> str:
    return next((labels[name] for name in names if labels.get(name)), "")


class ExporterSampler:
    """Asks an exporter in its own thread until it is stopped; its failures cost values, and never raise."""

    def __init__(self, exporter: Exporter, count: int, seconds: float = SECONDS) -> None:
        """Sample the pod's `count` GPUs."""
        self.problem = ""
        self._exporter, self._count, self._seconds = exporter, count, seconds
        self._samples: dict[str, list[GpuSample]] = defaultdict(list)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._take, name="gpu-exporter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> GpuCost:
        """Return what the run cost; nothing unless all of the pod's GPUs are known."""
        self._stopping.set()
        self._thread.join(_TIMEOUT_SECONDS + 1)
        samples = dict(enumerate(list(self._samples.values())))
        if not samples:
            return GpuCost()
        if len(samples) != self._count:
            self.problem = f"{self._exporter.url}: figures of {len(samples)} of {self._count} GPUs"
            return GpuCost()
        gpus = [Gpu("", index) for index in samples]
        # What it knew before the first figure of this pod is of the time before.
        cost, problem = reliable(cost_of(gpus, samples), samples.values(), _AGE_SECONDS)
        self.problem = problem
        return replace(cost, idle_gpu_memory_mib=None)

    def _take(self) -> None:
        while True:
            reading = self._exporter.samples()
            self.problem = reading.problem if not self._samples else self.problem
            for sample in reading.items:
                self._samples[sample.uuid].append(sample)
            if self._stopping.wait(self._seconds):
                return
