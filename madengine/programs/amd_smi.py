"""amd-smi: which AMD GPUs are here, what they do, and who uses them, in the JSON of any of its releases."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from madengine.programs import amd_sysfs, smi
from madengine.records import Gpu, GpuProcess, GpuSample, Reading

TOOL = "amd-smi"
STATIC = ("static", "--json")
METRIC = ("metric", "--usage", "--power", "--temperature", "--mem-usage", "--json")
PROCESS = ("process", "--json")
# The render nodes are in the extended list alone, which older releases don't have.
LIST = ("list", "-e", "--json")

# One driver says the whole of /proc/version.
_KERNEL = re.compile(r"Linux\s*version\s*([^\s(]+)")


def gpus() -> Reading[Gpu]:
    """The GPUs that `amd-smi static` describes."""
    said, problem = smi.query(TOOL, *STATIC)
    found = gpus_of(said)
    if not found:
        return Reading(problem=problem or smi.unreadable(TOOL, *STATIC, said=said))
    listed, _ = smi.query(TOOL, *LIST)
    runtime = amd_sysfs.rocm_version()
    return Reading(tuple(replace(gpu, runtime=runtime) for gpu in gpus_of(said, listed)))


def samples() -> Reading[GpuSample]:
    """What every GPU does now."""
    said, problem = smi.query(TOOL, *METRIC)
    found = samples_of(said)
    return Reading(found, "" if found else problem or smi.unreadable(TOOL, *METRIC, said=said))


def processes() -> Reading[GpuProcess]:
    """The processes that use a GPU, one entry per GPU."""
    said, problem = smi.query(TOOL, *PROCESS)
    if not problem and not _entries(said):
        problem = smi.unreadable(TOOL, *PROCESS, said=said)
    return Reading(processes_of(said), problem)


def gpus_of(static: str, listed: str = "") -> tuple[Gpu, ...]:
    """The GPUs in the JSON of `static`, with what that of `list` adds."""
    more = {entry["gpu"]: entry for entry in _entries(listed)}
    return tuple(_gpu(entry, more.get(entry["gpu"], {})) for entry in _entries(static))


def samples_of(said: str) -> tuple[GpuSample, ...]:
    """One sample per GPU in the JSON of `metric` (or `monitor`)."""
    moment = time.time()
    return tuple(_sample(entry, moment) for entry in _entries(said))


def processes_of(said: str) -> tuple[GpuProcess, ...]:
    """The processes in the JSON of `process`."""
    found = []
    for entry in _entries(said):
        listed = entry.get("process_list")
        for item in listed if isinstance(listed, list) else ():
            told = item.get("process_info", item) if isinstance(item, dict) else None
            if isinstance(told, dict) and (pid := smi.whole(smi.number(told.get("pid")))) is not None:
                used = smi.mib(_first(told, "memory_usage.vram_mem", "mem_usage"))
                found.append(GpuProcess(pid, smi.text(told.get("name")), used, index=entry["gpu"]))
    return tuple(found)


def _entries(said: str) -> list[dict[str, Any]]:
    """The entries of the GPUs: a bare list until ROCm 6, later under `gpu_data`; a CPU's entry has no `gpu`."""
    told = smi.first_json(said)
    told = told.get("gpu_data") if isinstance(told, dict) else told
    entries = told if isinstance(told, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and type(entry.get("gpu")) is int]


def _gpu(entry: Mapping[str, Any], more: Mapping[str, Any]) -> Gpu:
    render = smi.text(more.get("render"))
    names = (smi.text(_first(entry, path)) for path in ("asic.market_name", "board.product_name"))
    driver = smi.text(_first(entry, "driver.version", "driver.driver_version"))
    kernel = _KERNEL.match(driver)
    compute = smi.text(_first(entry, "partition.compute_partition", "partition.accelerator_partition"))
    memory = smi.text(_first(entry, "partition.memory_partition"))
    return Gpu(
        "AMD",
        entry["gpu"],
        name=next((name for name in names if name), ""),
        architecture=smi.text(_first(entry, "asic.target_graphics_version")),
        uuid=smi.unique(_first(entry, "asic.asic_serial")),
        render_node=f"/dev/dri/{render}" if render else "",
        memory_mib=smi.whole(smi.mib(_first(entry, "vram.size"))),
        driver=kernel[1] if kernel else driver,
        pci_bus_id=smi.pci(_first(entry, "bus.bdf")) or smi.pci(more.get("bdf")),
        partition="/".join(filter(None, (compute, memory))),
        source=TOOL,
    )


def _sample(entry: Mapping[str, Any], moment: float) -> GpuSample:
    used = smi.mib(_first(entry, "mem_usage.used_vram", "vram_used"))
    heats = ("temperature.hotspot", "hotspot_temperature", "temperature.edge", "edge_temperature")
    powers = ("power.socket_power", "power.current_socket_power", "power.average_socket_power", "power_usage")
    status = smi.text(_first(entry, "power.throttle_status", "throttle_status"))
    return GpuSample(
        TOOL,
        moment,
        entry["gpu"],
        # An APU has no memory of its own.
        memory_used_mib=smi.mib(_first(entry, "mem_usage.used_gtt")) if used is None else used,
        utilization=_figure(entry, "usage.gfx_activity", "gfx"),
        power_w=_figure(entry, *powers),
        temperature_c=_figure(entry, *heats),
        throttled={"THROTTLED": True, "UNTHROTTLED": False}.get(status),
    )


def _figure(entry: Mapping[str, Any], *paths: str) -> float | None:
    return next((figure for path in paths if (figure := smi.number(_first(entry, path))) is not None), None)


def _first(entry: Mapping[str, Any], *paths: str) -> Any:
    """What stands at the first of the dotted paths that leads somewhere."""
    for path in paths:
        value: Any = entry
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            return value
    return None
