"""amd-smi: AMD's GPUs, their samples, and the processes on them, in the JSON of any of its releases."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from madengine.programs import amd_sysfs, smi
from madengine.records import Gpu, GpuProcess, GpuSample, GpuSettings, Reading

NAME = "amd-smi"
SAMPLE_SECONDS = smi.SAMPLE_SECONDS
STATIC = ("static", "--json")
METRIC = ("metric", "--usage", "--power", "--temperature", "--mem-usage", "--json")
PROCESS = ("process", "--json")
# Only the extended list, which older releases don't have, names the render nodes.
LIST = ("list", "-e", "--json")

stream = smi.no_stream

# One driver prints all of /proc/version.
_KERNEL = re.compile(r"Linux\s*version\s*([^\s(]+)")


def gpus() -> Reading[Gpu]:
    """Return the GPUs that `amd-smi static` describes."""
    static, problem = smi.query(NAME, *STATIC)
    if not gpus_of(static):
        is_none = not problem and (not static.strip() or _listed(static) is not None)
        return smi.no_gpus(NAME, problem or smi.unexpected(NAME, *STATIC, output=static), is_none)
    listing, _ = smi.query(NAME, *LIST)
    runtime = amd_sysfs.rocm_version()
    return Reading(tuple(replace(gpu, runtime=runtime) for gpu in gpus_of(static, listing)))


def samples() -> Reading[GpuSample]:
    """Return a sample of every GPU."""
    output, problem = smi.query(NAME, *METRIC)
    readings = samples_of(output)
    return Reading(readings, "" if readings else problem or smi.unexpected(NAME, *METRIC, output=output))


def processes() -> Reading[GpuProcess]:
    """Return the processes that use a GPU, one entry per GPU."""
    output, problem = smi.query(NAME, *PROCESS)
    if not problem and not _entries(output):
        problem = smi.unexpected(NAME, *PROCESS, output=output)
    return Reading(processes_of(output), problem)


def gpus_of(static: str, listing: str = "") -> tuple[Gpu, ...]:
    """Return the GPUs in the JSON of `static`, with what the JSON of `list` adds."""
    more = {entry["gpu"]: entry for entry in _entries(listing)}
    return tuple(_gpu(entry, more.get(entry["gpu"], {})) for entry in _entries(static))


def samples_of(output: str) -> tuple[GpuSample, ...]:
    """Return one sample per GPU in the JSON of `metric` (or `monitor`)."""
    moment = time.time()
    return tuple(_sample(entry, moment) for entry in _entries(output))


def processes_of(output: str) -> tuple[GpuProcess, ...]:
    """Return the processes in the JSON of `process`."""
    users = []
    for entry in _entries(output):
        items = entry.get("process_list")
        for item in items if isinstance(items, list) else ():
            info = item.get("process_info", item) if isinstance(item, dict) else None
            if isinstance(info, dict) and (pid := smi.whole(smi.number(info.get("pid")))) is not None:
                used = smi.mib(_first(info, "memory_usage.vram_mem", "mem_usage"))
                users.append(GpuProcess(pid, smi.text(info.get("name")), used, index=entry["gpu"]))
    return tuple(users)


def _entries(output: str) -> list[dict[str, Any]]:
    """Return the entries of the GPUs; a CPU's entry has no `gpu`."""
    entries = _listed(output) or []
    return [entry for entry in entries if isinstance(entry, dict) and type(entry.get("gpu")) is int]


def _listed(output: str) -> list[Any] | None:
    """Return the tool's list: bare until ROCm 6, later in `gpu_data`; None if there is none."""
    content = smi.first_json(output)
    content = content.get("gpu_data") if isinstance(content, dict) else content
    return content if isinstance(content, list) else None


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
        source=NAME,
        settings=_settings(entry),
    )


def _settings(entry: Mapping[str, Any]) -> GpuSettings:
    return GpuSettings(
        power_cap_w=_number(entry, "limit.socket_power", "limit.ppt0.socket_power_limit", "limit.max_power"),
        max_clock_mhz=_highest_clock(entry, "clock.sys.frequency_levels"),
        max_memory_clock_mhz=_highest_clock(entry, "clock.mem.frequency_levels"),
        clock_mhz=_current_clock(entry, "clock.sys"),
        memory_clock_mhz=_current_clock(entry, "clock.mem"),
    )


def _highest_clock(entry: Mapping[str, Any], path: str) -> float | None:
    levels = _first(entry, path)
    clocks = map(smi.number, levels.values()) if isinstance(levels, Mapping) else ()
    return max((clock for clock in clocks if clock is not None), default=None)


def _current_clock(entry: Mapping[str, Any], path: str) -> float | None:
    level = next((value for key in ("current level", "current_level") if (value := _first(entry, f"{path}.{key}"))), 0)
    return _number(entry, f"{path}.frequency_levels.Level {level}")


def _sample(entry: Mapping[str, Any], moment: float) -> GpuSample:
    used = smi.mib(_first(entry, "mem_usage.used_vram", "vram_used"))
    heats = ("temperature.hotspot", "hotspot_temperature", "temperature.edge", "edge_temperature")
    powers = ("power.socket_power", "power.current_socket_power", "power.average_socket_power", "power_usage")
    status = smi.text(_first(entry, "power.throttle_status", "throttle_status"))
    return GpuSample(
        NAME,
        moment,
        entry["gpu"],
        # An APU has no memory of its own.
        memory_used_mib=smi.mib(_first(entry, "mem_usage.used_gtt")) if used is None else used,
        utilization=_number(entry, "usage.gfx_activity", "gfx"),
        power_w=_number(entry, *powers),
        temperature_c=_number(entry, *heats),
        throttled={"THROTTLED": True, "UNTHROTTLED": False}.get(status),
    )


def _number(entry: Mapping[str, Any], *paths: str) -> float | None:
    return next((value for path in paths if (value := smi.number(_first(entry, path))) is not None), None)


def _first(entry: Mapping[str, Any], *paths: str) -> Any:
    """Return the value at the first of the dotted paths that has one."""
    for path in paths:
        value: Any = entry
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            return value
    return None
