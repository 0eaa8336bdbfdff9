"""Checks the images of the manifest in the current folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from madengine.config.manifest import load_manifest
from madengine.doctor.check import FAILED, NOTE, OK, Check, Subject
from madengine.errors import ConfigurationError

MANIFEST = Path("build_manifest.json")


def check_images(subject: Subject) -> Iterator[Check]:
    """Check that the images are on this machine, or can be pulled."""
    if not MANIFEST.exists():
        yield Check("images", NOTE, f"no {MANIFEST} here")
        return
    try:
        subject.images.extend(load_manifest(MANIFEST).images)
    except ConfigurationError as error:
        yield Check("images", FAILED, str(error), f"copy {MANIFEST} again from the build machine")
        return
    if not subject.engine:
        return
    missing = [image for image in subject.images if not subject.engine.images(image.reference)]
    lost = [image.docker_image for image in missing if not image.registry_image]
    if lost:
        result = f"{', '.join(lost)}: neither on this machine nor in a registry"
        yield Check("images", FAILED, result, "madengine build --registry …")
        return
    result = f"{len(subject.images) - len(missing)} of {len(subject.images)} in {MANIFEST} are on this machine"
    yield Check("images", NOTE if missing else OK, f"{result}, the others will be pulled" if missing else result)
