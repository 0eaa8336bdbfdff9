"""nvidia-smi: which NVIDIA GPUs and MIG instances are here, what they do, and who uses them."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from madengine.programs import smi
from madengine.records import Gpu, GpuProcess, GpuSample, Reading

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from plumbum.commands.base import BaseCommand

# Per UUID of a GPU in MIG mode: UUID and profile of each of its instances, in their order.
Instances = Mapping[str, Sequence[tuple[str, str]]]

TOOL = "nvidia-smi"
QUERY = ("-q", "-x")
# Free text comes last, because a name may have a comma in it.
LISTED = ("index", "uuid", "pci.bus_id", "driver_version", "memory.total", "name")
PROCESSES = ("pid", "gpu_uuid", "used_memory", "process_name")
# What a sample is made of; the drivers renamed the reasons, and split the power: `power.draw` is the average where
# there is one, but does not say so.
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
# What --help-query-gpu says of the average: that of one second.
AVERAGED_SECONDS = 1.0
# Power cap, slowdown by hardware, heat (software, hardware) and power brake, as NVML numbers the reasons.
THROTTLES = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
_THROTTLE_NAMES = (
    "sw_power_cap",
    "hw_slowdown",
    "sw_thermal_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake_slowdown",
)

NO_INSTANCES: Instances = {}

_LOG = re.compile(r"<nvidia_smi_log>.*?</nvidia_smi_log>", re.DOTALL)
_HELP = re.compile(r'^"([\w.]+)"(?: or "([\w.]+)")?', re.MULTILINE)
_CARD = re.compile(r"GPU \d+: .* \(UUID: (\S+)\)\s*")
_INSTANCE = re.compile(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (\S+)\)\s*")
_VERSION = re.compile(r"\d+(?:\.\d+)+")


def gpus() -> Reading[Gpu]:
    """The GPUs of this machine; in the place of a GPU in MIG mode, its instances."""
    said, problem = smi.query(TOOL, *QUERY)
    if problem:
        return Reading(problem=problem)
    log = _log(said)
    listed, problem = smi.query(TOOL, "-L") if log is None or "<mig_device>" in said else ("", "")
    instances = instances_of_list(listed)
    if log is None:
        # Names of processes, which -q -x prints unquoted, can make it unreadable.
        words = _query(LISTED)
        said, problem = smi.query(TOOL, *words)
        found = gpus_of_csv(said, instances)
    else:
        words = QUERY
        found = gpus_of_xml(said, instances)
        problem = problem or _idle_mig(log)
    problem = problem or _unnamed(found)
    # By its index alone, a container would be given the GPU next to it.
    found = tuple(gpu for gpu in found if gpu.uuid or not gpu.parent)
    return Reading(_numbered(found), problem if found or problem else smi.unreadable(TOOL, *words, said=said))


def samples() -> Reading[GpuSample]:
    """What every GPU does now, asked once."""
    said, problem = smi.query(TOOL, *QUERY)
    found = samples_of_xml(said)
    return Reading(found, "" if found else problem or smi.unreadable(TOOL, *QUERY, said=said))


def fields() -> tuple[str, ...]:
    """The fields of a sample that this driver knows; none where the tool can't say. One unknown field fails a query."""
    said, _ = smi.query(TOOL, "--help-query-gpu")
    return known_fields(said)


def watch(known: Sequence[str], milliseconds: int) -> BaseCommand:
    """The command that prints one line per GPU each so many milliseconds, for as long as it runs."""
    return smi.command(TOOL, *_query(known), "-lms", str(milliseconds))


def now(known: Sequence[str]) -> Reading[GpuSample]:
    """What every GPU does now, as a line of `watch` tells it: a fifth of what `samples` takes."""
    said, problem = smi.query(TOOL, *_query(known))
    return Reading(tuple(filter(None, (sample_of_line(known, line) for line in said.splitlines()))), problem)


def processes() -> Reading[GpuProcess]:
    """The processes that compute on a GPU; a container's view may hide those of others."""
    words = (f"--query-compute-apps={','.join(PROCESSES)}", "--format=csv,noheader,nounits")
    said, problem = smi.query(TOOL, *words)
    found = processes_of(said)
    if said.strip() and not found and "No running" not in said:
        problem = smi.unreadable(TOOL, *words, said=said)
    return Reading(found, problem)


def family(name: str) -> str:
    """The product family that `skip_gpu_arch` names: `NVIDIA H100 80GB HBM3` is `H100`, `Tesla T4` is `T4`."""
    return re.split(r"[-\s]", re.sub(r"^(NVIDIA|Tesla)\s+", "", name.strip()), maxsplit=1)[0]


def gpus_of_xml(said: str, instances: Instances = NO_INSTANCES) -> tuple[Gpu, ...]:
    """The GPUs in the answer to -q -x, which knows neither UUID nor profile of a MIG instance; none if unreadable."""
    log = _log(said)
    found: list[Gpu] = []
    for card in () if log is None else log.findall("gpu"):
        gpu = _gpu(card)
        memory = [_mib(part, "fb_memory_usage/total") for part in card.findall("mig_devices/mig_device")]
        # A GPU in MIG mode runs nothing but its instances.
        found += _parts(gpu, memory, instances.get(gpu.uuid, ())) if _in_mig_mode(card) else [gpu]
    if log is None:
        return ()
    driver = _version(log, "driver_version") or _version(log, "kmd_version")
    runtime = _version(log, "cuda_version") or _version(log, "cuda_umd_version")
    return _numbered(tuple(replace(gpu, driver=driver, runtime=runtime) for gpu in found))


def gpus_of_csv(said: str, instances: Instances = NO_INSTANCES) -> tuple[Gpu, ...]:
    """The GPUs in the answer to a query of `LISTED`."""
    found: list[Gpu] = []
    for line in said.splitlines():
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
            source=TOOL,
        )
        named = instances.get(gpu.uuid, ())
        found += _parts(gpu, [None] * len(named), named) or [gpu]
    return _numbered(tuple(found))


def instances_of_list(said: str) -> Instances:
    """The MIG instances that -L names."""
    found: dict[str, tuple[tuple[str, str], ...]] = {}
    card = ""
    for line in said.splitlines():
        if heading := _CARD.fullmatch(line):
            card = heading[1]
            found[card] = ()
        elif (instance := _INSTANCE.fullmatch(line)) and card:
            found[card] += ((instance[3], instance[1]),)
    return {uuid: instances for uuid, instances in found.items() if instances}


def samples_of_xml(said: str) -> tuple[GpuSample, ...]:
    """One sample per GPU in the answer to -q -x."""
    log = _log(said)
    if log is None:
        return ()
    moment = _moment(log.findtext("timestamp", ""), "%a %b %d %H:%M:%S %Y")
    return tuple(_sample(index, card, moment) for index, card in enumerate(log.findall("gpu")))


def sample_of_line(known: Sequence[str], line: str) -> GpuSample | None:
    """The sample in a line that `watch` printed; None where the line is something else, or torn."""
    cells = _cells(line, known)
    if cells is None or not cells.get("index", "").isdecimal():
        return None
    average = smi.number(cells.get("power.draw.average", ""))
    others = (smi.number(cells.get(field, "")) for field in ("power.draw", "power.draw.instant"))
    reasons = (cells.get(f"clocks_{kind}_reasons.active", "") for kind in ("event", "throttle"))
    return GpuSample(
        TOOL,
        _moment(cells.get("timestamp", ""), "%Y/%m/%d %H:%M:%S.%f"),
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
    """Whether the mask of active reasons (`0x0000000000000004`) has one that holds clocks down against the load."""
    return bool(int(mask, 16) & THROTTLES) if re.fullmatch(r"0x[0-9a-fA-F]+", mask.strip()) else None


def known_fields(said: str) -> tuple[str, ...]:
    """What of `WATCHED` the answer to --help-query-gpu names, each meaning once."""
    named = [{name for name in names if name} for names in _HELP.findall(said)]
    kept: list[str] = []
    for field in WATCHED:
        names: set[str] = set().union(*(names for names in named if field in names))
        if names and not names.intersection(kept):
            kept.append(field)
    return tuple(kept)


def processes_of(said: str) -> tuple[GpuProcess, ...]:
    """The processes in the answer to --query-compute-apps of `PROCESSES`."""
    found = []
    for line in said.splitlines():
        cells = _cells(line, PROCESSES)
        if cells and cells["pid"].isdecimal():
            used = smi.number(cells["used_memory"])
            found.append(
                GpuProcess(int(cells["pid"]), smi.text(cells["process_name"]), used, smi.text(cells["gpu_uuid"]))
            )
    return tuple(found)


def _query(names: Sequence[str]) -> tuple[str, ...]:
    return (f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits")


def _cells(line: str, names: Sequence[str]) -> Mapping[str, str] | None:
    cells = [cell.strip() for cell in line.split(", ", len(names) - 1)] if names else []
    return dict(zip(names, cells, strict=True)) if len(cells) == len(names) and cells else None


def _log(said: str) -> Element | None:
    """The document without what surrounds it: the tool warns before it, and about bad info ROMs after it."""
    from xml.etree import ElementTree

    document = _LOG.search(said)
    try:
        return ElementTree.fromstring(document[0]) if document else None
    except ElementTree.ParseError:
        return None


def _version(log: Element, tag: str) -> str:
    # From release 610 the older of two tags may hold a sentence about the newer one.
    match = _VERSION.match(log.findtext(tag, "").strip())
    return match[0] if match else ""


def _mib(card: Element, path: str) -> int | None:
    return smi.whole(smi.mib(card.findtext(path, "")))


def _gpu(card: Element) -> Gpu:
    name = smi.text(card.findtext("product_name", ""))
    return Gpu(
        "NVIDIA",
        0,
        name=name,
        architecture=family(name),
        uuid=smi.text(card.findtext("uuid", "")),
        memory_mib=_mib(card, "fb_memory_usage/total"),
        pci_bus_id=smi.pci(card.get("id", "")),
        source=TOOL,
    )


def _numbered(found: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    return tuple(replace(gpu, index=index) for index, gpu in enumerate(found))


def _in_mig_mode(card: Element) -> bool:
    return card.findtext("mig_mode/current_mig", "").strip() == "Enabled"


def _parts(gpu: Gpu, memory: Sequence[int | None], named: Sequence[tuple[str, str]]) -> list[Gpu]:
    """The MIG instances of a GPU; without UUID and profile where these were not told."""
    names = [*named, *[("", "MIG")] * (len(memory) - len(named))]
    return [
        replace(gpu, uuid=uuid, partition=profile, parent=gpu.uuid, memory_mib=size)
        for (uuid, profile), size in zip(names, memory, strict=False)
    ]


def _unnamed(found: Sequence[Gpu]) -> str:
    count = sum(1 for gpu in found if gpu.parent and not gpu.uuid)
    return (
        f"{TOOL} -L: no UUID for {count} of {len(found)} devices: MIG instances can't be handed to a container"
        if count
        else ""
    )


def _idle_mig(log: Element) -> str:
    bare = [
        card.get("id", "") for card in log.findall("gpu") if _in_mig_mode(card) and not card.findall("mig_devices/*")
    ]
    return (
        f"{TOOL}: in MIG mode without an instance, so not usable: {', '.join(bare)}: see nvidia-smi mig -cgi"
        if bare
        else ""
    )


def _sample(index: int, card: Element, moment: float) -> GpuSample:
    power = _first(card, "gpu_power_readings", "power_readings")
    average = smi.number(_text(power, "average_power_draw"))
    others = (smi.number(_text(power, tag)) for tag in ("power_draw", "instant_power_draw"))
    return GpuSample(
        TOOL,
        moment,
        index,
        uuid=smi.text(card.findtext("uuid", "")),
        pci_bus_id=smi.pci(card.get("id", "")),
        memory_used_mib=smi.mib(card.findtext("fb_memory_usage/used", "")),
        utilization=smi.number(card.findtext("utilization/gpu_util", "")),
        power_w=next((draw for draw in (average, *others) if draw is not None), None),
        power_seconds=0.0 if average is None else AVERAGED_SECONDS,
        temperature_c=smi.number(card.findtext("temperature/gpu_temp", "")),
        throttled=_throttled(_first(card, "clocks_event_reasons", "clocks_throttle_reasons")),
        instance_memory_mib=tuple(
            smi.mib(part.findtext("fb_memory_usage/used", "")) for part in card.findall("mig_devices/mig_device")
        ),
    )


def _throttled(reasons: Element | None) -> bool | None:
    said = (
        []
        if reasons is None
        else [(reason.text or "").strip() for reason in reasons if reason.tag.endswith(_THROTTLE_NAMES)]
    )
    known = [word == "Active" for word in said if word in ("Active", "Not Active")]
    return any(known) if known else None


def _first(card: Element, *tags: str) -> Element | None:
    return next((element for tag in tags if (element := card.find(tag)) is not None), None)


def _text(element: Element | None, tag: str) -> str:
    return "" if element is None else element.findtext(tag, "")


def _moment(said: str, pattern: str) -> float:
    """The tool's local time as seconds since the epoch; now, where it says none.

    The hour that comes twice when summer time ends is the one nearer to now.
    """
    try:
        told = datetime.strptime(said.strip(), pattern)
        return min((told.replace(fold=fold).timestamp() for fold in (0, 1)), key=lambda one: abs(one - time.time()))
    except (ValueError, OverflowError, OSError):
        return time.time()
