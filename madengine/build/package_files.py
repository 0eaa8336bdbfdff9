"""What an image gets of a model package: by default nothing that is elsewhere on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from madengine.build import dockerfiles, payload
from madengine.errors import BuildError
from madengine.records import Model


def check_model_files(model: Model, root: Path) -> None:
    """Check that a model's scripts, Dockerfiles and build folder are in the package at `root`, and what they link to.

    Raises BuildError, with the path and where it leads.
    """
    folder, script = payload.scripts(model)
    is_root = (root / folder).resolve() == root.resolve()
    check_inside([root / folder / script if is_root else root / folder], root)
    # Engines copy the links in these as links.
    for path in (*dockerfiles.candidates(root, model), Path(dockerfiles.build_directory(root, model))):
        _check(root / path, root)


def check_inside(paths: Iterable[Path], root: Path) -> None:
    """Check that files and folders of the package at `root` are in it, and what links in them lead to.

    Raises BuildError, with the path and where it leads.
    """
    pending, seen = list(paths), set()
    while pending:
        real = _check(pending.pop(), root)
        if real and real not in seen and real.is_dir():
            seen.add(real)
            with os.scandir(real) as entries:
                pending += [Path(entry.path) for entry in entries if entry.is_symlink() or entry.is_dir()]


def _check(path: Path, root: Path) -> Path | None:
    """Return where a path of the package leads; None if that is nowhere."""
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return None
    if not real.is_relative_to(root.resolve()):
        raise BuildError(
            f"{path}: leads to {real}, which is not in the package {root}; copy it there, or --allow-outside-files"
        )
    return real
