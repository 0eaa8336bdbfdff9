"""The input ConfigMap: the manifest and the facts of each Job, for the sidecar and for `collect`, and the hooks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from madengine import __version__
from madengine.config.manifest import SCHEMA_VERSION, Manifest
from madengine.config.models_json import entry_of
from madengine.deploy.kubernetes.jobs import facts
from madengine.deploy.kubernetes.tasks import Settings, Task
from madengine.deploy.render import Block
from madengine.errors import ConfigurationError
from madengine.records import Image

RUNNER_JOB = "madengine-runner-job"
# etcd accepts 1 MiB; the rest is for the object's other fields.
_LIMIT = 1_000_000


@dataclass(frozen=True)
class InputConfig:
    """A ConfigMap's data: the text of each key."""

    texts: Mapping[str, str]

    @property
    def name(self) -> str:
        """Its name, which changes with its content."""
        return f"madengine-config-{hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()[:10]}"

    @property
    def entries(self) -> list[tuple[str, str]]:
        """The keys and texts as a template writes them."""
        return [(key, _as_block(text)) for key, text in self.texts.items()]


def job_config(manifest: Manifest, tasks: tuple[Task, ...], settings: Settings) -> InputConfig:
    """Return the input of Jobs. Raises ConfigurationError if it is too large."""
    job_facts = {task.name: facts(task, settings.options) for task in tasks}
    return _checked({**_texts(manifest, job_facts, {}), **settings.hooks.texts})


def runner_config(manifest: Manifest, settings: Settings, tools: Mapping[str, Any]) -> InputConfig:
    """Return the input of a runner, with the context and the tools. Raises ConfigurationError if it is too large."""
    extra = {"context": settings.context.values, **({"tools": tools} if tools else {})}
    return _checked(_texts(manifest, {RUNNER_JOB: {"mode": "runner"}}, extra))


def _texts(manifest: Manifest, job_facts: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, str]:
    content = {
        "built_images": {image.key: _image_entry(image) for image in manifest.images},
        "built_models": {image.key: entry_of(manifest.models[image.key]) for image in manifest.images},
        "registry": manifest.registry,
        "context": {},
        "schema_version": SCHEMA_VERSION,
        "madengine_version": __version__,
        **extra,
    }
    return {"manifest.json": json.dumps(content, indent=2), "jobs.json": json.dumps(job_facts, indent=2)}


def _image_entry(image: Image) -> dict[str, Any]:
    """Return a manifest's entry; the extra keys of older versions contain build commands, with secrets in them."""
    values = {field.name: getattr(image, field.name) for field in fields(Image) if field.name not in ("key", "extra")}
    return {name: value for name, value in values.items() if value not in ("", 0) and name != "log_file"}


def _checked(texts: Mapping[str, str]) -> InputConfig:
    size = sum(len(text.encode()) for text in texts.values())
    if size > _LIMIT:
        raise ConfigurationError(
            f"manifest: expected at most {_LIMIT} bytes for a ConfigMap, got {size}; select models with --tags"
        )
    return InputConfig(texts)


def _as_block(text: str) -> str:
    """Return the text as a literal block, which is easy to read, if YAML reads that back unchanged."""
    lines = text.split("\n")
    may_be_block = all(line.isascii() and (line.isprintable() or not line) and line == line.rstrip() for line in lines)
    is_script = text.endswith("\n") and not text.endswith("\n\n")
    return (
        Block(text) if may_be_block and lines[0].strip() == lines[0] != "" and (is_script or text[0] == "{") else text
    )
