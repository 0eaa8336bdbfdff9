"""Images that somebody else has built: named by a batch manifest, by --use-image or by the context."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from madengine import programs
from madengine.errors import BuildError, ConfigurationError
from madengine.files import read_json
from madengine.programs.engine import Docker, explain_engine_error
from madengine.records import Image, Model

logger = logging.getLogger(__name__)

# What older versions say of an image that no Dockerfile here stands for.
NO_DOCKERFILE = "N/A (local image mode)"


class BatchEntry(NamedTuple):
    """One model of a batch manifest: built anew or taken as it is, and where its image goes or is."""

    model_name: str
    build_new: bool = False
    registry: str = ""
    registry_image: str = ""


def load_batch(path: Path) -> tuple[BatchEntry, ...]:
    """Read a batch manifest: a list of {"model_name", "build_new", "registry", "registry_image"}.

    Raises ConfigurationError, naming the entry and the key.
    """
    found = read_json(path)
    if not isinstance(found, list) or not found:
        raise ConfigurationError(
            f'{path}: a batch manifest is a list like [{{"model_name": "dummy", "build_new": true}}]'
        )
    return tuple(_entry(entry, f"{path}: [{number}]") for number, entry in enumerate(found))


def _entry(entry: Any, where: str) -> BatchEntry:
    if (
        not isinstance(entry, Mapping)
        or not isinstance(entry.get("model_name"), str)
        or not entry["model_name"].strip()
    ):
        raise ConfigurationError(f"{where}: model_name is missing; every entry needs it")
    build_new = entry.get("build_new", False)
    if not isinstance(build_new, bool):
        raise ConfigurationError(f"{where}: build_new: {build_new!r} is wrong: it is true or false")
    texts = {key: entry.get(key) or "" for key in ("registry", "registry_image")}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise ConfigurationError(f"{where}: {key}: {value!r} is wrong: it is a text")
    return BatchEntry(entry["model_name"].strip(), build_new, **texts)


def image_named_by(model: Model) -> str:
    """The image that a card names for itself, as madengine 2 reads it.

    Raises ConfigurationError where it names none.
    """
    variables = model.extra.get("env_vars")
    name = variables.get("DOCKER_IMAGE_NAME") if isinstance(variables, Mapping) else None
    if not isinstance(name, str) or not name.strip():
        raise ConfigurationError(
            f"--use-image auto: the card of {model.name!r} names no image; give it env_vars.DOCKER_IMAGE_NAME"
        )
    return name.strip()


def prebuilt_image(engine: Docker, key: str, name: str, model: Model, marks: Mapping[str, Any]) -> Image:
    """The image of that name, pulled where it is not here, as a manifest's entry that pins it.

    It carries the model's scripts where an earlier madengine has put them in. `marks` are further keys of the entry.
    Raises BuildError where it can't be had.
    """
    found = engine.images(name)
    if not found:
        logger.info(f"{key}: pulling {name}")
        answer = programs.attempt(engine.pull(name), seconds=None)
        if answer.code != 0:
            raise BuildError(f"{name}: not on this machine, and can't be pulled: {explain_engine_error(answer.err)}")
        found = engine.images(name)
    digest = engine.digest_of(name, found[0])
    labels = (found[0].get("Config") or {}).get("Labels") or {}
    identity = str(found[0]["Id"])
    return Image(
        key=key,
        docker_image=name,
        dockerfile=NO_DOCKERFILE,
        base_docker=name,
        docker_sha=digest,
        image_id=identity if identity.startswith("sha256:") else f"sha256:{identity}",
        registry_image=name if digest else "",
        registry_digest=digest,
        self_contained=labels.get("madengine.model") == model.name,
        size_bytes=int(found[0].get("Size") or 0),
        extra=dict(marks),
    )
