"""A model's Dockerfiles: their paths, their CONTEXT headers, their base images and their build folders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from madengine.config.context import parse_header
from madengine.errors import BuildError
from madengine.records import Model

_SUFFIX = ".dockerfile"


def candidates(root: Path, model: Model) -> list[Path]:
    """Return a model's Dockerfiles, relative to the package: `<prefix>.*.Dockerfile`, or the one it names whole."""
    prefix = Path(model.dockerfile)
    if (root / prefix).is_file():
        return [prefix]
    folder = root / prefix.parent
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [
        prefix.parent / name
        for name in names
        if name.startswith(f"{prefix.name}.") and name.lower().endswith(_SUFFIX) and (folder / name).is_file()
    ]


def header(root: Path, path: Path) -> dict[str, Any]:
    """Return a Dockerfile's CONTEXT header.

    Raises BuildError where it has none, or can't be read.
    """
    header = parse_header(read(root / path), str(path))
    if header is None:
        raise BuildError(f"{path}: no `# CONTEXT {{…}}` in its first 5 lines; `# CONTEXT {{}}` fits every context")
    return header


def base_docker(text: str, build_args: Mapping[str, str]) -> str:
    """Return the base image: the argument BASE_DOCKER where the Dockerfile has it, else what its last FROM means."""
    args: dict[str, str] = {}
    for name, default in re.findall(r"^\s*ARG\s+(\w+)(?:=(\S*))?", text, re.MULTILINE | re.IGNORECASE):
        args[name] = build_args.get(name, default.strip("\"'"))
    if args.get("BASE_DOCKER"):
        return args["BASE_DOCKER"]
    stages: dict[str, str] = {}
    base = ""
    for image, stage in re.findall(
        r"^\s*FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", text, re.MULTILINE | re.IGNORECASE
    ):
        base = stages.get(image.lower()) or Template(image).safe_substitute(args)
        stages[stage.lower()] = base
    return base


def build_directory(root: Path, model: Model) -> str:
    """Return the build's context directory: the model's `dockercontext`, else `docker` as in older versions.

    Raises BuildError where there is no such folder.
    """
    directory = model.dockercontext or ("docker" if (root / "docker").is_dir() else str(Path(model.dockerfile).parent))
    if not (root / directory).is_dir():
        raise BuildError(f"{root / directory}: no such folder; model {model.name!r} names it as dockercontext")
    return directory


def read(path: Path) -> str:
    """Return the text of a Dockerfile.

    Raises BuildError where it can't be read.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BuildError(f"{path}: can't be read: {error.strerror}") from error
