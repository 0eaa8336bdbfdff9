"""What a command means of a manifest: which images, in which registry, for which models, and which fit this machine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from madengine.config.context import Context
from madengine.config.credentials import Credentials, registry_image, registry_name
from madengine.config.manifest import Manifest
from madengine.errors import ConfigurationError
from madengine.machine.gpus import skipped_architecture
from madengine.records import Gpu, Image, Model
from madengine.results.rows import succeeded_models
from madengine.tools.discover_models import DiscoverModels

logger = logging.getLogger(__name__)


def with_models(kept: Manifest, path: Path, root: Path | None) -> Manifest:
    """An older manifest names no models: each image gets the model of the package at `root` that its name begins with.

    Raises ConfigurationError where that has none, or is None.
    """
    missing = [image for image in kept.images if image.key not in kept.models]
    if not missing:
        return kept
    if root is None:
        raise ConfigurationError(
            f"{path}: says nothing about the model of {missing[0].key} (an older manifest), and there is no "
            "models.json here to find it in; run it in its package's folder, or set MODEL_DIR"
        )
    known = sorted(DiscoverModels(root).models(), key=lambda model: -len(model.name))
    found = {image.key: _model_of(image, known, path) for image in missing}
    return replace(kept, models={**kept.models, **found})


def selected_images(kept: Manifest, tags: Sequence[str], path: Path) -> Manifest:
    """The manifest's images of the models that the tags name; no tags are all.

    Raises ConfigurationError for a tag that is none of its models', where it knows the models of all its images.
    """
    knows_all = all(image.key in kept.models for image in kept.images)
    for tag in tags:
        if knows_all and not any(_is_named(model, [tag]) for model in kept.models.values()):
            names = ", ".join(sorted({model.name for model in kept.models.values()}))
            hint = "; arguments are chosen when it is built" if ":" in tag else ""
            raise ConfigurationError(f"{path}: no model named or tagged {tag!r}; it has {names}{hint}")
    return narrowed(kept, tags)


def narrowed(kept: Manifest, tags: Sequence[str]) -> Manifest:
    """As `selected`, whatever the tags are; of an image without a model nobody knows its tags."""
    if not tags:
        return kept
    images = [image for image in kept.images if image.key in kept.models and _is_named(kept.models[image.key], tags)]
    return replace(kept, images=tuple(images))


def _is_named(model: Model, tags: Sequence[str]) -> bool:
    return any(tag in (model.name, "all", *model.tags) for tag in tags)


def with_registry(kept: Manifest, registry: str) -> Manifest:
    """The manifest with its images in another registry; their digests stay, so they are the same images."""
    if not registry:
        return kept
    new = registry_name(registry)
    names = [registry_image(new, _path(image, kept.registry), Credentials()) for image in kept.images]
    images = tuple(replace(image, registry_image=name) for image, name in zip(kept.images, names, strict=True))
    return replace(kept, images=images, registry=new)


def pull_registries(chosen: Sequence[tuple[Model, Image | None]], registry: str) -> list[str]:
    """Where the chosen images come from that have a name in a registry; `registry` is the manifest's."""
    return [_registry_of(image, registry) for _, image in chosen if image and image.registry_image]


def _registry_of(image: Image, registry: str) -> str:
    """Where an image comes from: the manifest's registry, or else the host in the image's name, or Docker Hub."""
    if registry and image.registry_image.startswith(f"{registry}/"):
        return registry
    host, slash, _ = image.registry_image.partition("/")
    return host if slash and (host == "localhost" or "." in host or ":" in host) else "docker.io"


def _path(image: Image, registry: str) -> str:
    name = image.registry_image or image.docker_image
    return name.removeprefix(f"{registry}/") if registry else name


def images_for_machine(
    kept: Manifest, context: Context, gpus: Sequence[Gpu]
) -> tuple[list[tuple[Model, Image | None]], list[tuple[Image, Model, str]]]:
    """Per model the images for this machine (None where there is none), and the others, each with the reason."""
    chosen: list[tuple[Model, Image | None]] = []
    skipped = []
    for image in kept.images:
        reason = _misfit(image, context, gpus)
        if reason:
            skipped.append((image, kept.models[image.key], reason))
        else:
            chosen.append((kept.models[image.key], image))
    served = [model for model, _ in chosen]
    for _, model, _ in skipped:
        if model not in served:
            served.append(model)
            chosen.append((model, None))
    return chosen, skipped


def _digest(image: Image) -> str:
    """What a row says of this very image; empty where an older manifest doesn't tell."""
    return image.registry_digest or image.image_id


def _misfit(image: Image, context: Context, gpus: Sequence[Gpu]) -> str:
    vendor = image.vendor
    if vendor and vendor != context.gpu_vendor:
        return f"it is for gpu_vendor {vendor}, this machine is {context.gpu_vendor}"
    if image.guest_os and context.guest_os and image.guest_os.upper() != context.guest_os:
        return f"it is for guest_os {image.guest_os}, the context says {context.guest_os}"
    # Without the features that a compiler is told beside it: gfx90a:xnack-
    architecture = str(image.extra.get("gpu_architecture") or "").partition(":")[0]
    here = sorted({gpu.architecture for gpu in gpus if gpu.architecture})
    if architecture and here and not skipped_architecture(architecture, gpus):
        return f"it is built for {architecture}, this machine has {', '.join(here)}"
    return ""


def _model_of(image: Image, known: Sequence[Model], path: Path) -> Model:
    for model in known:
        if f"{image.key}_".startswith(f"ci-{model.name.lower().replace('/', '_')}_"):
            return model
    names = ", ".join(sorted(model.name for model in known))
    raise ConfigurationError(f"{path}: {image.key}: no model of this package has that name (it has {names})")


def unfinished_models(chosen: Sequence[tuple[Model, Image | None]], table: Path) -> list[tuple[Model, Image | None]]:
    """What has no success in a perf.csv yet; none at all where only models without an image for here are left."""
    done = succeeded_models(table)
    left = [(model, image) for model, image in chosen if image is None or _digest(image) not in done]
    if len(left) < len(chosen):
        logger.info(f"{table}: {len(chosen) - len(left)} of {len(chosen)} have succeeded already")
    return left if any(image for _, image in left) or len(left) == len(chosen) else []
