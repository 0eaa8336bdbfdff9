"""The input ConfigMap: the manifest and the facts of each Job, for the sidecar and for `collect`, and the hooks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from madengine import __version__
from madengine.config.manifest import SCHEMA_VERSION, Manifest
from madengine.config.models_json import entry_of
from madengine.deploy.kubernetes.jobs import facts
from madengine.deploy.kubernetes.launch import hostfile_key
from madengine.deploy.kubernetes.tasks import Task, TaskSettings
from madengine.deploy.render import Block
from madengine.errors import ConfigurationError
from madengine.records import Image

RUNNER_JOB = "madengine-runner-job"
# Bytes: etcd accepts 1 MiB; the rest is for the object's other fields.
_LIMIT = 1_000_000
# `kubectl apply` keeps the whole object in an annotation, and all annotations may have 262,144 bytes.
_APPLY_LIMIT = 250_000


@dataclass(frozen=True)
class InputConfig:
    """The data of a ConfigMap, and the Jobs that it describes."""

    texts: Mapping[str, str]
    jobs: tuple[str, ...] = (RUNNER_JOB,)
    #: Values in base64.
    binary: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name, which changes with its content."""
        return f"madengine-config-{hashlib.sha256(self._content.encode()).hexdigest()[:10]}"

    @property
    def _content(self) -> str:
        return json.dumps(self.texts) + (json.dumps(self.binary) if self.binary else "")

    @property
    def entries(self) -> list[tuple[str, str]]:
        """The keys and texts as a template writes them."""
        return [(key, _as_block(text)) for key, text in self.texts.items()]

    @property
    def too_large_to_apply(self) -> bool:
        """Whether `kubectl apply` refuses it, unless --server-side is used."""
        text = json.dumps({**self.texts, **self.binary}, ensure_ascii=False)
        # kubectl writes these as \\u003c and the like.
        return len(text.encode(errors="replace")) + 5 * sum(map(text.count, "<>&")) > _APPLY_LIMIT


def job_configs(manifest: Manifest, tasks: Sequence[Task], settings: TaskSettings) -> tuple[InputConfig, ...]:
    """Return the input of Jobs, in parts that `kubectl apply` accepts if possible.

    Raises ConfigurationError if the input of one image is too large.
    """
    keys = list(dict.fromkeys(task.image.key for task in tasks))
    images = tuple(image for image in manifest.images if image.key in keys)
    job_facts = {task.name: facts(task, settings.options) for task in tasks}
    texts = {**_texts(replace(manifest, images=images), job_facts, {}), **settings.hooks.texts}
    binary: dict[str, str] = {}
    for task in tasks:
        texts |= task.payload.texts
        texts |= {hostfile_key(task.name): task.hostfile} if task.hostfile else {}
        binary |= task.payload.binary
    config = InputConfig(texts, tuple(job_facts), binary)
    if len(keys) < 2 or not config.too_large_to_apply:
        return (_checked(config),)
    first = keys[: len(keys) // 2]
    parts = ([task for task in tasks if (task.image.key in first) == is_first] for is_first in (True, False))
    return tuple(config for part in parts for config in job_configs(manifest, part, settings))


def runner_config(manifest: Manifest, settings: TaskSettings, tools: Mapping[str, Any]) -> InputConfig:
    """Return the input of a runner, with the context and the tools. Raises ConfigurationError if it is too large."""
    extra = {"context": settings.context.values, **({"tools": tools} if tools else {})}
    return _checked(InputConfig(_texts(manifest, {RUNNER_JOB: {"mode": "runner"}}, extra)))


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
    values = {each.name: getattr(image, each.name) for each in fields(Image) if each.name not in ("key", "extra")}
    return {name: value for name, value in values.items() if value not in ("", 0) and name != "log_file"}


def _checked(config: InputConfig) -> InputConfig:
    size = sum(len(text.encode()) for text in (*config.texts.values(), *config.binary.values()))
    if size > _LIMIT:
        raise ConfigurationError(
            f"manifest: expected at most {_LIMIT} bytes for a ConfigMap, got {size}; select models with --tags"
        )
    return config


def _as_block(text: str) -> str:
    """Return the text as a literal block, which is easy to read, if YAML reads that back unchanged."""
    lines = text.split("\n")
    may_be_block = all(line.isascii() and (line.isprintable() or not line) and line == line.rstrip() for line in lines)
    is_script = text.endswith("\n") and not text.endswith("\n\n")
    return (
        Block(text) if may_be_block and lines[0].strip() == lines[0] != "" and (is_script or text[0] == "{") else text
    )
