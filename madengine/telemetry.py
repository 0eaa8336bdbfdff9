"""What a run cost: samples of its GPUs while it runs, and the figures that are made of them."""

from __future__ import annotations

import math
import statistics
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import TextIO

from madengine import programs
from madengine.errors import CommandError
from madengine.programs import amd_smi, amd_sysfs, nvidia_smi, rocm_smi
from madengine.records import Found, Gpu, GpuCost, GpuSample

# Columns of the series file; an empty cell is unknown.
SERIES_COLUMNS = ("time", "gpu", "memory_used_mib", "utilization_percent", "power_w", "temperature_c", "throttled")
# Starting one of AMD's tools takes a good part of a second of a core: no more often than this.
TOOL_SECONDS = 10.0


class Sampler:
    """Takes samples of some GPUs in a thread of its own, `seconds` apart, until it is stopped.

    Whatever goes wrong in it (a tool that is missing or hangs, a full disk) ends in fewer figures and a
    `problem`, never in an error. `machine` are all GPUs of this machine.
    """

    def __init__(self, gpus: Sequence[Gpu], machine: Sequence[Gpu], series: Path, seconds: float) -> None:
        self.problem = ""
        self._gpus = measurable(gpus, machine)
        self._series = series
        self._seconds = seconds
        self._samples: dict[int, list[GpuSample]] = defaultdict(list)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._take, name="gpu-sampler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> GpuCost:
        """End the sampling and say what the run cost."""
        self._stopping.set()
        self._thread.join(timeout=programs.GRACE_SECONDS * 2)
        return cost(self._gpus, dict(self._samples))

    def _take(self) -> None:
        try:
            with self._series.open("w", encoding="utf-8", buffering=1) as file:
                file.write(",".join(SERIES_COLUMNS) + "\n")
                for sample in self._source():
                    self._keep(sample, file)
        except (OSError, CommandError, ValueError) as error:
            self.problem = str(error)

    def _keep(self, sample: GpuSample, file: TextIO) -> None:
        for gpu in self._gpus:
            if is_of(sample, gpu):
                self._samples[gpu.index].append(sample)
                file.write(series_line(gpu, sample) + "\n")

    def _source(self) -> Iterator[GpuSample]:
        """Samples as they come, from the cheapest source that has any."""
        if not self._gpus:
            self.problem = "a part of a GPU has no counters of its own"
            return
        if self._gpus[0].vendor == "NVIDIA":
            yield from self._watched()
            return
        for ask, pause in ((amd_sysfs.samples, 0.0), (amd_smi.samples, TOOL_SECONDS), (rocm_smi.samples, TOOL_SECONDS)):
            first = ask()
            if any(is_of(sample, gpu) for sample in first.items for gpu in self._gpus):
                yield from first.items
                yield from self._polled(ask, max(pause, self._seconds))
                return
            self.problem = first.problem or self.problem

    def _watched(self) -> Iterator[GpuSample]:
        """One nvidia-smi for the whole run, which prints a line for each GPU at each interval."""
        known = nvidia_smi.fields()
        if not known:
            self.problem = "nvidia-smi doesn't say which figures it knows"
            return
        with programs.background(nvidia_smi.watch(known, round(self._seconds * 1000))) as process:
            threading.Thread(target=self._end_with_us, args=(process.terminate,), daemon=True).start()
            assert process.stdout is not None
            for line in process.stdout:
                sample = nvidia_smi.sample_of_line(known, line.decode(errors="replace"))
                if sample is not None:
                    yield sample

    def _end_with_us(self, end: Callable[[], None]) -> None:
        self._stopping.wait()
        with suppress(OSError):
            end()

    def _polled(self, ask: Callable[[], Found[GpuSample]], seconds: float) -> Iterator[GpuSample]:
        while not self._stopping.wait(seconds):
            yield from ask().items
        yield from ask().items


@contextmanager
def sampled(
    gpus: Sequence[Gpu], machine: Sequence[Gpu], series: Path, seconds: float
) -> Iterator[Callable[[], GpuCost | None]]:
    """Sample the GPUs while the block runs; the value, called after it, is what that cost (None without GPUs)."""
    if not gpus:
        yield lambda: None
        return
    sampler = Sampler(gpus, machine, series, seconds)
    sampler.start()
    result: list[GpuCost] = []
    try:
        yield lambda: result[0] if result else None
    finally:
        result.append(sampler.stop())


def measurable(gpus: Sequence[Gpu], machine: Sequence[Gpu]) -> list[Gpu]:
    """The GPUs whose counters tell about this run alone: one device for each GPU of which it has all parts.

    The parts of a GPU (MIG instances, CPX partitions) share its counters; those of a part are its neighbours' too.
    """
    mine, all_parts = Counter(map(_whole, gpus)), Counter(map(_whole, machine))
    first = {_whole(gpu): gpu for gpu in reversed(gpus)}
    return [gpu for whole, gpu in reversed(first.items()) if mine[whole] == all_parts[whole]]


def _whole(gpu: Gpu) -> str:
    return gpu.pci_bus_id or gpu.parent or gpu.uuid or f"{gpu.vendor} {gpu.index}"


def is_of(sample: GpuSample, gpu: Gpu) -> bool:
    """Whether a sample is of this device: by UUID (a MIG instance's is its parent's), else PCI bus, else index."""
    if sample.uuid and (gpu.uuid or gpu.parent):
        return sample.uuid in (gpu.uuid, gpu.parent)
    if sample.pci_bus_id and gpu.pci_bus_id:
        return sample.pci_bus_id == gpu.pci_bus_id
    return sample.index is not None and sample.index == gpu.index


def series_line(gpu: Gpu, sample: GpuSample) -> str:
    """One line of the series file."""
    figures = (sample.memory_used_mib, sample.utilization, sample.power_w, sample.temperature_c, sample.throttled)
    cells = ("" if figure is None else str(int(figure) if isinstance(figure, bool) else figure) for figure in figures)
    return ",".join((f"{sample.time:.3f}", str(gpu.index), *cells))


def cost(gpus: Sequence[Gpu], samples: dict[int, list[GpuSample]]) -> GpuCost:
    """The figures of a run out of the samples of each of its GPUs (by index); what no sample tells is None."""
    each = [samples.get(gpu.index, []) for gpu in gpus]
    every = [sample for of_one in each for sample in of_one]
    peaks = [_peak(sample.memory_used_mib for sample in of_one) for of_one in each]
    used = [sample.utilization for sample in every if sample.utilization is not None]
    throttled = [sample.throttled for sample in every if sample.throttled is not None]
    seconds = max((of_one[-1].time - of_one[0].time for of_one in each if len(of_one) > 1), default=0.0)
    energy = _sum(_energy(of_one) for of_one in each)
    return GpuCost(
        peak_gpu_memory_mib=_peak(_together(each, lambda sample: sample.memory_used_mib)),
        peak_gpu_memory_mib_per_gpu={
            gpu.index: peak for gpu, peak in zip(gpus, peaks, strict=True) if peak is not None
        },
        idle_gpu_memory_mib=_sum(of_one[0].memory_used_mib if of_one else None for of_one in each),
        mean_gpu_utilization=statistics.fmean(used) if used else None,
        p95_gpu_utilization=_percentile(used, 95),
        energy_j=energy,
        mean_power_w=energy / seconds if energy is not None and seconds else None,
        peak_power_w=_peak(_together(each, lambda sample: sample.power_w)),
        peak_temperature_c=_peak(sample.temperature_c for sample in every),
        throttled_percent=100.0 * sum(throttled) / len(throttled) if throttled else None,
        sample_hz=(max(map(len, each)) - 1) / seconds if seconds else None,
        telemetry_source=every[0].source if every else "",
    )


def _together(
    each: Sequence[Sequence[GpuSample]], figure: Callable[[GpuSample], float | None]
) -> Iterator[float | None]:
    """The sum over the GPUs at every moment that one of them was sampled, each with its latest figure."""
    moments = sorted(((sample.time, number, figure(sample)) for number, of in enumerate(each) for sample in of))
    latest: dict[int, float | None] = {}
    for _, number, value in moments:
        latest[number] = value
        if len(latest) == len(each):
            yield _sum(latest.values())


def _energy(samples: Sequence[GpuSample]) -> float | None:
    """Joule: the area under the power's curve, by trapezoids; None for less than two figures."""
    known = [(sample.time, sample.power_w) for sample in samples if sample.power_w is not None]
    if len(known) < 2:
        return None
    return sum((later - earlier) * (first + second) / 2 for (earlier, first), (later, second) in pairwise(known))


def _sum(values: Iterable[float | None]) -> float | None:
    """The sum, None where one of them is unknown: a sum of some GPUs would pass for one of all."""
    given = list(values)
    known = [value for value in given if value is not None]
    return math.fsum(known) if known and len(known) == len(given) else None


def _peak(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _percentile(values: Sequence[float], percent: int) -> float | None:
    """The nearest-rank percentile."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1] if values else None
