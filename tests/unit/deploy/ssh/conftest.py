"""A manifest for tests of what is done with it on hosts."""

from __future__ import annotations

from madengine.config.manifest import Manifest
from madengine.records import Image, Model


def manifest_of(*registry_images: str) -> Manifest:
    """Return a manifest with one model an image, named m0, m1 …"""
    images = tuple(Image(f"k{n}", f"i{n}", registry_image=name) for n, name in enumerate(registry_images))
    models = {image.key: Model(f"m{n}", "docker/m", "scripts/m", tags=(f"t{n}",)) for n, image in enumerate(images)}
    return Manifest(images, models)
