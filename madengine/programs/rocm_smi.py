"""rocm-smi: AMD's GPUs, their samples, and the processes on them, in the JSON of any of its releases."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from madengine.programs import amd_sysfs, smi
from madengine.records import Gpu, GpuProcess, GpuSample, GpuSettings, Reading

NAME = "rocm-smi"
SAMPLE_SECONDS = smi.SAMPLE_SECONDS
MIB = 2**20
DESCRIBE = (
    "--showproductname",
    "--showuniqueid",
    "--showbus",
    "--showmeminfo",
    "vram",
    "--showdriverversion",
    "--showmaxpower",
    "--showperflevel",
    "--showclocks",
    "--json",
)
# Without --showmemuse: it has two values of one name, and neither is the memory in use.
SAMPLE = ("--showmeminfo", "vram", "--showuse", "--showpower", "--showtemp", "--showbus", "--json")
PROCESS = ("--showpids", "--json")

NAMES = ("card series", "device name", "card model")
POWERS = ("current socket graphics package power (w)", "average graphics package power (w)")
HEATS = ("temperature (sensor junction) (c)", "temperature (sensor edge) (c)")

stream = smi.no_stream


def gpus() -> Reading[Gpu]:
    """Return the GPUs of this machine; the tool knows no render nodes."""
    output, problem = smi.query(NAME, *DESCRIBE)
    runtime = amd_sysfs.rocm_version()
    if devices := tuple(replace(gpu, runtime=runtime) for gpu in gpus_of(output)):
        return Reading(devices)
    # Without a GPU it succeeds and prints nothing.
    is_none = not problem and (not output.strip() or smi.first_json(output) is not None)
    return smi.no_gpus(NAME, problem or smi.unexpected(NAME, *DESCRIBE, output=output), is_none)


def samples() -> Reading[GpuSample]:
    """Return a sample of every GPU."""
    output, problem = smi.query(NAME, *SAMPLE)
    readings = samples_of(output)
    return Reading(readings, "" if readings else problem or smi.unexpected(NAME, *SAMPLE, output=output))


def processes() -> Reading[GpuProcess]:
    """Return the processes that use any GPU; the tool doesn't say which."""
    output, problem = smi.query(NAME, *PROCESS)
    if not problem and smi.first_json(output) is None:
        problem = smi.unexpected(NAME, *PROCESS, output=output)
    return Reading(processes_of(output), problem)


def gpus_of(output: str) -> tuple[Gpu, ...]:
    """Return the GPUs in its JSON, by the numbers of their cards."""
    sections = _sections(output)
    driver = smi.text(sections.get("system", {}).get("driver version"))
    return tuple(
        Gpu(
            "AMD",
            index,
            name=_name(card),
            architecture=smi.text(card.get("gfx version")),
            uuid=smi.unique(card.get("unique id")),
            memory_mib=smi.whole(_mib(card.get("vram total memory (b)"))),
            driver=driver,
            pci_bus_id=smi.pci(card.get("pci bus")),
            partition="/".join(
                filter(None, (smi.text(card.get(f"{kind} partition")) for kind in ("compute", "memory")))
            ),
            source=NAME,
            settings=_settings(card),
        )
        for index, card in _cards(sections)
    )


def _settings(card: Mapping[str, Any]) -> GpuSettings:
    return GpuSettings(
        power_cap_w=smi.number(card.get("max graphics package power (w)")),
        performance_level=smi.text(card.get("performance level")),
        clock_mhz=_clock(card, "sclk"),
        memory_clock_mhz=_clock(card, "mclk"),
    )


def _clock(card: Mapping[str, Any], name: str) -> float | None:
    """Return the MHz of `(300Mhz)`."""
    return smi.number(smi.text(card.get(f"{name} clock speed:")).strip("()"))


def samples_of(output: str) -> tuple[GpuSample, ...]:
    """Return one sample per GPU in its JSON."""
    moment = time.time()
    return tuple(
        GpuSample(
            NAME,
            moment,
            index,
            uuid=smi.unique(card.get("unique id")),
            pci_bus_id=smi.pci(card.get("pci bus")),
            memory_used_mib=_mib(card.get("vram total used memory (b)")),
            utilization=smi.number(card.get("gpu use (%)")),
            power_w=_number(card, POWERS),
            temperature_c=_number(card, HEATS),
        )
        for index, card in _cards(_sections(output))
    )


def processes_of(output: str) -> tuple[GpuProcess, ...]:
    """Return the processes in its JSON: `"PID123": "name, GPUs, bytes of memory, SDMA, CUs"`."""
    users = []
    for key, value in _sections(output).get("system", {}).items():
        cells = str(value).rsplit(", ", 4)
        if (match := re.fullmatch(r"pid(\d+)", key)) and len(cells) == 5:
            users.append(GpuProcess(int(match[1]), smi.text(cells[0]), _mib(cells[2])))
    return tuple(users)


def _sections(output: str) -> dict[str, dict[str, Any]]:
    """Return the sections with lower-case keys, which releases write differently (`Card series`, `Card Series`)."""
    content = smi.first_json(output)
    sections = content.items() if isinstance(content, dict) else ()
    return {
        name: {key.lower(): value for key, value in section.items()}
        for name, section in sections
        if isinstance(section, dict)
    }


def _cards(sections: Mapping[str, dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    pairs = [(re.fullmatch(r"card(\d+)", name), section) for name, section in sections.items()]
    return sorted(((int(match[1]), card) for match, card in pairs if match and card), key=lambda card: card[0])


def _name(card: Mapping[str, Any]) -> str:
    """Return the product's name; older releases write a hexadecimal id instead."""
    names = (smi.text(card.get(key)) for key in NAMES)
    return next((name for name in names if name and not name.startswith("0x")), "")


def _number(card: Mapping[str, Any], keys: tuple[str, ...]) -> float | None:
    return next((value for key in keys if (value := smi.number(card.get(key))) is not None), None)


def _mib(value: Any) -> float | None:
    size = smi.number(value)
    return None if size is None else size / MIB
