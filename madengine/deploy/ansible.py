"""A manifest and an execution configuration -> the files that another tool runs it from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madengine.config.context import Context
from madengine.config.hooks import resolve_hooks, tool_catalogue
from madengine.config.manifest import Manifest, load_manifest
from madengine.config.values import check_value
from madengine.deploy.bundle import write_bundle
from madengine.deploy.render import render
from madengine.errors import ConfigurationError
from madengine.files import read_json, write_whole
from madengine.programs.engine import is_loopback
from madengine.records import DEFAULT_TIMEOUT, Image

PLAYBOOK = "ansible/playbook.yml"
INVENTORY = "ansible/gpu_inventory.example"

# What a run may take beside its script: pulls, its start, stopping it at its limit.
_SLACK_SECONDS = 900
# A run without a limit; Ansible needs one.
_WEEK_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True)
class Generated:
    """The files that were written, and what the user should be told, a line each."""

    paths: tuple[Path, ...]
    warnings: tuple[str, ...] = ()


def generate_ansible(
    manifest_file: Path, execution_config: Path, output: Path, template_dir: Path | None = None
) -> Generated:
    """Write a playbook, the madengine.pyz that it copies to the nodes, and an example inventory where none is yet.

    Raises ConfigurationError for a manifest or configuration that is missing or broken and for a template with an
    error, MadengineError where a file can't be written.
    """
    kept = load_manifest(manifest_file)
    if not kept.images:
        raise ConfigurationError(f"{manifest_file}: holds no images; `madengine build` again")
    asked = resolve_hooks(Context(kept.context), tool_catalogue(kept.extra.get("tools") or {}))
    values = {
        "manifest": os.path.relpath(manifest_file.resolve(), output.parent.resolve()),
        "manifest_sha256": hashlib.sha256(manifest_file.read_bytes()).hexdigest(),
        "registry": kept.registry,
        "context": configured(execution_config),
        "seconds": sum(_limit(kept, image) + asked.seconds + _SLACK_SECONDS for image in kept.images),
        "runs": len(kept.images),
    }
    write_whole(output, render(PLAYBOOK, values, template_dir, unsafe=True))
    written = [output, write_bundle(output.parent / "madengine.pyz")]
    inventory = output.parent / "gpu_inventory.example"
    if not os.path.lexists(inventory):
        shown = {"registry": kept.registry or "reg.example.com:5000"}
        write_whole(inventory, render(INVENTORY, shown, template_dir))
        written.append(inventory)
    return Generated(tuple(written), _warnings(kept, manifest_file))


def configured(path: Path) -> Mapping[str, Any]:
    """What the execution configuration says of the runs; what it leaves empty is for the nodes to find out."""
    if not os.path.lexists(path):
        raise ConfigurationError(f"{path}: no such execution configuration; `madengine export-config` writes one")
    config = read_json(path)
    context = config.get("context", {}) if isinstance(config, dict) else None
    if not isinstance(context, dict):
        raise ConfigurationError(f"{path}: is no execution configuration; `madengine export-config` writes one")
    check_value(context, f"{path}: context")
    return {key: value for key, value in context.items() if value or key == "model_args"}


def _limit(kept: Manifest, image: Image) -> int:
    """Seconds that a model's script may take."""
    model = kept.models.get(image.key)
    if model is None:
        return DEFAULT_TIMEOUT
    return model.time_limit() or _WEEK_SECONDS


def _warnings(kept: Manifest, path: Path) -> tuple[str, ...]:
    if not kept.registry:
        return (f"{path}: names no registry: nodes run only images that they have already; build with --registry",)
    if is_loopback(kept.registry):
        return (
            f"{path}: {kept.registry} is the node itself on a node; set registry_url in the inventory to an address "
            "of the same registry that the nodes reach",
        )
    return ()
