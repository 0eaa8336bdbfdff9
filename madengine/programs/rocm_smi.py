"""rocm-smi: which AMD GPUs are here, what they do, and who uses them, in the JSON of any of its releases."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from madengine.programs import amd_sysfs, smi
from madengine.records import Gpu, GpuProcess, GpuSample, Reading

TOOL = "rocm-smi"
MIB = 2**20
DESCRIBE = (
    "--showproductname",
    "--showuniqueid",
    "--showbus",
    "--showmeminfo",
    "vram",
    "--showdriverversion",
    "--json",
)
# --showmemuse is not asked for: it has two figures of one name, and neither is the memory in use.
SAMPLE = ("--showmeminfo", "vram", "--showuse", "--showpower", "--showtemp", "--showbus", "--json")
PROCESS = ("--showpids", "--json")

NAMES = ("card series", "device name", "card model")
POWERS = ("current socket graphics package power (w)", "average graphics package power (w)")
HEATS = ("temperature (sensor junction) (c)", "temperature (sensor edge) (c)")


def gpus() -> Reading[Gpu]:
    """The GPUs that the tool names; it knows no render nodes."""
    said, problem = smi.query(TOOL, *DESCRIBE)
    runtime = amd_sysfs.rocm_version()
    found = tuple(replace(gpu, runtime=runtime) for gpu in gpus_of(said))
    # Without a GPU it ends with exit code 0 and says nothing.
    return Reading(found, "" if found else problem or smi.unreadable(TOOL, *DESCRIBE, said=said))


def samples() -> Reading[GpuSample]:
    """What every GPU does now."""
    said, problem = smi.query(TOOL, *SAMPLE)
    found = samples_of(said)
    return Reading(found, "" if found else problem or smi.unreadable(TOOL, *SAMPLE, said=said))


def processes() -> Reading[GpuProcess]:
    """The processes that use any GPU; the tool does not say which."""
    said, problem = smi.query(TOOL, *PROCESS)
    if not problem and smi.first_json(said) is None:
        problem = smi.unreadable(TOOL, *PROCESS, said=said)
    return Reading(processes_of(said), problem)


def gpus_of(said: str) -> tuple[Gpu, ...]:
    """The GPUs in its JSON, by the numbers of their cards."""
    sections = _sections(said)
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
            source=TOOL,
        )
        for index, card in _cards(sections)
    )


def samples_of(said: str) -> tuple[GpuSample, ...]:
    """One sample per GPU in its JSON."""
    moment = time.time()
    return tuple(
        GpuSample(
            TOOL,
            moment,
            index,
            uuid=smi.unique(card.get("unique id")),
            pci_bus_id=smi.pci(card.get("pci bus")),
            memory_used_mib=_mib(card.get("vram total used memory (b)")),
            utilization=smi.number(card.get("gpu use (%)")),
            power_w=_figure(card, POWERS),
            temperature_c=_figure(card, HEATS),
        )
        for index, card in _cards(_sections(said))
    )


def processes_of(said: str) -> tuple[GpuProcess, ...]:
    """The processes in its JSON: `"PID123": "name, GPUs, bytes of memory, SDMA, CUs"`."""
    found = []
    for key, told in _sections(said).get("system", {}).items():
        cells = str(told).rsplit(", ", 4)
        if (match := re.fullmatch(r"pid(\d+)", key)) and len(cells) == 5:
            found.append(GpuProcess(int(match[1]), smi.text(cells[0]), _mib(cells[2])))
    return tuple(found)


def _sections(said: str) -> dict[str, dict[str, Any]]:
    """The sections with their keys in lower case: the releases differ in that (`Card series`, `Card Series`)."""
    told = smi.first_json(said)
    sections = told.items() if isinstance(told, dict) else ()
    return {
        name: {key.lower(): value for key, value in section.items()}
        for name, section in sections
        if isinstance(section, dict)
    }


def _cards(sections: Mapping[str, dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    named = [(re.fullmatch(r"card(\d+)", name), section) for name, section in sections.items()]
    return sorted(((int(match[1]), card) for match, card in named if match and card), key=lambda card: card[0])


def _name(card: Mapping[str, Any]) -> str:
    """The product's name; older releases write a hexadecimal id in its place."""
    names = (smi.text(card.get(key)) for key in NAMES)
    return next((name for name in names if name and not name.startswith("0x")), "")


def _figure(card: Mapping[str, Any], keys: tuple[str, ...]) -> float | None:
    return next((figure for key in keys if (figure := smi.number(card.get(key))) is not None), None)


def _mib(size: Any) -> float | None:
    figure = smi.number(size)
    return None if figure is None else figure / MIB
