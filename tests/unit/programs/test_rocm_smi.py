"""rocm-smi's answers, of our own writing and, where they are at hand, real ones of many releases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madengine.programs import rocm_smi, smi
from madengine.records import Gpu, GpuProcess, GpuSample, Reading
from tests.conftest import StandIns

DATA = Path(__file__).parents[2] / "data" / "smi"
SAMPLES = Path(__file__).parents[4] / "shared" / "smi-samples"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="no ../shared/smi-samples beside the project")


def data(name: str) -> str:
    return (DATA / f"rocm-smi_{name}.json").read_text()


def sample_text(name: str) -> str:
    return (SAMPLES / f"rocm-smi_json__{name}.json").read_text()


def answer(stand_ins: StandIns, text: str) -> None:
    (stand_ins.folder / "answer").write_text(text)
    stand_ins.add("rocm-smi", f'cat "{stand_ins.folder}/answer"')


def figures(sample: GpuSample) -> tuple[float | bool | None, ...]:
    return sample.memory_used_mib, sample.utilization, sample.power_w, sample.temperature_c, sample.throttled


def test_gpus_are_named_in_the_order_of_their_cards_behind_a_warning(stand_ins: StandIns) -> None:
    answer(stand_ins, data("describe"))
    found = rocm_smi.gpus()
    assert found == Reading(
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
    assert call == "rocm-smi --showproductname --showuniqueid --showbus --showmeminfo vram --showdriverversion --json"


def test_a_sample_has_what_the_tool_measured(stand_ins: StandIns) -> None:
    answer(stand_ins, data("sample"))
    busy, silent = rocm_smi.samples().items
    assert (busy.index, busy.pci_bus_id, figures(busy)) == (0, "0000:83:00.0", (32768.0, 98.0, 420.0, 71.5, None))
    assert (silent.index, figures(silent)) == (1, (None, None, None, 48.0, None))


def test_processes_are_named_with_their_memory(stand_ins: StandIns) -> None:
    answer(stand_ins, data("pids"))
    assert rocm_smi.processes() == Reading(
        (GpuProcess(4242, "python3", 1024.0), GpuProcess(4243, "train, worker", 0.0))
    )


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("exit 0", "can't read its answer: it printed nothing"),
        ("echo 'ERROR:root:Driver not initialized (amdgpu not found in modules)'", "Driver not initialized"),
        ("echo cannot open /sys >&2; exit 2", "exit code 2: cannot open /sys"),
        ('echo \'{"card0": {"GPU use\'', "can't read its answer"),
        ("exec sleep 30", "no answer in 0.5 s"),
    ],
)
@pytest.mark.parametrize("ask", [rocm_smi.gpus, rocm_smi.samples, rocm_smi.processes])
def test_a_tool_without_an_answer_is_a_named_problem(
    ask: Callable[[], Reading[Any]], script: str, problem: str, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smi, "SECONDS", 0.5)
    stand_ins.add("rocm-smi", script)
    found = ask()
    assert found.items == ()
    assert "rocm-smi" in found.problem and problem in found.problem and "\n" not in found.problem


@given(st.sampled_from(["describe", "sample", "pids"]), st.floats(0, 0.99))
def test_an_answer_cut_off_anywhere_names_nothing(name: str, part: float) -> None:
    text = data(name).rstrip()
    cut = text[: int(len(text) * part)]
    assert (rocm_smi.gpus_of(cut), rocm_smi.samples_of(cut), rocm_smi.processes_of(cut)) == ((), (), ())


VALUES = st.none() | st.integers() | st.floats() | st.text() | st.lists(st.integers())
KEYS = st.sampled_from(["PCI Bus", "VRAM Total Memory (B)", "Unique ID", "Card series", "PID1", "GPU use (%)"])


@given(st.dictionaries(st.sampled_from(["card0", "card1", "cardX", "system"]), VALUES | st.dictionaries(KEYS, VALUES)))
def test_no_json_is_an_error(value: Any) -> None:
    said = json.dumps(value)
    assert len(rocm_smi.gpus_of(said)) == len(rocm_smi.samples_of(said)) <= 2
    assert len(rocm_smi.processes_of(said)) <= 1


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
    "mi300x_rocm7.0.2": (("", "", 196288, ""), [""], (299687936, 0, 159, 45)),
    "rx6700xt_rocm430": (("", "", 12272, "6.3.6"), ["0000:07:00.0"], (1622728704, 0, 6, 47)),
    "rx6700xt_rocm571": ((NAVI, "", 12272, "6.3.6"), ["0000:07:00.0"], (1564491776, 0, 6, 47)),
    "rx6700xt_rocm602": ((NAVI, "", 12272, "6.3.6"), ["0000:07:00.0"], (1572757504, 0, None, 47)),
    "rx6700xt_rocm612": ((NAVI, "gfx1031", 12272, "6.3.6"), ["0000:07:00.0"], (1572745216, 0, 6, 47)),
    "rx9060xt_rocm7": (("", "", 16304, ""), [""], (9518669824, 100, 17, 41)),
    "vega-10-XT": (("", "", 16368, "5.9.25"), ["0000:04:00.0"], (17776640, 0, 15, 40)),
    "vega-20-WKS-GL-XE": (("Radeon Instinct MI50 32GB", "", 32752, "5.9.17"), ["0000:63:00.0"], (10850304, 0, 26, 38)),
}


@needs_samples
@pytest.mark.parametrize("name", REAL)
def test_a_real_answer_says_what_its_text_says(name: str) -> None:
    expected, buses, (used, *rest) = REAL[name]
    found = rocm_smi.gpus_of(sample_text(name))
    assert {(gpu.name, gpu.architecture, gpu.memory_mib, gpu.driver) for gpu in found} == {expected}
    assert [(gpu.index, gpu.pci_bus_id) for gpu in found] == list(enumerate(buses))
    samples = rocm_smi.samples_of(sample_text(name))
    assert [sample.pci_bus_id for sample in samples] == buses
    assert used is not None
    assert figures(samples[0]) == (used / 2**20, *rest, None)


@needs_samples
def test_the_real_unique_ids_are_uuids() -> None:
    assert [gpu.uuid for gpu in rocm_smi.gpus_of(sample_text("mi100_rocm602"))] == [
        "GPU-79ccd55167a2124a",
        "GPU-04edfb117a17a07d",
        "GPU-d4a9ec48d03d261d",
        "GPU-1b9dd972253c3736",
    ]
    assert {gpu.uuid for gpu in rocm_smi.gpus_of(sample_text("mi100_rocm571"))} == {""}


@needs_samples
def test_the_real_process_is_named() -> None:
    assert rocm_smi.processes_of(sample_text("mi100_rocm571")) == (GpuProcess(104225, "mlir-cpu-runner", 0.0),)


@needs_samples
def test_every_real_answer_of_the_tool_is_in_the_table() -> None:
    assert {file.name for file in SAMPLES.glob("rocm-smi*")} == {f"rocm-smi_json__{name}.json" for name in REAL}


@needs_samples
@given(st.data())
def test_a_real_answer_cut_off_anywhere_names_nothing(draw: st.DataObject) -> None:
    text = sample_text(draw.draw(st.sampled_from(sorted(REAL)))).rstrip()
    cut = text[: draw.draw(st.integers(0, len(text) - 1))]
    assert rocm_smi.gpus_of(cut) == () and rocm_smi.samples_of(cut) == () and rocm_smi.processes_of(cut) == ()
