"""Images and Models <-> build_manifest.json, of this version and of older ones."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path
from typing import Any

from madengine import __version__, cards
from madengine.errors import ConfigurationError
from madengine.files import write_json
from madengine.records import Image, Model

SCHEMA_VERSION = 1

# What the manifest says of its context; the rest of a build's context means nothing on another machine.
CONTEXT_KEYS = ("docker_env_vars", "docker_mounts", "docker_build_arg")

_TEXTS = ("dockerfile", "base_docker", "docker_sha", "gpu_vendor", "guest_os", "image_id")
_OPTIONAL = ("registry_image", "registry_digest", "log_file")


@dataclass(frozen=True)
class Manifest:
    """A build's images and the model of each, by the manifest's keys.

    `models` lacks the keys of older manifests without `built_models`; `context` is what the build was
    told; `extra` holds unknown top-level keys.
    """

    images: tuple[Image, ...]
    models: Mapping[str, Model]
    registry: str = ""
    context: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


def load(path: Path) -> Manifest:
    """Read and validate a manifest.

    Raises ConfigurationError that names every broken entry with its path, a broken JSON with its
    position, and a manifest of a later madengine.
    """
    found = _read(path)
    _check(path, "manifest", "", found)
    version = found.get("schema_version", SCHEMA_VERSION)
    if version > SCHEMA_VERSION:
        raise ConfigurationError(
            f"{path}: schema_version {version} is of a later madengine than {__version__}; update madengine here"
        )
    problems = [problem for key, entry in found["built_images"].items() if (problem := _image_problem(key, entry))]
    if problems:
        raise ConfigurationError(f"{path}: {'; '.join(problems)}")
    models = found.get("built_models") or {}
    unknown = sorted(set(models) - set(found["built_images"]))
    if unknown:
        raise ConfigurationError(f"{path}: built_models.{unknown[0]}: there is no such entry in built_images")
    known = {"schema_version", "created", "madengine_version", "built_images", "built_models", "registry", "context"}
    return Manifest(
        images=tuple(_image(key, entry) for key, entry in found["built_images"].items()),
        models={key: cards.model(entry, f"{path}: built_models.{key}") for key, entry in models.items()},
        registry=found.get("registry") or "",
        context=found.get("context") or {},
        extra={key: value for key, value in found.items() if key not in known},
    )


def save(manifest: Manifest, path: Path) -> None:
    """Write a manifest, whole.

    Raises MadengineError where the path can't be written.
    """
    content: dict[str, Any] = {
        "built_images": {image.key: _entry(image) for image in manifest.images},
        "built_models": {image.key: cards.card(manifest.models[image.key]) for image in manifest.images},
        "context": {key: manifest.context.get(key, {}) for key in CONTEXT_KEYS},
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "madengine_version": __version__,
    }
    if manifest.registry:
        content["registry"] = manifest.registry
    write_json(path, {**content, **manifest.extra})


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: no such manifest; `madengine build` writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: can't be read: {error}") from error
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{path}:{error.lineno}:{error.colno}: no JSON: {error.msg}") from error
    if not isinstance(found, dict):
        raise ConfigurationError(f"{path}: a manifest is an object, this is a {type(found).__name__}")
    return found


def _image_problem(key: str, entry: Any) -> str:
    from fastjsonschema import JsonSchemaValueException

    try:
        _validator("image")(entry)
    except JsonSchemaValueException as error:
        return _said(f"built_images.{key}", error)
    return ""


def _check(path: Path, schema: str, where: str, value: Any) -> None:
    from fastjsonschema import JsonSchemaValueException

    try:
        _validator(schema)(value)
    except JsonSchemaValueException as error:
        raise ConfigurationError(f"{path}: {_said(where, error)}") from error


_validators: dict[str, Any] = {}


def _validator(name: str) -> Any:
    import fastjsonschema

    if name not in _validators:
        text = files("madengine").joinpath(f"schemas/{name}.schema.json").read_text(encoding="utf-8")
        _validators[name] = fastjsonschema.compile(json.loads(text), use_default=False)
    return _validators[name]


def _said(where: str, error: Any) -> str:
    """fastjsonschema's message with our own path and the value: `built_images.x.docker_image must be string, not 3`."""
    path = ".".join(part for part in [where, *map(str, error.path[1:])] if part)
    rule = re.sub(r"^\S+ ", "", str(error.message))
    shown = json.dumps(error.value, ensure_ascii=False, default=str)
    value = "" if error.rule == "required" else f", not {shown if len(shown) < 60 else shown[:57] + '...'}"
    return f"{path or 'the manifest'} {rule}{value}"


def _image(key: str, entry: Mapping[str, Any]) -> Image:
    known = {*_TEXTS, *_OPTIONAL, "docker_image", "build_duration", "self_contained", "size_bytes"}
    return Image(
        key=key,
        docker_image=entry["docker_image"],
        build_duration=float(entry.get("build_duration", 0.0)),
        self_contained=entry.get("self_contained", False),
        size_bytes=entry.get("size_bytes", 0),
        extra={name: value for name, value in entry.items() if name not in known},
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
