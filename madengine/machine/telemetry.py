"""Samples of a run's GPUs while it runs, and what they say about its cost."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from io import FileIO
from itertools import pairwise
from pathlib import Path

from madengine import programs
from madengine.errors import CommandError
from madengine.programs.gpu_tools import TOOLS, GpuTool
from madengine.programs.smi import SAMPLE_SECONDS, SampleStream, explanation
from madengine.records import SAMPLE_COLUMNS, Gpu, GpuCost, GpuSample, Reading

logger = logging.getLogger(__name__)

# What the end of a run waits for the sampler; and what a tool gets of that between TERM and KILL.
STOP_SECONDS = 2.0
KILL_SECONDS = 0.3
# Without samples for this long before the end, the data are incomplete.
SILENT_SECONDS = 3 * SAMPLE_SECONDS
# How many times longer than the sampling interval, within which a load can come and go unseen, a run must be: on a real
# GPU, runs of one or two intervals had lost all of their memory and a quarter of their energy.
LEAST = 3
# The shortest interval that --sample-hz accepts.
LEAST_SECONDS = 0.1

# A value of a sample; None is unknown.
_Value = Callable[[GpuSample], float | None]


class Sampler:
    """Takes samples of some GPUs in its own thread, `seconds` apart, until it is stopped.

    Its failures (a tool that is missing or hangs, a full disk) cost values and set `problem`, but never raise.
    `machine` are all GPUs of this machine.
    """

    def __init__(self, gpus: Sequence[Gpu], machine: Sequence[Gpu], series: Path, seconds: float) -> None:
        self.problem = ""
        self._gpus = measurable(gpus, machine)
        self._series = series
        self._seconds = seconds
        self._samples: dict[int, list[GpuSample]] = defaultdict(list)
        self._stream: SampleStream | None = None
        self._pause = 0.0
        self._began = self._earliest = self._latest = 0.0
        self._file: FileIO | None = None
        self._stopping = threading.Event()
        self._streaming = threading.Event()
        self._giving_up = threading.Event()
        self._thread = threading.Thread(target=self._take, name="gpu-sampler", daemon=True)

    def start(self) -> None:
        try:
            # Before a script can replace it by a link to a file of this machine.
            self._file = self._series.open("xb", buffering=0)
        except OSError as error:
            self.problem = str(error)
        self._write(",".join(SAMPLE_COLUMNS))
        self._began = time.monotonic()
        with suppress(RuntimeError):  # the machine can't start another thread
            self._thread.start()

    def stop(self) -> GpuCost:
        """End the sampling, within STOP_SECONDS, and return what the run cost."""
        now = time.monotonic()
        deadline, silent = now + STOP_SECONDS, now - self._latest
        self._stopping.set()
        last = self._last_samples()
        self._end(deadline)
        # Alone, they would say that the run did nothing.
        for sample in last if self._samples else ():
            self._add(sample)
        if self._file is not None:
            self._file.close()
        if self._samples and silent > max(SILENT_SECONDS, 3 * self._seconds):
            self._drop(f"no sample in the last {silent:.0f} s of the run")
        return self._cost(silent)

    def _last_samples(self) -> Sequence[GpuSample]:
        """Return samples of now if a tool streams them: the last ones in its stream may be an interval old.

        Before the stream ends: if no process uses the driver, it would have to be initialized again.
        """
        stream = self._stream
        samples: list[GpuSample] = []
        if stream is not None and self._streaming.is_set() and self._thread.is_alive():
            query = threading.Thread(target=lambda: samples.extend(stream.now().items), daemon=True)
            with suppress(RuntimeError):  # the machine can't start another thread
                query.start()
                query.join(STOP_SECONDS / 2)
                programs.end_programs_of(query.ident, KILL_SECONDS)
        return tuple(samples)

    def _end(self, deadline: float) -> None:
        """End the thread and what it has started."""
        if self._thread.is_alive() and not self._streaming.is_set():
            # The running tool may still answer.
            self._thread.join(STOP_SECONDS / 2)
        self._giving_up.set()
        # nvidia-smi has nothing to clean up, and handles TERM only when it next prints.
        grace = 0.0 if self._streaming.is_set() else KILL_SECONDS
        while self._thread.is_alive() and time.monotonic() < deadline:
            programs.end_programs_of(self._thread.ident, grace)
            self._thread.join(0.05)

    def _cost(self, silent: float) -> GpuCost:
        samples = dict(self._samples)
        if not samples:
            self.problem = self.problem or "no sample before the run ended"
            return GpuCost()
        unseen = max(self._earliest - self._began, silent)
        cost, problem = reliable(cost_of(self._gpus, samples), samples.values(), unseen)
        if problem:
            is_slow = self._seconds > max(LEAST_SECONDS, self._pause)
            self.problem = problem + ("; raise --sample-hz (at most 10)" if is_slow else "")
        return cost

    def _drop(self, problem: str) -> None:
        """Drop the samples of a part of a run, which would pass for all of it; the series file keeps them."""
        self.problem = problem
        self._samples.clear()

    def _take(self) -> None:
        try:
            for sample in self._source():
                self._add(sample)
        except (OSError, CommandError, ValueError) as error:
            self.problem = str(error)

    def _add(self, sample: GpuSample) -> None:
        for gpu in self._gpus:
            if is_of(sample, gpu):
                self._latest = time.monotonic()
                self._earliest = self._earliest or self._latest
                self._samples[gpu.index].append(sample)
                self._write(series_line(gpu, sample))

    def _write(self, line: str) -> None:
        """Add a line to the series; if it can't be written, the samples still count."""
        if self._file is None:
            return
        try:
            self._file.write(f"{line}\n".encode())
        except OSError as error:
            self.problem = f"{self._series}: {error.strerror}"
            self._file.close()
            self._file = None

    def _source(self) -> Iterator[GpuSample]:
        """Yield samples as they come, from the cheapest tool that has any."""
        if not self._gpus:
            self.problem = "a part of a GPU has no counters of its own"
            return
        for tool in TOOLS[self._gpus[0].vendor]:
            self._stream = tool.stream(self._seconds)
            if self._stream is not None:
                yield from self._streamed(tool, self._stream)
                return
            first = self._poll(tool)
            if any(is_of(sample, gpu) for sample in first.items for gpu in self._gpus):
                self._pause = tool.SAMPLE_SECONDS
                yield from first.items
                yield from self._polled(tool, max(self._pause, self._seconds))
                return
            self.problem = first.problem or self.problem

    def _streamed(self, tool: GpuTool, stream: SampleStream) -> Iterator[GpuSample]:
        """Yield the samples of one tool that runs as long as the run."""
        # What it has printed since its last sample.
        messages: deque[str] = deque(maxlen=20)
        with programs.background(stream.command) as process:
            self._streaming.set()
            assert process.stdout is not None
            for line in () if self._giving_up.is_set() else process.stdout:
                text = line.decode(errors="replace").rstrip()
                sample = stream.parse(text)
                if sample is None:
                    messages.append(text)
                    continue
                messages.clear()
                yield sample
        if not self._stopping.is_set():
            self._drop(f"{tool.NAME} ended before the run: {explanation(messages)}")

    def _polled(self, tool: GpuTool, seconds: float) -> Iterator[GpuSample]:
        while not self._stopping.wait(seconds):
            yield from self._poll(tool).items
        yield from self._poll(tool).items

    def _poll(self, tool: GpuTool) -> Reading[GpuSample]:
        return Reading() if self._giving_up.is_set() else tool.samples()


@contextmanager
def sampled(
    gpus: Sequence[Gpu], machine: Sequence[Gpu], series: Path, seconds: float
) -> Iterator[Callable[[], GpuCost | None]]:
    """Sample the GPUs while the block runs; the value, called after it, returns the cost (None without GPUs).

    Logs why values are missing.
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
            logger.info(f"GPU telemetry incomplete: {sampler.problem}")


def measurable(gpus: Sequence[Gpu], machine: Sequence[Gpu]) -> list[Gpu]:
    """Return the GPUs whose counters count only this run: one device for each GPU of which it has all parts.

    The parts of a GPU (MIG instances, CPX partitions) share its counters with their neighbours.
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
    """Return a line of the series file."""
    values = (sample.memory_used_mib, sample.utilization, sample.power_w, sample.temperature_c, sample.throttled)
    cells = ("" if value is None else str(int(value) if isinstance(value, bool) else value) for value in values)
    return ",".join((f"{sample.time:.3f}", str(gpu.index), *cells))


def cost_of(gpus: Sequence[Gpu], samples: dict[int, list[GpuSample]]) -> GpuCost:
    """Return the cost of a run from the samples of each of its GPUs (by index); unknown values are None."""
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


def reliable(cost: GpuCost, samples: Collection[Sequence[GpuSample]], unseen: float) -> tuple[GpuCost, str]:
    """Return those values of a cost that the samples (of each GPU) are enough for, and why the others are missing.

    `unseen` are the seconds before the first sample or after the last. An average also needs a run that is longer than
    its own time.
    """
    seconds = min(of_one[-1].time - of_one[0].time for of_one in samples)
    apart = max([unseen, *(later.time - one.time for of_one in samples for one, later in pairwise(of_one))])
    if seconds < LEAST * apart:
        known = GpuCost(idle_gpu_memory_mib=cost.idle_gpu_memory_mib, telemetry_source=cost.telemetry_source)
        return known, f"samples {apart:.1f} s apart are too few for so short a run"
    averaged = max(sample.power_seconds for of_one in samples for sample in of_one)
    if seconds < LEAST * averaged:
        # The utilization is an average too, of up to the same time.
        cost = replace(cost, mean_gpu_utilization=None, p95_gpu_utilization=None)
        cost = replace(cost, energy_j=None, mean_power_w=None, peak_power_w=None)
        return cost, f"power and utilization are averages of {averaged:g} s, too long for so short a run"
    return cost, ""


def _together(each: Sequence[Sequence[GpuSample]], value_of: _Value) -> Iterator[float | None]:
    """Yield the sum over the GPUs, each with its latest value, at every moment that one of them was sampled."""
    moments = sorted(
        ((number, sample) for number, of_one in enumerate(each) for sample in of_one), key=lambda moment: moment[1].time
    )
    latest: dict[int, float | None] = {}
    for number, sample in moments:
        latest[number] = value_of(sample)
        if len(latest) == len(each):
            yield _sum(latest.values())


def _all_known(each: Sequence[Sequence[GpuSample]], value_of: _Value) -> list[float]:
    """Return the known values of all GPUs; empty if a GPU has none, because the others would pass for all."""
    known = [[value for sample in of_one if (value := value_of(sample)) is not None] for of_one in each]
    return [value for of_one in known for value in of_one] if all(known) else []


def _mean(each: Sequence[Sequence[GpuSample]], value_of: _Value) -> float | None:
    """Return the mean of all GPUs over time; None if one of them has no values.

    Not over the samples: the first and last of a run are idle, a large part of a short one.
    """
    curves = [[(sample.time, value) for sample in of_one if (value := value_of(sample)) is not None] for of_one in each]
    return _average([_height(curve) for curve in curves]) if curves and all(curves) else None


def _height(curve: Sequence[tuple[float, float]]) -> float:
    seconds = curve[-1][0] - curve[0][0]
    return _area(curve) / seconds if seconds > 0 else _average([value for _, value in curve])


def _average(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _area(curve: Sequence[tuple[float, float]]) -> float:
    """Return the area under the curve through these points (time, value), by trapezoids."""
    return sum((later - earlier) * (first + second) / 2 for (earlier, first), (later, second) in pairwise(curve))


def _energy(samples: Sequence[GpuSample]) -> tuple[float, float] | None:
    """Return joule from the first sample to the last (the area under the power curve), and the seconds between them.

    An average belongs to the middle of its time; the last value is held to the end. None for less than two values.
    """
    known = [sample for sample in samples if sample.power_w is not None]
    seconds = known[-1].time - known[0].time if known else 0.0
    if seconds <= 0:
        return None
    curve = [(sample.time - sample.power_seconds / 2, sample.power_w or 0.0) for sample in known]
    return _area(_from(known[0].time, sorted([*curve, (known[-1].time, curve[-1][1])]))), seconds


def _from(moment: float, curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the part of a curve after a moment within it."""
    later = [point for point in curve if point[0] > moment]
    (start, first), (end, last) = curve[len(curve) - len(later) - 1], later[0]
    return [(moment, first + (last - first) * (moment - start) / (end - start)), *later]


def _rate(samples: Sequence[GpuSample]) -> float | None:
    """Return how often a GPU was sampled, by the median interval: the last sample is taken when the run ends."""
    distances = sorted(later.time - one.time for one, later in pairwise(samples))
    usual = distances[len(distances) // 2] if distances else 0.0
    return 1.0 / usual if usual > 0 else None


def _sum(values: Iterable[float | None]) -> float | None:
    """Return the sum; None if a value is unknown, because a sum of some GPUs would pass for one of all."""
    every = list(values)
    known = [value for value in every if value is not None]
    return math.fsum(known) if known and len(known) == len(every) else None


def _peak(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _percentile(values: Sequence[float], percent: int) -> float | None:
    """Return the nearest-rank percentile."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1] if values else None
