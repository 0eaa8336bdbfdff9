"""Checks the GPUs, their tools and their device nodes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from madengine.doctor.check import FAILED, NOTE, OK, Check, Subject, join_groups
from madengine.machine.gpus import AMD, NVIDIA, vendors_on_bus
from madengine.machine.visible_gpus import visibility_variables, visible_gpus
from madengine.records import Gpu, Reading

MODULES = {NVIDIA: "nvidia", AMD: "amdgpu"}
KFD = "/dev/kfd"
_REPAIR = "reload the driver, or reboot; without GPUs, run with --additional-context \"{'gpu_vendor': 'NONE'}\""


def check_gpu_tools(subject: Subject) -> Iterator[Check]:
    for tool, reading in subject.readings.items():
        if not reading.items and reading.fails and not subject.gpus:
            yield Check(tool, FAILED, reading.problem, _REPAIR)
        elif not reading.items:
            yield Check(tool, NOTE, reading.problem or "lists no GPU")
        elif reading.problem:
            yield Check(tool, NOTE, f"{_summary(reading)}; {reading.problem}")
        else:
            yield Check(tool, OK, _summary(reading))


def _summary(reading: Reading[Gpu]) -> str:
    gpu = reading.items[0]
    versions = ", ".join(filter(None, (f"driver {gpu.driver}" if gpu.driver else "", gpu.runtime)))
    return f"{len(reading.items)} × {gpu.name or gpu.architecture}" + (f" ({versions})" if versions else "")


def check_gpus(subject: Subject) -> Iterator[Check]:
    if subject.gpus:
        names = [f"{gpu.index}: {gpu.name or gpu.architecture} {gpu.partition}".rstrip() for gpu in subject.gpus]
        yield Check("GPUs", OK, f"{len(names)} × {subject.vendor} ({', '.join(names)})")
        return
    tools = [tool for tool, reading in subject.readings.items() if reading.fails]
    if tools:
        yield Check("GPUs", FAILED, f"unknown, because {' and '.join(tools)} failed", _REPAIR)
        return
    vendors = vendors_on_bus()
    for vendor in vendors:
        result = f"an {vendor} GPU is on the PCI bus, but no tool lists it"
        yield Check("GPUs", FAILED, result, f"modprobe {MODULES[vendor]}")
    if not vendors:
        yield Check("GPUs", NOTE, "none; images for gpu_vendor NONE run here")


def check_visible_gpus(subject: Subject) -> Iterator[Check]:
    """Check the variables that restrict the GPUs; raise ConfigurationError if they contradict this machine."""
    for name, value in visibility_variables(subject.gpus, os.environ).items():
        yield Check(name, NOTE, f"{value or 'empty'}: restricts runs from this shell")
    visible_gpus(subject.gpus, os.environ)


def check_device_nodes(subject: Subject) -> Iterator[Check]:
    """Check that the device nodes of a container exist, and that we may open them if the engine runs as us."""
    for node in device_nodes(subject):
        if not Path(node).exists():
            yield Check(node, FAILED, "missing", "modprobe amdgpu")
        elif os.access(node, os.R_OK | os.W_OK):
            yield Check(node, OK, "readable and writable")
        else:
            needs_access = subject.engine is not None and subject.engine.opens_devices_as_caller
            yield Check(node, FAILED if needs_access else NOTE, "permission denied", join_groups("render,video"))


def device_nodes(subject: Subject) -> list[str]:
    """Return the device nodes that a container needs to use the GPUs."""
    nodes = [KFD, *(gpu.render_node for gpu in subject.gpus)] if subject.vendor == AMD else []
    return list(dict.fromkeys(filter(None, nodes)))
