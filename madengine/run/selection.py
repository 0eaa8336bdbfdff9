"""Which images of a manifest are run: for which models, from which registry, and which fit this machine."""

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
from madengine.results.perf_csv import succeeded_models
from madengine.tools.discover_models import DiscoverModels

logger = logging.getLogger(__name__)


def with_models(manifest: Manifest, path: Path, root: Path | None) -> Manifest:
    """Return the manifest with a model for every image; an older one names none.

    Each image gets the model of the package at `root` that its name begins with. Raises ConfigurationError if there
    is none, or no package.
    """
    missing = [image for image in manifest.images if image.key not in manifest.models]
    if not missing:
        return manifest
    if root is None:
        raise ConfigurationError(
            f"{path}: no model for {missing[0].key} (an older manifest), and there is no models.json here to find it "
            "in; run it in its package's folder, or set MODEL_DIR"
        )
    models = sorted(DiscoverModels(root).models(), key=lambda model: -len(model.name))
    matches = {image.key: _model_of(image, models, path) for image in missing}
    return replace(manifest, models={**manifest.models, **matches})


def selected_images(manifest: Manifest, tags: Sequence[str], path: Path) -> Manifest:
    """Return the manifest with the images of the models that the tags name; no tags are all.

    Raises ConfigurationError for a tag of none of its models, if the models of all its images are known.
    """
    all_known = all(image.key in manifest.models for image in manifest.images)
    for tag in tags:
        if all_known and not any(_has_tag(model, [tag]) for model in manifest.models.values()):
            names = ", ".join(sorted({model.name for model in manifest.models.values()}))
            hint = "; arguments are chosen when it is built" if ":" in tag else ""
            raise ConfigurationError(f"{path}: no model named or tagged {tag!r}; it has {names}{hint}")
    return narrowed(manifest, tags)


def narrowed(manifest: Manifest, tags: Sequence[str]) -> Manifest:
    """Do the same as `selected_images`, for any tags; an image without a model has no known tags."""
    if not tags:
        return manifest
    models = manifest.models
    images = [image for image in manifest.images if image.key in models and _has_tag(models[image.key], tags)]
    return replace(manifest, images=tuple(images))


def _has_tag(model: Model, tags: Sequence[str]) -> bool:
    return any(tag in (model.name, "all", *model.tags) for tag in tags)


def with_registry(manifest: Manifest, registry: str) -> Manifest:
    """Return the manifest with its images in another registry; the digests stay, so they are the same images."""
    if not registry:
        return manifest
    new = registry_name(registry)
    names = [
        registry_image(new, _repository_path(image, manifest.registry), Credentials()) for image in manifest.images
    ]
    images = tuple(replace(image, registry_image=name) for image, name in zip(manifest.images, names, strict=True))
    return replace(manifest, images=images, registry=new)


def pull_registries(chosen: Sequence[tuple[Model, Image | None]], registry: str) -> list[str]:
    """Return the registries of the chosen images that have a name in one; `registry` is the manifest's."""
    return [_registry_of(image, registry) for _, image in chosen if image and image.registry_image]


def _registry_of(image: Image, registry: str) -> str:
    """Return the manifest's registry if the image is in it, else the host in the image's name, or Docker Hub."""
    if registry and image.registry_image.startswith(f"{registry}/"):
        return registry
    return _host(image.registry_image) or "docker.io"


def _host(name: str) -> str:
    """Return the registry's host in an image's name, empty for one of Docker Hub."""
    host, slash, _ = name.partition("/")
    return host if slash and (host == "localhost" or "." in host or ":" in host) else ""


def _repository_path(image: Image, registry: str) -> str:
    """Return an image's name without its registry, which may be another than the manifest's."""
    name = image.registry_image or image.docker_image
    if registry and name.startswith(f"{registry}/"):
        return name.removeprefix(f"{registry}/")
    return name.removeprefix(f"{_host(name)}/")


def images_for_machine(
    manifest: Manifest, context: Context, gpus: Sequence[Gpu]
) -> tuple[list[tuple[Model, Image | None]], list[tuple[Image, Model, str]]]:
    """Return the images for this machine by model (None if it has none), and the others, each with the reason."""
    chosen: list[tuple[Model, Image | None]] = []
    skipped = []
    for image in manifest.images:
        reason = _mismatch(image, context, gpus)
        if reason:
            skipped.append((image, manifest.models[image.key], reason))
        else:
            chosen.append((manifest.models[image.key], image))
    models = [model for model, _ in chosen]
    for _, model, _ in skipped:
        if model not in models:
            models.append(model)
            chosen.append((model, None))
    return chosen, skipped


def _digest(image: Image) -> str:
    """Return the digest of an image in its rows; empty if an older manifest has none."""
    return image.registry_digest or image.image_id


def _mismatch(image: Image, context: Context, gpus: Sequence[Gpu]) -> str:
    vendor = image.vendor
    if vendor and vendor != context.gpu_vendor:
        return f"it is for gpu_vendor {vendor}, this machine is {context.gpu_vendor}"
    if image.guest_os and context.guest_os and image.guest_os.upper() != context.guest_os:
        return f"it is for guest_os {image.guest_os}, the context says {context.guest_os}"
    # Without the compiler's features beside it: gfx90a:xnack-
    architecture = str(image.extra.get("gpu_architecture") or "").partition(":")[0]
    here = sorted({gpu.architecture for gpu in gpus if gpu.architecture})
    if architecture and here and not skipped_architecture(architecture, gpus):
        return f"it is built for {architecture}, this machine has {', '.join(here)}"
    return ""


def with_gpu_count(manifest: Manifest, context: Context) -> Manifest:
    """Return the models with the context's number of GPUs, if it sets one in place of theirs."""
    if not context.n_gpus:
        return manifest
    models = {key: replace(model, n_gpus=context.n_gpus) for key, model in manifest.models.items()}
    return replace(manifest, models=models)


def _model_of(image: Image, models: Sequence[Model], path: Path) -> Model:
    for model in models:
        if f"{image.key}_".startswith(f"ci-{model.name.lower().replace('/', '_')}_"):
            return model
    names = ", ".join(sorted(model.name for model in models))
    raise ConfigurationError(f"{path}: {image.key}: no model of this package has that name (it has {names})")


def unfinished_models(chosen: Sequence[tuple[Model, Image | None]], table: Path) -> list[tuple[Model, Image | None]]:
    """Return the models without a success in a perf.csv; none if only models without an image for here are left."""
    succeeded = succeeded_models(table)
    left = [(model, image) for model, image in chosen if image is None or _digest(image) not in succeeded]
    if len(left) < len(chosen):
        logger.info(f"{table}: {len(chosen) - len(left)} of {len(chosen)} have succeeded already")
    return left if any(image for _, image in left) or len(left) == len(chosen) else []
