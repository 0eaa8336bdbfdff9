"""The kernel's own account of AMD GPUs: the KFD topology in sysfs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from madengine.records import Gpu

TOPOLOGY = Path("/sys/class/kfd/kfd/topology/nodes")


def gpus(topology: Path = TOPOLOGY) -> tuple[Gpu, ...]:
    """The GPU nodes of the topology, in its order; a node without a render node is a CPU."""
    nodes = sorted(topology.iterdir(), key=lambda node: int(node.name)) if topology.is_dir() else []
    found = [_properties(node) for node in nodes]
    cards = [card for card in found if card.get("drm_render_minor", 0) > 0]
    return tuple(
        Gpu(
            "AMD",
            index,
            architecture=_gfx(card.get("gfx_target_version", 0)),
            render_node=f"/dev/dri/renderD{card['drm_render_minor']}",
        )
        for index, card in enumerate(cards)
    )


def _properties(node: Path) -> dict[str, int]:
    values = {}
    with suppress(OSError):
        for line in (node / "properties").read_text().splitlines():
            name, _, value = line.partition(" ")
            with suppress(ValueError):
                values[name] = int(value)
    return values


def _gfx(version: int) -> str:
    """The kernel writes gfx942 as 90402: two digits each for minor and stepping, the stepping in hex in the name."""
    return f"gfx{version // 10000}{version // 100 % 100}{version % 100:x}" if version else ""
