"""What a run cost: samples of its GPUs while it runs, and the figures that are made of them."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from io import FileIO
from itertools import pairwise
from pathlib import Path

from madengine import programs
from madengine.errors import CommandError
from madengine.programs import amd_smi, amd_sysfs, nvidia_smi, rocm_smi
from madengine.records import Gpu, GpuCost, GpuSample, Reading

logger = logging.getLogger(__name__)

# Columns of the series file; an empty cell is unknown.
SERIES_COLUMNS = ("time", "gpu", "memory_used_mib", "utilization_percent", "power_w", "temperature_c", "throttled")
# What the end of a run waits for the sampler; and what a tool gets of that between TERM and KILL.
STOP_SECONDS = 2.0
KILL_SECONDS = 0.3
# Starting one of AMD's tools takes a good part of a second of a core: no more often than this.
TOOL_SECONDS = 10.0
# A sampler that was silent for so long at the end of a run has seen a part of it only.
SILENT_SECONDS = 3 * TOOL_SECONDS
# A run has to be so many times as long as what lies between two samples, where nobody sees a load come and go: on a
# real GPU, runs of one such time or two had lost all of their memory and a quarter of their energy.
LEAST = 3
# The least time between two samples that --sample-hz takes.
LEAST_SECONDS = 0.1


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
        self._known: Sequence[str] = ()
        self._pause = 0.0
        self._began = self._earliest = self._latest = 0.0
        self._file: FileIO | None = None
        self._stopping = threading.Event()
        self._watching = threading.Event()
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._take, name="gpu-sampler", daemon=True)

    def start(self) -> None:
        try:
            # Before a script can put a link to a file of this machine in its place.
            self._file = self._series.open("xb", buffering=0)
        except OSError as error:
            self.problem = str(error)
        self._write(",".join(SERIES_COLUMNS))
        self._began = time.monotonic()
        with suppress(RuntimeError):  # the machine has no room for another thread
            self._thread.start()

    def stop(self) -> GpuCost:
        """End the sampling, within STOP_SECONDS, and say what the run cost."""
        now = time.monotonic()
        deadline, silent = now + STOP_SECONDS, now - self._latest
        self._stopping.set()
        last = self._at_the_end()
        if self._thread.is_alive() and not self._watching.is_set():
            # A tool that is being asked may still answer.
            self._thread.join(STOP_SECONDS / 2)
        self._given_up.set()
        # nvidia-smi has nothing to tidy, and heeds TERM only when it prints the next time.
        grace = 0.0 if self._watching.is_set() else KILL_SECONDS
        while self._thread.is_alive() and time.monotonic() < deadline:
            programs.end_those_of(self._thread.ident, grace)
            self._thread.join(0.05)
        # Alone, they would say that the run did nothing.
        for sample in last if self._samples else ():
            self._keep(sample)
        if self._file is not None:
            self._file.close()
        if self._samples and silent > max(SILENT_SECONDS, 3 * self._seconds):
            self._drop(f"no sample in the last {silent:.0f} s of the run")
        samples = dict(self._samples)
        if not samples:
            self.problem = self.problem or "no sample came before the run ended"
            return GpuCost()
        unseen = max(self._earliest - self._began, silent)
        told, problem = reliable(cost(self._gpus, samples), samples.values(), unseen)
        if problem:
            is_slow = self._seconds > max(LEAST_SECONDS, self._pause)
            self.problem = problem + ("; --sample-hz takes up to 10 a second" if is_slow else "")
        return told

    def _at_the_end(self) -> Sequence[GpuSample]:
        """What the GPUs do now, where a tool watches them: what it printed last may be an interval old.

        Before the watching ends: where nobody holds the driver, it would have to start anew.
        """
        said: list[GpuSample] = []
        asking = threading.Thread(target=lambda: said.extend(nvidia_smi.now(self._known).items), daemon=True)
        if self._watching.is_set() and self._thread.is_alive():
            with suppress(RuntimeError):  # the machine has no room for another thread
                asking.start()
                asking.join(STOP_SECONDS / 2)
                programs.end_those_of(asking.ident, KILL_SECONDS)
        return tuple(said)

    def _drop(self, problem: str) -> None:
        """The figures of a part of a run would pass for those of the whole; the series file keeps the samples."""
        self.problem = problem
        self._samples.clear()

    def _take(self) -> None:
        try:
            for sample in self._source():
                self._keep(sample)
        except (OSError, CommandError, ValueError) as error:
            self.problem = str(error)

    def _keep(self, sample: GpuSample) -> None:
        for gpu in self._gpus:
            if is_of(sample, gpu):
                self._latest = time.monotonic()
                self._earliest = self._earliest or self._latest
                self._samples[gpu.index].append(sample)
                self._write(series_line(gpu, sample))

    def _write(self, line: str) -> None:
        """Add a line to the series; where it can't be written, the figures are made all the same."""
        if self._file is None:
            return
        try:
            self._file.write(f"{line}\n".encode())
        except OSError as error:
            self.problem = f"{self._series}: {error.strerror}"
            self._file.close()
            self._file = None

    def _source(self) -> Iterator[GpuSample]:
        """Samples as they come, from the cheapest source that has any."""
        if not self._gpus:
            self.problem = "a part of a GPU has no counters of its own"
            return
        if self._gpus[0].vendor == "NVIDIA":
            yield from self._watched()
            return
        for ask, pause in ((amd_sysfs.samples, 0.0), (amd_smi.samples, TOOL_SECONDS), (rocm_smi.samples, TOOL_SECONDS)):
            first = self._asked(ask)
            if any(is_of(sample, gpu) for sample in first.items for gpu in self._gpus):
                self._pause = pause
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
        self._known, last = known, ""
        with programs.background(nvidia_smi.watch(known, round(self._seconds * 1000))) as process:
            self._watching.set()
            assert process.stdout is not None
            for line in () if self._given_up.is_set() else process.stdout:
                last = line.decode(errors="replace").strip()
                sample = nvidia_smi.sample_of_line(known, last)
                if sample is not None:
                    yield sample
        if not self._stopping.is_set():
            self._drop(f"nvidia-smi ended before the run: {last[:200] or 'it printed nothing'}")

    def _polled(self, ask: Callable[[], Reading[GpuSample]], seconds: float) -> Iterator[GpuSample]:
        while not self._stopping.wait(seconds):
            yield from self._asked(ask).items
        yield from self._asked(ask).items

    def _asked(self, ask: Callable[[], Reading[GpuSample]]) -> Reading[GpuSample]:
        return Reading() if self._given_up.is_set() else ask()


@contextmanager
def sampled(
    gpus: Sequence[Gpu], machine: Sequence[Gpu], series: Path, seconds: float
) -> Iterator[Callable[[], GpuCost | None]]:
    """Sample the GPUs while the block runs; the value, called after it, is what that cost (None without GPUs).

    Why figures are missing is logged.
    """
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
        if sampler.problem:
            logger.info(f"figures of the GPUs are missing: {sampler.problem}")


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
    used = _all_known(each, lambda sample: sample.utilization)
    powers = [_energy(of_one) for of_one in each]
    return GpuCost(
        peak_gpu_memory_mib=_peak(_together(each, lambda sample: sample.memory_used_mib)),
        peak_gpu_memory_mib_per_gpu={
            gpu.index: peak for gpu, peak in zip(gpus, peaks, strict=True) if peak is not None
        },
        idle_gpu_memory_mib=_sum(of_one[0].memory_used_mib if of_one else None for of_one in each),
        mean_gpu_utilization=_mean(each, lambda sample: sample.utilization),
        p95_gpu_utilization=_percentile(used, 95),
        energy_j=_sum(power and power[0] for power in powers),
        mean_power_w=_sum(power and power[0] / power[1] for power in powers),
        peak_power_w=_peak(_together(each, lambda sample: sample.power_w)),
        peak_temperature_c=_peak(_all_known(each, lambda sample: sample.temperature_c)),
        throttled_percent=_mean(each, lambda sample: None if sample.throttled is None else 100.0 * sample.throttled),
        sample_hz=_rate(max(each, key=len, default=[])),
        telemetry_source=every[0].source if every else "",
    )


def reliable(told: GpuCost, samples: Collection[Sequence[GpuSample]], unseen: float) -> tuple[GpuCost, str]:
    """What of a run's figures its samples (of each GPU) can tell, and why they can't tell the others.

    `unseen` are the seconds before the first sample or after the last. An average needs a run that is longer than its
    own time, too.
    """
    seconds = min(of_one[-1].time - of_one[0].time for of_one in samples)
    apart = max([unseen, *(later.time - one.time for of_one in samples for one, later in pairwise(of_one))])
    if seconds < LEAST * apart:
        known = GpuCost(idle_gpu_memory_mib=told.idle_gpu_memory_mib, telemetry_source=told.telemetry_source)
        return known, f"samples {apart:.1f} s apart are too few for so short a run"
    averaged = max(sample.power_seconds for of_one in samples for sample in of_one)
    if seconds < LEAST * averaged:
        # The utilization is an average too, of up to the same time.
        told = replace(told, mean_gpu_utilization=None, p95_gpu_utilization=None)
        told = replace(told, energy_j=None, mean_power_w=None, peak_power_w=None)
        return told, f"power and utilization are averages of {averaged:g} s, too long for so short a run"
    return told, ""


def _together(
    each: Sequence[Sequence[GpuSample]], figure: Callable[[GpuSample], float | None]
) -> Iterator[float | None]:
    """The sum over the GPUs at every moment that one of them was sampled, each with its latest figure."""
    moments = sorted(
        ((number, sample) for number, of_one in enumerate(each) for sample in of_one), key=lambda moment: moment[1].time
    )
    latest: dict[int, float | None] = {}
    for number, sample in moments:
        latest[number] = figure(sample)
        if len(latest) == len(each):
            yield _sum(latest.values())


def _all_known(each: Sequence[Sequence[GpuSample]], figure: Callable[[GpuSample], float | None]) -> list[float]:
    """The known figures of all GPUs; nothing where a GPU has none: those of the others would pass for all."""
    known = [[value for sample in of_one if (value := figure(sample)) is not None] for of_one in each]
    return [value for of_one in known for value in of_one] if all(known) else []


def _mean(each: Sequence[Sequence[GpuSample]], figure: Callable[[GpuSample], float | None]) -> float | None:
    """The mean over the time, of all GPUs; None where one of them tells nothing.

    Not over the samples: the first and the last of a run are idle ones, and many of a short run.
    """
    curves = [[(sample.time, value) for sample in of_one if (value := figure(sample)) is not None] for of_one in each]
    return _average([_height(curve) for curve in curves]) if curves and all(curves) else None


def _height(curve: Sequence[tuple[float, float]]) -> float:
    seconds = curve[-1][0] - curve[0][0]
    return _area(curve) / seconds if seconds > 0 else _average([value for _, value in curve])


def _average(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _area(curve: Sequence[tuple[float, float]]) -> float:
    """Under the curve through these points (time, value), by trapezoids."""
    return sum((later - earlier) * (first + second) / 2 for (earlier, first), (later, second) in pairwise(curve))


def _energy(samples: Sequence[GpuSample]) -> tuple[float, float] | None:
    """Joule from the first sample to the last (the area under the power's curve), and the seconds between these.

    An average belongs to the middle of its time; what it doesn't tell of the last half of that is held. None for less
    than two figures.
    """
    known = [sample for sample in samples if sample.power_w is not None]
    seconds = known[-1].time - known[0].time if known else 0.0
    if seconds <= 0:
        return None
    curve = [(sample.time - sample.power_seconds / 2, sample.power_w or 0.0) for sample in known]
    return _area(_from(known[0].time, sorted([*curve, (known[-1].time, curve[-1][1])]))), seconds


def _from(moment: float, curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The part of a curve that comes after a moment within it."""
    later = [point for point in curve if point[0] > moment]
    (start, first), (end, last) = curve[len(curve) - len(later) - 1], later[0]
    return [(moment, first + (last - first) * (moment - start) / (end - start)), *later]


def _rate(samples: Sequence[GpuSample]) -> float | None:
    """How often a GPU was sampled, by the usual distance: the last sample comes when the run ends."""
    distances = sorted(later.time - one.time for one, later in pairwise(samples))
    usual = distances[len(distances) // 2] if distances else 0.0
    return 1.0 / usual if usual > 0 else None


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
