"""nvidia-smi's answers, of our own writing and real ones of many releases."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madengine.programs import nvidia_smi, smi
from madengine.records import Gpu, GpuProcess, GpuSample, GpuSettings, Reading
from tests.conftest import StandIns

DATA = Path(__file__).parents[2] / "data" / "smi"
SAMPLES = DATA / "samples"

FIRST, SECOND = (f"GPU-aaaaaaaa-0000-4000-8000-00000000000{index}" for index in range(2))
MIG = tuple(f"MIG-bbbbbbbb-0000-5000-8000-00000000000{index}" for index in range(3))
MASKED = "GPU-00000000-0000-0000-0000-000000000000"


def data(name: str) -> str:
    return (DATA / name).read_text()


def sample_text(name: str) -> str:
    return (SAMPLES / name).read_text(errors="replace")


def local(*moment: int) -> float:
    return datetime(*moment).timestamp()  # type: ignore[arg-type]


def a100(index: int, **more: object) -> Gpu:
    values = {
        "name": "NVIDIA A100-SXM4-80GB",
        "architecture": "A100",
        "driver": "610.10",
        "runtime": "13.3",
        "source": "nvidia-smi",
    }
    return Gpu("NVIDIA", index, **(values | more))  # type: ignore[arg-type]


MIG_NODE = (
    a100(0, uuid=MIG[0], parent=FIRST, partition="3g.40gb", memory_mib=40448, pci_bus_id="0000:1b:00.0"),
    a100(1, uuid=MIG[1], parent=FIRST, partition="2g.20gb", memory_mib=19968, pci_bus_id="0000:1b:00.0"),
    a100(2, uuid=MIG[2], parent=FIRST, partition="1g.10gb", memory_mib=9728, pci_bus_id="0000:1b:00.0"),
    a100(3, uuid=SECOND, memory_mib=81920, pci_bus_id="0000:43:00.0"),
)


def answers(stand_ins: StandIns, **files: str) -> None:
    """An nvidia-smi that prints these answers: q (-q -x), L, query, help, apps."""
    patterns = {"q": "-q -x", "L": "-L", "query": "--query-gpu=*", "help": "--help-query-gpu", "apps": "--query-comp*"}
    branches = []
    for key, text in files.items():
        file = stand_ins.folder / f"answer-{key}"
        file.write_text(text)
        branches.append(f"'{patterns[key]}')".replace("*'", "'*") + f" cat '{file}';;")
    stand_ins.add("nvidia-smi", 'case "$*" in\n' + "\n".join(branches) + "\n*) echo unknown option; exit 2;;\nesac")


def test_gpus_are_named_in_full(stand_ins: StandIns) -> None:
    answers(stand_ins, q=data("nvidia-smi_q_x.xml"))
    reading = nvidia_smi.gpus()
    assert reading.problem == ""
    assert reading.items[1] == Gpu(
        "NVIDIA",
        1,
        name="NVIDIA H100 80GB HBM3",
        architecture="H100",
        uuid=SECOND,
        memory_mib=81559,
        driver="580.65.06",
        runtime="13.0",
        pci_bus_id="0000:43:00.0",
        source="nvidia-smi",
    )
    assert [gpu.uuid for gpu in reading.items] == [FIRST, SECOND]
    assert len(stand_ins.calls()) == 1


def test_a_gpu_in_mig_mode_is_its_instances(stand_ins: StandIns) -> None:
    answers(stand_ins, q=data("nvidia-smi_q_x__mig.xml"), L=data("nvidia-smi_L__mig.txt"))
    reading = nvidia_smi.gpus()
    assert reading.items == MIG_NODE
    assert reading.problem == ""


def test_an_instance_without_uuid_is_not_offered(stand_ins: StandIns) -> None:
    listed = "\n".join(line for line in data("nvidia-smi_L__mig.txt").splitlines() if "Device  2" not in line)
    answers(stand_ins, q=data("nvidia-smi_q_x__mig.xml"), L=listed)
    reading = nvidia_smi.gpus()
    assert [gpu.uuid for gpu in reading.items] == [MIG[0], MIG[1], SECOND]
    assert [gpu.index for gpu in reading.items] == [0, 1, 2]
    assert "no UUID for 1 of 4 devices" in reading.problem


def test_a_gpu_in_mig_mode_without_instances_is_a_problem_not_a_gpu(stand_ins: StandIns) -> None:
    bare = re.sub(r"\t*<mig_device>.*</mig_device>", "None", data("nvidia-smi_q_x__mig.xml"), flags=re.DOTALL)
    answers(stand_ins, q=bare)
    reading = nvidia_smi.gpus()
    assert [gpu.uuid for gpu in reading.items] == [SECOND]
    assert "00000000:1B:00.0: in MIG mode without instances; create them with `nvidia-smi mig -cgi`" in reading.problem


def test_warnings_around_the_document_do_not_matter(stand_ins: StandIns) -> None:
    noisy = f"WARNING: persistence\n{data('nvidia-smi_q_x.xml')}\nWARNING: infoROM is corrupted at gpu 0000:1B:00.0\n"
    answers(stand_ins, q=noisy)
    assert len(nvidia_smi.gpus().items) == 2


def test_where_the_document_is_broken_the_table_is_read(stand_ins: StandIns) -> None:
    broken = data("nvidia-smi_q_x__mig.xml").replace("<compute_mode>", "").replace("</gpu>", "<name>a & b</name></gpu>")
    answers(stand_ins, q=broken, query=data("nvidia-smi_query_gpu.csv"), L=data("nvidia-smi_L__mig.txt"))
    reading = nvidia_smi.gpus()
    assert [(gpu.uuid, gpu.partition, gpu.memory_mib) for gpu in reading.items] == [
        (MIG[0], "3g.40gb", None),
        (MIG[1], "2g.20gb", None),
        (MIG[2], "1g.10gb", None),
        (SECOND, "", 81920),
    ]
    assert {(gpu.name, gpu.driver) for gpu in reading.items} == {("NVIDIA A100-SXM4-80GB", "580.65.06")}


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (
            "echo 'couldn'\\''t communicate with the NVIDIA driver'; exit 9",
            "exit code 9: couldn't communicate with the",
        ),
        ("exit 0", "nvidia-smi --query-gpu=index,uuid,pci.bus_id,driver_version,memory.total,name"),
        ("echo No devices were found", "unexpected output: No devices were found"),
        ("head -c 3000 /dev/zero", "unexpected output"),
        ("exec sleep 30", "no answer in 0.5 s"),
    ],
)
def test_a_tool_without_an_answer_is_a_named_problem(
    script: str, problem: str, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smi, "SECONDS", 0.5)
    stand_ins.add("nvidia-smi", script)
    reading = nvidia_smi.gpus()
    assert reading.items == ()
    assert "nvidia-smi" in reading.problem and "\n" not in reading.problem
    assert problem in reading.problem


def test_the_fields_are_those_that_the_driver_knows_each_meaning_once(stand_ins: StandIns) -> None:
    answers(stand_ins, help=data("nvidia-smi_help_query_gpu.txt"))
    known = nvidia_smi.fields()
    assert known == nvidia_smi.WATCHED[:-1]
    assert nvidia_smi.watch(known, 500).formulate()[1:] == [
        "--query-gpu=timestamp,index,uuid,pci.bus_id,memory.used,utilization.gpu,power.draw.average,power.draw,"
        "power.draw.instant,temperature.gpu,clocks_event_reasons.active",
        "--format=csv,noheader,nounits",
        "-lms",
        "500",
    ]


def test_an_older_driver_is_asked_for_what_it_knows() -> None:
    output = '"timestamp"\n"index"\n"memory.used"\n"power.draw"\n"clocks_throttle_reasons.active"\n'
    assert nvidia_smi.known_fields(output) == (
        "timestamp",
        "index",
        "memory.used",
        "power.draw",
        "clocks_throttle_reasons.active",
    )
    assert nvidia_smi.known_fields("") == ()


def test_a_line_of_the_stream_is_a_sample() -> None:
    lines = data("nvidia-smi_watch.csv").splitlines()
    busy, idle = (nvidia_smi.sample_of_line(nvidia_smi.WATCHED[:-1], line) for line in lines)
    assert busy == GpuSample(
        "nvidia-smi",
        local(2026, 1, 5, 10, 20, 30, 250000),
        0,
        uuid=FIRST,
        pci_bus_id="0000:1b:00.0",
        memory_used_mib=40960.0,
        utilization=97.0,
        power_w=650.25,
        power_seconds=1.0,
        temperature_c=61.0,
        throttled=True,
    )
    assert idle is not None
    assert (idle.index, idle.utilization, idle.throttled) == (1, 0.0, False)


@pytest.mark.parametrize("unknown", ["[N/A]", "[Not Supported]", "[Unknown Error]", "[GPU requires reset]", ""])
def test_what_the_driver_does_not_tell_is_unknown(unknown: str) -> None:
    known = ("index", "memory.used", "utilization.gpu", "power.draw", "temperature.gpu", "clocks_event_reasons.active")
    sample = nvidia_smi.sample_of_line(known, ", ".join(["3", *[unknown] * 5]))
    assert sample is not None and sample.index == 3
    values = (sample.memory_used_mib, sample.utilization, sample.power_w, sample.temperature_c, sample.throttled)
    assert values == (None,) * 5


@pytest.mark.parametrize(
    ("powers", "expected"),
    [
        ("70.0, 70.0, 71.5", (70.0, 1.0)),
        ("[N/A], 72.5, 71.5", (72.5, 0.0)),
        ("[N/A], [N/A], 71.5", (71.5, 0.0)),
        ("[N/A], [N/A], [N/A]", (None, 0.0)),
    ],
)
def test_a_power_is_an_average_where_the_driver_tells_one(powers: str, expected: tuple[float | None, float]) -> None:
    known = ("index", "power.draw.average", "power.draw", "power.draw.instant")
    sample = nvidia_smi.sample_of_line(known, f"0, {powers}")
    assert sample is not None and (sample.power_w, sample.power_seconds) == expected


@pytest.mark.parametrize(
    "line", ["", "0", "0, 1", "a, 2, 3", "index, memory.used, name", "No devices were found", "\0"]
)
def test_a_torn_or_foreign_line_is_no_sample(line: str) -> None:
    assert nvidia_smi.sample_of_line(("index", "memory.used", "name"), line) is None


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ("0x0000000000000000", False),
        ("0x0000000000000001", False),
        ("0x0000000000000002", False),
        ("0x0000000000000004", True),
        ("0x0000000000000008", True),
        ("0x0000000000000061", True),
        ("0x0000000000000080", True),
        ("[N/A]", None),
        ("", None),
    ],
)
def test_throttled_is_a_clock_held_down_by_power_or_heat(mask: str, expected: bool | None) -> None:
    assert nvidia_smi.is_throttled(mask) is expected


def test_a_sample_of_every_gpu_is_one_line_each(stand_ins: StandIns) -> None:
    answers(stand_ins, query=data("nvidia-smi_watch.csv"), help=data("nvidia-smi_help_query_gpu.txt"))
    reading = nvidia_smi.samples()
    assert reading.problem == ""
    assert [(sample.index, sample.utilization) for sample in reading.items] == [(0, 97.0), (1, 0.0)]


def test_a_stream_prints_samples_at_an_interval_and_one_can_be_taken_beside_it(stand_ins: StandIns) -> None:
    lines = data("nvidia-smi_watch.csv")
    answers(stand_ins, query=lines, help=data("nvidia-smi_help_query_gpu.txt"))
    stream = nvidia_smi.stream(0.5)
    assert stream is not None
    assert stream.command.formulate()[-2:] == ["-lms", "500"]
    samples = [stream.parse(line) for line in lines.splitlines()]
    assert stream.now().items == tuple(samples)
    assert stream.parse("No devices were found") is None


def test_a_driver_whose_fields_are_unknown_has_neither_samples_nor_a_stream(stand_ins: StandIns) -> None:
    stand_ins.add("nvidia-smi", "exit 9")
    assert nvidia_smi.stream(0.5) is None
    assert nvidia_smi.samples() == Reading(problem="nvidia-smi --help-query-gpu: names no known fields")


def test_processes_are_named_with_their_memory(stand_ins: StandIns) -> None:
    answers(stand_ins, apps=data("nvidia-smi_compute_apps.csv"))
    assert nvidia_smi.processes().items == (
        GpuProcess(4242, "/usr/bin/python3", 20480.0, FIRST),
        GpuProcess(4243, "/opt/app/train, worker 1", None, FIRST),
        GpuProcess(4250, "", 512.0, SECOND),
    )


def test_an_idle_machine_has_no_processes_and_no_problem(stand_ins: StandIns) -> None:
    answers(stand_ins, apps="")
    reading = nvidia_smi.processes()
    assert (reading.items, reading.problem) == ((), "")


def test_garbage_in_the_place_of_processes_is_a_problem(stand_ins: StandIns) -> None:
    answers(stand_ins, apps="Segmentation fault\n")
    assert "unexpected output: Segmentation fault" in nvidia_smi.processes().problem


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-40GB ", "A100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla V100-SXM2-32GB", "V100"),
        ("NVIDIA GeForce RTX 3080", "GeForce"),
        ("", ""),
    ],
)
def test_the_architecture_is_the_product_family(name: str, family: str) -> None:
    assert nvidia_smi.family(name) == family


# What NVML said in the moment of the answers in `__h100`: bytes, percent, milliwatts (before and after), degrees,
# bits of the reasons; the process's memory.
NVML_USED, NVML_UTILIZATION, NVML_POWER, NVML_TEMPERATURE, NVML_REASONS = 22631219200, 100, (698004, 696528), 74, 0x4
NVML_PROCESS_USED = 22621978624
REAL = Gpu(
    "NVIDIA",
    0,
    name="NVIDIA H100 80GB HBM3",
    architecture="H100",
    uuid=FIRST,
    memory_mib=81559,
    driver="580.159.04",
    runtime="13.0",
    pci_bus_id="0000:00:06.0",
    source="nvidia-smi",
)


def test_a_real_gpu_is_what_nvml_says(stand_ins: StandIns) -> None:
    answers(stand_ins, q=data("nvidia-smi_q_x__h100.xml"))
    reading = nvidia_smi.gpus()
    assert (reading.items, reading.problem) == ((REAL,), "")
    (by_table,) = nvidia_smi.gpus_of_csv(data("nvidia-smi_query_gpu__h100.csv"))
    assert replace(by_table, runtime=REAL.runtime) == REAL


def test_what_a_real_gpu_does_is_what_nvml_says(stand_ins: StandIns) -> None:
    answers(
        stand_ins,
        query=data("nvidia-smi_watch__h100.csv"),
        help=data("nvidia-smi_help_query_gpu__h100.txt"),
    )
    known = nvidia_smi.fields()
    assert known == nvidia_smi.WATCHED[:-1]
    busy, idle = nvidia_smi.samples().items
    assert busy.memory_used_mib == pytest.approx(NVML_USED / 2**20, abs=0.5)
    assert busy.utilization == NVML_UTILIZATION
    assert busy.power_w is not None and busy.power_seconds == 1
    assert min(NVML_POWER) <= 1000 * busy.power_w + 5 and 1000 * busy.power_w - 5 <= max(NVML_POWER)
    assert busy.temperature_c == NVML_TEMPERATURE
    assert busy.throttled is bool(NVML_REASONS & nvidia_smi.THROTTLES)
    assert (busy.uuid, busy.pci_bus_id, busy.index) == (FIRST, "0000:00:06.0", 0)
    assert (idle.memory_used_mib, idle.utilization, idle.power_w, idle.throttled) == (0, 0, 149.41, False)
    assert busy.time == local(2026, 11, 26, 11, 44, 39, 232000)


def test_the_process_on_a_real_gpu_is_the_one_that_nvml_names(stand_ins: StandIns) -> None:
    answers(stand_ins, apps=data("nvidia-smi_compute_apps__h100.csv"))
    (process,) = nvidia_smi.processes().items
    assert (process.pid, process.uuid, process.memory_used_mib) == (557, FIRST, NVML_PROCESS_USED / 2**20)


def read_everything(text: str) -> bool:
    """Reads a text with every parser; whether one of them found something."""
    listed = nvidia_smi.instances_of_list(text)
    return bool(
        nvidia_smi.gpus_of_xml(text, listed)
        or nvidia_smi.gpus_of_csv(text, listed)
        or nvidia_smi.processes_of(text)
        or nvidia_smi.known_fields(text)
        or listed
        or [line for line in text.splitlines() if nvidia_smi.sample_of_line(nvidia_smi.WATCHED[:-1], line)]
    )


@given(st.sampled_from(sorted(file.name for file in DATA.glob("nvidia-smi*"))), st.floats(0, 1))
def test_an_answer_cut_off_anywhere_is_never_an_error(name: str, part: float) -> None:
    text = data(name)
    cut = text[: int(len(text) * part)]
    assert read_everything(text)
    read_everything(cut)
    if name.endswith(".xml"):
        assert len(nvidia_smi.gpus_of_xml(cut)) in (0, len(nvidia_smi.gpus_of_xml(text)))


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_no_text_is_an_error(text: str) -> None:
    assert not nvidia_smi.gpus_of_xml(text)
    read_everything(text)


# Name, memory, driver, CUDA, PCI address.
XML_SAMPLES: dict[str, tuple[str, int | None, str, str, str]] = {
    "a100-sxm4-v12": ("NVIDIA A100-SXM4-80GB", 19968, "535.54.03", "12.2", "0000:01:00.0"),
    "a10g": ("NVIDIA A10G", 23028, "515.105.01", "11.7", "0000:00:1e.0"),
    "gtx-1070-ti": ("GeForce GTX 1070 Ti", 4096, "", "", "0000:01:00.0"),
    "gtx-1660-ti": ("Graphics Device", 5912, "418.43", "10.1", "0000:43:00.0"),
    "quadro-p2000-v12": ("Quadro P2000", 5120, "525.125.06", "12.0", "0000:17:00.0"),
    "quadro-p400": ("Quadro P400", 1998, "418.43", "10.1", "0000:43:00.0"),
    "rtx-3060-v12": ("NVIDIA GeForce RTX 3060", 12288, "570.124.04", "12.8", "0000:2d:00.0"),
    "rtx-3080-v12": ("NVIDIA GeForce RTX 3080", 10240, "536.40", "12.2", "0000:04:00.0"),
    "rtx-3080-v13": ("NVIDIA GeForce RTX 3080", 10240, "595.58.03", "13.2", "0000:0c:00.0"),
    "rtx-3090-v12": ("NVIDIA GeForce RTX 3090", 24576, "525.147.05", "12.0", "0000:00:10.0"),
    "rtx-4000-sff-ada-v13": ("NVIDIA RTX 4000 SFF Ada Generation", 20475, "595.84", "13.2", "0000:06:00.0"),
    "tesla-t4": ("Tesla T4", 15360, "515.105.01", "11.7", "0000:00:1e.0"),
}


@pytest.mark.parametrize("name", XML_SAMPLES)
def test_a_real_document_says_what_its_text_says(name: str) -> None:
    text = sample_text(f"nvidia-smi_q_x__{name}.xml")
    expected = XML_SAMPLES[name]
    reading = nvidia_smi.gpus_of_xml(text)
    mig = name.startswith("a100")
    assert {(gpu.name, gpu.memory_mib, gpu.driver, gpu.runtime, gpu.pci_bus_id) for gpu in reading} == {expected}
    assert [(gpu.index, gpu.partition) for gpu in reading] == [
        (index, "MIG" if mig else "") for index in range(len(reading))
    ]
    assert len(reading) == (4 if mig else 1)
    assert all((gpu.parent if mig else gpu.uuid).startswith("GPU-") for gpu in reading)


# Driver, CUDA, name, PCI address, memory; MIG instances; under load: the sample, process ids and their memory.
Capture = tuple[str, str, str, str, int, tuple[str, ...], tuple[float | bool | None, ...], dict[int, float | None]]
CAPTURES: dict[str, Capture] = {
    "linux-x86_64__nvidia-geforce-rtx-2080-super__595.71.05": (
        "595.71.05", "13.2", "NVIDIA GeForce RTX 2080 SUPER", "0000:0c:00.0", 8192, (),
        (819, 8, 111.5, 45, False), {5268: 370, 5267: 230},
    ),
    "linux-x86_64__nvidia-geforce-rtx-2080-super__610.57.04": (
        "610.57.04", "13.3", "NVIDIA GeForce RTX 2080 SUPER", "0000:0c:00.0", 8192, (),
        (815, 8, 98.14, 38, False), {28512: 370, 28511: 230},
    ),
    "linux-x86_64__nvidia-geforce-rtx-4080-super__595.71.05": (
        "595.71.05", "13.2", "NVIDIA GeForce RTX 4080 SUPER", "0000:01:00.0", 16376, (),
        (1474, 7, 84.24, 46, False), {2165: 25, 5022: 503, 5021: 360},
    ),
    "linux-x86_64__nvidia-h100-80gb-hbm3__590.48.01": (
        "590.48.01", "13.1", "NVIDIA H100 80GB HBM3", "0000:00:09.0", 81559, (),
        (19818, 100, 631.95, 59, False), {11327: 2566, 11328: 1542, 11345: 15690},
    ),
    "linux-x86_64__nvidia-h100-mig__590.48.01": (
        "590.48.01", "13.1", "NVIDIA H100 80GB HBM3", "0000:00:09.0", 81559,
        ("3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb"),
        (11125, None, 433.78, 53, False), {21180: 2296, 21181: 1272, 21198: 7484},
    ),
    "linux-x86_64__nvidia-h200-mig__590.48.01": (
        "590.48.01", "13.1", "NVIDIA H200", "0000:83:00.0", 143771,
        ("1c.3g.71gb", "2c.3g.71gb", "2g.35gb", "1g.18gb", "1g.18gb"),
        (16959, None, 295.01, 36, False), {12249: 2194, 12250: 1170, 12267: 13526},
    ),
    "linux-x86_64__nvidia-h200__590.48.01": (
        "590.48.01", "13.1", "NVIDIA H200", "0000:83:00.0", 143771, (),
        (32362, 100, 627.4, 52, False), {10291: 2566, 10293: 1542, 10309: 28234},
    ),
    "linux-x86_64__nvidia-l40s__595.80": (
        "595.80", "13.2", "NVIDIA L40S", "0000:01:00.0", 46068, (),
        (1235, 9, 110.23, 54, False), {20037: 538, 20038: 681},
    ),
    "windows-x86_64__nvidia-geforce-rtx-2080-super__591.86": (
        "591.86", "13.1", "NVIDIA GeForce RTX 2080 SUPER", "0000:0c:00.0", 8192, (),
        (1296, 7, 97.43, 45, False), {},
    ),
}  # fmt: skip


def section(capture: str, phase: str, title: str) -> str:
    rule = "#" * 80
    heading = rf"^{rule}\n# {phase} :: {re.escape(title)}[^\n]*\n(?:# \$ [^\n]*\n)?{rule}\n"
    match = re.search(rf"{heading}(.*?)(?:^{rule}|\Z)", capture, re.MULTILINE | re.DOTALL)
    assert match, (phase, title)
    return match[1].strip("\n") + "\n"


def columns(table: str, names: tuple[str, ...], units: bool = False) -> str:
    """What the tool prints when it is asked for these columns of the table alone."""
    aliases = {"used_memory": "used_gpu_memory"}
    heading, *rows = [line.split(", ") for line in table.splitlines()]
    places = [[cell.split(" ")[0] for cell in heading].index(aliases.get(name, name)) for name in names]
    trim = (lambda cell: cell) if units else (lambda cell: re.sub(r" (MiB|W|%)$", "", cell))
    return "".join(", ".join(trim(row[place]) for place in places) + "\n" for row in rows)


@pytest.mark.parametrize("name", CAPTURES)
def test_a_real_capture_says_what_its_text_says(name: str, stand_ins: StandIns) -> None:
    capture = sample_text(f"nvidia-smi_capture__{name}.txt")
    driver, _, product, bus, memory, profiles, values, pids = CAPTURES[name]
    table = section(capture, "load", "query-gpu (csv")
    answers(
        stand_ins,
        q="<nvidia_smi_log>",
        L=section(capture, "capabilities", "list (-L)"),
        query=columns(table, nvidia_smi.LISTED),
        help=section(capture, "capabilities", "help-query-gpu"),
        apps=columns(section(capture, "load", "query-compute-apps"), nvidia_smi.PROCESSES),
    )
    reading = nvidia_smi.gpus()
    assert reading.problem == ""
    assert {(gpu.name, gpu.driver, gpu.pci_bus_id) for gpu in reading.items} == {(product, driver, bus)}
    assert tuple(gpu.partition for gpu in reading.items) == (profiles or ("",))
    if profiles:
        assert [gpu.parent for gpu in reading.items] == [MASKED] * len(profiles)
        assert len({gpu.uuid for gpu in reading.items}) == len(profiles)
    else:
        assert [(gpu.uuid, gpu.memory_mib) for gpu in reading.items] == [(MASKED, memory)]
    known = nvidia_smi.fields()
    assert known == nvidia_smi.WATCHED[:-1]
    for units in (False, True):
        sample = nvidia_smi.sample_of_line(known, columns(table, known, units).splitlines()[0])
        assert sample is not None
        assert (
            sample.memory_used_mib,
            sample.utilization,
            sample.power_w,
            sample.temperature_c,
            sample.throttled,
        ) == values
    processes = nvidia_smi.processes().items
    if pids:
        assert {process.pid: process.memory_used_mib for process in processes} == pids
    else:
        # Windows' own programs, whose memory its driver model does not tell.
        assert len(processes) > 10
        assert {process.memory_used_mib for process in processes} == {None}


def document(query: str) -> str:
    """What -q says, as -q -x says it: versions, product, UUID, and the memory of MIG instances."""

    def line(key: str, text: str = query) -> str:
        match = re.search(rf"^\s*{key}\s+: (.*)$", text, re.MULTILINE)
        return match[1] if match else ""

    parts = query.partition("Clocks Event Reasons")[0].split("    MIG Device\n")[1:]
    memory = [line("Total", part.partition("Shared FB Memory Usage")[2]) for part in parts]
    devices = "".join(
        f"<mig_device><fb_memory_usage><total>{size}</total></fb_memory_usage></mig_device>" for size in memory
    )
    return f"""<nvidia_smi_log><driver_version>{line("Driver Version")}</driver_version>
        <cuda_version>{line("CUDA Version")}</cuda_version>
        <gpu id="{re.findall("^GPU (.*)$", query, re.MULTILINE)[0]}"><product_name>{line("Product Name")}</product_name>
        <mig_mode><current_mig>{line("Current")}</current_mig></mig_mode><mig_devices>{devices}</mig_devices>
        <uuid>{line("GPU UUID")}</uuid></gpu></nvidia_smi_log>"""


# As the captures' -q have them; two compute instances of one GPU instance share its memory.
MIG_MEMORY = {"h100": [40448, 20096, 9984, 9984], "h200": [71424, 71424, 33280, 16384, 16384]}


@pytest.mark.parametrize("name", CAPTURES)
def test_a_real_capture_has_its_versions_and_instances(name: str) -> None:
    capture = sample_text(f"nvidia-smi_capture__{name}.txt")
    driver, runtime, product, bus, _, profiles, _, _ = CAPTURES[name]
    listed = nvidia_smi.instances_of_list(section(capture, "capabilities", "list (-L)"))
    reading = nvidia_smi.gpus_of_xml(document(section(capture, "idle", "query (-q)")), listed)
    assert {(gpu.driver, gpu.runtime, gpu.name, gpu.pci_bus_id) for gpu in reading} == {(driver, runtime, product, bus)}
    assert tuple(gpu.partition for gpu in reading) == (profiles or ("",))
    if profiles:
        assert [gpu.memory_mib for gpu in reading] == MIG_MEMORY[name.split("-")[2]]


def test_every_real_answer_of_the_tool_is_in_a_table() -> None:
    known = {f"nvidia-smi_q_x__{name}.xml" for name in XML_SAMPLES}
    known |= {f"nvidia-smi_capture__{name}.txt" for name in CAPTURES}
    assert {file.name for file in SAMPLES.glob("nvidia-smi*")} == known


@given(st.data())
def test_a_real_answer_cut_off_anywhere_is_never_an_error(draw: st.DataObject) -> None:
    name = draw.draw(st.sampled_from([f"nvidia-smi_q_x__{name}.xml" for name in XML_SAMPLES]))
    text = sample_text(name)
    cut = text[: draw.draw(st.integers(0, text.rindex("<")))]
    assert nvidia_smi.gpus_of_xml(cut) == ()
    read_everything(cut)


@given(st.data())
def test_a_real_capture_cut_off_anywhere_is_never_an_error(draw: st.DataObject) -> None:
    name = draw.draw(st.sampled_from(sorted(CAPTURES)))
    text = sample_text(f"nvidia-smi_capture__{name}.txt")
    cut = text[: draw.draw(st.integers(0, len(text)))]
    assert set(nvidia_smi.known_fields(cut)) <= set(nvidia_smi.WATCHED)
    assert sum(map(len, nvidia_smi.instances_of_list(cut).values())) <= len(CAPTURES[name][5])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nvidia-smi_q_x__h100", GpuSettings(700.0, True, "", 1980.0, 2619.0, 1980.0, 2619.0, 1380.0, 2619.0)),
        ("samples/nvidia-smi_q_x__rtx-3090-v12", GpuSettings(200.0, True, "", None, None, 2100.0, 9751.0, 0.0, 405.0)),
        ("samples/nvidia-smi_q_x__rtx-3080-v12", GpuSettings(336.0, None, "", None, None, 2100, 9501, 210, 405)),
        ("samples/nvidia-smi_q_x__rtx-3080-v13", GpuSettings(320.0, False, "", None, None, 2100, 9501, 1950, 9251)),
        ("samples/nvidia-smi_q_x__quadro-p400", GpuSettings(None, False, "", 1227, 2005, 1252, 2005, 139, 405)),
    ],
)
def test_how_a_gpu_is_set_is_in_the_document(name: str, expected: GpuSettings) -> None:
    assert nvidia_smi.gpus_of_xml((DATA / f"{name}.xml").read_text())[0].settings == expected
