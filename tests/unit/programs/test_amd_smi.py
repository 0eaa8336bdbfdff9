"""amd-smi's answers, of our own writing and real ones."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madengine.programs import amd_smi, smi
from madengine.records import Gpu, GpuProcess, GpuSample, GpuSettings, Reading
from tests.conftest import StandIns

DATA = Path(__file__).parents[2] / "data" / "smi"
SAMPLES = DATA / "samples"


def data(name: str) -> str:
    return (DATA / f"amd-smi_{name}.json").read_text()


def sample_text(name: str) -> str:
    return (SAMPLES / f"amd-smi_{name}").read_text()


def answers(stand_ins: StandIns, static: str = "", listed: str = "") -> None:
    """An amd-smi that has these answers, behind a warning as it prints them."""
    for name, text in (("static", static), ("list", listed)):
        (stand_ins.folder / f"answer-{name}").write_text(text)
    stand_ins.add("amd-smi", f'echo "WARNING: no hsmp driver"; cat "{stand_ins.folder}/answer-$1"')


def values(sample: GpuSample) -> tuple[float | bool | None, ...]:
    return sample.memory_used_mib, sample.utilization, sample.power_w, sample.temperature_c, sample.throttled


def test_gpus_are_named_in_full(stand_ins: StandIns) -> None:
    answers(stand_ins, data("static"), data("list_e"))
    reading = amd_smi.gpus()
    assert reading.problem == ""
    assert reading.items[1] == Gpu(
        "AMD",
        1,
        name="AMD Instinct MI300X",
        architecture="gfx942",
        uuid="GPU-00ae7c8cefe1f084",
        render_node="/dev/dri/renderD136",
        memory_mib=196592,
        driver="6.12.12",
        pci_bus_id="0000:15:00.0",
        partition="SPX/NPS1",
        source="amd-smi",
    )
    assert [gpu.render_node for gpu in reading.items] == ["/dev/dri/renderD128", "/dev/dri/renderD136"]


def test_without_the_extended_list_the_render_nodes_are_unknown(stand_ins: StandIns) -> None:
    answers(stand_ins, data("static"), "usage: amd-smi list [-h]")
    assert [gpu.render_node for gpu in amd_smi.gpus().items] == ["", ""]


def test_a_bare_list_with_cpus_in_it_is_read_too() -> None:
    (gpu,) = amd_smi.gpus_of(data("static__rocm6"))
    assert gpu == Gpu(
        "AMD",
        0,
        name="Aqua Vanjaram [Instinct MI300A]",
        driver="6.8.0-40-generic",
        pci_bus_id="0001:01:00.0",
        partition="CPX/NPS4",
        source="amd-smi",
    )


def test_a_sample_has_what_the_tool_measured() -> None:
    busy, idle = amd_smi.samples_of(data("metric"))
    assert (busy.source, busy.index, values(busy)) == ("amd-smi", 0, (150000.0, 99.0, 712.0, 88.0, True))
    assert (idle.index, values(idle)) == (1, (283.0, None, None, 41.0, None))


def test_an_apu_uses_the_hosts_memory() -> None:
    (sample,) = amd_smi.samples_of(data("metric__apu"))
    assert values(sample) == (2048.0, 99.0, 120.0, 88.0, False)


def test_an_answer_that_is_printed_twice_is_one_answer(stand_ins: StandIns) -> None:
    (stand_ins.folder / "answer").write_text(data("metric"))
    stand_ins.add("amd-smi", f'cat "{stand_ins.folder}/answer"; echo; cat "{stand_ins.folder}/answer"')
    assert len(amd_smi.samples().items) == 2


def test_processes_are_named_with_their_gpu(stand_ins: StandIns) -> None:
    (stand_ins.folder / "answer").write_text(data("process"))
    stand_ins.add("amd-smi", f'cat "{stand_ins.folder}/answer"')
    assert amd_smi.processes() == Reading(
        (GpuProcess(4242, "python3", 1024.0, index=0), GpuProcess(4243, "", None, index=0))
    )


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo 'AMDSMI has returned error -31: driver not loaded' >&2; exit 255", "exit code 255: AMDSMI has returned"),
        ("exit 0", "unexpected output: no output"),
        ("echo '[{'", "unexpected output: [{"),
        ("echo '{\"gpu_data\": []}'", "unexpected output: {"),
        ("exec sleep 30", "no answer in 0.5 s"),
    ],
)
@pytest.mark.parametrize("ask", [amd_smi.gpus, amd_smi.samples, amd_smi.processes])
def test_a_tool_without_an_answer_is_a_named_problem(
    ask: Callable[[], Reading[Any]], script: str, problem: str, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smi, "SECONDS", 0.5)
    stand_ins.add("amd-smi", script)
    reading = ask()
    assert reading.items == ()
    assert "amd-smi" in reading.problem and problem in reading.problem and "\n" not in reading.problem


@given(st.sampled_from(sorted(file.stem for file in DATA.glob("amd-smi*"))), st.floats(0, 0.999))
def test_an_answer_cut_off_anywhere_names_nothing(name: str, part: float) -> None:
    text = data(name.removeprefix("amd-smi_"))
    cut = text[: int(len(text) * part)]
    assert (amd_smi.gpus_of(cut, cut), amd_smi.samples_of(cut), amd_smi.processes_of(cut)) == ((), (), ())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("N/A"),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["gpu", "gpu_data", "asic", "vram", "size", "value", "unit", "usage", "process_list"]),
            inner,
        )
    ),
)


@given(JSON)
def test_no_json_is_an_error(value: Any) -> None:
    output = json.dumps(value)
    counts = {len(amd_smi.gpus_of(output, output)), len(amd_smi.samples_of(output))}
    assert len(counts) == 1
    assert isinstance(amd_smi.processes_of(output), tuple)


def test_a_driver_that_prints_the_whole_of_proc_version_is_named_by_its_kernel() -> None:
    assert amd_smi.gpus_of(data("static__mi210")) == (
        Gpu(
            "AMD",
            0,
            name="AMD Instinct MI210",
            architecture="gfx90a",
            memory_mib=65520,
            driver="6.14.0-24-generic",
            source="amd-smi",
        ),
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("metric__rocm7", (None, 0.0, 161.0, 46.0, None)),
        ("monitor", (1024.0, 3.0, 31.0, 52.0, False)),
    ],
)
def test_other_formats_of_a_measurement_are_read_too(name: str, expected: tuple[float | bool | None, ...]) -> None:
    (sample,) = amd_smi.samples_of(data(name))
    assert (sample.index, values(sample)) == (0, expected)


def as_json(printed: str) -> str:
    """What the tool prints for people, as it says it with --json: indented `KEY: value`, keys in lower case."""
    entries: list[dict[str, Any]] = []
    section = ""
    for line in printed.splitlines():
        key, _, value = (part.strip() for part in line.strip().partition(":"))
        indent = len(line) - len(line.lstrip())
        if key in ("GPU", "CPU") and indent == 0:
            entries.append({key.lower(): int(value)})
        elif indent == 4 and entries:
            section = key.lower()
            entries[-1][section] = value or {}
        elif indent == 8 and isinstance(entries[-1].get(section), dict):
            entries[-1][section][key.lower()] = value
    return json.dumps(entries)


def test_the_documented_static_answer_of_four_mi300a() -> None:
    text = sample_text("text_doc_static_metric__mi2xx-mi3xx_rocm6.3.md")
    (printed,) = re.findall(r"^~\$ amd-smi static\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    devices = amd_smi.gpus_of(as_json(printed))
    assert [(gpu.index, gpu.pci_bus_id, gpu.uuid) for gpu in devices] == [
        (0, "0000:01:00.0", "GPU-7e8f7e20764e2714"),
        (1, "0001:01:00.0", "GPU-b6ae7c8cefe1f084"),
        (2, "0002:01:00.0", "GPU-367125d815189854"),
        (3, "0003:01:00.0", "GPU-f4c44c2be5e66537"),
    ]
    kinds = {(gpu.name, gpu.memory_mib, gpu.driver, gpu.partition) for gpu in devices}
    assert kinds == {("MI300A", 64289, "6.9.0-rc5+", "SPX/NPS1")}


@given(st.data())
def test_a_real_answer_cut_off_anywhere_is_never_an_error(draw: st.DataObject) -> None:
    text = draw.draw(st.sampled_from([file.read_text() for file in sorted(SAMPLES.glob("amd-smi*"))]))
    cut = text[: draw.draw(st.integers(0, len(text.rstrip()) - 1))]
    assert amd_smi.gpus_of(cut) == () and amd_smi.samples_of(cut) == () and amd_smi.processes_of(cut) == ()


def test_how_a_gpu_is_set_is_in_the_static_answer() -> None:
    # As an MI210 answers.
    mi210 = {
        "gpu": 0,
        "limit": {"max_power": {"value": 300, "unit": "W"}, "socket_power": {"value": 250, "unit": "W"}},
        "clock": {
            "sys": {
                "current level": 1,
                "frequency_levels": {"Level 0": "500 MHz", "Level 1": "800 MHz", "Level 2": "1700 MHz"},
            },
            "mem": {"current level": 0, "frequency_levels": {"Level 0": "400 MHz", "Level 3": "1600 MHz"}},
            "dcef": "N/A",
        },
    }
    assert amd_smi.gpus_of(json.dumps([mi210]))[0].settings == GpuSettings(
        power_cap_w=250, max_clock_mhz=1700, max_memory_clock_mhz=1600, clock_mhz=800, memory_clock_mhz=400
    )
    odd = '[{"gpu": 0, "limit": "N/A", "clock": {"sys": {"current level": {}, "frequency_levels": [1]}, "mem": "N/A"}}]'
    assert amd_smi.gpus_of(odd)[0].settings == GpuSettings()
