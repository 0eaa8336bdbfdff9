"""The hooks of a run as entries of the input ConfigMap, and the folder of a pod that holds them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from madengine.config.context import Context
from madengine.config.hooks import SHARED_SCRIPTS, Hooks, hook_definitions, hook_texts, resolve_hooks, tool_catalogue
from madengine.config.manifest import Manifest

FOLDER = "/opt/madengine-hooks"
_VOLUME = "hooks"
_MODE = 0o555


@dataclass(frozen=True)
class HookFiles:
    """The hooks of all pods.

    `paths` gives each file below `FOLDER` its key in the ConfigMap, `texts` each key its text; `missing` are scripts
    that are in neither, nor in the images.
    """

    hooks: Hooks = field(default_factory=Hooks)
    paths: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """What tells entry.sh where they are."""
        return {"MADENGINE_HOOKS": FOLDER} if self.hooks else {}

    @property
    def mounts(self) -> list[dict[str, Any]]:
        """The mounts of the model's container, as a pod has them."""
        return [{"name": _VOLUME, "mountPath": FOLDER, "readOnly": True}] if self.hooks else []

    def volumes(self, config: str) -> list[dict[str, Any]]:
        """The volumes of a pod, out of the ConfigMap of that name; a key there holds no "/", a path does."""
        if not self.hooks:
            return []
        items = [{"key": key, "path": path} for path, key in self.paths.items()]
        return [{"name": _VOLUME, "configMap": {"name": config, "defaultMode": _MODE, "items": items}}]


def hook_files(kept: Manifest, context: Context, tools: Mapping[str, Any], root: Path | None) -> HookFiles:
    """The hooks that the context asks for; scripts that the images lack come from the package at `root`, if any.

    Raises ConfigurationError for a tool that nobody defines and for hooks that are wrong.
    """
    hooks = resolve_hooks(context, tool_catalogue(tools))
    if not hooks:
        return HookFiles(hooks)
    files = hook_texts(hooks)
    missing = []
    for path in _not_in_image(hooks, kept, files):
        text = _text(root / path) if root else None
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


def definitions(kept: Manifest, root: Path | None) -> Mapping[str, Any]:
    """The tools that the package here defines, else those that the manifest was built with."""
    return hook_definitions(None, root) or kept.extra.get("tools") or {}


def _not_in_image(hooks: Hooks, kept: Manifest, files: Mapping[str, str]) -> list[str]:
    """The scripts that no build has put into the images: only what its own context named travels with them."""
    built = resolve_hooks(Context(kept.context), tool_catalogue(kept.extra.get("tools") or {}))
    there = {script.path for script in built.scripts}
    paths = dict.fromkeys(script.path for script in hooks.scripts)
    return [
        path
        for path in paths
        if path not in there and f"workspace/{path}" not in files and not path.startswith(("/", f"{SHARED_SCRIPTS}/"))
    ]


def _text(path: Path) -> str | None:
    """A script that a ConfigMap can hold as text."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return None if "\0" in text else text


def _key(number: int, path: str) -> str:
    return f"hook{number}-{re.sub(r'[^-._A-Za-z0-9]', '_', PurePosixPath(path).name)[:200]}"
