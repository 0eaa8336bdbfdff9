"""Images and Models <-> build_manifest.json, of this version and of older ones."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from madengine import __version__
from madengine.config.models_json import entry_of, model_of
from madengine.config.package import own_file
from madengine.errors import ConfigurationError
from madengine.files import read_json, write_json
from madengine.records import Image, Model

SCHEMA_VERSION = 1

# What the manifest says of its context; the rest of a build's context means nothing on another machine.
CONTEXT_KEYS = ("docker_env_vars", "docker_mounts", "docker_build_arg")
# What it says where the build was told.
HOOK_KEYS = ("tools", "pre_scripts", "post_scripts", "encapsulate_script", "artifacts")
# What an older madengine found out on the machine of the build, and wrote into its context as if it were asked for.
_OF_BUILD_MACHINE = (
    "MAD_GPU_VENDOR", "MAD_SYSTEM_NGPUS", "MAD_RUNTIME_NGPUS", "MAD_SYSTEM_GPU_ARCHITECTURE", "MAD_SYSTEM_HIP_VERSION",
    "MAD_SYSTEM_GPU_PRODUCT_NAME", "MAD_MULTI_NODE_RUNNER",
)  # fmt: skip

_TEXTS = ("dockerfile", "base_docker", "docker_sha", "gpu_vendor", "guest_os", "image_id")
_OPTIONAL = ("registry_image", "registry_digest", "log_file", "git_commit")
_IMAGE_KEYS = frozenset({*_TEXTS, *_OPTIONAL, "docker_image", "build_duration", "self_contained", "size_bytes"})
# Keys that a rewritten manifest gets anew; `created` and `madengine_version` stay those of the build.
_KNOWN = frozenset({"schema_version", "built_images", "built_models", "registry", "context"})


@dataclass(frozen=True)
class Manifest:
    """A build's images and the model of each, by the manifest's keys.

    `models` lacks the keys of older manifests without `built_models`; `context` is what the build was
    told; `extra` holds the other top-level keys, which survive as they are.
    """

    images: tuple[Image, ...]
    models: Mapping[str, Model]
    registry: str = ""
    context: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


def load_manifest(path: Path) -> Manifest:
    """Read and validate a manifest.

    Raises ConfigurationError that names every broken entry with its path, a broken JSON with its
    position, and a manifest of a later madengine.
    """
    found = _read(path)
    problems: list[str] = []
    images = _images(found["built_images"], problems)
    models = _models(found.get("built_models") or {}, found["built_images"], problems)
    if problems:
        raise ConfigurationError(f"{path}: {'; '.join(problems)}")
    return Manifest(
        images=images,
        models=models,
        registry=found.get("registry") or "",
        context=_context(found),
        extra={key: value for key, value in found.items() if key not in _KNOWN},
    )


def save_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest, whole.

    Raises MadengineError where the path can't be written.
    """
    content: dict[str, Any] = {
        "built_images": {image.key: _entry(image) for image in manifest.images},
        "built_models": {key: entry_of(model) for key, model in manifest.models.items()},
        "context": {**{key: {} for key in CONTEXT_KEYS}, **manifest.context},
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "madengine_version": __version__,
    }
    if manifest.registry:
        content["registry"] = manifest.registry
    write_json(path, {**content, **manifest.extra})


def _read(path: Path) -> dict[str, Any]:
    """The manifest's object, its top level checked."""
    if not os.path.lexists(path):
        raise ConfigurationError(f"{path}: no such manifest; `madengine build` writes one")
    found = read_json(path)
    if not isinstance(found, dict):
        raise ConfigurationError(f"{path}: a manifest is an object, not {json.dumps(found)[:60]}")
    version = found.get("schema_version", SCHEMA_VERSION)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ConfigurationError(
            f"{path}: schema_version {version} is of a later madengine than {__version__}; update madengine here"
        )
    if problem := _problem("manifest", "", found):
        raise ConfigurationError(f"{path}: {problem}")
    return found


def _context(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the build was told; an older manifest without what its build machine was, which says nothing of this one."""
    context = dict(found.get("context") or {})
    variables = context.get("docker_env_vars")
    if "madengine_version" not in found and isinstance(variables, Mapping):
        left = {name: value for name, value in variables.items() if name not in _OF_BUILD_MACHINE}
        context = {**context, "docker_env_vars": left}
    return context


def _images(entries: Mapping[str, Any], problems: list[str]) -> tuple[Image, ...]:
    """The images, as far as they are right; what is wrong with the others is added to `problems`."""
    images = []
    for key, entry in entries.items():
        given = _without_nulls(entry)
        if problem := _problem("image", f"built_images.{key}", given):
            problems.append(problem)
        else:
            images.append(_image(key, given))
    return tuple(images)


def _without_nulls(entry: Any) -> Any:
    """The entry without the keys for which an older version wrote null."""
    if not isinstance(entry, dict):
        return entry
    return {name: value for name, value in entry.items() if value is not None or name not in _IMAGE_KEYS}


def _models(entries: Mapping[str, Any], images: Mapping[str, Any], problems: list[str]) -> dict[str, Model]:
    """The models of the images, as far as they are right; what is wrong with the others is added to `problems`."""
    strays = [key for key in entries if key not in images]
    # madengine 2 takes images out of a manifest and leaves their models; only a key that is also missed is a mistake.
    if strays and not images.keys() <= entries.keys():
        problems.append(f"built_models.{strays[0]}: there is no such entry in built_images")
    models = {}
    for key in (key for key in entries if key in images):
        try:
            models[key] = model_of(_with_scripts(entries[key]), f"built_models.{key}")
        except ConfigurationError as error:
            problems.append(str(error))
    return models


def _with_scripts(card: Any) -> Any:
    """The card, with the `path` below the package that some manifests have in place of `scripts`."""
    if isinstance(card, dict) and "scripts" not in card and isinstance(card.get("path"), str):
        return {**card, "scripts": card["path"].lstrip("/")}
    return card


def _problem(schema: str, where: str, value: Any) -> str:
    """What a schema has against a value, with its path; empty if nothing."""
    from fastjsonschema import JsonSchemaValueException

    try:
        _validator(schema)(value)
    except JsonSchemaValueException as error:
        return _said(where, error)
    return ""


@functools.cache
def _validator(name: str) -> Any:
    import fastjsonschema

    return fastjsonschema.compile(json.loads(own_file(f"schemas/{name}.schema.json")), use_default=False)


def _said(where: str, error: Any) -> str:
    """fastjsonschema's message with our own path and the value: `built_images.x.docker_image must be string, not 3`."""
    path = ".".join(part for part in [where, *map(str, error.path[1:])] if part)
    rule = re.sub(r"^\S+ ", "", str(error.message))
    rule = re.sub(r"^must contain \[(.*)\] properties$", lambda found: f"has no {found[1]}".replace("'", ""), rule)
    shown = json.dumps(error.value, ensure_ascii=False, default=str)
    value = "" if error.rule == "required" else f", not {shown if len(shown) < 60 else shown[:57] + '...'}"
    return f"{path or 'the manifest'} {rule}{value}"


def _image(key: str, entry: Mapping[str, Any]) -> Image:
    return Image(
        key=key,
        docker_image=entry["docker_image"],
        build_duration=float(entry.get("build_duration", 0.0)),
        self_contained=entry.get("self_contained", False),
        size_bytes=entry.get("size_bytes", 0),
        extra={name: value for name, value in entry.items() if name not in _IMAGE_KEYS},
        **{name: entry.get(name, "") for name in (*_TEXTS, *_OPTIONAL)},
    )


def _entry(image: Image) -> dict[str, Any]:
    return {
        "docker_image": image.docker_image,
        **{name: getattr(image, name) for name in _TEXTS},
        "build_duration": round(image.build_duration, 3),
        **{name: getattr(image, name) for name in _OPTIONAL if getattr(image, name)},
        "self_contained": image.self_contained,
        "size_bytes": image.size_bytes,
        **image.extra,
    }
