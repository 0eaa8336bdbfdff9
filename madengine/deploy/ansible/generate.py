"""A manifest and an execution configuration -> the playbook, the bundle and the example inventory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from madengine.config.common_options import RepeatOptions
from madengine.config.context import Context, load_context
from madengine.config.hooks import resolve_hooks, tool_catalogue
from madengine.config.manifest import Manifest, load_manifest
from madengine.config.option import words_for_hosts
from madengine.deploy.ansible.options import PlaybookOptions
from madengine.deploy.bundle import write_bundle
from madengine.deploy.execution_config import DEFAULT_EXECUTION_CONFIG, execution_context
from madengine.deploy.render import render
from madengine.deploy.target import Prepared
from madengine.errors import ConfigurationError
from madengine.files import write_whole
from madengine.programs.image_references import is_loopback
from madengine.records import DEFAULT_TIMEOUT, ENGINE_NAMES, Image

PLAYBOOK = "ansible/playbook.yml"
INVENTORY = "ansible/gpu_inventory.example"

_ENV_FILE = "env_file.sh"
# What a run may take beside its script: pulls, its start, stopping it at its limit.
_SLACK_SECONDS = 900
# Ansible needs a limit for a run without one.
_WEEK_SECONDS = 7 * 24 * 3600


def generate_ansible(options: PlaybookOptions) -> Prepared:
    """Write a playbook, the madengine.pyz that it copies to the nodes, and an example inventory if there is none.

    Raises ConfigurationError for a manifest or configuration that is missing or broken and for a template with an
    error, MadengineError where a file can't be written.
    """
    manifest_file, output, template_dir = options.manifest_file, options.playbook, options.template_dir
    manifest = load_manifest(manifest_file)
    if not manifest.images:
        raise ConfigurationError(f"{manifest_file}: has no images; `madengine build` again")
    execution_config = options.execution_config or DEFAULT_EXECUTION_CONFIG
    of_config = execution_context(execution_config)
    context = load_context({}, {**manifest.context, **of_config}, None, None)
    env_file = _env_file(manifest_file, context.values.get("env_file"))
    values = {**_values(manifest, manifest_file, of_config, output, env_file), **_repeats(options)}
    write_whole(output, render(PLAYBOOK, values, template_dir, unsafe=True))
    files = [output, write_bundle(output.parent / "madengine.pyz")]
    inventory = output.parent / "gpu_inventory.example"
    if not os.path.lexists(inventory):
        registry = manifest.registry or "reg.example.com:5000"
        write_whole(inventory, render(INVENTORY, {"registry": registry}, template_dir))
        files.append(inventory)
    return Prepared(tuple(files), _warnings(manifest, manifest_file))


def _env_file(manifest_file: Path, name: Any) -> Path | None:
    """Return the file that the context's `env_file` names, from the manifest's folder; None if it names none."""
    path = manifest_file.parent / str(name) if name else None
    if path and not path.is_file():
        raise ConfigurationError(f"env_file {path}: no such file")
    return path


def _values(
    manifest: Manifest, manifest_file: Path, of_config: Mapping[str, Any], output: Path, env_file: Path | None
) -> dict[str, Any]:
    """Return the values of the playbook's template."""
    folder = output.parent.resolve()
    hooks = resolve_hooks(Context(manifest.context), tool_catalogue(manifest.extra.get("tools") or {}))
    return {
        "manifest": os.path.relpath(manifest_file.resolve(), folder),
        "manifest_sha256": hashlib.sha256(manifest_file.read_bytes()).hexdigest(),
        "engines": list(ENGINE_NAMES),
        "registry": manifest.registry,
        # On a node it is beside the manifest, under this name.
        "env_file": os.path.relpath(env_file.resolve(), folder) if env_file else "",
        "context": {**of_config, **({"env_file": _ENV_FILE} if env_file else {})},
        "seconds": sum(_limit(manifest, image) + hooks.seconds + _SLACK_SECONDS for image in manifest.images),
        "runs": len(manifest.images),
    }


def _repeats(options: PlaybookOptions) -> dict[str, Any]:
    """Return the values that say how often the models run."""
    words = words_for_hosts((RepeatOptions,), vars(options))
    return {"repeats": list(words), "rounds": options.warmup + options.most_repeats}


def _limit(manifest: Manifest, image: Image) -> int:
    """Return the time limit of a model's script in seconds."""
    model = manifest.models.get(image.key)
    if model is None:
        return DEFAULT_TIMEOUT
    return model.time_limit() or _WEEK_SECONDS


def _warnings(manifest: Manifest, path: Path) -> tuple[str, ...]:
    if not manifest.registry:
        return (f"{path}: no registry: nodes can only run images that they have already; build with --registry",)
    if is_loopback(manifest.registry):
        return (
            f"{path}: on a node {manifest.registry} is the node itself; set registry_url in the inventory to an "
            "address of the same registry that the nodes reach",
        )
    return ()
