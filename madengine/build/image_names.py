"""The names of images, here and in a registry, and of their logs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from madengine.config.credentials import Credentials, registry_image
from madengine.errors import BuildError
from madengine.records import Model, repository

_SUFFIX = ".dockerfile"


def image_name(model: Model, dockerfile: Path) -> str:
    """Return `ci-<model>_<os>_<vendor>`: the model's name and what the Dockerfile's has after its prefix."""
    stem = _stem(dockerfile)
    variant = stem.removeprefix(Path(model.dockerfile).name).strip(".").replace(".", "_")
    name = f"ci-{model.name.lower().replace('/', '_')}" + (f"_{variant.lower()}" if variant else "")
    # What a repository's path may hold: https://github.com/distribution/reference
    valid = re.sub(r"[^a-z0-9._-]+", "_", name)
    valid = re.sub(r"[._-]{2,}", lambda match: "__" if set(match[0]) == {"_"} else match[0][0], valid).strip("._-")
    return _short(valid, name)


def image_path(name: str) -> str:
    """Return a model's name as the path of a repository (`dir/model` stays a path)."""
    parts = (re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in name.split("/"))
    return _short("/".join(part for part in parts if part), name)


def log_name(model: Model, dockerfile: Path) -> str:
    """Return the stem of a build's log: `<model>_<Dockerfile without its suffix>`."""
    stem = _stem(dockerfile)
    name = f"{model.name}_{stem}"
    return _short(re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII), name)


def registry_names(
    registry: str, key: str, model_name: str, images_of_model: int, credentials: Credentials
) -> tuple[str, ...]:
    """Name an image in a registry: as nodes pull it, then `<registry>/madengine/<model>:latest` for a model's only one.

    Raises ConfigurationError for a registry, repository or tag that no engine would take.
    """
    name = registry_image(registry, key, credentials)
    # Docker Hub and registries with one repository for all have no place for a second name.
    if images_of_model != 1 or name != f"{registry}/{key}" or _is_docker_hub(registry):
        return (name,)
    return name, f"{registry}/madengine/{image_path(model_name)}:latest"


def image_id(record: Mapping[str, Any]) -> str:
    """Return the `sha256:…` of an engine's record of an image."""
    text = str(record["Id"])
    return text if text.startswith("sha256:") else f"sha256:{text}"


def checked_digest(question: str, file: Path) -> str:
    """Return the digest, or the image's id, that an engine has written to a file.

    Raises BuildError where it is none.
    """
    text = file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""
    if not re.fullmatch(r"(sha256:)?[0-9a-f]{64}", text):
        raise BuildError(f"{question}: expected a digest, got {text[:80]!r}; the image is unknown")
    return text


def model_label(name: str) -> str:
    """Return a model's name as the label of its images, without what podman would expand (`$HOME`, quotes)."""
    return re.sub(r"[%$\\'\"\n]", lambda match: f"%{ord(match[0]):02X}", name)


def _is_docker_hub(registry: str) -> bool:
    return repository(registry).partition("/")[0] in ("docker.io", "dockerhub")


def _stem(dockerfile: Path) -> str:
    name = dockerfile.name
    return name[: -len(_SUFFIX)] if name.lower().endswith(_SUFFIX) else name


def free(name: str, others: Container[str], identity: str) -> str:
    """Return the name, with the identity at the end where it is one of the others'."""
    return name if name not in others else f"{name}_{identity}"


def _short(name: str, meaning: str) -> str:
    """Shorten a name that is too long for a tag, a repository or a file, or name what is empty, with a hash."""
    if 0 < len(name) <= 110:
        return name
    return "_".join(filter(None, [name[:100].rstrip("._-/"), hashed(meaning)]))


def hashed(*parts: str) -> str:
    """Return eight hex digits that stand for the texts."""
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:8]
