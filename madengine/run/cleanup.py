"""Removing what madengine has left on this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from madengine.errors import EngineError, MadengineError
from madengine.files import human_size
from madengine.programs.engine import Docker
from madengine.programs.engine_finder import answering_engines
from madengine.results.table import printable
from madengine.run.leftovers import Leftover, caches, containers, gpu_holders, private_folders, still_alive
from madengine.run.orphans import RUN_LABEL, own_containers

logger = logging.getLogger(__name__)


def clean_up(
    engine: str,
    everything: bool,
    older_than: float,
    workspace: Path | None,
    dry_run: bool,
    show: Callable[[str], None],
) -> bool:
    """Remove what madengine has left, or only list it; return whether all of it is gone.

    `everything` are also containers that stay on purpose, and caches of any age, else those of `older_than` days.
    """
    engines = _engines(engine)
    candidates = list(containers(engines, everything))
    holders = gpu_holders([container for container, _ in candidates])
    gone = _remove_all([leftover for _, leftover in candidates], dry_run, show)
    alive = [] if dry_run else still_alive(holders)
    for holder in alive:
        logger.warning(
            f"GPU process {holder.pid} ({holder.name or 'unknown'}) of {holder.container} can't be ended: it hangs in "
            "the driver and holds its GPU; reset the GPU, or restart the machine"
        )
    # What a container had mounted is free only now.
    left = [container for one in engines for container in own_containers(one, RUN_LABEL)]
    removed = {container.name for container, _ in candidates} if dry_run else set()
    mounts = [path for container in left if container.name not in removed for path in container.mounts]
    rest = [*private_folders(), *caches(0.0 if everything else older_than, workspace, mounts)]
    gone = _remove_all(rest, dry_run, show) and gone
    if not candidates and not rest:
        show("nothing to remove")
    return gone and not alive


def _engines(name: str) -> list[Docker]:
    """Return the engines; none where none answers and none is named: folders and caches are removed all the same."""
    try:
        return answering_engines(name)
    except EngineError as error:
        if name != "auto":
            raise
        logger.info(f"containers: {error}")
        return []


def _remove_all(leftovers: Sequence[Leftover], dry_run: bool, show: Callable[[str], None]) -> bool:
    gone = True
    for leftover in leftovers:
        size = "" if leftover.size_bytes is None else f" {human_size(leftover.size_bytes)},"
        what = printable(f"{leftover.kind} {leftover.name}:{size} {leftover.note}")
        try:
            if not dry_run:
                leftover.remove()
            show(f"{'would remove' if dry_run else 'removed'} {what}")
        except (MadengineError, OSError) as error:
            gone = False
            reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
            logger.warning(f"{what}: can't be removed: {reason}")
    return gone
