"""A model's Dockerfiles: their paths, their CONTEXT headers, their base images and their build folders."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterator, Mapping
from itertools import dropwhile
from pathlib import Path
from typing import Any

from madengine.build.expansion import expand, words
from madengine.build.instructions import Instruction, parse
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
    """Return the image that a Dockerfile's last stage is built on, by way of the stages that it names."""
    dockerfile = parse(text)
    values = _platform_args()
    values.update({name: build_args[name] for name in values if name in build_args})
    stages: dict[str, str] = {}
    base = ""
    for instruction in dockerfile.instructions:
        if instruction.name == "FROM":
            image, _, stage = [*words(instruction.arguments, dockerfile.escape), "", "", ""][:3]
            image = expand(image, values, dockerfile.escape)
            base = stages.get(image.lower(), image)
            stages[stage.lower()] = base
        elif instruction.name == "ARG" and not stages:
            for name, default in _args(instruction, dockerfile.escape):
                if name in build_args:
                    values[name] = build_args[name]
                elif default is not None:
                    values[name] = expand(default, values, dockerfile.escape)
    return base


def takes_secrets(text: str) -> bool:
    """Whether a step of a Dockerfile mounts a secret."""
    return any("secret" in _mount_types(instruction.own) for instruction in parse(text).instructions)


def declared_args(text: str) -> list[str]:
    """Return the names that a Dockerfile takes as build arguments."""
    dockerfile = parse(text)
    args = (instruction.own for instruction in dockerfile.instructions if instruction.own.name == "ARG")
    return [name for instruction in args for name, _ in _args(instruction, dockerfile.escape)]


def has_hidden_inputs(text: str, build_args: Mapping[str, str]) -> bool:
    """Whether an image depends on more than the text of its steps, what they copy and the arguments of a RUN.

    That is a folder that a RUN mounts, and a value from outside the stage in any other instruction.
    """
    dockerfile = parse(text)
    outside: set[str] = set()
    stages = dropwhile(lambda instruction: instruction.name != "FROM", dockerfile.instructions)
    for instruction in stages:
        if instruction.name == "ARG":
            for name, default in _args(instruction, dockerfile.escape):
                if name in build_args or _is_outside(name, default, outside):
                    outside.add(name)
        elif instruction.name == "RUN":
            if "bind" in _mount_types(instruction):
                return True
        elif instruction.name != "FROM" and _refers(" ".join((*instruction.flags, instruction.arguments)), outside):
            return True
    return False


def _is_outside(name: str, default: str | None, outside: Container[str]) -> bool:
    """Whether the value of an ARG in a stage comes from before the first FROM, or from a name of `outside`."""
    return name not in _platform_args() if default is None else _refers(default, outside)


def _refers(text: str, names: Container[str]) -> bool:
    return any(name in names for name in re.findall(r"\$\{?(\w+)", text))


def _mount_types(instruction: Instruction) -> set[str]:
    mounts = (flag.removeprefix("--mount=") for flag in instruction.flags if flag.startswith("--mount="))
    fields = (dict(field.partition("=")[::2] for field in mount.split(",")) for mount in mounts)
    return {mount.get("type", "bind") for mount in fields}


def _args(instruction: Instruction, escape: str) -> Iterator[tuple[str, str | None]]:
    """Yield the names of an ARG and their defaults, as they are written; None without one."""
    for word in words(instruction.arguments, escape):
        name, equals, default = word.partition("=")
        yield name, default if equals else None


def _platform_args() -> dict[str, str]:
    """Return the build arguments that need no ARG before the first FROM, for a build for this machine."""
    machine = os.uname().machine
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
    parts = {"PLATFORM": f"linux/{architecture}", "OS": "linux", "ARCH": architecture, "VARIANT": ""}
    return {f"{side}{name}": value for side in ("TARGET", "BUILD") for name, value in parts.items()}


def build_directory(root: Path, model: Model) -> str:
    """Return the build's context directory: the model's `dockercontext`, else as in older versions.

    Raises BuildError where there is no such folder.
    """
    folder = "docker" if (root / "docker").is_dir() else str(Path(model.dockerfile).parent)
    # As in madengine 2: these copy files of the whole package.
    directory = model.dockercontext or ("." if "primus" in model.dockerfile.lower() else folder)
    if not (root / directory).is_dir():
        raise BuildError(f"{root / directory}: no such folder; model {model.name!r} names it as dockercontext")
    return directory


def read(path: Path) -> str:
    """Return the text of a Dockerfile.

    Raises BuildError where it can't be read.
    """
    try:
        return path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise BuildError(f"{path}: can't be read: {error.strerror}") from error
