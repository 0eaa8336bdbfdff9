"""What a result was measured on: the machine, its drivers and its engine, with an id."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from madengine.machine.gpus import AMD
from madengine.programs.rocm import installed
from madengine.records import Gpu

# Fields that differ between GPUs of the same kind.
_IDENTITY = ("index", "uuid", "render_node", "pci_bus_id", "parent", "source", "settings")
# What can't change the result of a container: the name of the host's system, ROCm beside the driver; and the clocks of
# a moment, which change by themselves.
_IRRELEVANT = ("os", "rocm", "gpus.clock_mhz", "gpus.memory_clock_mhz")


def environment_record(gpus: Sequence[Gpu], engine: str) -> dict[str, Any]:
    """Describe this machine for results.json; machines of the same model and setup have the same description.

    Memory is in MiB, rounded to GiB, because firmware reserves different amounts on equal machines.
    """
    return {
        "os": _os_name(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu": _cpu_name(),
        "cpus": os.cpu_count(),
        "memory_mib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30) * 1024,
        "numa_balancing": _text(Path("/proc/sys/kernel/numa_balancing")),
        "cpu_governor": _text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "engine": engine,
        "gpus": [_kind(gpu) for gpu in gpus],
        **_rocm(gpus),
    }


def named_record(record: Mapping[str, Any], machine_name: str = "") -> dict[str, Any]:
    """Return the record with its id, what that is made of, and the name of the machine unless it is empty."""
    return {
        "environment_id": environment_id_of(record),
        "environment_id_fields": environment_id_fields(record),
        **({"machine_name": machine_name} if machine_name else {}),
        **record,
    }


def environment_id_of(record: Mapping[str, Any]) -> str:
    """Return twelve hex digits, the same for records that agree in all that can change a result."""
    return hashlib.sha256(json.dumps(_relevant(record), sort_keys=True).encode()).hexdigest()[:12]


def environment_id_fields(record: Mapping[str, Any]) -> list[str]:
    """Return the names of what the id is made of: `kernel`, `gpus.driver` …"""
    relevant = _relevant(record)
    of_gpus = {f"gpus.{name}" for gpu in relevant.get("gpus", ()) for name in gpu}
    return sorted({name for name in relevant if name != "gpus"} | of_gpus)


def _relevant(record: Mapping[str, Any]) -> dict[str, Any]:
    gpus = [{name: gpu[name] for name in gpu if f"gpus.{name}" not in _IRRELEVANT} for gpu in record.get("gpus", ())]
    return {**{name: record[name] for name in record if name not in _IRRELEVANT}, "gpus": gpus}


def _rocm(gpus: Sequence[Gpu]) -> dict[str, Any]:
    """Return what is known of ROCm on a machine with AMD GPUs."""
    rocm = installed() if any(gpu.vendor == AMD for gpu in gpus) else None
    if rocm is None:
        return {}
    kind = "therock" if rocm.is_therock else "packages"
    return {"rocm": {"root": str(rocm.root), "kind": kind, "version": rocm.version}}


def _kind(gpu: Gpu) -> dict[str, Any]:
    settings = {name: value for name, value in asdict(gpu.settings).items() if value not in (None, "")}
    return {**{name: value for name, value in asdict(gpu).items() if name not in _IDENTITY}, **settings}


def _os_name() -> str:
    with suppress(OSError, AttributeError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    return platform.system()


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model", "cpu"):
                return value.strip()
    return platform.processor()


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text().strip()
    return ""
