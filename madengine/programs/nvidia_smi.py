"""nvidia-smi: NVIDIA's GPUs and MIG instances, their samples, and the processes on them."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from madengine.programs import smi
from madengine.programs.smi import SampleStream
from madengine.records import Gpu, GpuProcess, GpuSample, GpuSettings, Reading

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from plumbum.commands.base import BaseCommand

# Per UUID of a GPU in MIG mode: UUID and profile of each of its instances, in their order.
Instances = Mapping[str, Sequence[tuple[str, str]]]

NAME = "nvidia-smi"
# One that is polled, because it doesn't stream, costs little.
SAMPLE_SECONDS = 0.0
QUERY = ("-q", "-x")
# Free text comes last, because a name may have a comma in it.
LISTED = ("index", "uuid", "pci.bus_id", "driver_version", "memory.total", "name")
PROCESSES = ("pid", "gpu_uuid", "used_memory", "process_name")
# The fields of a sample. Drivers renamed the reasons, and split the power: `power.draw` is the average where there is
# one, without saying so.
WATCHED = (
    "timestamp",
    "index",
    "uuid",
    "pci.bus_id",
    "memory.used",
    "utilization.gpu",
    "power.draw.average",
    "power.draw",
    "power.draw.instant",
    "temperature.gpu",
    "clocks_event_reasons.active",
    "clocks_throttle_reasons.active",
)
# As --help-query-gpu describes the average.
AVERAGED_SECONDS = 1.0
# Power cap, slowdown by hardware, heat (software, hardware) and power brake, as NVML numbers the reasons.
THROTTLES = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
NO_INSTANCES: Instances = {}

_LOG = re.compile(r"<nvidia_smi_log>.*?</nvidia_smi_log>", re.DOTALL)
_HELP = re.compile(r'^"([\w.]+)"(?: or "([\w.]+)")?', re.MULTILINE)
_GPU = re.compile(r"GPU \d+: .* \(UUID: (\S+)\)\s*")
_INSTANCE = re.compile(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (\S+)\)\s*")
_VERSION = re.compile(r"\d+(?:\.\d+)+")


def gpus() -> Reading[Gpu]:
    """Return the GPUs of this machine; instead of a GPU in MIG mode, its instances."""
    output, problem = smi.query(NAME, *QUERY)
    if problem:
        return smi.no_gpus(NAME, problem)
    log, is_none = _log(output), _lists_none(output)
    listing, problem = smi.query(NAME, "-L") if log is None or "<mig_device>" in output else ("", "")
    instances = instances_of_list(listing)
    if log is None:
        # Names of processes, which -q -x prints unescaped, can make it unreadable.
        words = _query(LISTED)
        output, problem = smi.query(NAME, *words)
        devices, is_none = gpus_of_csv(output, instances), is_none and _lists_none(output)
    else:
        words = QUERY
        devices = gpus_of_xml(output, instances)
        problem = problem or _idle_mig(log)
    problem = problem or _unnamed(devices)
    # By its index alone, a container would get the GPU next to it.
    devices = tuple(gpu for gpu in devices if gpu.uuid or not gpu.parent)
    if devices:
        return Reading(_numbered(devices), problem)
    return smi.no_gpus(NAME, problem or smi.unexpected(NAME, *words, output=output), is_none and not problem)


def samples() -> Reading[GpuSample]:
    """Return a sample of every GPU."""
    known = fields()
    return now(known) if known else Reading(problem=f"{NAME} --help-query-gpu: names no known fields")


def stream(seconds: float) -> SampleStream | None:
    """Return one nvidia-smi that prints a line for each GPU at each interval; None if its fields are unknown."""
    known = fields()
    if not known:
        return None
    return SampleStream(watch(known, round(seconds * 1000)), partial(sample_of_line, known), partial(now, known))


def fields() -> tuple[str, ...]:
    """Return those of `WATCHED` that this driver knows, because an unknown one fails a query; empty on failure."""
    output, _ = smi.query(NAME, "--help-query-gpu")
    return known_fields(output)


def watch(known: Sequence[str], milliseconds: int) -> BaseCommand:
    """Return the command that prints one line per GPU at this interval until it is ended."""
    return smi.command(NAME, *_query(known), "-lms", str(milliseconds))


def now(known: Sequence[str]) -> Reading[GpuSample]:
    """Return a sample of every GPU, of these fields."""
    output, problem = smi.query(NAME, *_query(known))
    return Reading(tuple(filter(None, (sample_of_line(known, line) for line in output.splitlines()))), problem)


def processes() -> Reading[GpuProcess]:
    """Return the processes that compute on a GPU; in a container, those of others may be hidden."""
    words = (f"--query-compute-apps={','.join(PROCESSES)}", "--format=csv,noheader,nounits")
    output, problem = smi.query(NAME, *words)
    entries = processes_of(output)
    if output.strip() and not entries and "No running" not in output:
        problem = smi.unexpected(NAME, *words, output=output)
    return Reading(entries, problem)


def family(name: str) -> str:
    """Return the product family that `skip_gpu_arch` names: `NVIDIA H100 80GB HBM3` is `H100`, `Tesla T4` is `T4`."""
    return re.split(r"[-\s]", re.sub(r"^(NVIDIA|Tesla)\s+", "", name.strip()), maxsplit=1)[0]


def gpus_of_xml(output: str, instances: Instances = NO_INSTANCES) -> tuple[Gpu, ...]:
    """Return the GPUs of -q -x, which has neither UUID nor profile of MIG instances; empty if unreadable."""
    log = _log(output)
    if log is None:
        return ()
    devices: list[Gpu] = []
    for element in log.findall("gpu"):
        gpu = _gpu(element)
        memory = [_mib(part, "fb_memory_usage/total") for part in element.findall("mig_devices/mig_device")]
        # A GPU in MIG mode runs nothing but its instances.
        devices += _parts(gpu, memory, instances.get(gpu.uuid, ())) if _in_mig_mode(element) else [gpu]
    driver = _version(log, "driver_version") or _version(log, "kmd_version")
    runtime = _version(log, "cuda_version") or _version(log, "cuda_umd_version")
    return _numbered(tuple(replace(gpu, driver=driver, runtime=runtime) for gpu in devices))


def gpus_of_csv(output: str, instances: Instances = NO_INSTANCES) -> tuple[Gpu, ...]:
    """Return the GPUs of a query of `LISTED`."""
    devices: list[Gpu] = []
    for line in output.splitlines():
        cells = _cells(line, LISTED)
        if not cells or not cells["index"].isdecimal():
            continue
        gpu = Gpu(
            "NVIDIA",
            0,
            name=smi.text(cells["name"]),
            architecture=family(smi.text(cells["name"])),
            uuid=smi.text(cells["uuid"]),
            memory_mib=smi.whole(smi.number(cells["memory.total"])),
            driver=smi.text(cells["driver_version"]),
            pci_bus_id=smi.pci(cells["pci.bus_id"]),
            source=NAME,
        )
        parts = instances.get(gpu.uuid, ())
        devices += _parts(gpu, [None] * len(parts), parts) or [gpu]
    return _numbered(tuple(devices))


def instances_of_list(output: str) -> Instances:
    """Return the MIG instances that -L names."""
    by_gpu: dict[str, tuple[tuple[str, str], ...]] = {}
    uuid = ""
    for line in output.splitlines():
        if heading := _GPU.fullmatch(line):
            uuid = heading[1]
            by_gpu[uuid] = ()
        elif (instance := _INSTANCE.fullmatch(line)) and uuid:
            by_gpu[uuid] += ((instance[3], instance[1]),)
    return {gpu: instances for gpu, instances in by_gpu.items() if instances}


def sample_of_line(known: Sequence[str], line: str) -> GpuSample | None:
    """Return the sample in a line of `watch`; None if the line is something else, or incomplete."""
    cells = _cells(line, known)
    if cells is None or not cells.get("index", "").isdecimal():
        return None
    average = smi.number(cells.get("power.draw.average", ""))
    others = (smi.number(cells.get(field, "")) for field in ("power.draw", "power.draw.instant"))
    reasons = (cells.get(f"clocks_{kind}_reasons.active", "") for kind in ("event", "throttle"))
    return GpuSample(
        NAME,
        _moment(cells.get("timestamp", "")),
        int(cells["index"]),
        uuid=smi.text(cells.get("uuid", "")),
        pci_bus_id=smi.pci(cells.get("pci.bus_id", "")),
        memory_used_mib=smi.number(cells.get("memory.used", "")),
        utilization=smi.number(cells.get("utilization.gpu", "")),
        power_w=next((power for power in (average, *others) if power is not None), None),
        power_seconds=0.0 if average is None else AVERAGED_SECONDS,
        temperature_c=smi.number(cells.get("temperature.gpu", "")),
        throttled=next((is_throttled(mask) for mask in reasons if is_throttled(mask) is not None), None),
    )


def is_throttled(mask: str) -> bool | None:
    """Whether the mask of active reasons (`0x0000000000000004`) has one that lowers clocks under load."""
    return bool(int(mask, 16) & THROTTLES) if re.fullmatch(r"0x[0-9a-fA-F]+", mask.strip()) else None


def known_fields(output: str) -> tuple[str, ...]:
    """Return those of `WATCHED` that --help-query-gpu names, each meaning once."""
    synonyms = [{name for name in names if name} for names in _HELP.findall(output)]
    known: list[str] = []
    for field in WATCHED:
        names: set[str] = set().union(*(names for names in synonyms if field in names))
        if names and not names.intersection(known):
            known.append(field)
    return tuple(known)


def processes_of(output: str) -> tuple[GpuProcess, ...]:
    """Return the processes of --query-compute-apps of `PROCESSES`."""
    entries = []
    for line in output.splitlines():
        cells = _cells(line, PROCESSES)
        if cells and cells["pid"].isdecimal():
            used = smi.number(cells["used_memory"])
            entries.append(
                GpuProcess(int(cells["pid"]), smi.text(cells["process_name"]), used, smi.text(cells["gpu_uuid"]))
            )
    return tuple(entries)


def _lists_none(output: str) -> bool:
    """Return whether the tool answers that there is no GPU, in a document or in a sentence; also by silence."""
    log = _log(output)
    if log is not None:
        return not log.findall("gpu")
    return not output.strip() or "No devices were found" in output


def _query(names: Sequence[str]) -> tuple[str, ...]:
    return (f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits")


def _cells(line: str, names: Sequence[str]) -> Mapping[str, str] | None:
    cells = [cell.strip() for cell in line.split(", ", len(names) - 1)] if names else []
    return dict(zip(names, cells, strict=True)) if len(cells) == len(names) and cells else None


def _log(output: str) -> Element | None:
    """Parse the document in the output: the tool warns before it, and about bad info ROMs after it."""
    from xml.etree import ElementTree

    document = _LOG.search(output)
    try:
        return ElementTree.fromstring(document[0]) if document else None
    except ElementTree.ParseError:
        return None


def _version(log: Element, tag: str) -> str:
    # From release 610 the older of two tags may hold a sentence about the newer one.
    match = _VERSION.match(log.findtext(tag, "").strip())
    return match[0] if match else ""


def _mib(element: Element, path: str) -> int | None:
    return smi.whole(smi.mib(element.findtext(path, "")))


def _gpu(element: Element) -> Gpu:
    name = smi.text(element.findtext("product_name", ""))
    return Gpu(
        "NVIDIA",
        0,
        name=name,
        architecture=family(name),
        uuid=smi.text(element.findtext("uuid", "")),
        memory_mib=_mib(element, "fb_memory_usage/total"),
        pci_bus_id=smi.pci(element.get("id", "")),
        source=NAME,
        settings=_settings(element),
    )


def _settings(element: Element) -> GpuSettings:
    def number(*paths: str) -> float | None:
        values = (smi.number(element.findtext(path, "")) for path in paths)
        return next((value for value in values if value is not None), None)

    modes = {"Enabled": True, "Disabled": False}
    return GpuSettings(
        power_cap_w=number("gpu_power_readings/current_power_limit", "power_readings/enforced_power_limit"),
        persistence_mode=modes.get(element.findtext("persistence_mode", "").strip()),
        applications_clock_mhz=number("applications_clocks/graphics_clock"),
        applications_memory_clock_mhz=number("applications_clocks/mem_clock"),
        max_clock_mhz=number("max_clocks/sm_clock"),
        max_memory_clock_mhz=number("max_clocks/mem_clock"),
        clock_mhz=number("clocks/sm_clock"),
        memory_clock_mhz=number("clocks/mem_clock"),
    )


def _numbered(devices: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    return tuple(replace(gpu, index=index) for index, gpu in enumerate(devices))


def _in_mig_mode(element: Element) -> bool:
    return element.findtext("mig_mode/current_mig", "").strip() == "Enabled"


def _parts(gpu: Gpu, memory: Sequence[int | None], instances: Sequence[tuple[str, str]]) -> list[Gpu]:
    """Return the MIG instances of a GPU; the UUID is empty and the profile `MIG` if they are unknown."""
    names = [*instances, *[("", "MIG")] * (len(memory) - len(instances))]
    return [
        replace(gpu, uuid=uuid, partition=profile, parent=gpu.uuid, memory_mib=size)
        for (uuid, profile), size in zip(names, memory, strict=False)
    ]


def _unnamed(devices: Sequence[Gpu]) -> str:
    count = sum(1 for gpu in devices if gpu.parent and not gpu.uuid)
    if not count:
        return ""
    return f"{NAME} -L: no UUID for {count} of {len(devices)} devices, so containers can't use these MIG instances"


def _idle_mig(log: Element) -> str:
    bare = [gpu for gpu in log.findall("gpu") if _in_mig_mode(gpu) and not gpu.findall("mig_devices/*")]
    if not bare:
        return ""
    addresses = ", ".join(gpu.get("id", "") for gpu in bare)
    return f"{NAME}: {addresses}: in MIG mode without instances; create them with `nvidia-smi mig -cgi`"


def _moment(timestamp: str) -> float:
    """Return the tool's local time as seconds since the epoch; now, if it is invalid.

    The hour that comes twice when summer time ends is the one nearer to now.
    """
    try:
        local = datetime.strptime(timestamp.strip(), "%Y/%m/%d %H:%M:%S.%f")
        return min((local.replace(fold=fold).timestamp() for fold in (0, 1)), key=lambda one: abs(one - time.time()))
    except (ValueError, OverflowError, OSError):
        return time.time()
