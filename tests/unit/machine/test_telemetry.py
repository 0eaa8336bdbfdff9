"""What a run cost: figures that were computed by hand, and sources that fail in every way."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madengine.machine import telemetry
from madengine.machine.telemetry import Sampler, cost_of, is_of, measurable, reliable, sampled
from madengine.programs import amd_smi, amd_sysfs, rocm_smi
from madengine.records import SAMPLE_COLUMNS, Gpu, GpuCost, GpuSample, Reading
from tests.conftest import StandIns, collect_messages
from tests.unit.programs.test_amd_sysfs import CPU, device, gpu_node, topology

DATA = Path(__file__).parents[2] / "data" / "smi"
A, B = Gpu("NVIDIA", 0, uuid="GPU-a"), Gpu("NVIDIA", 1, uuid="GPU-b")


def sample(moment: float, memory: float | None = None, **more: float | bool | None) -> GpuSample:
    values = {"utilization": None, "power_w": None, "temperature_c": None, "throttled": None, **more}
    return GpuSample("test", moment, memory_used_mib=memory, **values)  # type: ignore[arg-type]


# --- the figures ---


def test_the_peak_is_that_of_the_sum_not_the_sum_of_the_peaks() -> None:
    """One GPU is at its peak while the other has already given its memory back."""
    cost = cost_of([A, B], {0: [sample(0, 100), sample(2, 900), sample(4, 100)], 1: [sample(1, 50), sample(5, 800)]})
    assert cost.peak_gpu_memory_mib == 950
    assert cost.peak_gpu_memory_mib_per_gpu == {0: 900, 1: 800}
    assert cost.idle_gpu_memory_mib == 150


def test_energy_is_the_area_under_the_power() -> None:
    a = [sample(0, power_w=100), sample(2, power_w=300), sample(6, power_w=200)]
    b = [sample(1, power_w=50), sample(4, power_w=50)]
    cost = cost_of([A, B], {0: a, 1: b})
    # 2 × 200 + 4 × 250, and 3 × 50
    assert cost.energy_j == 1400 + 150
    assert cost.mean_power_w == pytest.approx(1400 / 6 + 50)
    assert cost.peak_power_w == 350


def test_the_mean_power_is_over_the_time_that_it_is_known_for() -> None:
    cost = cost_of([A], {0: [sample(0), sample(10, power_w=400), sample(20, power_w=400)]})
    assert (cost.energy_j, cost.mean_power_w) == (4000, 400)


def test_a_power_that_is_missing_now_and_then_is_bridged() -> None:
    cost = cost_of([A], {0: [sample(0, power_w=100), sample(1), sample(2, power_w=100)]})
    assert (cost.energy_j, cost.peak_power_w) == (200, 100)


@pytest.mark.parametrize(("count", "p95"), [(1, 1), (2, 2), (19, 19), (20, 19), (21, 20), (100, 95), (101, 96)])
def test_p95_is_the_nearest_rank(count: int, p95: float) -> None:
    used = [sample(moment, utilization=moment + 1) for moment in range(count)]
    cost = cost_of([A], {0: used[::-1]})
    assert cost.p95_gpu_utilization == p95
    assert cost.mean_gpu_utilization == pytest.approx((count + 1) / 2)


def test_utilisation_temperature_and_throttling_are_those_of_all_gpus() -> None:
    a = [sample(0, utilization=100, temperature_c=40, throttled=True), sample(1, utilization=80, temperature_c=71)]
    b = [sample(0, utilization=0, temperature_c=35, throttled=False), sample(1, utilization=20, throttled=False)]
    cost = cost_of([A, B], {0: a, 1: b})
    assert cost.mean_gpu_utilization == 50
    assert cost.p95_gpu_utilization == 100
    assert cost.peak_temperature_c == 71
    assert cost.throttled_percent == 50


def test_the_idle_ends_of_a_short_run_count_for_their_time_only() -> None:
    used = [sample(moment, utilization=use) for moment, use in ((0, 0), (1, 100), (3, 100), (3.5, 0), (3.6, 0))]
    assert cost_of([A], {0: used}).mean_gpu_utilization == pytest.approx((50 + 200 + 25) / 3.6)


def test_an_average_power_belongs_to_the_middle_of_its_time() -> None:
    """100 W from the first sample to the one before the last, in averages of a second."""
    averages = [(0, 0), *((moment, 100) for moment in range(1, 11)), (10.5, 50)]
    cost = cost_of([A], {0: [sample(moment, power_w=power, power_seconds=1) for moment, power in averages]})
    assert cost.energy_j == pytest.approx(1000)
    assert cost.mean_power_w == pytest.approx(1000 / 10.5)


# A real H100 at one sample a second: time, average power; and what its own energy counter and a reading of its
# utilisation at 20 Hz said of the time from the first sample to the last.
MEASURED = {
    "ten seconds in a container": (
        "0 81.58 1.004 178.35 2.008 392.3 3.011 393.88 4.013 394.74 5.015 395.04 6.017 395.22 7.018 394.99 8.02 395.33 "
        "9.022 395.02 10.024 394.7 11.025 332.11 11.115 309.33",
        4078.4,
    ),
    "sixteen seconds of PyTorch": (
        "0 83.4 1.004 81.22 2.006 80.27 3.01 79.96 4.012 291.75 5.013 699.95 6.016 699.33 7.02 701.68 8.021 698 "
        "9.023 702.15 10.026 698.37 11.027 699.42 12.029 696.6 13.031 699.07 14.032 697.16 15.034 696.39 16.037 576 "
        "16.261 414.54",
        8836.5,
    ),
    "two seconds": ("0 129.11 1.013 336.74 2.015 397.42 2.412 384.33", 882.0),
}


@pytest.mark.parametrize("run", MEASURED)
def test_the_energy_is_what_the_counter_of_a_real_gpu_says(run: str) -> None:
    text, counted = MEASURED[run]
    numbers = [float(word) for word in text.split()]
    samples = [
        sample(moment, power_w=power, power_seconds=1)
        for moment, power in zip(numbers[::2], numbers[1::2], strict=True)
    ]
    assert cost_of([A], {0: samples}).energy_j == pytest.approx(counted, rel=0.025)


@given(st.lists(st.tuples(st.floats(0, 60), st.floats(0, 1000)), min_size=2, max_size=20), st.floats(0, 2))
def test_energy_is_finite_whatever_a_clock_does(known: list[tuple[float, float]], seconds: float) -> None:
    cost = cost_of([A], {0: [sample(moment, power_w=power, power_seconds=seconds) for moment, power in known]})
    assert cost.energy_j is None or math.isfinite(cost.energy_j)
    if known == sorted(known) and cost.mean_power_w is not None:
        powers = [power for _, power in known]
        assert min(powers) <= cost.mean_power_w + 1e-6 and cost.mean_power_w <= max(powers) + 1e-6


def test_the_rate_is_that_of_one_gpu() -> None:
    cost = cost_of([A, B], {index: [sample(moment / 4) for moment in range(9)] for index in (0, 1)})
    assert cost.sample_hz == 4
    assert cost.telemetry_source == "test"


def test_what_is_never_busy_is_zero_and_not_unknown() -> None:
    idle = [sample(moment, 0, utilization=0, power_w=0, temperature_c=0, throttled=False) for moment in (0, 1)]
    assert cost_of([A], {0: idle}) == GpuCost(
        peak_gpu_memory_mib=0,
        peak_gpu_memory_mib_per_gpu={0: 0},
        idle_gpu_memory_mib=0,
        mean_gpu_utilization=0,
        p95_gpu_utilization=0,
        energy_j=0,
        mean_power_w=0,
        peak_power_w=0,
        peak_temperature_c=0,
        throttled_percent=0,
        sample_hz=1,
        telemetry_source="test",
    )


@pytest.mark.parametrize("gpus", [[], [A], [A, B]])
def test_without_samples_everything_is_unknown(gpus: list[Gpu]) -> None:
    assert cost_of(gpus, {}) == GpuCost()


@pytest.mark.parametrize("of_second", [[], [sample(0), sample(1)]], ids=["no samples", "samples without figures"])
def test_a_gpu_without_figures_leaves_those_of_all_unknown(of_second: list[GpuSample]) -> None:
    first = [sample(t, 10, utilization=9, power_w=8, temperature_c=7, throttled=True) for t in (0, 1)]
    cost = cost_of([A, B], {0: first, 1: of_second})
    assert cost == GpuCost(peak_gpu_memory_mib_per_gpu={0: 10}, sample_hz=1, telemetry_source="test")


def test_the_rate_is_that_of_the_usual_distance() -> None:
    assert cost_of([A], {0: [sample(moment) for moment in (0, 1, 2, 2.1)]}).sample_hz == 1


def test_one_sample_has_no_energy_and_no_rate() -> None:
    cost = cost_of([A], {0: [sample(5, 10, power_w=100)]})
    assert (cost.energy_j, cost.mean_power_w, cost.sample_hz) == (None, None, None)
    assert (cost.peak_power_w, cost.peak_gpu_memory_mib) == (100, 10)


def test_two_samples_of_one_moment_are_no_error() -> None:
    cost = cost_of([A], {0: [sample(5, 10, power_w=100), sample(5, power_w=None), sample(5, 20, power_w=90)]})
    assert (cost.peak_gpu_memory_mib, cost.peak_power_w, cost.energy_j, cost.sample_hz) == (20, 100, None, None)


# --- runs that are too short for their samples ---

FULL = GpuCost(
    peak_gpu_memory_mib=20000,
    peak_gpu_memory_mib_per_gpu={0: 20000},
    idle_gpu_memory_mib=1,
    mean_gpu_utilization=50,
    p95_gpu_utilization=90,
    energy_j=500,
    mean_power_w=250,
    peak_power_w=400,
    peak_temperature_c=40,
    throttled_percent=0,
    sample_hz=1,
    telemetry_source="test",
)
IDLE = GpuCost(idle_gpu_memory_mib=1, telemetry_source="test")
FEW = "samples {} s apart are too few for so short a run"


@pytest.mark.parametrize(
    ("times", "unseen", "apart"),
    [
        ([0], 0.1, "0.1"),
        ([0, 0.5], 0.1, "0.5"),
        ([0, 1, 1.2], 0.1, "1.0"),
        ([0, 1.003, 2.006, 2.9], 0.1, "1.0"),
        ([0, 1, 2, 3], 0.1, ""),
        ([0, 0.25, 0.5, 0.75], 0.2, ""),
        # A tool that is asked each ten seconds.
        ([0, 10, 20, 28], 0.5, "10.0"),
        ([0, 10, 20, 30, 35], 0.5, ""),
        # A hiccup, a tool that was long in coming, or fell silent: seldom a part of the run that counts.
        ([0, 1, 2, 3, 6], 0.1, "3.0"),
        ([*range(20), 22, 23], 0.1, ""),
        ([0, 1, 2, 3, 4], 2.0, "2.0"),
        ([*range(20)], 2.0, ""),
        # A clock that was set meanwhile.
        ([0, 1, 2, -3600], 0.1, "1.0"),
        ([0, 1, 2, 3600], 0.1, "3598.0"),
    ],
)
def test_a_run_has_to_be_longer_than_what_lies_between_its_samples(
    times: list[float], unseen: float, apart: str
) -> None:
    expected = (IDLE, FEW.format(apart)) if apart else (FULL, "")
    assert reliable(FULL, [[sample(moment) for moment in times]], unseen) == expected


def test_the_gpu_that_was_seen_least_counts() -> None:
    often, seldom = [sample(moment) for moment in range(30)], [sample(0), sample(29)]
    assert reliable(FULL, [often, often], 0.1) == (FULL, "")
    assert reliable(FULL, [often, seldom], 0.1) == (IDLE, FEW.format("29.0"))


@pytest.mark.parametrize(("samples", "is_known"), [(6, False), (30, False), (31, True)])
def test_averages_of_a_second_need_a_run_of_three(samples: int, is_known: bool) -> None:
    """The end of a load of half a second would be half of what such an average tells."""
    cost, why = reliable(FULL, [[sample(moment / 10, power_seconds=1) for moment in range(samples)]], 0.05)
    assert (cost == FULL) is is_known
    assert (cost.peak_gpu_memory_mib, cost.peak_temperature_c, cost.sample_hz) == (20000, 40, 1)
    if not is_known:
        values = (cost.mean_gpu_utilization, cost.p95_gpu_utilization, cost.energy_j, cost.mean_power_w)
        assert {*values, cost.peak_power_w} == {None}
        assert why == "power and utilization are averages of 1 s, too long for so short a run"


@given(st.lists(st.floats(0.01, 10), max_size=20), st.floats(0.01, 10), st.floats(0, 1), st.floats(0, 1))
def test_a_load_of_a_third_of_the_run_is_in_its_peak(
    distances: list[float], unseen: float, place: float, more: float
) -> None:
    """Whenever it came, and whatever the samples' distances are: else there is no peak."""
    times = [*accumulate(distances, initial=unseen)]
    run = times[-1] + unseen
    length = run * (1 / 3 + more * 2 / 3)
    start = place * (run - length)
    seen = [sample(moment, 20000 if start <= moment <= start + length else 1) for moment in times]
    cost, _ = reliable(cost_of([A], {0: seen}), [seen], unseen)
    assert cost.peak_gpu_memory_mib in (None, 20000)


# --- whose counters tell about a run ---

MIG = [Gpu("NVIDIA", i, uuid=f"MIG-{i}", parent="GPU-a", pci_bus_id="0000:05:00.0") for i in range(3)]
WHOLE = Gpu("NVIDIA", 3, uuid="GPU-b", pci_bus_id="0000:15:00.0")
CPX = [Gpu("AMD", i, uuid="GPU-a", pci_bus_id="0000:05:00.0", partition="CPX/NPS4") for i in range(8)]


@pytest.mark.parametrize(
    ("mine", "machine", "cost"),
    [
        ([WHOLE], [*MIG, WHOLE], [WHOLE]),
        (MIG[:2], [*MIG, WHOLE], []),
        (MIG, [*MIG, WHOLE], MIG[:1]),
        ([MIG[0], WHOLE], [*MIG, WHOLE], [WHOLE]),
        ([*MIG, WHOLE], [*MIG, WHOLE], [MIG[0], WHOLE]),
        (CPX[:7], CPX, []),
        (CPX, CPX, CPX[:1]),
        ([A, B], [A, B], [A, B]),
        ([Gpu("AMD", 1)], [Gpu("AMD", 0), Gpu("AMD", 1)], [Gpu("AMD", 1)]),
        ([], [A], []),
    ],
)
def test_a_part_of_a_gpu_has_no_counters_of_its_own(mine: list[Gpu], machine: list[Gpu], cost: list[Gpu]) -> None:
    assert measurable(mine, machine) == cost


@pytest.mark.parametrize(
    ("gpu", "of", "belongs"),
    [
        (A, GpuSample("s", 0, 7, uuid="GPU-a"), True),
        (A, GpuSample("s", 0, 0, uuid="GPU-b"), False),
        (MIG[1], GpuSample("s", 0, 0, uuid="GPU-a"), True),
        (CPX[3], GpuSample("s", 0, 9, pci_bus_id="0000:05:00.0"), True),
        (CPX[3], GpuSample("s", 0, 3, pci_bus_id="0000:15:00.0"), False),
        (Gpu("AMD", 3), GpuSample("s", 0, 3, pci_bus_id="0000:15:00.0"), True),
        (Gpu("AMD", 3), GpuSample("s", 0, 2), False),
        (Gpu("AMD", 3), GpuSample("s", 0), False),
    ],
)
def test_a_sample_is_of_the_gpu_that_it_names_best(gpu: Gpu, of: GpuSample, belongs: bool) -> None:
    assert is_of(of, gpu) is belongs


# --- NVIDIA ---

FIELDS = f"""case "$*" in --help-query-gpu) cat {DATA}/nvidia-smi_help_query_gpu.txt; exit;; esac"""
WATCHES = """case "$*" in *-lms*) ;; *) exit 9;; esac"""
H100 = [
    Gpu("NVIDIA", index, uuid=f"GPU-aaaaaaaa-0000-4000-8000-00000000000{index}", pci_bus_id=f"0000:{bus}:00.0")
    for index, bus in enumerate(("1b", "43"))
]


def watched(*lines: str) -> str:
    return f"{FIELDS}\n{WATCHES}\n" + "\n".join(f"echo '{line}'" for line in lines) + "\nexec sleep 60"


def line(second: int, index: int, memory: str, use: str, power: str, heat: str, reasons: str) -> str:
    bus = ("1B", "43")[index]
    return (
        f"2026/01/05 10:20:{second:02d}.000, {index}, {H100[index].uuid}, 00000000:{bus}:00.0,"
        f" {memory}, {use}, [N/A], {power}, {power}, {heat}, {reasons}"
    )


def known_line(stand_ins: StandIns) -> str:
    """The order of the columns that is asked for, so that the stand-in's lines are in it."""
    return next(call for call in stand_ins.calls() if "-lms" in call)


def until(met: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)


def rows(series: Path) -> list[dict[str, str]]:
    with series.open(newline="") as file:
        return list(csv.DictReader(file))


def long_enough(series: Path) -> Callable[[], bool]:
    """Whether a run that begins now has lasted for what its samples need, however slow this machine is."""
    began = time.time()

    def is_reached() -> bool:
        times = [began, *(float(row["time"]) for row in rows(series) if row["gpu"] == "0")]
        apart = max((later - one for one, later in pairwise(times)), default=0.0)
        return len(times) > 2 and times[-1] - times[1] > (telemetry.LEAST + 2) * apart

    return is_reached


def children() -> set[str]:
    """The processes that were started with this test's stand-ins, by their command lines."""
    result = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                result.add(entry.name)
        except (OSError, IndexError):
            continue
    return result


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    before = children()
    yield
    until(lambda: children() <= before, 2)


def test_one_nvidia_smi_watches_for_the_whole_run(stand_ins: StandIns, tmp_path: Path) -> None:
    series = tmp_path / "series.csv"
    stand_ins.add(
        "nvidia-smi",
        watched(
            line(0, 0, "1000", "60", "100.00", "40", "0x0000000000000001"),
            line(0, 1, "500", "0", "60.00", "30", "0x0000000000000000"),
            "a warning",
            line(2, 0, "3000", "100", "300.00", "60", "0x0000000000000004"),
            line(2, 1, "500", "30", "60.00", "31", "0x0000000000000000"),
            line(4, 0, "1000", "80", "200.00", "50", "0x0000000000000000"),
            line(4, 1, "500", "0", "60.00", "30", "0x0000000000000000"),
            line(6, 0, "1000", "0", "100.00", "40", "0x0000000000000004"),
            line(6, 1, "500", "0", "60.00", "30", "0x0000000000000000"),
        ),
    )
    with nothing_left_behind():
        sampler = Sampler(H100, H100, series, 0.5)
        sampler.start()
        until(lambda: len(series.read_text().splitlines()) == 9)
        cost = sampler.stop()
    assert cost == GpuCost(
        peak_gpu_memory_mib=3500,
        peak_gpu_memory_mib_per_gpu={0: 3000, 1: 500},
        idle_gpu_memory_mib=1500,
        mean_gpu_utilization=40,
        p95_gpu_utilization=100,
        energy_j=1200 + 360,
        mean_power_w=260,
        peak_power_w=360,
        peak_temperature_c=60,
        throttled_percent=25,
        sample_hz=0.5,
        telemetry_source="nvidia-smi",
    )
    assert sampler.problem == ""
    assert known_line(stand_ins).endswith("-lms 500")
    moment = f"{time.mktime((2026, 1, 5, 10, 20, 2, 0, 5, -1)):.3f}"
    assert rows(series)[2] == dict(
        zip(SAMPLE_COLUMNS, (moment, "0", "3000.0", "100.0", "300.0", "60.0", "1"), strict=True)
    )


def test_the_last_sample_is_of_the_end(stand_ins: StandIns, tmp_path: Path) -> None:
    """Not of up to an interval before it."""
    *first, last = (line(second, 0, "7", str(second), "100", "1", "0x0") for second in (0, 3, 6, 9))
    ends = f"""case "$*" in *-lms*) printf '%s\\n' '{"' '".join(first)}'; exec sleep 60;; *) echo '{last}';; esac"""
    stand_ins.add("nvidia-smi", f"{FIELDS}\n{ends}")
    with nothing_left_behind(), sampled(H100[:1], H100, tmp_path / "s.csv", 60.0) as cost:
        until(lambda: len((tmp_path / "s.csv").read_text().splitlines()) == 4)
    assert [row["utilization_percent"] for row in rows(tmp_path / "s.csv")] == ["0.0", "3.0", "6.0", "9.0"]
    result = cost()
    assert result is not None
    assert result.energy_j == 900


def test_a_watch_that_heeds_term_only_at_its_next_line_does_not_hold_up_the_end(
    stand_ins: StandIns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the real one does."""
    monkeypatch.setattr(telemetry, "KILL_SECONDS", 1.5)
    one = line(0, 0, "7", "0", "100", "1", "0x0")
    # Without children: their process 1 may collect them late, and so long they would seem to go on.
    watching = f"trap '' TERM; echo '{one}'; sleep 0.05; : >{tmp_path}/watching; exec sleep 60"
    stand_ins.add("nvidia-smi", f"{FIELDS}\ncase \"$*\" in *-lms*) {watching};; *) echo '{one}';; esac")
    sampler = Sampler(H100[:1], H100, tmp_path / "s.csv", 60.0)
    with nothing_left_behind():
        sampler.start()
        until((tmp_path / "watching").exists)
        began = time.monotonic()
        sampler.stop()
        assert time.monotonic() - began < telemetry.KILL_SECONDS


@pytest.mark.parametrize(
    ("times", "seconds", "advice"),
    [
        ((0, 1), 1.0, "; raise --sample-hz (at most 10)"),
        ((0, 1, 2), 0.5, "; raise --sample-hz (at most 10)"),
        ((0, 1, 2), 0.1, ""),
    ],
)
def test_a_short_run_has_its_idle_memory_its_series_and_a_line_that_says_why(
    stand_ins: StandIns, tmp_path: Path, times: tuple[int, ...], seconds: float, advice: str
) -> None:
    """On a real GPU such a one had a peak of 1 MiB where it had used 20 GiB."""
    stand_ins.add("nvidia-smi", watched(*(line(second, 0, "1", "0", "80", "30", "0x1") for second in times)))
    messages = collect_messages()
    with sampled(H100[:1], H100, tmp_path / "s.csv", seconds) as cost:
        until(lambda: len((tmp_path / "s.csv").read_text().splitlines()) == 1 + len(times))
    assert cost() == GpuCost(idle_gpu_memory_mib=1, telemetry_source="nvidia-smi")
    assert len(rows(tmp_path / "s.csv")) == len(times)
    assert messages == [f"GPU telemetry incomplete: {FEW.format('1.0')}{advice}"]


def test_a_run_that_ends_before_any_sample_says_so(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.add("nvidia-smi", FAULTS["it is silent"])
    messages = collect_messages()
    with sampled(H100, H100, tmp_path / "s.csv", 1.0) as cost:
        until(lambda: any("-lms" in call for call in stand_ins.calls()))
    assert cost() == GpuCost()
    assert messages == ["GPU telemetry incomplete: no sample before the run ended"]


@pytest.mark.parametrize("late", ["at the start", "at the end"])
def test_a_tool_that_was_long_in_coming_or_fell_silent_has_not_seen_the_run(
    stand_ins: StandIns, tmp_path: Path, late: str
) -> None:
    """By their own times, the samples are of a run of 0.3 s."""
    moments = [f"2026/01/05 10:20:00.{tenth}00" for tenth in range(4)]
    lines = [line(0, 0, "1", "0", "80", "30", "0x1").replace("2026/01/05 10:20:00.000", moment) for moment in moments]
    printing = "\n".join(f"echo '{one}'" for one in lines)
    pause = "sleep 0.5" if late == "at the start" else ""
    stand_ins.add("nvidia-smi", f"{FIELDS}\n{WATCHES}\n{pause}\n{printing}\nexec sleep 60")
    sampler = Sampler(H100[:1], H100, tmp_path / "s.csv", 0.1)
    sampler.start()
    until(lambda: len((tmp_path / "s.csv").read_text().splitlines()) == 5)
    time.sleep(0 if pause else 0.5)
    assert sampler.stop() == GpuCost(idle_gpu_memory_mib=1, telemetry_source="nvidia-smi")
    assert sampler.problem.endswith("s apart are too few for so short a run")


def test_the_end_alone_is_no_figure(stand_ins: StandIns, tmp_path: Path) -> None:
    last = line(9, 0, "7", "0", "100", "1", "0x0")
    stand_ins.add("nvidia-smi", f"{FIELDS}\ncase \"$*\" in *-lms*) exec sleep 60;; *) echo '{last}';; esac")
    with sampled(H100[:1], H100, tmp_path / "s.csv", 60.0) as cost:
        until(lambda: any("-lms" in call for call in stand_ins.calls()))
        time.sleep(0.2)
    assert cost() == GpuCost()


def test_only_the_runs_own_gpus_count(stand_ins: StandIns, tmp_path: Path) -> None:
    lines = [line(second, index, "7", "1", "1", "1", "[N/A]") for second in range(4) for index in (0, 1)]
    stand_ins.add("nvidia-smi", watched(*lines))
    with sampled(H100[1:], H100, tmp_path / "s.csv", 1.0) as cost:
        until(lambda: len((tmp_path / "s.csv").read_text().splitlines()) == 5)
    assert [row["gpu"] for row in rows(tmp_path / "s.csv")] == ["1"] * 4
    result = cost()
    assert result is not None
    assert result.peak_gpu_memory_mib_per_gpu == {1: 7}
    assert result.throttled_percent is None


def test_what_the_tool_does_not_tell_is_empty_in_the_series(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.add("nvidia-smi", watched(line(0, 0, "[N/A]", "[Not Supported]", "[N/A]", "N/A", "[N/A]")))
    with sampled(H100[:1], H100, tmp_path / "s.csv", 1.0) as cost:
        until(lambda: len((tmp_path / "s.csv").read_text().splitlines()) == 2)
    assert list(rows(tmp_path / "s.csv")[0].values())[1:] == ["0", "", "", "", "", ""]
    assert cost() == GpuCost(telemetry_source="nvidia-smi")


FAULTS = {
    "it is silent": f"{FIELDS}\nexec sleep 60",
    "it hangs before it says what it knows": "exec sleep 60",
    "it hangs and does not heed TERM": f"trap '' TERM\n{FIELDS}\nwhile :; do sleep 0.05; done",
    "it hangs in a process of its own": f"{FIELDS}\nsleep 60",
    "it ends at once": f"{FIELDS}\nexit 9",
    "it knows nothing": "exit 9",
    "it prints garbage": f"{FIELDS}\nwhile echo '2026, x, y'; do sleep 0.05; done",
    "it prints bytes": f"{FIELDS}\nhead -c 100000 /dev/urandom; exec sleep 60",
    "it speaks of a lost GPU": f"{FIELDS}\necho 'Unable to determine the handle of GPU 0: GPU is lost.'; exit 15",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tool_with_a_fault_costs_figures_but_never_the_run(stand_ins: StandIns, tmp_path: Path, fault: str) -> None:
    stand_ins.add("nvidia-smi", FAULTS[fault])
    with nothing_left_behind():
        sampler = Sampler(H100, H100, tmp_path / "s.csv", 0.1)
        sampler.start()
        time.sleep(0.4)
        began = time.monotonic()
        assert sampler.stop() == GpuCost()
        assert time.monotonic() - began < 2.5
    assert (tmp_path / "s.csv").read_text() == ",".join(SAMPLE_COLUMNS) + "\n"


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("exit 9", "nvidia-smi --help-query-gpu: names no known fields"),
        (FAULTS["it ends at once"], "nvidia-smi ended before the run: no output"),
        (
            FAULTS["it speaks of a lost GPU"],
            "nvidia-smi ended before the run: Unable to determine the handle of GPU 0: GPU is lost.",
        ),
    ],
)
def test_why_there_are_no_figures_is_told(stand_ins: StandIns, tmp_path: Path, script: str, problem: str) -> None:
    stand_ins.add("nvidia-smi", script)
    sampler = Sampler(H100, H100, tmp_path / "s.csv", 0.1)
    sampler.start()
    until(lambda: sampler.problem != "")
    sampler.stop()
    assert sampler.problem == problem


def test_a_tool_that_is_not_there_costs_the_figures(stand_ins: StandIns, tmp_path: Path) -> None:
    with sampled(H100, H100, tmp_path / "s.csv", 0.1) as cost:
        time.sleep(0.1)
    assert cost() == GpuCost()


def test_a_run_that_ends_as_it_begins_is_no_error(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.add("nvidia-smi", watched(line(0, 0, "1", "1", "1", "1", "0x0")))
    with nothing_left_behind():
        began = time.monotonic()
        with sampled(H100, H100, tmp_path / "s.csv", 0.1) as cost:
            pass
        assert time.monotonic() - began < 2.5
    assert cost() is not None


def test_a_run_without_gpus_is_not_sampled(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.add("nvidia-smi", FAULTS["it is silent"])
    with sampled([], H100, tmp_path / "s.csv", 0.1) as cost:
        pass
    assert cost() is None
    assert stand_ins.calls() == []
    assert not (tmp_path / "s.csv").exists()


def test_parts_of_a_gpu_are_not_sampled(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.add("nvidia-smi", FAULTS["it is silent"])
    sampler = Sampler(MIG[:1], MIG, tmp_path / "s.csv", 0.1)
    sampler.start()
    assert sampler.stop() == GpuCost()
    assert sampler.problem == "a part of a GPU has no counters of its own"
    assert stand_ins.calls() == []


def test_an_error_in_the_run_ends_the_sampling_too(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.add("nvidia-smi", FAULTS["it is silent"])
    with nothing_left_behind(), pytest.raises(ZeroDivisionError), sampled(H100, H100, tmp_path / "s.csv", 0.1):
        raise ZeroDivisionError


# --- the series file ---


def test_a_series_that_can_not_be_written_costs_the_series_alone(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.add("nvidia-smi", watched(*(line(second, 0, "10", "1", "1", "1", "0x0") for second in range(5))))
    sampler = Sampler(H100[:1], H100, tmp_path / "none" / "s.csv", 0.1)
    sampler.start()
    until(lambda: sampler.problem != "" and any("-lms" in call for call in stand_ins.calls()))
    time.sleep(0.3)
    assert sampler.stop().peak_gpu_memory_mib == 10
    assert "No such file or directory" in sampler.problem


def test_a_full_disk_costs_the_series_alone(stand_ins: StandIns, tmp_path: Path) -> None:
    lines = [line(second, 0, "10", "1", "1", "1", "0x0") for second in range(5)]
    stand_ins.add("nvidia-smi", watched(*lines))
    sampler = Sampler(H100[:1], H100, tmp_path / "s.csv", 0.1)
    sampler.start()
    assert sampler._file is not None
    os.dup2(os.open("/dev/full", os.O_WRONLY), sampler._file.fileno())
    until(lambda: sampler.problem != "")
    time.sleep(0.3)
    cost = sampler.stop()
    assert sampler.problem == f"{tmp_path / 's.csv'}: No space left on device"
    assert (cost.peak_gpu_memory_mib, cost.sample_hz) == (10, 1)


def test_the_series_never_goes_through_a_link(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.add("nvidia-smi", FAULTS["it ends at once"])
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "s.csv").symlink_to(precious)
    with sampled(H100, H100, tmp_path / "s.csv", 0.1) as cost:
        time.sleep(0.2)
    assert cost() == GpuCost()
    assert precious.read_text() == "mine"


# --- AMD ---

BUSES = (0x05, 0x15, 0x65, 0x75, 0x85, 0x95, 0xE5, 0xF5)


@pytest.fixture
def eight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Gpu]:
    """A machine with eight MI300X, whose kernel says what they do."""
    root = topology(tmp_path / "root", CPU, *(gpu_node(bus, 128 + place) for place, bus in enumerate(BUSES)))
    for place, bus in enumerate(BUSES):
        device(
            root,
            f"0000:{bus:02x}:00.0",
            mem_info_vram_total=192 * 2**30,
            mem_info_vram_used=(place + 1) * 2**30,
            gpu_busy_percent=10 * place,
            hwmon_power1_input=100_000_000,
            hwmon_temp2_input=40_000 + 1000 * place,
            hwmon_temp2_label="junction",
        )
    monkeypatch.setattr(amd_sysfs, "samples", partial(amd_sysfs.samples, root))
    return list(amd_sysfs.gpus(root).items)


def test_the_kernel_is_amds_first_source(eight: list[Gpu], stand_ins: StandIns, tmp_path: Path) -> None:
    for tool in ("amd-smi", "rocm-smi"):
        stand_ins.add(tool, "exit 1")
    with sampled(eight[:2], eight, tmp_path / "s.csv", 0.1) as cost:
        until(long_enough(tmp_path / "s.csv"))
    result = cost()
    assert result is not None
    assert result.telemetry_source == "sysfs"
    assert result.peak_gpu_memory_mib == 1024 + 2048
    assert result.idle_gpu_memory_mib == 1024 + 2048
    assert result.mean_gpu_utilization == 5
    assert result.mean_power_w == pytest.approx(200)
    assert result.energy_j is not None
    assert result.peak_power_w == 200
    assert result.peak_temperature_c == 41
    assert result.throttled_percent is None
    # The last sample comes when the run ends, without waiting for its turn.
    assert result.sample_hz is not None
    assert 5 < result.sample_hz < 20
    assert stand_ins.calls() == []


def test_the_last_sample_is_of_the_runs_end(eight: list[Gpu], tmp_path: Path) -> None:
    """Not of a turn that would come long after it."""
    with sampled(eight[:1], eight, tmp_path / "s.csv", 60.0) as cost:
        until(lambda: len((tmp_path / "s.csv").read_text().splitlines()) == 2)
        time.sleep(0.2)
        ended = time.time()
    first, last = (float(row["time"]) for row in rows(tmp_path / "s.csv"))
    assert last - first >= 0.2
    assert last == pytest.approx(ended, abs=1)
    assert cost() == GpuCost(idle_gpu_memory_mib=1024, telemetry_source="sysfs")


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Gpu]:
    """A machine whose kernel tells nothing, with an interval between the tools' answers that a test can wait for."""
    monkeypatch.setattr(amd_sysfs, "samples", partial(amd_sysfs.samples, tmp_path))
    for tool in (amd_smi, rocm_smi):
        monkeypatch.setattr(tool, "SAMPLE_SECONDS", 0.1)
    return [Gpu("AMD", 0, pci_bus_id="0000:05:00.0"), Gpu("AMD", 1, pci_bus_id="0000:15:00.0")]


def test_amd_smi_is_asked_where_the_kernel_is_silent(two: list[Gpu], stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.add("amd-smi", f"cat {DATA}/amd-smi_metric.json")
    with sampled(two[:1], two, tmp_path / "s.csv", 0.1) as cost:
        until(long_enough(tmp_path / "s.csv"))
    result = cost()
    assert result is not None
    assert result.telemetry_source == "amd-smi"
    assert result.peak_gpu_memory_mib is not None
    assert {call.split()[0] for call in stand_ins.calls()} == {"amd-smi"}


def test_a_tool_that_is_asked_seldom_needs_a_longer_run(
    two: list[Gpu], stand_ins: StandIns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has one sample before the run and one after it; more a second can't be had."""
    monkeypatch.setattr(amd_smi, "SAMPLE_SECONDS", 10.0)
    stand_ins.add("amd-smi", f"cat {DATA}/amd-smi_metric.json")
    messages = collect_messages()
    with sampled(two[:1], two, tmp_path / "s.csv", 1.0) as cost:
        until(lambda: len((tmp_path / "s.csv").read_text().splitlines()) == 2)
        time.sleep(0.2)
    assert len(rows(tmp_path / "s.csv")) == 2
    assert cost() == GpuCost(idle_gpu_memory_mib=150000, telemetry_source="amd-smi")
    (why,) = messages
    assert why.endswith("s apart are too few for so short a run")


@pytest.mark.parametrize("amd_smi", ["exit 1", "echo garbage", "echo '[]'", "echo '{\"gpu_data\": 7}'"])
def test_rocm_smi_is_the_last_resort(two: list[Gpu], stand_ins: StandIns, tmp_path: Path, amd_smi: str) -> None:
    stand_ins.add("amd-smi", amd_smi)
    stand_ins.add("rocm-smi", f"cat {DATA}/rocm-smi_sample.json")
    gpus = [replace(gpu, pci_bus_id="") for gpu in two]
    with sampled(gpus[:1], gpus, tmp_path / "s.csv", 0.1) as cost:
        until(lambda: len((tmp_path / "s.csv").read_text().splitlines()) >= 3)
    result = cost()
    assert result is not None
    assert result.telemetry_source == "rocm-smi"


def test_a_machine_where_nobody_tells_says_so(two: list[Gpu], stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.add("amd-smi", "exit 1")
    stand_ins.add("rocm-smi", "echo 'ERROR: no permission' >&2; exit 2")
    sampler = Sampler(two, two, tmp_path / "s.csv", 0.1)
    sampler.start()
    until(lambda: not sampler._thread.is_alive())
    assert sampler.stop() == GpuCost()
    assert sampler.problem.endswith("exit code 2: ERROR: no permission")


@pytest.mark.parametrize("after", [0, 2], ids=["from the start", "later"])
def test_a_tool_that_hangs_does_not_hold_up_the_end(
    two: list[Gpu], stand_ins: StandIns, tmp_path: Path, after: int
) -> None:
    count = tmp_path / "count"
    stand_ins.add(
        "amd-smi",
        f"echo >> {count}\n[ $(wc -l < {count}) -le {after} ] || {{ trap '' TERM; while :; do sleep 0.05; done; }}\n"
        f"cat {DATA}/amd-smi_metric.json",
    )
    stand_ins.add("rocm-smi", "exec sleep 60")
    with nothing_left_behind():
        sampler = Sampler(two[:1], two, tmp_path / "s.csv", 0.1)
        sampler.start()
        until(lambda: len(stand_ins.calls()) == after + 1)
        began = time.monotonic()
        cost = sampler.stop()
        assert time.monotonic() - began < 2.5
    assert cost.telemetry_source == ("amd-smi" if after else "")


def test_sampling_eight_gpus_costs_a_hundredth_of_a_core_a_second(
    eight: list[Gpu], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten times a second may cost ten times as much; what it costs is the CPU time of its thread alone."""
    spent: list[float] = []
    real = amd_sysfs.samples

    def timed() -> Reading[GpuSample]:
        spent.append(time.thread_time())
        return real()

    monkeypatch.setattr(amd_sysfs, "samples", timed)
    with sampled(eight, eight, tmp_path / "s.csv", 0.1):
        time.sleep(2.0)
    assert len(spent) > 10
    assert (spent[-1] - spent[0]) / ((len(spent) - 1) * 0.1) < 0.1
    assert math.isclose(len(rows(tmp_path / "s.csv")), 8 * len(spent), abs_tol=8)
