"""The hooks of a run as entries of the input ConfigMap, and as a folder of the pod."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from madengine.build.package_files import check_inside
from madengine.config.context import Context
from madengine.config.hooks import SHARED_SCRIPTS, Hooks, hook_definitions, hook_texts, resolve_hooks, tool_catalogue
from madengine.config.manifest import Manifest

FOLDER = "/opt/madengine-hooks"
_VOLUME = "hooks"
_MODE = 0o555


@dataclass(frozen=True)
class HookFiles:
    """The hooks of all pods."""

    hooks: Hooks = field(default_factory=Hooks)
    #: The key in the ConfigMap of each file below `FOLDER`.
    paths: Mapping[str, str] = field(default_factory=dict)
    #: The text of each key.
    texts: Mapping[str, str] = field(default_factory=dict)
    #: Scripts that are neither here nor in the images.
    missing: tuple[str, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """The variable by which entry.sh finds the hooks."""
        return {"MADENGINE_HOOKS": FOLDER} if self.hooks else {}

    @property
    def mounts(self) -> list[dict[str, Any]]:
        """The mounts of the model's container."""
        return [{"name": _VOLUME, "mountPath": FOLDER, "readOnly": True}] if self.hooks else []

    def volumes(self, config: str) -> list[dict[str, Any]]:
        """Return the volumes of a pod out of the ConfigMap `config`; its keys can't contain "/", paths do."""
        if not self.hooks:
            return []
        items = [{"key": key, "path": path} for path, key in self.paths.items()]
        return [{"name": _VOLUME, "configMap": {"name": config, "defaultMode": _MODE, "items": items}}]


def hook_files(manifest: Manifest, context: Context, tools: Mapping[str, Any], root: Path | None) -> HookFiles:
    """Return the context's hooks; scripts that the images lack come from the package at `root`, if any.

    Raises ConfigurationError for an undefined tool and for invalid hooks.
    """
    hooks = resolve_hooks(context, tool_catalogue(tools))
    if not hooks:
        return HookFiles(hooks)
    files = hook_texts(hooks)
    missing = []
    for path in _not_in_image(hooks, manifest, files):
        text = _text(path, root) if root else None
        if text is None:
            missing.append(path)
        else:
            files[f"workspace/{path}"] = text
    keys: dict[str, str] = {}
    for path, text in files.items():
        keys.setdefault(text, _key(len(keys), path))
    return HookFiles(
        hooks,
        {path: keys[text] for path, text in files.items()},
        {key: text for text, key in keys.items()},
        tuple(missing),
    )


def definitions(manifest: Manifest, root: Path | None) -> Mapping[str, Any]:
    """Return the tools that the package defines, else those that the manifest was built with."""
    return hook_definitions(None, root) or manifest.extra.get("tools") or {}


def _not_in_image(hooks: Hooks, manifest: Manifest, files: Mapping[str, str]) -> list[str]:
    """Return the scripts that the images lack: a build packs only those that its own context names."""
    built = resolve_hooks(Context(manifest.context), tool_catalogue(manifest.extra.get("tools") or {}))
    packed = {script.path for script in built.scripts}
    paths = dict.fromkeys(script.path for script in hooks.scripts)
    return [
        path
        for path in paths
        if path not in packed and f"workspace/{path}" not in files and not path.startswith(("/", f"{SHARED_SCRIPTS}/"))
    ]


def _text(path: str, root: Path) -> str | None:
    """Return a script of the package as text; None if a ConfigMap can't hold it as such.

    Raises BuildError for one that is a link out of the package.
    """
    check_inside([root / path], root)
    try:
        text = (root / path).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return None if "\0" in text else text


def _key(number: int, path: str) -> str:
    return f"hook{number}-{re.sub(r'[^-._A-Za-z0-9]', '_', PurePosixPath(path).name)[:200]}"
