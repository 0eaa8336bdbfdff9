"""Folders beside the build's own that a Dockerfile takes files from by name: `COPY --from=tools`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from madengine.build.expansion import words
from madengine.build.instructions import Instruction, parse
from madengine.config.entry_keys import BUILD_CONTEXTS
from madengine.errors import BuildError
from madengine.records import Model

# What madengine 2 hands over to every build, where the package has it.
_SHARED = {"tools": "docker/common", "scripts": "scripts"}
# Of a context that is an image.
IMAGE_PREFIX = "docker-image://"


def named_contexts(model: Model, root: Path, text: str) -> dict[str, str]:
    """Return by name the folders of the package at `root`, or images, that a Dockerfile takes files from.

    Raises BuildError for one that the model entry names and that isn't there.
    """
    own: Mapping[str, str] = model.extra.get(BUILD_CONTEXTS) or {}
    shared = {name: folder for name, folder in _SHARED.items() if (root / folder).is_dir()}
    known = {**shared, **own}
    taken = set(_outside_names(text))
    contexts = {name: place for name, place in known.items() if name.lower() in taken}
    for name, place in contexts.items():
        if not place.startswith(IMAGE_PREFIX) and not (root / place).is_dir():
            raise BuildError(f"{root / place}: no such folder; {model.name!r} names it as {BUILD_CONTEXTS}.{name}")
    return contexts


def _outside_names(text: str) -> Iterator[str]:
    """Yield the names that a Dockerfile builds on or copies from and that are no stages of its own."""
    dockerfile = parse(text)
    stages: set[str] = set()
    for instruction in dockerfile.instructions:
        names = [*_sources(instruction.own)]
        if instruction.name == "FROM":
            image, _, stage = [*words(instruction.arguments, dockerfile.escape), "", "", ""][:3]
            names.append(image)
        yield from (name.lower() for name in names if name.lower() not in stages)
        if instruction.name == "FROM":
            stages.add(stage.lower())


def _sources(instruction: Instruction) -> Iterator[str]:
    for flag in instruction.flags:
        name, _, value = flag.partition("=")
        if name == "--from":
            yield value
        elif name == "--mount":
            yield from (field.removeprefix("from=") for field in value.split(",") if field.startswith("from="))
