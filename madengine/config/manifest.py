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
from madengine.config.context import with_deployment
from madengine.config.context_keys import KEYS, InManifest, check_layer
from madengine.config.models_json import entry_of, model_of
from madengine.config.package import own_file
from madengine.config.values import check_value, expected, shown, shown_key
from madengine.errors import ConfigurationError
from madengine.files import read_json, write_json
from madengine.records import Image, Model

SCHEMA_VERSION = 1
_SHOWN_PROBLEMS = 20

# What an older madengine detected on the machine of the build, and wrote into its context as if the user had set it.
_OF_BUILD_MACHINE = (
    "MAD_GPU_VENDOR", "MAD_SYSTEM_NGPUS", "MAD_RUNTIME_NGPUS", "MAD_SYSTEM_GPU_ARCHITECTURE", "MAD_SYSTEM_HIP_VERSION",
    "MAD_SYSTEM_GPU_PRODUCT_NAME", "MAD_MULTI_NODE_RUNNER",
)  # fmt: skip

_TEXTS = ("dockerfile", "base_docker", "docker_sha", "gpu_vendor", "guest_os", "image_id")
_OPTIONAL = ("registry_image", "registry_digest", "log_file", "git_commit")
_IMAGE_KEYS = frozenset({*_TEXTS, *_OPTIONAL, "docker_image", "build_duration", "self_contained", "size_bytes"})
#: what this version or an older one writes of an image
IMAGE_KEYS = _IMAGE_KEYS | {
    "model", "registry", "gpu_architecture", "push_error", "push_failed", "build_command", "local_image", "prebuilt",
    "build_status", "image_digest", "built_on_compute",
}  # fmt: skip
# Keys that are written again with a manifest; `created` and `madengine_version` stay those of the build.
_REWRITTEN = frozenset({"schema_version", "built_images", "built_models", "registry", "context"})
#: what this version or an older one writes at the top
MANIFEST_KEYS = _REWRITTEN | {
    "created", "madengine_version", "tools", "credentials_required", "summary", "push_failures", "deployment_config",
    "local_image_mode", "local_image_name", "provided_data",
}  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """A build's images and the model of each, by the manifest's keys."""

    images: tuple[Image, ...]
    #: lacks the images of older manifests without `built_models`
    models: Mapping[str, Model]
    registry: str = ""
    #: the build's context, as far as it counts in later runs
    context: Mapping[str, Any] = field(default_factory=dict)
    #: the other top-level keys, untouched
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def provided_data(self) -> tuple[str, ...]:
        """The data sets that the data.json of the build had providers for."""
        names = self.extra.get("provided_data")
        return tuple(map(str, names)) if isinstance(names, list) else ()


def load_manifest(path: Path) -> Manifest:
    """Read and validate a manifest.

    Raise ConfigurationError that names the broken entries with their paths, broken JSON with its position, and a
    manifest of a later madengine.
    """
    content = _read(path)
    problems: list[str] = []
    images = _images(content["built_images"], problems)
    models = _models(content.get("built_models") or {}, content["built_images"], problems)
    if problems:
        more = f"; and {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
        raise ConfigurationError(f"{path}: {'; '.join(problems[:_SHOWN_PROBLEMS])}{more}")
    return Manifest(
        images=images,
        models=models,
        registry=content.get("registry") or "",
        context=with_deployment(_context(content), content.get("deployment_config"), str(path)),
        extra={key: value for key, value in content.items() if key not in _REWRITTEN},
    )


def save_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest, whole.

    Raise MadengineError if the path can't be written.
    """
    empty: dict[str, Any] = {name: {} for name, key in KEYS.items() if key.in_manifest is InManifest.ALWAYS}
    content: dict[str, Any] = {
        "built_images": {image.key: _entry(image) for image in manifest.images},
        "built_models": {key: entry_of(model) for key, model in manifest.models.items()},
        "context": {**empty, **_without_deployment(manifest.context)},
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "madengine_version": __version__,
    }
    if manifest.registry:
        content["registry"] = manifest.registry
    write_json(path, {**content, **manifest.extra})


def _read(path: Path) -> dict[str, Any]:
    """Return the manifest's object, its top level checked."""
    if not os.path.lexists(path):
        raise ConfigurationError(f"{path}: no such manifest; `madengine build` writes one")
    content = read_json(path)
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: expected a manifest, which is an object, got {shown(content)}")
    version = content.get("schema_version", SCHEMA_VERSION)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ConfigurationError(
            f"{path}: schema_version {shown(version)} is of a later madengine than {__version__}; update madengine here"
        )
    if problem := _problem("manifest", "", content):
        raise ConfigurationError(f"{path}: {problem}")
    check_value(content, str(path))
    check_layer(content.get("context") or {}, f"{path}: context")
    if not isinstance(content.get("deployment_config") or {}, dict):
        raise expected(f"{path}: deployment_config", "an object", content["deployment_config"])
    return content


def _without_deployment(context: Mapping[str, Any]) -> dict[str, Any]:
    """Return a context without the keys that are in the manifest's deployment_config."""
    elsewhere = {name for name, key in KEYS.items() if key.in_manifest is InManifest.DEPLOYMENT}
    return {name: value for name, value in context.items() if name not in elsewhere}


def _context(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the build's context; an older manifest's without facts of its build machine, which is another one."""
    context = dict(content.get("context") or {})
    variables = context.get("docker_env_vars")
    if "madengine_version" not in content and isinstance(variables, Mapping):
        own = {name: value for name, value in variables.items() if name not in _OF_BUILD_MACHINE}
        context = {**context, "docker_env_vars": own}
    return context


def _images(entries: Mapping[str, Any], problems: list[str]) -> tuple[Image, ...]:
    """Return the valid images; add what is wrong with the others to `problems`."""
    images = []
    for key, entry in entries.items():
        values = _without_nulls(entry)
        if problem := _problem("image", _place("built_images", key), values):
            problems.append(problem)
        else:
            images.append(_image(key, values))
    return tuple(images)


def _without_nulls(entry: Any) -> Any:
    """Return the entry without the keys for which an older version wrote null."""
    if not isinstance(entry, dict):
        return entry
    return {name: value for name, value in entry.items() if value is not None or name not in _IMAGE_KEYS}


def _models(entries: Mapping[str, Any], images: Mapping[str, Any], problems: list[str]) -> dict[str, Model]:
    """Return the valid models of the images; add what is wrong with the others to `problems`."""
    strays = [key for key in entries if key not in images]
    # madengine 2 takes images out of a manifest and leaves their models; only a key that is also missed is a mistake.
    if strays and not images.keys() <= entries.keys():
        problems.append(f"{_place('built_models', strays[0])}: no such entry in built_images")
    models = {}
    for key in (key for key in entries if key in images):
        try:
            models[key] = model_of(_with_scripts(entries[key]), _place("built_models", key))
        except ConfigurationError as error:
            problems.append(str(error))
    return models


def _place(section: str, key: str) -> str:
    return f"{section}.{shown_key(key)}"


def _with_scripts(entry: Any) -> Any:
    """Return the entry, with the `path` below the package that some manifests have in place of `scripts`."""
    if isinstance(entry, dict) and "scripts" not in entry and isinstance(entry.get("path"), str):
        return {**entry, "scripts": entry["path"].lstrip("/")}
    return entry


def _problem(schema: str, where: str, value: Any) -> str:
    """Return what a schema has against a value, with its path; empty if nothing."""
    from fastjsonschema import JsonSchemaValueException

    try:
        _validator(schema)(value)
    except JsonSchemaValueException as error:
        return _message(where, error)
    return ""


@functools.cache
def _validator(name: str) -> Any:
    import fastjsonschema

    return fastjsonschema.compile(json.loads(own_file(f"schemas/{name}.schema.json")), use_default=False)


def _message(where: str, error: Any) -> str:
    """Return fastjsonschema's message with our own path: `built_images.x.size_bytes: expected integer, got "3"`."""
    path = ".".join(part for part in [where, *map(str, error.path[1:])] if part)
    rule = re.sub(r"^\S+ must (be |contain )?", "", str(error.message)).replace("match pattern", "a match of")
    if error.rule == "required":
        message = f"{', '.join(error.rule_definition)} is missing"
    else:
        message = f"expected {rule}, got {shown(error.value)}"
    return f"{path}: {message}" if path else message


def _image(key: str, entry: Mapping[str, Any]) -> Image:
    return Image(
        key=key,
        docker_image=entry["docker_image"],
        build_duration=float(entry.get("build_duration", 0.0)),
        self_contained=entry.get("self_contained", False),
        size_bytes=entry.get("size_bytes", 0),
        extra={name: value for name, value in entry.items() if name not in _IMAGE_KEYS},
        **{**{name: entry.get(name, "") for name in (*_TEXTS, *_OPTIONAL)}, **_digest(entry)},
    )


def _digest(entry: Mapping[str, Any]) -> dict[str, str]:
    """Return the digest that madengine 2 has as `image_digest`, with or without the repository before it."""
    named = re.search(r"sha256:[0-9a-f]{64}$", str(entry.get("image_digest") or ""))
    return {"registry_digest": named[0]} if named and not entry.get("registry_digest") else {}


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
