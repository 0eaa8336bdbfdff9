"""The GPUs that entry.sh noted in a pod, which its sidecar can't see."""

from __future__ import annotations

import re
from collections.abc import Sequence

from madengine.programs.nvidia_smi import gpus_of_csv
from madengine.records import Gpu

_GPUS_LIMIT = 256
_RENDER_NODE = re.compile(r"/dev/dri/renderD[0-9]{1,4}")


def noted_gpus(notes: str, on_node: bool = False) -> tuple[Gpu, ...]:
    """Return the GPUs of `gpu: ` lines: render nodes for AMD, CSV lines of nvidia-smi for NVIDIA.

    `on_node` says that this process runs on the pod's node, whose kernel knows more of AMD's.
    """
    lines = [line.removeprefix("gpu: ") for line in notes.splitlines() if line.startswith("gpu: ")][:_GPUS_LIMIT]
    render_nodes = [line for line in lines if _RENDER_NODE.fullmatch(line)]
    try:
        gpus = gpus_of_csv("\n".join(line for line in lines if line not in render_nodes))
    except (ArithmeticError, LookupError, ValueError):
        gpus = ()
    return gpus or _of_render_nodes(render_nodes, on_node)


def _of_render_nodes(render_nodes: Sequence[str], on_node: bool) -> tuple[Gpu, ...]:
    known: dict[str, Gpu] = {}
    if render_nodes and on_node:
        from madengine.programs import amd_sysfs

        # A container without /dev/kfd reads nothing of the driver's topology.
        gpus = amd_sysfs.gpus().items or amd_sysfs.render_gpus().items
        known = {gpu.render_node: gpu for gpu in gpus}
    return tuple(known.get(node, Gpu("AMD", index, render_node=node)) for index, node in enumerate(render_nodes))
