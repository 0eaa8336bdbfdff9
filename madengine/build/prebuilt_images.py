"""Images that are not built here: named by a batch manifest, by --use-image or by the context."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from madengine import programs
from madengine.build.image_names import image_id, model_label
from madengine.config.values import shown
from madengine.errors import BuildError, ConfigurationError
from madengine.files import read_json
from madengine.programs.engine import Docker
from madengine.programs.engine_errors import explain_engine_error
from madengine.programs.engine_logins import refused_login
from madengine.records import Image, Model

logger = logging.getLogger(__name__)

# What older versions write for an image without a Dockerfile.
NO_DOCKERFILE = "N/A (local image mode)"


class BatchEntry(NamedTuple):
    """One model of a batch manifest."""

    model_name: str
    #: Whether it is built; otherwise its image is pulled.
    build_new: bool = False
    #: The registry of the image in place of the command's.
    registry: str = ""
    #: The image's name in place of ours.
    registry_image: str = ""


def load_batch(path: Path) -> tuple[BatchEntry, ...]:
    """Read a batch manifest: a list of {"model_name", "build_new", "registry", "registry_image"}.

    Raises ConfigurationError, naming the entry and the key.
    """
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise ConfigurationError(
            f'{path}: expected a batch manifest such as [{{"model_name": "dummy", "build_new": true}}]'
        )
    return tuple(_entry(entry, f"{path}: [{number}]") for number, entry in enumerate(entries))


def _entry(entry: Any, where: str) -> BatchEntry:
    if (
        not isinstance(entry, Mapping)
        or not isinstance(entry.get("model_name"), str)
        or not entry["model_name"].strip()
    ):
        raise ConfigurationError(f"{where}: no model_name; every entry needs one")
    for key in (key for key in entry if key not in BatchEntry._fields and not key.startswith("_")):
        logger.info(f"{where}: unknown key {shown(key)} ignored; expected one of {', '.join(BatchEntry._fields)}")
    build_new = entry.get("build_new", False)
    if not isinstance(build_new, bool):
        raise ConfigurationError(f"{where}: build_new: expected true or false, got {build_new!r}")
    names = {key: entry.get(key) or "" for key in ("registry", "registry_image")}
    for key, value in names.items():
        if not isinstance(value, str):
            raise ConfigurationError(f"{where}: {key}: expected a string, got {value!r}")
    return BatchEntry(entry["model_name"].strip(), build_new, **names)


def image_named_by(model: Model) -> str:
    """Return the image that a model names for itself, as in madengine 2.

    Raises ConfigurationError where it names none.
    """
    variables = model.extra.get("env_vars")
    name = variables.get("DOCKER_IMAGE_NAME") if isinstance(variables, Mapping) else None
    if not isinstance(name, str) or not name.strip():
        raise ConfigurationError(
            f"--use-image auto: model {model.name!r} names no image; set its env_vars.DOCKER_IMAGE_NAME"
        )
    return name.strip()


def prebuilt_image(engine: Docker, key: str, name: str, model: Model, extra: Mapping[str, Any]) -> Image:
    """Pull the image of that name, unless it is on this machine, and return the manifest's entry that pins it.

    It is self-contained where an earlier madengine added the model's scripts. `extra` are further keys of the entry.
    Raises BuildError where the pull fails.
    """
    records = engine.images(name)
    if not records:
        logger.info(f"{key}: pulling {name}")
        reply = programs.attempt(engine.pull(name), seconds=None)
        if reply.code != 0:
            problem = f"{explain_engine_error(reply.err)}{refused_login(name)}"
            raise BuildError(f"{name}: not on this machine, and can't be pulled: {problem}")
        records = engine.images(name)
    record = records[0]
    digest = engine.digest_of(name, record)
    labels = (record.get("Config") or {}).get("Labels") or {}
    return Image(
        key=key,
        docker_image=name,
        dockerfile=NO_DOCKERFILE,
        base_docker=name,
        docker_sha=digest,
        image_id=image_id(record),
        registry_image=name if digest else "",
        registry_digest=digest,
        self_contained=labels.get("madengine.model") == model_label(model.name),
        size_bytes=int(record.get("Size") or 0),
        extra=dict(extra),
    )
