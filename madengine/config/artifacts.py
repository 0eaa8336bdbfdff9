"""Files that a script left, collected in one folder beside its log."""

from __future__ import annotations

import logging
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from madengine.config.context import Context
from madengine.config.values import expected, shown
from madengine.errors import ConfigurationError
from madengine.records import Artifact, Model

logger = logging.getLogger(__name__)

# Below a model's folder of the run.
FOLDER = "artifacts"
# What is in a workspace without the script having left it.
_OURS = (".hooks", "entry.json", "scripts")


def patterns_for(model: Model, context: Context, of_tools: Sequence[str]) -> tuple[str, ...]:
    """Return the globs of the files to collect: the model entry's, the context's and the tools'.

    Raise ConfigurationError for an invalid one.
    """
    return (
        *patterns(model.artifacts, f"artifacts of {model.name!r}"),
        *patterns(context.values.get("artifacts") or (), "context: artifacts"),
        *of_tools,
    )


def patterns(value: Any, where: str) -> tuple[str, ...]:
    """Return the globs of a list, or of one string with commas.

    Raise ConfigurationError for another value, or a glob that leads out of the workspace.
    """
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise expected(where, 'a list of globs such as ["*.json", "out/**"]', value)
    globs = tuple(item.strip() for item in items if item.strip())
    for glob in globs:
        path = PurePosixPath(glob)
        if path.is_absolute() or ".." in path.parts or "\0" in glob or not path.parts:
            raise ConfigurationError(f"{where}: {shown(glob)} leads out of the workspace; write it relative to that")
    return globs


def bring(
    workspace: Path,
    model_directory: str,
    patterns: Iterable[str],
    *,
    besides: Iterable[str],
    may_move: bool,
) -> tuple[Artifact, ...]:
    """Bring what matches to `workspace/artifacts`; return each file's path there and its size.

    The globs are relative to the workspace and to the model's directory in it, whose files are moved where that
    directory is about to be removed (`may_move`) and copied otherwise. A folder that matches comes whole. A link is
    followed only to a file of the workspace. The files `besides` are our own. What can't be brought is logged.
    """
    ours = {FOLDER, *_OURS, *besides}
    home, seen = workspace.resolve(), set()
    artifacts: dict[str, Artifact] = {}
    for base in (workspace, workspace / model_directory):
        matches = {path for pattern in patterns for path in _matches(base, pattern, model_directory)}
        # Links first: what they lead to may be moved.
        for path in sorted(matches, key=lambda path: (not path.is_symlink(), path)):
            name = str(path.relative_to(base))
            if path in seen or (base == workspace and PurePath(name).parts[0] in ours):
                continue
            seen.add(path)
            name = name if name not in artifacts else f"{model_directory}/{name}"
            try:
                size = _bring_one(path, home, workspace / FOLDER / name, may_move and base != workspace)
                artifacts[name] = Artifact(f"{FOLDER}/{name}", size)
            except OSError as error:
                logger.info(f"{path}: not brought back: {error.strerror or error}")
    return tuple(artifacts[name] for name in sorted(artifacts))


def _matches(base: Path, pattern: str, model_directory: str) -> Iterator[Path]:
    """Return the files that a glob names, with those below a folder that it names; `*` doesn't mean the model's."""
    with suppress(OSError, ValueError):
        for path in base.glob(pattern):
            if path == base / model_directory and pattern.strip("/") != model_directory:
                continue
            if path.is_dir() and not path.is_symlink():
                yield from (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
            else:
                yield path


def _bring_one(path: Path, home: Path, target: Path, move: bool) -> int:
    """Bring one file; return its size. Raise OSError for what is no file of this folder."""
    source = path.resolve(strict=True)
    size, mode = source.stat().st_size, source.stat().st_mode
    if not source.is_relative_to(home) or not stat.S_ISREG(mode):
        raise OSError("not a file of the workspace")
    target.parent.mkdir(parents=True, exist_ok=True)
    if move and source == path.absolute():
        source.replace(target)
        return size
    try:
        shutil.copyfile(source, target)
    except OSError:
        target.unlink(missing_ok=True)
        raise
    return size
