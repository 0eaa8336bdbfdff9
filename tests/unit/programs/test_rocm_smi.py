"""rocm-smi's answers, of our own writing and real ones of many releases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madengine.programs import rocm_smi, smi
from madengine.records import Gpu, GpuProcess, GpuSample, GpuSettings, Reading
from tests.conftest import StandIns

DATA = Path(__file__).parents[2] / "data" / "smi"
SAMPLES = DATA / "samples"


def data(name: str) -> str:
    return (DATA / f"rocm-smi_{name}.json").read_text()


def sample_text(name: str) -> str:
    return (SAMPLES / f"rocm-smi_json__{name}.json").read_text()


def answer(stand_ins: StandIns, text: str) -> None:
    (stand_ins.folder / "answer").write_text(text)
    stand_ins.add("rocm-smi", f'cat "{stand_ins.folder}/answer"')


def values(sample: GpuSample) -> tuple[float | bool | None, ...]:
    return sample.memory_used_mib, sample.utilization, sample.power_w, sample.temperature_c, sample.throttled


def test_gpus_are_named_in_the_order_of_their_cards_behind_a_warning(stand_ins: StandIns) -> None:
    answer(stand_ins, data("describe"))
    assert rocm_smi.gpus() == Reading(
        (
            Gpu(
                "AMD",
                0,
                name="AMD Instinct MI250X",
                architecture="gfx90a",
                uuid="GPU-79ccd55167a2124a",
                memory_mib=65520,
                driver="6.7.0",
                pci_bus_id="0000:83:00.0",
                partition="SPX/NPS1",
                source="rocm-smi",
            ),
            Gpu(
                "AMD",
                1,
                uuid="GPU-04edfb117a17a07d",
                memory_mib=65520,
                driver="6.7.0",
                pci_bus_id="0000:a3:00.0",
                source="rocm-smi",
            ),
        )
    )
    (call,) = stand_ins.calls()
    assert call == (
        "rocm-smi --showproductname --showuniqueid --showbus --showmeminfo vram --showdriverversion --showmaxpower "
        "--showperflevel --showclocks --json"
    )


def test_a_sample_has_what_the_tool_measured(stand_ins: StandIns) -> None:
    answer(stand_ins, data("sample"))
    busy, silent = rocm_smi.samples().items
    assert (busy.index, busy.pci_bus_id, values(busy)) == (0, "0000:83:00.0", (32768.0, 98.0, 420.0, 71.5, None))
    assert (silent.index, values(silent)) == (1, (None, None, None, 48.0, None))


def test_processes_are_named_with_their_memory(stand_ins: StandIns) -> None:
    answer(stand_ins, data("pids"))
    assert rocm_smi.processes() == Reading(
        (GpuProcess(4242, "python3", 1024.0), GpuProcess(4243, "train, worker", 0.0))
    )


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("exit 0", "unexpected output: no output"),
        ("echo 'ERROR:root:Driver not initialized (amdgpu not found in modules)'", "Driver not initialized"),
        ("echo cannot open /sys >&2; exit 2", "exit code 2: cannot open /sys"),
        ('echo \'{"card0": {"GPU use\'', "unexpected output"),
        ("exec sleep 30", "no answer in 0.5 s"),
    ],
)
@pytest.mark.parametrize("ask", [rocm_smi.gpus, rocm_smi.samples, rocm_smi.processes])
def test_a_tool_without_an_answer_is_a_named_problem(
    ask: Callable[[], Reading[Any]], script: str, problem: str, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smi, "SECONDS", 0.5)
    stand_ins.add("rocm-smi", script)
    reading = ask()
    assert reading.items == ()
    assert "rocm-smi" in reading.problem and problem in reading.problem and "\n" not in reading.problem


@given(st.sampled_from(["describe", "sample", "pids"]), st.floats(0, 0.99))
def test_an_answer_cut_off_anywhere_names_nothing(name: str, part: float) -> None:
    text = data(name).rstrip()
    cut = text[: int(len(text) * part)]
    assert (rocm_smi.gpus_of(cut), rocm_smi.samples_of(cut), rocm_smi.processes_of(cut)) == ((), (), ())


VALUES = st.none() | st.integers() | st.floats() | st.text() | st.lists(st.integers())
KEYS = st.sampled_from(["PCI Bus", "VRAM Total Memory (B)", "Unique ID", "Card series", "PID1", "GPU use (%)"])


@given(st.dictionaries(st.sampled_from(["card0", "card1", "cardX", "system"]), VALUES | st.dictionaries(KEYS, VALUES)))
def test_no_json_is_an_error(value: Any) -> None:
    output = json.dumps(value)
    assert len(rocm_smi.gpus_of(output)) == len(rocm_smi.samples_of(output)) <= 2
    assert len(rocm_smi.processes_of(output)) <= 1


MI100 = "Arcturus GL-XL [Instinct MI100]"
NAVI = "Navi 22 [Radeon RX 6700/6700 XT / 6800M]"
# Name, architecture, memory, driver; the PCI addresses; memory in use, utilization, power and temperature of the first.
REAL: dict[str, tuple[tuple[str, str, int, str], list[str], tuple[float | None, ...]]] = {
    "mi100_rocm571": (
        (MI100, "", 32752, "6.2.4"),
        [f"0000:{bus}:00.0" for bus in ("1e", "22", "3f", "43", "46", "49")],
        (6782976, 0, 39, 34),
    ),
    "mi100_rocm602": (
        (MI100, "", 32752, "6.3.6"),
        [f"0000:{bus}:00.0" for bus in ("83", "a3", "c3", "e3")],
        (6750208, 0, 36, 55),
    ),
    "rx6700xt_rocm430": (("", "", 12272, "6.3.6"), ["0000:07:00.0"], (1622728704, 0, 6, 47)),
    "rx6700xt_rocm571": ((NAVI, "", 12272, "6.3.6"), ["0000:07:00.0"], (1564491776, 0, 6, 47)),
    "rx6700xt_rocm602": ((NAVI, "", 12272, "6.3.6"), ["0000:07:00.0"], (1572757504, 0, None, 47)),
    "rx6700xt_rocm612": ((NAVI, "gfx1031", 12272, "6.3.6"), ["0000:07:00.0"], (1572745216, 0, 6, 47)),
    "vega-10-XT": (("", "", 16368, "5.9.25"), ["0000:04:00.0"], (17776640, 0, 15, 40)),
    "vega-20-WKS-GL-XE": (("Radeon Instinct MI50 32GB", "", 32752, "5.9.17"), ["0000:63:00.0"], (10850304, 0, 26, 38)),
}


@pytest.mark.parametrize("name", REAL)
def test_a_real_answer_says_what_its_text_says(name: str) -> None:
    expected, buses, (used, *rest) = REAL[name]
    devices = rocm_smi.gpus_of(sample_text(name))
    assert {(gpu.name, gpu.architecture, gpu.memory_mib, gpu.driver) for gpu in devices} == {expected}
    assert [(gpu.index, gpu.pci_bus_id) for gpu in devices] == list(enumerate(buses))
    samples = rocm_smi.samples_of(sample_text(name))
    assert [sample.pci_bus_id for sample in samples] == buses
    assert used is not None
    assert values(samples[0]) == (used / 2**20, *rest, None)


@pytest.mark.parametrize(
    ("name", "memory", "expected"),
    [
        ("mi300x", 196288, (300000256 / 2**20, 0, 161, 46, None)),
        ("rx9060xt", 16304, (9600000000 / 2**20, 100, 18, 42, None)),
    ],
)
def test_an_answer_without_names_and_addresses_is_read_too(
    name: str, memory: int, expected: tuple[float | None, ...]
) -> None:
    (gpu,) = rocm_smi.gpus_of(data(f"sample__{name}"))
    assert (gpu.name, gpu.pci_bus_id, gpu.memory_mib) == ("", "", memory)
    (sample,) = rocm_smi.samples_of(data(f"sample__{name}"))
    assert values(sample) == expected


def test_the_real_unique_ids_are_uuids() -> None:
    assert [gpu.uuid for gpu in rocm_smi.gpus_of(sample_text("mi100_rocm602"))] == [
        "GPU-79ccd55167a2124a",
        "GPU-04edfb117a17a07d",
        "GPU-d4a9ec48d03d261d",
        "GPU-1b9dd972253c3736",
    ]
    assert {gpu.uuid for gpu in rocm_smi.gpus_of(sample_text("mi100_rocm571"))} == {""}


def test_the_real_process_is_named() -> None:
    assert rocm_smi.processes_of(sample_text("mi100_rocm571")) == (GpuProcess(104225, "mlir-cpu-runner", 0.0),)


def test_every_real_answer_of_the_tool_is_in_the_table() -> None:
    assert {file.name for file in SAMPLES.glob("rocm-smi*")} == {f"rocm-smi_json__{name}.json" for name in REAL}


@given(st.data())
def test_a_real_answer_cut_off_anywhere_names_nothing(draw: st.DataObject) -> None:
    text = sample_text(draw.draw(st.sampled_from(sorted(REAL)))).rstrip()
    cut = text[: draw.draw(st.integers(0, len(text) - 1))]
    assert rocm_smi.gpus_of(cut) == () and rocm_smi.samples_of(cut) == () and rocm_smi.processes_of(cut) == ()


def test_how_a_gpu_is_set_is_in_the_description() -> None:
    text = (DATA / "samples" / "rocm-smi_json__mi100_rocm602.json").read_text()
    expected = GpuSettings(power_cap_w=290, performance_level="auto", clock_mhz=300, memory_clock_mhz=1200)
    assert rocm_smi.gpus_of(text)[0].settings == expected
