"""The payload that images of an older madengine lack, as entries of the input ConfigMap, and as a folder of the pod."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from madengine.build import payload
from madengine.config.hooks import Hooks, hook_files
from madengine.config.manifest import Manifest
from madengine.errors import ConfigurationError
from madengine.process import private_folder
from madengine.records import Image, Model

logger = logging.getLogger(__name__)

_VOLUME = "payload"
_MODE = 0o555


@dataclass(frozen=True)
class PayloadFiles:
    """What an image lacks; nothing if it carries its scripts."""

    #: The key in the ConfigMap of each file below `payload.DIRECTORY`.
    paths: Mapping[str, str] = field(default_factory=dict)
    #: The text of a key, or its bytes in base64.
    texts: Mapping[str, str] = field(default_factory=dict)
    binary: Mapping[str, str] = field(default_factory=dict)

    @property
    def mounts(self) -> list[dict[str, Any]]:
        """The mounts of the model's container."""
        return [{"name": _VOLUME, "mountPath": payload.DIRECTORY, "readOnly": True}] if self.paths else []

    def volumes(self, config: str) -> list[dict[str, Any]]:
        """Return the volumes of a pod out of the ConfigMap `config`."""
        items = [{"key": key, "path": path} for path, key in self.paths.items()]
        source = {"name": config, "defaultMode": _MODE, "items": items}
        return [{"name": _VOLUME, "configMap": source}] if items else []


def payload_files(manifest: Manifest, root: Path | None) -> dict[str, PayloadFiles]:
    """Return by image what those lack that don't carry their scripts; they come from the package at `root`.

    Raises ConfigurationError without a package, and for a model whose own code is elsewhere; BuildError where its
    script is missing.
    """
    return {
        image.key: _of_image(image, manifest.models[image.key], root)
        for image in manifest.images
        if not image.self_contained
    }


def _of_image(image: Image, model: Model, root: Path | None) -> PayloadFiles:
    if root is None:
        raise ConfigurationError(
            f"{image.key}: an image without its scripts, of an older madengine; generate in the model package's folder "
            "(or set MODEL_DIR), or `madengine build` again"
        )
    if model.url:
        raise ConfigurationError(
            f"{image.key}: an image without the code of {model.url}, of an older madengine; `madengine build` again"
        )
    with private_folder() as scratch:
        folder = Path(scratch)
        payload.write(payload.payload(model, root, hook_files(Hooks(), root)), folder)
        return _read(folder)


def _read(folder: Path) -> PayloadFiles:
    """Return the files of a folder; a ConfigMap can't hold the links that lead nowhere in it."""
    paths, texts, binary = {}, {}, {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        name = str(path.relative_to(folder))
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            logger.info(f"{name}: a link that leads nowhere in the package; left out")
            continue
        content = path.read_bytes()
        # By their content: models have most of these files in common.
        digest = hashlib.sha256(content).hexdigest()[:12]
        key = paths[name] = f"payload-{digest}-{re.sub(r'[^-._A-Za-z0-9]', '_', path.name)[:200]}"
        try:
            texts[key] = content.decode("utf-8")
        except UnicodeDecodeError:
            binary[key] = base64.b64encode(content).decode()
    return PayloadFiles(paths, texts, binary)
